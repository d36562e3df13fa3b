"""Beyond distribution matching, rung by rung, on CIFAR-10: sets made in equal time, judged alike.

    python benchmarks/beyond.py --data PATH.npz --runs FOLDER condense [WORD ...]
    python benchmarks/beyond.py --data PATH.npz --runs FOLDER test [WORD ...]
    python benchmarks/beyond.py digits

PATH.npz holds x_train, y_train, x_test and y_test. A tenth of the training images is left out of all sets and of the
networks' pool. ``condense`` makes three sets of one stored image per class for every rung of RUNGS whose name has all
WORDs, in the order of the seeds; it saves its state in FOLDER once a minute and goes on from there. Iterations are such
that a set takes about five minutes of one core, the pool's training included. ``test`` scores them on the test images,
and random images and random tiles beside them, with a judge that takes the same number of steps on every set.
``digits`` does both on digits, in some ten minutes. Results go to dmtutor/results/beyond.json, row by row. One thread
does the work.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from cifar10 import split
from store import FOLDER, Table, seeded

from dmtutor import IDMConfig, Recipe, files, idm_steps, load, random_subset, random_tiles
from dmtutor.condensation import saved

COMMON = {"ipc": 1, "batch_real": 16, "lr_img": 1.0, "width": 128, "depth": 3, "compile": True}
POOL = {"pool": 5, "pool_steps": 200}
RUNGS = {  # changes to COMMON; iterations for five core minutes
    "DM": {"factor": 1, "pool": 0, "alpha": 0, "lr_img": 0.25, "iterations": 1200},
    "+ decoding": {"pool": 0, "alpha": 0, "iterations": 800},
    "+ trained networks": {**POOL, "alpha": 0, "iterations": 550},
    "+ cross-entropy": {**POOL, "alpha": 10.0, "iterations": 550},
}
DIGITS = {
    "DM": {"factor": 1, "pool": 0, "alpha": 0, "iterations": 400},
    "+ decoding": {"pool": 0, "alpha": 0, "iterations": 200},
    "+ trained networks": {"pool": 6, "pool_steps": 200, "alpha": 0, "iterations": 200},
    "+ cross-entropy": {"pool": 6, "pool_steps": 200, "alpha": 10.0, "iterations": 200},
}
FILES = {"+ decoding": "decoding", "+ trained networks": "trained", "+ cross-entropy": "idm"}
JUDGE = Recipe.reference(steps=400)


def run_file(folder, name, seed):
    return folder / f"beyond-{name.replace('+', '').replace(' ', '')}-{seed}.pt"


def make(real, name, seed):
    """The steps of a run, before the first."""
    return idm_steps(real, config=IDMConfig(**{**COMMON, **RUNGS[name]}), generator=seeded(seed))


def condense(real, name, seed, folder):
    """Make one set; its state is saved once a minute, the seconds beside it."""
    steps, path = make(real, name, seed), run_file(folder, name, seed)
    run = {"state": steps.state_dict(), "losses": [], "seconds": 0.0}
    if path.exists():
        run = files.read(path, keys=run)
        steps.load_state_dict(run["state"])
    begin = time.process_time() - run["seconds"]

    def save():
        run["seconds"] = time.process_time() - begin
        files.write({**run, "state": steps.state_dict()}, path)
        print(f"{name}, seed {seed}: {steps.iteration} of {len(steps)}, {run['seconds']:.0f} s", flush=True)

    if steps.config.pool and not run["losses"]:
        pool = trained_pool(steps, seed, folder)
        steps.pool, begin = pool["pool"], begin - pool["seconds"]
        save()
    for step in saved(steps, save):
        run["losses"].append(float(step.loss))


def trained_pool(steps, seed, folder):
    """The pool of all runs of this seed, which is the same, and the seconds that it took."""
    path = folder / f"pool-{seed}.pt"
    if not path.exists():
        begin = time.process_time()
        files.write({"pool": steps.pool, "seconds": time.process_time() - begin}, path)
    return files.read(path, keys=("pool", "seconds"))


def test(table, real, images, name, seed, folder):
    """Score a set, or what it is held against, on the test images."""
    key = {"experiment": "test", "rung": name, "ipc": COMMON["ipc"], "seed": seed}
    judge = {"networks": 1, "recipe": JUDGE}  # a new set tells more than a second network
    if name == "Random":
        table.judge(key, random_subset(real, 1, generator=seeded(seed)), images, **judge)
    elif name == "Random tiles":
        table.judge(key, random_tiles(real, 1, generator=seeded(seed)), images, **judge)
    else:
        run = files.read(run_file(folder, name, seed), keys=("state", "seconds"))
        steps = make(real, name, seed)
        steps.load_state_dict(run["state"])
        if steps.iteration < len(steps):
            return
        synthetic = steps.synthetic
        if seed == 0 and name in FILES:
            keep(synthetic, "cifar10", name)
        table.judge(key, synthetic, images, **judge, iterations=len(steps), seconds=round(run["seconds"]))


def keep(synthetic, data, name):
    """Store a set of seed 0, in 16 bits."""
    meta = {**synthetic.meta, "name": data, "seed": 0}
    replace(synthetic, images=synthetic.images.half(), meta=meta).save(FOLDER / f"{data}_{FILES[name]}_1.pt")


def digits(table):
    """The first rungs on digits, one stored image per class: three sets each, all by the library's defaults."""
    train, images = load("mnist5k")
    judge = {"networks": 2, "recipe": Recipe()}
    key = {"experiment": "digits", "ipc": 1}
    sets = {
        "Random": [random_subset(train, 1, generator=seeded(i)) for i in range(3)],
        "Random tiles": [random_tiles(train, 1, generator=seeded(i)) for i in range(3)],
    }
    for name, fields in DIGITS.items():
        begin = time.process_time()
        sets[name] = [
            idm_steps(train, config=IDMConfig(ipc=1, **fields), generator=seeded(i)).finish() for i in range(3)
        ]
        print(f"{name}: {(time.process_time() - begin) / 3:.0f} s a set", flush=True)
        if name != "DM":
            keep(sets[name][0], "mnist5k", name)
    for name, made in sets.items():
        table.judge({**key, "rung": name}, made, images, **judge)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("task", choices=("condense", "test", "digits"))
    parser.add_argument("words", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="*", default=(0, 1, 2))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.task != "condense":
        command = "python benchmarks/beyond.py --data PATH.npz --runs FOLDER TASK"
        table = Table("beyond", command=command, recipes={"test": str(JUDGE), "digits": str(Recipe())})
    if asked.task == "digits":
        digits(table)
        return
    if not asked.data or not asked.runs:
        parser.error("--data and --runs are required")
    asked.runs.mkdir(exist_ok=True)
    real, _, images = split(asked.data)
    for seed in asked.seeds:
        for name in ("Random", "Random tiles", *RUNGS):
            if not all(word in name for word in asked.words):
                continue
            if asked.task == "test":
                test(table, real, images, name, seed, asked.runs)
            elif name in RUNGS:
                condense(real, name, seed, asked.runs)


if __name__ == "__main__":
    main()
