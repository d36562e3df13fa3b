"""Real images as a small training set on MNIST-5k: what chapter 9 shows.

    python benchmarks/coresets.py                 # all of it
    python benchmarks/coresets.py budget noise

`budget`: Random, from 2 images per class up to all, on the test images. `rules`: herding and k-center in three
spaces, on a validation part of the training images; each set is chosen from a random half of the rest, Random too.
`chosen`: the rule that was best there, on the test images, and the processor seconds that each set took to choose;
`other rule`: the best of the other one. `noise`: sets × networks of Random, on validation images. `recipe`: Random
without augmentation of its networks' training, on the test images.
Results go to dmtutor/results/coresets.json, setting by setting, so a run that was stopped goes on where it was.
"""

import functools
import sys
import time
from itertools import product

import torch
from store import Table

from dmtutor import ConvNet, Recipe, evaluate, load, random_subset, results, train_network
from dmtutor.coresets import herding, k_center

RULES = {"Herding": herding, "k-center": k_center}
SPACES = ("pixels", "random", "trained")  # networks with random weights, and trained on the same half
SETS = 5


def settings(rows):
    """(experiment, method, space, ipc, sets, networks). What is chosen depends on the rows that are there."""
    for ipc in (2, 5, 20, 50, 100, 200):
        yield "budget", "Random", None, ipc, SETS, 1
    yield "budget", "Whole set", None, 400, 1, 3
    for ipc in (1, 10):
        yield "rules", "Random", None, ipc, SETS, 1
        pairs = list(product(RULES if ipc > 1 else ["Herding"], SPACES))  # the first choice is the same for both
        for method, space in pairs:
            yield "rules", method, space, ipc, SETS, 1
        tried = [row for row in rows if row["experiment"] == "rules" and row["ipc"] == ipc and row["space"]]
        if len(tried) == len(pairs):
            tried.sort(key=lambda row: results.unpack(row["accuracies"]).mean)
            best = {row["method"]: row for row in tried}  # the best space of each rule
            for rule, row in best.items():
                yield "chosen" if row is tried[-1] else "other rule", rule, row["space"], ipc, SETS, 1
    yield "noise", "Random", None, 1, 10, 4
    for ipc in (1, 10):
        yield "recipe", "Random", None, ipc, SETS, 1


@functools.cache
def half(real, seed):
    """A random half of the images of every class."""
    return real.split(0.5, generator=torch.Generator().manual_seed(seed))[1]


@functools.cache
def embedding(real, seed, space):
    """(n, C, H, W) → (n, d'), or None for the pixels themselves."""
    generator = torch.Generator().manual_seed(seed)
    if space == "pixels":
        return None
    if space == "random":
        return ConvNet(channels=1, image_size=28, width=32, generator=generator).embed
    return train_network(half(real, seed), generator=generator).embed


def make(experiment, method, space, ipc, seed, real):
    """One set."""
    if method in RULES:
        return RULES[method](half(real, seed), ipc, embed=embedding(real, seed, space))
    pool = half(real, seed) if experiment == "rules" else real
    return random_subset(pool, ipc, generator=torch.Generator().manual_seed(seed))


def run(experiment, method, space, ipc, sets, networks, real, judge):
    """One setting: what is stored of it, and its accuracies."""
    made, seconds = [], []
    for seed in range(sets):
        start = time.process_time()
        made.append(make(experiment, method, space, ipc, seed, real))
        seconds.append(round(time.process_time() - start, 2))
    recipe = Recipe(augment="none") if experiment == "recipe" else Recipe()
    accuracies = evaluate(made, judge, networks=networks, recipe=recipe, generator=torch.Generator().manual_seed(0))
    row = {"accuracies": results.pack(accuracies)}
    if experiment in ("chosen", "other rule"):  # in "rules" a trained network may be there already
        row["seconds"] = seconds
    return row, accuracies


def main(wanted):
    torch.set_num_threads(1)
    train, test = load("mnist5k")
    rest, validation = train.split(0.2, generator=torch.Generator().manual_seed(0))
    table = Table("coresets", command="python benchmarks/coresets.py", recipe=str(Recipe()))
    for experiment, method, space, ipc, sets, networks in settings(table.rows):
        key = {"experiment": experiment, "method": method, "space": space, "ipc": ipc}
        if (wanted and experiment not in wanted) or table.find(**key):
            continue
        data = (train, test) if experiment in ("budget", "chosen", "other rule", "recipe") else (rest, validation)
        row, accuracies = run(*key.values(), sets, networks, *data)
        table.add({**key, **row})
        print(f"{key}: {accuracies}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
