"""CIFAR-10, ten images per class: how soon is a condensed set worth 45 %, with our quick setting and as published?

    python benchmarks/race.py --data PATH.npz --reference PATH      # PATH a clone of the published code
    python benchmarks/race.py --data PATH.npz                       # the accuracies alone

PATH.npz holds x_train, y_train, x_test and y_test. Each setting is run once, from the same random images, and what it
has made after some iterations is judged by the published evaluation cut to 300 epochs. The images of both settings are
made by our engine: an iteration of the published setting is the same computation in the published code, and our
engine does it sooner. The clock is apart from it, and comes first, on a quiet machine: iterations of ours and of the
published code take turns, two threads each, and seconds are iterations times the median. What lies between the two is
timed with them: the published code with 16 images, and with freed memory kept; and the first iteration of ours, for
which Numba translates a loop once. Results go to dmtutor/results/race.json, row by row. Two minutes of two cores for
the clock, then 45 minutes of one.
"""

import argparse
import os
import tempfile
import time

import torch
from store import Table, seeded

from dmtutor import DMConfig, Recipe, dm_steps, evaluate, load, random_subset, results

SETTINGS = {  # method: (changes to the published setting, judged after so many iterations)
    "published": ({}, (30, 100, 250)),
    "ours": ({"batch_real": 16, "average": 0.99}, (30, 100, 300, 800)),
}
RECIPE = Recipe.reference(epochs=300)
NETWORKS = 2
CLOCK = {  # method: the variant of engine.py
    "ours": "16 real images",
    "published": "published code",
    "published, 16 images": "published code, 16 images",
    "published, 16 images, memory kept": "published code, 16 images, memory kept",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--reference", help="a clone of the published code")
    asked = parser.parse_args()
    table = Table("race", command="python benchmarks/race.py --data PATH.npz --reference PATH", recipe=str(RECIPE),
                  networks=NETWORKS)
    if asked.reference and not any("iteration_seconds" in row for row in table.rows):
        clock(table, asked.reference)
    torch.set_num_threads(1)
    race(table, *load(asked.data))


def race(table, train, test):
    """The accuracies."""

    def judge(method, iterations, synthetic):
        row = {"method": method, "iterations": iterations}
        if table.find(**row) is None:
            sets = synthetic if isinstance(synthetic, list) else [synthetic]
            accuracies = evaluate(sets, test, networks=NETWORKS, recipe=RECIPE, generator=seeded(0))
            table.add({**row, "accuracies": results.pack(accuracies)})
            print(f"{method}, {iterations} iterations: {accuracies}", flush=True)

    for method, (changes, marks) in SETTINGS.items():
        if all(table.find(method=method, iterations=mark) for mark in marks):
            continue
        config = DMConfig.reference(ipc=10, **{"iterations": marks[-1], **changes})
        steps = dm_steps(train, config=config, generator=seeded(0))
        judge("Random", 0, random_subset(train, 10, generator=seeded(1)))
        for step in steps:
            if step.iteration in marks:
                judge(method, step.iteration, step.synthetic)


def clock(table, path):
    """Seconds of an iteration, and of the first one of ours, in which loops are translated."""
    from engine import ours, seconds_in_turn

    with tempfile.TemporaryDirectory() as folder:
        os.environ["NUMBA_CACHE_DIR"] = folder  # nothing is translated yet
        start = time.perf_counter()
        ours(CLOCK["ours"])()
        first = time.perf_counter() - start
        seconds = seconds_in_turn(CLOCK.values(), path, rounds=10)
    for method, spent in zip(CLOCK, seconds, strict=True):
        row = {"method": method, "threads": 2, "iteration_seconds": [round(s, 4) for s in spent]}
        table.add(row | ({"first_seconds": round(first, 1)} if method == "ours" else {}))


if __name__ == "__main__":
    main()
