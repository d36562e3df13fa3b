"""Draw the picture of the first page and of the README, book/_static/digits.png."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from dmtutor import Recipe, herding, load, random_subset, results, train_network
from dmtutor.plotting import COLORS, STYLE, image_grid

OUTPUT = Path(__file__).resolve().parent.parent / "book" / "_static" / "digits.png"


def main():
    """As chapter 1 opens, with the means over both networks of its judge."""
    plt.style.use(STYLE)
    train, _ = load("mnist5k")
    reader = train_network(train, recipe=Recipe(steps=120), generator=torch.Generator().manual_seed(0))
    sets = {
        "Random": random_subset(train, 1, generator=torch.Generator().manual_seed(0)),
        "Herding": herding(train, 1, embed=reader.embed),
        "DM": results.images("mnist5k_dm_1_4"),
    }
    names = {"Random": "random digits", "Herding": "chosen digits", "DM": "learned digits"}
    rows = results.rows("distribution_matching", "ladder", ipc=1) + results.rows("coresets", "chosen", ipc=1)
    ladder = {row["method"]: row["accuracies"].mean for row in rows}
    figure, axes = plt.subplots(3, 1, figsize=(8, 3))
    for ax, (method, images) in zip(axes, sets.items(), strict=True):
        image_grid(images.pixels, ax, columns=10)
        ax.set(xticks=[], yticks=[])
        color = COLORS[method]
        share = f"{100 * ladder[method]:.0f} %"
        ax.text(1.02, 0.5, share, transform=ax.transAxes, va="center", fontsize=20, color=color)
        ax.text(-0.02, 0.5, names[method], transform=ax.transAxes, va="center", ha="right", color=color)
    figure.savefig(OUTPUT, pil_kwargs={"optimize": True}, metadata={"Software": None})


if __name__ == "__main__":
    main()
