"""The dials of distribution matching on MNIST-5k: what chapter 7 shows and what the defaults were chosen by.

    python benchmarks/distribution_matching.py                 # all of it: about an hour on two cores
    python benchmarks/distribution_matching.py batch_real width

Every dial is turned on a validation part of the training images; the test images are read by `ladder` alone.
Results go to dmtutor/results/distribution_matching.json, setting by setting, so a run that was stopped goes on
where it was.
"""

import json
import os
import platform
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import torch

from dmtutor import DMConfig, Recipe, __version__, condense, evaluate, load, random_subset

OUTPUT = Path(__file__).resolve().parent.parent / "dmtutor" / "results" / "distribution_matching.json"
NETWORKS = 2


def settings():
    """(experiment, sets, changes to DMConfig or None for random images)."""
    for ipc in (1, 10, 50):
        yield "ladder", 5 if ipc < 50 else 3, {"ipc": ipc}, False
        yield "ladder", 5 if ipc < 50 else 3, {"ipc": ipc}, True
    for ipc, steps in ((1, (0.1, 0.3, 1.0, 3.0)), (10, (1.0, 3.0, 10.0, 30.0))):
        for lr_img in steps:
            yield "lr_img", 3, {"ipc": ipc, "lr_img": lr_img}, True
    for ipc in (1, 10):
        yield "augment", 3, {"ipc": ipc}, False
        for augment in ("none", None):
            yield "augment", 3, {"ipc": ipc, "augment": augment}, True
    for batch_real in (1, 4, 16, 64, 256):
        yield "batch_real", 3, {"ipc": 1, "batch_real": batch_real}, True
    for width in (8, 32, 128):
        yield "width", 3, {"ipc": 1, "width": width}, True


def run(experiment, sets, changes, learned, train, test):
    """One setting: accuracies, (sets, networks), and seconds of condensing."""
    made, seconds = [], []
    for seed in range(sets):
        start = time.perf_counter()
        if learned:
            made.append(condense(train, seed=seed, progress=False, **changes))
        else:
            made.append(random_subset(train, changes["ipc"], generator=torch.Generator().manual_seed(seed)))
        seconds.append(round(time.perf_counter() - start, 2))
    accuracies = evaluate(made, test, networks=NETWORKS, generator=torch.Generator().manual_seed(0))
    values = [[round(v, 4) for v in row] for row in accuracies.values.tolist()]
    norms = [round(float(s.images.std()), 3) for s in made]
    return {"values": values, "seconds": seconds, "contrast": norms}


def provenance():
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=OUTPUT.parent)
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.processor())  # fmt: skip
    return {
        "command": "python benchmarks/distribution_matching.py",
        "commit": git.stdout.strip(),
        "device": f"{cpu}, {torch.get_num_threads()} threads",
        "versions": {"dmtutor": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        "date": date.today().isoformat(),
        "recipe": f"{Recipe()}, {NETWORKS} networks",
        "defaults": str(DMConfig()),
    }


def main(wanted):
    train, test = load("mnist5k")
    rest, validation = train.split(0.2, generator=torch.Generator().manual_seed(0))
    content = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {"provenance": provenance(), "rows": []}
    for experiment, sets, changes, learned in settings():
        key = {"experiment": experiment, "method": "DM" if learned else "Random", **changes}
        if (wanted and experiment not in wanted) or any(key.items() <= row.items() for row in content["rows"]):
            continue
        data = (train, test) if experiment == "ladder" else (rest, validation)
        row = {**key, **run(experiment, sets, changes, learned, *data)}
        content["rows"].append(row)
        partial = OUTPUT.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(partial, OUTPUT)
        mean = 100 * sum(map(sum, row["values"])) / (sets * NETWORKS)
        print(f"{key}: {mean:.1f} %, {sum(row['seconds']) / sets:.1f} s a set", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
