"""Distribution matching on CIFAR-10 with the published 20,000 iterations: the runs that chapter 9 reads.

    python benchmarks/cifar10.py --data PATH.npz --runs FOLDER condense [WORD ...]
    python benchmarks/cifar10.py --data PATH.npz --runs FOLDER film [WORD ...]
    python benchmarks/cifar10.py --data PATH.npz --runs FOLDER test [WORD ...]

PATH.npz holds x_train, y_train, x_test and y_test. ``condense`` makes every set of RUNS whose name has all WORDs; it
writes its state to FOLDER once a minute and goes on from there. ``film`` scores what the runs left behind on their
way, on 5,000 training images that they never saw; ``test`` reads the test images, with the published evaluation.
Results go to dmtutor/results/cifar10.json, row by row. One thread does the work, so that two runs share two cores:
an hour and a quarter for IPC 10, 25 minutes for IPC 1, 5 minutes a network of the published evaluation at IPC 10.
"""

import argparse
import time
from pathlib import Path

import torch

from dmtutor import DMConfig, dm_steps, files, load

RUNS = {  # name: changes to the published setting
    "IPC 1, falling step": {"ipc": 1, "batch_real": 8, "schedule": "linear"},
    "IPC 1, constant step": {"ipc": 1, "batch_real": 8, "average": 0.999},
    "IPC 10, falling step": {"ipc": 10, "batch_real": 16, "schedule": "linear"},
    "IPC 10, constant step": {"ipc": 10, "batch_real": 16, "average": 0.999},
}
SNAPSHOTS = [0, 10, 30, 100, 300, 1000, 3000, 10_000, 20_000]


def split(path):
    """The images to condense, those that choose between settings, and the test images."""
    train, test = load(path)
    rest, validation = train.split(0.1, generator=torch.Generator().manual_seed(0))
    return rest, validation, test


def run_file(folder, name, seed):
    return folder / f"{name.replace(',', '').replace(' ', '-')}-{seed}.pt"


def condense(real, name, seed, folder):
    """Make one set; its state, losses and snapshots are saved once a minute."""
    config = DMConfig.reference(compile=True, **RUNS[name])
    steps = dm_steps(real, config=config, generator=torch.Generator().manual_seed(seed))
    path = run_file(folder, name, seed)
    run = {"state": steps.state_dict(), "losses": [], "snapshots": {0: steps.images.half()}, "seconds": 0.0}
    if path.exists():
        run = files.read(path, keys=run)
        steps.load_state_dict(run["state"])

    def save():
        files.write({**run, "state": steps.state_dict()}, path)

    saved, start = time.monotonic(), time.process_time() - run["seconds"]
    for step in steps:
        run["losses"].append(float(step.loss))
        if step.iteration in SNAPSHOTS:
            run["snapshots"][step.iteration] = steps.images.half()
        if step.iteration == len(steps) or time.monotonic() - saved > 60:
            run["seconds"] = time.process_time() - start
            save()
            saved = time.monotonic()
            print(f"{name}, seed {seed}: {step.iteration} of {len(steps)}, {run['seconds']:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("task", choices=("condense", "film", "test"))
    parser.add_argument("words", nargs="*")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.runs.mkdir(exist_ok=True)
    real, validation, test = split(asked.data)
    names = [name for name in RUNS if all(word in name for word in asked.words)]
    for name in names:
        if asked.task == "condense":
            condense(real, name, asked.seed, asked.runs)


if __name__ == "__main__":
    main()
