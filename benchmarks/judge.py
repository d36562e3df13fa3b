"""What the judge costs, and whether 16 bits change its verdict: ten images per class of CIFAR-10.

    python benchmarks/judge.py --data PATH.npz clock
    python benchmarks/judge.py --data PATH.npz pairs

PATH.npz holds x_train, y_train, x_test and y_test. ``clock`` times steps of the published judge layer by layer, with
norm, ReLU and pooling at once, and so in 16 bits, in turns: a minute of a quiet machine. ``pairs`` judges random
images, random tiles and the stored set of distribution matching, by the same networks in 32 and in 16 bits and by the
published recipe cut to 400 steps: half an hour of one core. Results go to dmtutor/results/judge.json, row by row.
"""

import argparse
import time
from dataclasses import replace

import torch
from cifar10 import split
from store import Table, seeded

from dmtutor import Recipe, networks, random_subset, random_tiles, results, train_network

RECIPE = Recipe.reference(steps=400)
CLOCK = {  # of a step on 100 images
    "layer by layer": (False, False),
    "at once": (True, False),
    "at once, in 16 bits": (True, True),
}
SETS = {
    "Random": lambda real: random_subset(real, 10, generator=seeded(0)),
    "Random tiles": lambda real: random_tiles(real, 10, generator=seeded(0)),
    "DM": lambda real: results.images("cifar10_dm_10"),
}
NETWORKS = 5


def seconds(train, fused, amp, steps=10):
    """Of a step of training on a set."""
    module = networks.fused
    networks.fused = module if fused else lambda: None
    begin = time.perf_counter()
    train_network(train, recipe=replace(RECIPE, steps=steps, amp=amp), generator=seeded(0))
    networks.fused = module
    return (time.perf_counter() - begin) / steps


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("task", choices=("clock", "pairs"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    real, _, images = split(asked.data)
    table = Table("judge", command="python benchmarks/judge.py --data PATH.npz", recipe=str(RECIPE))
    if asked.task == "clock":
        train = SETS["Random"](real)
        rounds = [[seconds(train, *kind) for kind in CLOCK.values()] for _ in range(6)][1:]
        for name, spent in zip(CLOCK, zip(*rounds, strict=True), strict=True):
            table.add({"how": name, "seconds": [round(s, 3) for s in spent]})
            print(f"{name}: {min(spent):.3f} s", flush=True)
        return
    for name, make in SETS.items():
        for amp in (False, True):
            key = {"set": name, "amp": amp}
            table.judge(key, make(real), images, networks=NETWORKS, recipe=replace(RECIPE, amp=amp))


if __name__ == "__main__":
    main()
