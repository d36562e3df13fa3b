"""The dials of distribution matching on MNIST-5k: what chapter 5 shows and what the defaults were chosen by.

    python benchmarks/distribution_matching.py                 # all of it
    python benchmarks/distribution_matching.py batch_real width

Every dial is turned on a validation part of the training images; the test images are read by `ladder` alone.
Results go to dmtutor/results/distribution_matching.json, setting by setting, so a run that was stopped goes on
where it was.
"""

import sys
import time
from dataclasses import replace

import torch
from store import Table

from dmtutor import DMConfig, Recipe, condense, evaluate, load, random_subset, results

NETWORKS = 2  # for each set
SHORT = {"iterations": 300, "batch_real": 16}  # of the dials; the ladder has the defaults


def settings():
    """(experiment, sets, method, changes to the defaults)."""
    for ipc in (1, 10):
        yield "ladder", 5, "Random", {"ipc": ipc}
        yield "ladder", 5, "DM", {"ipc": ipc}
    yield "ladder", 1, "Mean", {"ipc": 1}
    for ipc in (1, 10):
        yield "ablation", 3, "Random", {"ipc": ipc}
        for change in ({}, {"augment": "none"}, {"schedule": "constant"}):
            yield "ablation", 3, "DM", {"ipc": ipc, **change, **SHORT}
    for lr_img in (0.3, 1.0, 3.0):
        yield "lr_img", 3, "DM", {"ipc": 1, "lr_img": lr_img, **SHORT}
    for width in (8, 16, 32, 64):
        yield "width", 3, "DM", {"ipc": 1, "width": width, **SHORT}
    for batch_real in (1, 4, 16, 64):
        yield "batch_real", 3, "DM", {"ipc": 1, **SHORT, "batch_real": batch_real}
    for bandwidth in (0.125, 0.25, 0.5, 1.0):  # times the median distance of two images of a class
        yield "kernel", 3, "Gaussian", {"ipc": 1, "bandwidth": bandwidth}
        yield "kernel, judged by an MLP", 3, "Gaussian", {"ipc": 1, "bandwidth": bandwidth}
    yield "kernel, judged by an MLP", 3, "DM", {"ipc": 1, **SHORT}


def make(method, train, seed, changes):
    """One set."""
    if method == "DM":
        return condense(train, seed=seed, progress=False, **changes)
    subset = random_subset(train, changes["ipc"], generator=torch.Generator().manual_seed(seed))
    if method == "Gaussian":
        return nearest_in_mmd(train, subset, changes["bandwidth"])
    if method == "Mean":
        means = [train.of_class(c).mean(0) for c in range(len(train.classes))]
        return replace(subset, images=torch.stack(means))
    return subset


def nearest_in_mmd(train, subset, bandwidth, steps=200):
    """One image of each class, nearest to the class by a Gaussian kernel on pixels.

    MMD² falls as Σ k(x, s) grows. Where it is largest, s = Σ k(x, s) x / Σ k(x, s), which is iterated.
    """
    found = []
    for c, s in enumerate(subset.images.flatten(1)):
        x = train.of_class(c).flatten(1)
        h = bandwidth * torch.pdist(x).median()
        for _ in range(steps):
            s = torch.softmax(-(x - s).square().sum(1) / (2 * h**2), 0) @ x
        found.append(s)
    return replace(subset, images=torch.stack(found).view_as(subset.images))


def run(sets, method, changes, train, test, recipe):
    """One setting: what is stored of it, and its accuracies."""
    made, seconds = [], []
    for seed in range(sets):
        start = time.perf_counter()
        made.append(make(method, train, seed, changes))
        seconds.append(round(time.perf_counter() - start, 2))
    draws = torch.Generator().manual_seed(0)
    accuracies = evaluate(made, test, networks=NETWORKS, recipe=recipe, generator=draws)
    contrast = [round(float(s.images.std()), 3) for s in made]
    return {"seconds": seconds, "contrast": contrast, "accuracies": results.pack(accuracies)}, accuracies


def main(wanted):
    train, test = load("mnist5k")
    rest, validation = train.split(0.2, generator=torch.Generator().manual_seed(0))
    recipe = f"{Recipe()}, {NETWORKS} networks for each set"
    command = "python benchmarks/distribution_matching.py"
    table = Table("distribution_matching", command=command, defaults=str(DMConfig()), recipe=recipe)
    measured = ("seconds", "contrast", "accuracies")
    done = [{k: v for k, v in row.items() if k not in measured} for row in table.rows]
    for experiment, sets, method, changes in settings():
        key = {"experiment": experiment, "method": method, **changes}
        if (wanted and experiment not in wanted) or key in done:
            continue
        data = (train, test) if experiment == "ladder" else (rest, validation)
        judge = Recipe(model="mlp") if "MLP" in experiment else Recipe()
        row, accuracies = run(sets, method, changes, *data, judge)
        table.add({**key, **row})
        print(f"{key}: {accuracies}, {sum(row['seconds']) / sets:.1f} s a set", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
