"""Draw the picture of the first page and of the README, book/_static/digits.png, from a run of our own."""

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from dmtutor import condense, load, random_subset, results
from dmtutor.plotting import COLORS, INK, STYLE, image_grid

OUTPUT = Path(__file__).resolve().parent.parent / "book" / "_static" / "digits.png"


def main():
    plt.style.use(STYLE)
    train, _ = load("mnist5k")
    start = random_subset(train, 1, generator=torch.Generator().manual_seed(0))
    means = replace(start, images=torch.stack([train.of_class(c).mean(0) for c in range(10)]))
    sets = {"Random": start, "DM": condense(train, ipc=1, seed=0, progress=False), "Mean": means}
    names = {"Random": "random digits", "DM": "learned digits", "Mean": "mean digits"}
    ladder = {row["method"]: row["accuracies"].mean for row in results.load("distribution_matching")["rows"]
              if row["experiment"] == "ladder" and row["ipc"] == 1}
    figure, axes = plt.subplots(3, 1, figsize=(8, 3))
    for ax, (method, images) in zip(axes, sets.items(), strict=True):
        image_grid(images.pixels, ax, columns=10)
        ax.set(xticks=[], yticks=[])
        color = COLORS.get(method, INK)
        share = f"{100 * ladder[method]:.0f} %"
        ax.text(1.02, 0.5, share, transform=ax.transAxes, va="center", fontsize=20, color=color)
        ax.text(-0.02, 0.5, names[method], transform=ax.transAxes, va="center", ha="right", color=color)
    figure.savefig(OUTPUT, pil_kwargs={"optimize": True}, metadata={"Software": None})


if __name__ == "__main__":
    main()
