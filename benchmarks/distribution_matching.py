"""The dials of distribution matching on MNIST-5k: what chapter 7 shows and what the defaults were chosen by.

    python benchmarks/distribution_matching.py                 # all of it
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
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

from dmtutor import DMConfig, Recipe, __version__, condense, evaluate, load, random_subset, results

OUTPUT = Path(__file__).resolve().parent.parent / "dmtutor" / "results" / "distribution_matching.json"
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


def make(method, train, seed, changes):
    """One set."""
    if method == "DM":
        return condense(train, seed=seed, progress=False, **changes)
    subset = random_subset(train, changes["ipc"], generator=torch.Generator().manual_seed(seed))
    if method == "Mean":
        means = [train.of_class(c).mean(0) for c in range(len(train.classes))]
        return replace(subset, images=torch.stack(means))
    return subset


def run(sets, method, changes, train, test):
    """One setting: what is stored of it, and its accuracies."""
    made, seconds = [], []
    for seed in range(sets):
        start = time.perf_counter()
        made.append(make(method, train, seed, changes))
        seconds.append(round(time.perf_counter() - start, 2))
    accuracies = evaluate(made, test, networks=NETWORKS, generator=torch.Generator().manual_seed(0))
    contrast = [round(float(s.images.std()), 3) for s in made]
    return {"seconds": seconds, "contrast": contrast, "accuracies": results.pack(accuracies)}, accuracies


def provenance():
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=OUTPUT.parent)
    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in info if line.startswith("model name")]
    return {
        "command": "python benchmarks/distribution_matching.py",
        "commit": git.stdout.strip(),
        "device": f"{(names or [platform.processor()])[0]}, {torch.get_num_threads()} threads",
        "versions": {"dmtutor": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        "date": date.today().isoformat(),
        "defaults": str(DMConfig()),
        "recipe": f"{Recipe()}, {NETWORKS} networks for each set",
    }


def main(wanted):
    train, test = load("mnist5k")
    rest, validation = train.split(0.2, generator=torch.Generator().manual_seed(0))
    content = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {"provenance": provenance(), "rows": []}
    done = [{k: v for k, v in row.items() if k not in ("seconds", "contrast", "accuracies")} for row in content["rows"]]
    for experiment, sets, method, changes in settings():
        key = {"experiment": experiment, "method": method, **changes}
        if (wanted and experiment not in wanted) or key in done:
            continue
        data = (train, test) if experiment == "ladder" else (rest, validation)
        row, accuracies = run(sets, method, changes, *data)
        content["rows"].append({**key, **row})
        partial = OUTPUT.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(partial, OUTPUT)
        print(f"{key}: {accuracies}, {sum(row['seconds']) / sets:.1f} s a set", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
