"""TinyImageNet, 200 classes at 64 × 64: distribution matching beside random images, its real images on disk.

    python benchmarks/tinyimagenet.py --data FOLDER --runs RUNS condense [WORD ...]
    python benchmarks/tinyimagenet.py --data FOLDER --runs RUNS choose [WORD ...]
    python benchmarks/tinyimagenet.py --data FOLDER --runs RUNS test [WORD ...]

FOLDER is the data set as it is published, tiny-imagenet-200 with train and val. Its labelled validation part is the
test set, as in the papers; a tenth of the training images chooses between settings. They are decoded once, into two
files in RUNS of 1.4 GB together, and stay there. ``condense`` makes every set of SETTINGS whose name has all WORDs,
saves its state in RUNS once a minute and goes on from there. ``choose`` scores the trials on 4,000 of the validation
images, ``test`` the others on all test images, with random real images beside them: the published evaluation, cut to
300 of its 1,000 epochs at IPC 1, and to a narrower network and 100 epochs at IPC 10. One thread does the work.
Results go to dmtutor/results/tinyimagenet.json, row by row.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from store import Table, seeded
from tqdm import tqdm

from dmtutor import Recipe, condense, from_arrays, random_subset
from dmtutor.condensation import History

PUBLISHED = {"depth": 4, "width": 128, "compile": True}  # the network
SETTINGS = {
    "trial, width 128": {"ipc": 1, **PUBLISHED, "iterations": 100},
}
SHORT = Recipe.reference(depth=4, width=64, epochs=150)  # of the choice
TEST = {1: Recipe.reference(depth=4, epochs=300), 10: Recipe.reference(depth=4, width=64, epochs=100)}


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
            partial = path.with_suffix(".partial")
            array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(len(samples), 3, 64, 64))
            for row, (file, _) in enumerate(tqdm(samples, desc=part)):
                array[row] = np.moveaxis(np.asarray(Image.open(file).convert("RGB")), -1, 0)
            array.flush()
            partial.rename(path)
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
    parser.add_argument("task", choices=("condense", "choose", "test"))
    parser.add_argument("words", nargs="*")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.runs.mkdir(exist_ok=True)
    train, test = decoded(asked.data, asked.runs)
    real, validation = train.split(0.1, generator=seeded(0))
    recipes = {"choose": str(SHORT), **{f"test, IPC {ipc}": str(recipe) for ipc, recipe in TEST.items()}}
    command = "python benchmarks/tinyimagenet.py --data FOLDER --runs RUNS TASK"
    table = Table("tinyimagenet", command=command, recipes=recipes)
    for name, fields in SETTINGS.items():
        if not all(word in name for word in asked.words):
            continue
        ipc, trial = fields["ipc"], name.startswith("trial")
        if asked.task == "condense" or trial != (asked.task == "choose"):
            if asked.task == "condense":
                made(real, name, asked.seed, asked.runs)
            continue
        synthetic, seconds = made(real, name, asked.seed, asked.runs)
        key = {"experiment": asked.task, "run": name, "method": "DM", "ipc": ipc, "seed": asked.seed}
        few = validation.select(torch.cat([rows[:20] for rows in validation.rows_of_class]))
        images, networks, recipe = (few, 2, SHORT) if trial else (test, 1, TEST[ipc])
        table.judge(key, synthetic, images, networks=networks, recipe=recipe, seconds=round(seconds))
        start = random_subset(real, ipc, generator=seeded(asked.seed))
        key = {"experiment": asked.task, "method": "Random", "ipc": ipc, "seed": asked.seed}
        table.judge(key, start, images, networks=networks, recipe=recipe)


if __name__ == "__main__":
    main()
