"""TinyImageNet, 200 classes at 64 × 64: distribution matching beside random images, its real images on disk.

    python benchmarks/tinyimagenet.py --data FOLDER --runs RUNS condense [WORD ...]
    python benchmarks/tinyimagenet.py --data FOLDER --runs RUNS test [WORD ...] [--epochs 300]

FOLDER is the data set as it is published, tiny-imagenet-200 with train and val. Its labelled validation part is the
test set, as in the papers; nothing is chosen by it, and a tenth of the training images is left out for choices. The
images are decoded once, into two files in RUNS of 1.4 GB together, and stay there. ``condense`` makes every set of
SETTINGS whose name has all WORDs, saves its state in RUNS once a minute and goes on from there; ``test`` trains three
networks on it, or on random real images if the words are in "Random", by the published evaluation, cut to 150 of its
1,000 epochs or to as many as are asked for. One thread does the work: at IPC 1 13 minutes to an hour for a set, and 10
for a network of 150 epochs. Results go to dmtutor/results/tinyimagenet.json, row by row.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from store import Table, seeded
from tqdm import tqdm

from dmtutor import Recipe, condense, from_arrays, random_subset
from dmtutor.condensation import History
from dmtutor.files import partial

NARROW = {"ipc": 1, "depth": 4, "width": 64, "iterations": 400, "compile": True}  # narrow networks are quicker
SETTINGS = {  # all else is by the library's defaults
    "IPC 1, width 64": NARROW,
    "IPC 1, width 64, step 4": {**NARROW, "lr_img": 4.0, "amp": True},  # tried on what was left out
    "IPC 1, width 64, four times as long": {**NARROW, "lr_img": 4.0, "amp": True, "iterations": 1600},
}


def decoded(data, runs):
    """Both parts, 8 bits a number on disk."""
    from PIL import Image

    classes = sorted(folder.name for folder in (data / "train").iterdir())
    lines = [line.split("\t")[:2] for line in (data / "val" / "val_annotations.txt").read_text().splitlines()]
    files = {
        "train": [(path, path.parent.parent.name) for path in sorted(data.glob("train/*/images/*.JPEG"))],
        "test": [(data / "val" / "images" / name, label) for name, label in sorted(lines)],
    }
    parts = []
    for part, samples in files.items():
        path = runs / f"{part}.npy"
        if not path.exists():
            beside = partial(path)
            array = np.lib.format.open_memmap(beside, mode="w+", dtype=np.uint8, shape=(len(samples), 3, 64, 64))
            for row, (file, _) in enumerate(tqdm(samples, desc=part)):
                array[row] = np.moveaxis(np.asarray(Image.open(file).convert("RGB")), -1, 0)
            array.flush()
            beside.rename(path)
        labels = [classes.index(label) for _, label in samples]
        like = {"like": parts[0]} if parts else {"classes": classes}
        parts.append(from_arrays(np.load(path, mmap_mode="r"), labels, **like))
    return parts


def made(real, name, seed, runs):
    """The set of a run, made as far as it is not there yet, and the seconds that it took."""
    stem = f"{name.replace(',', '').replace(' ', '-')}-{seed}"
    files = {"checkpoint": runs / f"{stem}.pt", "history": runs / f"{stem}.csv"}
    synthetic = condense(real, seed=seed, **files, **SETTINGS[name])
    return synthetic, float(History.read(files["history"])[-1][2])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=150, help="of the published 1,000, for the judge")
    parser.add_argument("task", choices=("condense", "test"))
    parser.add_argument("words", nargs="*")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.runs.mkdir(exist_ok=True)
    train, test = decoded(asked.data, asked.runs)
    real, _ = train.split(0.1, generator=seeded(0))
    recipe = Recipe.reference(depth=4, epochs=asked.epochs)
    table = Table("tinyimagenet", command="python benchmarks/tinyimagenet.py --data FOLDER --runs RUNS TASK")
    for name in ("Random", *SETTINGS):
        if not all(word in name for word in asked.words):
            continue
        if name == "Random":
            synthetic, key, spent = random_subset(real, 1, generator=seeded(asked.seed)), {"method": name}, {}
        else:
            synthetic, seconds = made(real, name, asked.seed, asked.runs)
            key, spent = {"method": "DM", "run": name}, {"seconds": round(seconds)}
        if asked.task == "test":
            key = {"experiment": "test", **key, "ipc": 1, "seed": asked.seed, "epochs": asked.epochs}
            table.judge(key, synthetic, test, networks=3, recipe=recipe, judge=str(recipe), **spent)


if __name__ == "__main__":
    main()
