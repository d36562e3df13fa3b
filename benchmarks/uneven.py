"""Classes of different sizes on MNIST-5k: equal images per class, or more for some, against random and all images.

    python benchmarks/uneven.py                   # 5 minutes of one core
    python benchmarks/uneven.py rarest            # 15 minutes of one core

Class sizes fall from 400 to 400 / imbalance, in equal ratios; which class has how many is drawn anew for every set, and
so are its images. Runs are short, with small networks. A set has 20 images: two of each class ("DM" and "Random"), or
one at least, the others in proportion to a power of the class's size ("DM by class"). `choice`: powers, at imbalance
50, on a validation part of the training images. `test`: the best power other than 0, on the test images, 100 of each
class, which are read once; "All" is all of the uneven images, "All, balanced" the same with those of smaller classes
repeated until every class has as many as the largest: a network sees each class equally often, in as many steps.
`longer`: the same sets at imbalance 50, networks trained for three times as many steps. A row
says which classes were how large: `counts`, and what a set has of them: `ipc`, (sets, classes).
``rarest`` asks at imbalance 50 what balance does and what learning: ten data sets, two images of each class that are
drawn, chosen (in pixels or through a random network), or learned from those drawn by the library's defaults, against
all images, networks of 600 steps; all images with the logarithm of a class's share taken off its scores afterwards; all
images for four times as long, on three of the data sets; and balanced ones for 43 steps, in which they show the rarest
class as often as all images do in 600.
Results go to dmtutor/results/uneven.json, row by row, so a run that was stopped goes on where it was.
"""

import sys
from dataclasses import replace
from statistics import mean

import torch
from store import Table, seeded

from dmtutor import (
    Accuracies,
    ConvNet,
    DMConfig,
    Recipe,
    condense,
    dm_steps,
    herding,
    keyed_generator,
    load,
    random_subset,
    results,
    train_network,
)
from dmtutor.evaluation import correctness
from dmtutor.randomness import root_seed

TOTAL, SETS = 20, 3
POWERS = (0.0, 0.5, 1.0)
DM = {"iterations": 100, "batch_real": 4, "width": 16}
RECIPE = Recipe(steps=200, lr=0.01, width=16)


def uneven(real, imbalance, generator):
    """Some of the images: class sizes fall in equal ratios down to a part of the largest, in random order."""
    k = len(real.classes)
    largest = int(real.counts.min())
    sizes = [round(largest * imbalance ** (-i / (k - 1))) for i in torch.randperm(k, generator=generator).tolist()]
    parts = zip(real.rows_of_class, sizes, strict=True)
    return real.select(torch.cat([rows[torch.randperm(len(rows), generator=generator)[:n]] for rows, n in parts]))


def by_class(counts, total, power):
    """Images per class in proportion to a power of its size, but one at least, and no more than it has."""
    ipc = [1] * len(counts)
    for _ in range(total - len(counts)):  # to whom it is due most
        ipc[max((c for c, n in enumerate(counts) if ipc[c] < n), key=lambda c: counts[c] ** power / (ipc[c] + 1))] += 1
    return tuple(ipc)


def balanced(data):
    """The same images, those of smaller classes repeated in turn: every class as large as the largest."""
    most = int(data.counts.max())
    return data.select(torch.cat([rows[torch.arange(most) % len(rows)] for rows in data.rows_of_class]))


def made(data, method, power, seed):
    if method.startswith("All"):
        return balanced(data) if method == "All, balanced" else data
    ipc = by_class(data.counts.tolist(), TOTAL, power)
    if method == "Random":
        return random_subset(data, ipc[0], generator=seeded(seed))
    return condense(data, ipc=ipc, seed=seed, progress=False, **DM)


def run(table, real, judge, experiment, imbalance, method, power=0.0):
    key = {"experiment": experiment, "imbalance": imbalance, "method": method, "power": power}
    if table.find(**key) is not None:
        return
    first = 100 if experiment == "choice" else 0  # other data sets than those of the test
    data = [uneven(real, imbalance, seeded(first + seed)) for seed in range(SETS)]
    sets = [made(one, method, power, seed) for seed, one in enumerate(data)]
    more = {"counts": [one.counts.tolist() for one in data], "ipc": [one.counts.tolist() for one in sets]}
    recipe = RECIPE
    if experiment == "longer":
        recipe, more["steps"] = replace(RECIPE, steps=600), 600
    table.judge(key, sets, judge, networks=1, recipe=recipe, **more)


RAREST = 10  # data sets


def rarest(table, real, test):
    """The same ten data sets for all: as they are, in balance, and two images of each class."""
    data = [uneven(real, 50, seeded(200 + seed)) for seed in range(RAREST)]
    kinds = {  # how each set is made of a data set
        "All": lambda one, seed: one,
        "All, balanced": lambda one, seed: balanced(one),
        "Random": lambda one, seed: learning(one, seed).synthetic,  # what the run below starts from
        "Herding": lambda one, seed: herding(one, 2),
        "Herding, network": lambda one, seed: herding(one, 2, embed=random_network(seed).embed),
        "DM": lambda one, seed: learning(one, seed).finish(),
    }
    for method, make in kinds.items():
        key = {"experiment": "rarest", "imbalance": 50, "method": method}
        if table.find(**key) is None:
            sets = [make(one, seed) for seed, one in enumerate(data)]
            counts = [one.counts.tolist() for one in data]
            table.judge(key, sets, test, networks=1, recipe=replace(RECIPE, steps=600), counts=counts, steps=600)
    key = {"experiment": "rarest", "imbalance": 50, "method": "All, shares taken off"}
    if table.find(**key) is None:
        correct = torch.stack([correctness(without_shares(one), test) for one in data])[:, None]
        counts = [one.counts.tolist() for one in data]
        table.add({**key, "counts": counts, "steps": 600, "accuracies": results.pack(Accuracies(correct))})
    for method in ("All", "All, balanced"):  # is it balance, or patience?
        key = {"experiment": "rarest, longer", "imbalance": 50, "method": method}
        if table.find(**key) is None:
            sets, counts = [kinds[method](one, 0) for one in data[:3]], [one.counts.tolist() for one in data[:3]]
            table.judge(key, sets, test, networks=1, recipe=replace(RECIPE, steps=2400), counts=counts, steps=2400)
    key = {"experiment": "rarest, as often", "imbalance": 50, "method": "All, balanced"}
    if table.find(**key) is None:  # or is it the number of showings?
        steps = round(600 * 10 * data[0].counts.min().item() / len(data[0]))
        sets, counts = [balanced(one) for one in data], [one.counts.tolist() for one in data]
        table.judge(key, sets, test, networks=1, recipe=replace(RECIPE, steps=steps), counts=counts, steps=steps)


def random_network(seed):
    return ConvNet(channels=1, image_size=28, width=128, generator=seeded(seed)).requires_grad_(False)


def without_shares(data):
    """The network that is judged on all images as they are, the logarithm of each class's share off its scores."""
    draws = keyed_generator(root_seed(seeded(0)), "train", 0)  # as evaluate draws them
    network = train_network(data, recipe=replace(RECIPE, steps=600), generator=draws).requires_grad_(False)
    network.classifier.bias -= (data.counts / len(data)).log()
    return network


def learning(data, seed):
    return dm_steps(data, config=DMConfig(ipc=2), generator=seeded(seed))


def main():
    torch.set_num_threads(1)
    train, test = load("mnist5k")
    rest, validation = train.split(0.2, generator=seeded(0))
    table = Table("uneven", command="python benchmarks/uneven.py", dm=DM, recipe=str(RECIPE))
    if sys.argv[1:] == ["rarest"]:
        return rarest(table, train, test)
    for power in POWERS:
        run(table, rest, validation, "choice", 50, "DM by class" if power else "DM", power)
    found = [row for row in table.rows if row["experiment"] == "choice" and row["power"]]
    chosen = max(found, key=lambda row: mean(results.unpack(row["accuracies"]).values.flatten().tolist()))["power"]
    for imbalance in (50, 10, 1):
        for method in ("Random", "DM", "DM by class", "All", "All, balanced"):
            if imbalance > 1 or method not in ("DM by class", "All, balanced"):  # there they are the same
                run(table, train, test, "test", imbalance, method, chosen if method == "DM by class" else 0.0)
    for method in ("DM", "All", "All, balanced"):
        run(table, train, test, "longer", 50, method)


if __name__ == "__main__":
    main()
