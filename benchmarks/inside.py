"""What is in a condensed set of CIFAR-10: how much of the photographs that it began as, and what its lattice is for.

    python benchmarks/inside.py --data PATH.npz
    python benchmarks/inside.py --digits

Three stored sets of distribution matching, one or ten photographs of each class. Is an image still nearest to the one
that it began as, and is it a copy: nearer to a photograph of its class that it was made from than any of a hundred
held-out ones is? Pixels have length one. As many held-out photographs, ten of each class, say what is usual.

Then the only image of each class, seen by ten networks of width 128 that no run has met. Their last maps have 4 x 4
cells. How far do the cells of an image lie apart, squared, and how far is it from the mean of 400 real photographs:
the learned image, the same without its waves of three to five cycles, without all faster ones, with the former
weakened by as much power as the latter hold, or replaced by white noise, and five photographs of each class?

The second command traces three more sets of ten digits of each class, the first from the start of the stored one.

PATH.npz holds x_train, y_train, x_test and y_test. Rows go to dmtutor/results/inside.json; each takes two minutes of
one core.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from cifar10 import new_steps, split
from store import Table, seeded

from dmtutor import ConvNet, DMConfig, condense, dm_steps, load, random_subset, results

SETS = {  # stored set: the run that made it
    "cifar10_dm_1": "IPC 1, falling step",
    "cifar10_dm_10": "IPC 10, falling step",
    "cifar10_dm_10_average": "IPC 10, constant step",
}
HELD_OUT, NETWORKS, UNSEEN = 100, 10, 1000  # of each class; and the seed of the first network


def unit(images):
    """Pixels as vectors of length one, (n, C · H · W)."""
    return F.normalize(images.flatten(1), dim=1)


def nearest(data, real):
    """Distance to, and row of, the nearest real image of the class: (n,) each."""
    distance, row = torch.empty(len(data)), torch.empty(len(data), dtype=torch.long)
    for c in data.labels.unique():
        ours, theirs = (torch.nonzero(part.labels == c).flatten() for part in (data, real))
        found = torch.cdist(unit(data.images[ours]), unit(real.images[theirs])).min(1)
        distance[ours], row[ours] = found.values, theirs[found.indices]
    return distance, row


def trace(made, began, real, closest):
    """How many images are copies, how many still nearest to their start, and how far they have moved."""
    distance, row = nearest(made, real)
    found = {"images": len(made), "copies": int((distance < closest[made.labels]).sum())}
    if began is not None:
        moved = (unit(made.images) - unit(began.images)).norm(dim=1)
        found["kept"] = int((row == nearest(began, real)[1]).sum())
        found["moved"] = round(float(moved.median()), 3)
    return {**found, "nearest": round(float(distance.median()), 3)}


def digits(table):
    train, test = load("mnist5k")
    usual, _ = nearest(test, train)
    closest = torch.stack([usual[test.labels == c].min() for c in range(10)])
    for seed in range(3):
        key = {"experiment": "copies", "set": "digits, DM, 10", "seed": seed}
        if not table.find(**key):
            made = condense(train, ipc=10, seed=seed, progress=False)
            began = dm_steps(train, config=DMConfig(**made.meta["config"]), generator=seeded(seed)).synthetic
            found = trace(made, began, train, closest)
            table.add({**key, **found})
            print(f"{key}: {found}", flush=True)


def copies(table, real, held_out):
    few = random_subset(held_out, HELD_OUT, generator=seeded(0))
    usual, _ = nearest(few, real)
    closest = torch.stack([usual[few.labels == c].min() for c in range(10)])
    others = torch.ones(len(held_out), dtype=torch.bool)
    for i in range(10):  # held-out photographs that set no threshold
        theirs = unit(held_out.images[held_out.labels == i]) @ unit(few.images[few.labels == i]).T
        others[held_out.labels == i] = theirs.max(1).values < 1 - 1e-6
    rest = replace(held_out, images=held_out.images[others], labels=held_out.labels[others])
    control = random_subset(rest, 10, generator=seeded(1))
    sets = {name: (results.images(name), new_steps(real, run, 0).synthetic) for name, run in SETS.items()}
    for name, (made, began) in {**sets, "held-out photographs": (control, None)}.items():
        key = {"experiment": "copies", "set": name}
        if table.find(**key):
            continue
        found = trace(made, began, real, closest)
        table.add({**key, **found, "usual": round(float(usual.median()), 3)})
        print(f"{name}: {found}", flush=True)


def without(images, low, high):
    """Images (n, C, 32, 32) without the waves whose larger frequency has low to high cycles."""
    f = (torch.fft.fftfreq(32) * 32).abs().round()
    ring = torch.maximum(f[:, None], f[None])
    return torch.fft.ifft2(torch.fft.fft2(images) * ((ring < low) | (ring > high))).real


def weakened(images):
    """Images whose waves of three to five cycles have lost as much power as those of 6 to 16 hold."""
    wave, faster = (images - without(images, *ends) for ends in ((3, 5), (6, 16)))
    power = [part.square().sum((1, 2, 3), keepdim=True) for part in (faster, wave)]
    return images - (power[0] / power[1]).sqrt() * wave


def replaced(images):
    """Images whose waves of three to five cycles gave way to white noise of as much power."""
    rest = without(images, 3, 5)
    noise = torch.randn(images.shape, generator=seeded(0))
    power = [part.square().sum((1, 2, 3), keepdim=True) for part in (images - rest, noise)]
    return rest + (power[0] / power[1]).sqrt() * noise


@torch.no_grad()
def lattice(table, real):
    networks = [ConvNet(channels=3, image_size=32, width=128, generator=seeded(UNSEEN + j)) for j in range(NETWORKS)]
    some, made = random_subset(real, 400, generator=seeded(99)), results.images("cifar10_dm_1")
    kinds = {"learned": made.images, "learned, without 3 to 5 cycles": without(made.images, 3, 5),
             "learned, without 6 to 16 cycles": without(made.images, 6, 16),
             "learned, 3 to 5 cycles weakened": weakened(made.images),
             "learned, white noise for 3 to 5 cycles": replaced(made.images)}
    kinds |= {f"photographs, {s}": random_subset(real, 1, generator=seeded(s)).images for s in range(5)}
    seen = {name: [network.embed(x) for network in networks] for name, x in kinds.items()}
    means = []
    for network in networks:
        z = torch.cat([network.embed(x) for x in some.images.split(100)])
        means.append(torch.stack([z[some.labels == c].mean(0) for c in range(10)]))
    for name, found in {**seen, "mean of 400 photographs": means}.items():
        key = {"experiment": "cells", "images": name}
        if not table.find(**key):
            apart = [float(z.view(10, -1, 16).var(2, unbiased=False).sum(1).mean()) for z in found]
            offset = [float((z - m).square().sum(1).mean()) for z, m in zip(found, means, strict=True)]
            table.add({**key, "apart": [round(v, 3) for v in apart], "offset": [round(v, 2) for v in offset]})
            print(f"{name}: {torch.tensor(apart).mean():.3f}, {torch.tensor(offset).mean():.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--data", type=Path)
    asked.add_argument("--digits", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("inside", command="python benchmarks/inside.py --data PATH.npz")
    if asked.digits:
        digits(table)
        return
    real, held_out, _ = split(asked.data)
    copies(table, real, held_out)
    lattice(table, real)


if __name__ == "__main__":
    main()
