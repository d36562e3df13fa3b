"""What a condensed set is good for: a memory, the choice of a network, who was used, and smaller sets.

    python benchmarks/uses.py --runs FOLDER continual
    python benchmarks/uses.py --runs FOLDER --data CIFAR10.npz photographs
    python benchmarks/uses.py --runs FOLDER --data MNIST.npz search
    python benchmarks/uses.py --runs FOLDER --data CIFAR10.npz search-photographs
    python benchmarks/uses.py --runs FOLDER private
    python benchmarks/uses.py --runs FOLDER cut
    python benchmarks/uses.py --runs FOLDER bytes
    python benchmarks/uses.py --runs FOLDER --data CIFAR10.npz photograph-bytes
    python benchmarks/uses.py --runs FOLDER clients
    python benchmarks/uses.py --runs FOLDER processors
    python benchmarks/uses.py --runs FOLDER leak
    python benchmarks/uses.py --runs FOLDER protect
    python benchmarks/uses.py --runs FOLDER seconds
    python benchmarks/uses.py --runs FOLDER --data CIFAR10.npz time
    python benchmarks/uses.py --runs FOLDER --data CIFAR10.npz rough

On the library's digits: ``continual`` trains networks on what a memory holds after each of five tasks of two classes,
in five orders; ``photographs`` does that with the stored set of CIFAR-10, in three (x_train, y_train, x_test, y_test);
``search`` trains 36 networks on all digits and on proxies of 100, and scores those of the whole set on the 10,000 test
images of MNIST in MNIST.npz (x_test, y_test), none of which is among the library's digits; ``search-photographs`` does
so on CIFAR-10, DM's images those of ``beyond.py condense "DM, larger step" --ipc 10`` in the same FOLDER; ``private``
follows runs from real images and from noise, and measures how near their images are to those that were used; ``cut``
takes the first images of each class as a smaller set. ``bytes`` compares memories of ten classes by the room they take,
``photograph-bytes`` those of photographs, with the sets that ``beyond.py condense`` made in the same FOLDER;
``clients`` compares what ten clients may send, ``processors`` what they make on imitated processors; ``leak`` measures
how well distances tell who was used, by how many images a class had, ``protect`` what noise on the class means costs
and hides, beside those means alone; ``seconds`` measures what each proxy of ``search`` costs; ``time`` asks how soon a
training on all real images reaches what one on a learned set does; ``rough`` by which step photographs become rough.
FOLDER keeps the sets that were made. Results go to dmtutor/results/uses.json, row by row, so a run that was stopped
goes on where it was. One thread does the work: about 25 minutes for ``continual``, 25 for ``photographs``, 40 for
``search`` and ``bytes``, 50 for ``search-photographs``, 20 for ``leak``, ``protect``, ``photograph-bytes`` and
``time``, 10 for each of the others.
"""

import argparse
import io
import itertools
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import NormalDist

import beyond
import numpy as np
import torch
from cifar10 import as_set, split
from PIL import Image
from store import Table, seeded
from torch.nn.functional import normalize
from torchvision.transforms.functional import to_pil_image, to_tensor

from dmtutor import (
    Accuracies,
    DMConfig,
    LabeledImages,
    Recipe,
    condense,
    dm_steps,
    evaluate,
    files,
    from_arrays,
    herding,
    keyed_generator,
    load,
    random_subset,
    results,
)
from dmtutor.coresets import embedded
from dmtutor.distribution_matching import DMSteps, mean_distance
from dmtutor.embeddings import RandomConvNets
from dmtutor.evaluation import correctness, train_network
from dmtutor.steps import start

sys.path.append(str(Path(__file__).parents[1] / "tools"))
from processors import INSTRUCTIONS, environment

ORDERS = 5
NETWORKS = 2
MODELS = ("convnet", "mlp")
MEMORY = {"steps": 500}  # the library's recipe
EVERYTHING = {"steps": 500, "batch_size": 64}  # of all real images seen; and of a task in fine-tuning a fifth of them
AXES = {
    "width": (8, 16, 32),
    "depth": (1, 2, 3),
    "norm": ("none", "instance"),
    "activation": ("relu", "sigmoid"),
}
GRID = [dict(zip(AXES, values, strict=True)) for values in itertools.product(*AXES.values())]
TRUTH = {"steps": 600, "lr": 0.01, "batch_size": 64}
PHOTOGRAPH_TRUTH = {**TRUTH, "steps": 1200}
PROXY = {"steps": 150, "lr": 0.01, "batch_size": 100}  # as many images as early stopping sees
PREFIXES = (1, 2, 5, 10)
SIZES = {"noise": (4, 10, 40, 100, 400), "real": (4, 40, 400)}  # of a class, by what a run starts from
MOMENTS = (0, 1, 3, 10, 30, 100, 316)


def of(data, classes):
    """The images of these classes alone; the network keeps an answer for every class."""
    return data.select(torch.isin(data.labels, torch.as_tensor(classes)))


def made(folder, train, seed, **fields):
    """A condensed set, from FOLDER if it was made before."""
    path = folder / ("-".join(f"{k}{v}" for k, v in fields.items()) + f"-{seed}.pt")
    if not path.exists():
        condense(train, seed=seed, progress=False, **fields).save(path)
    return LabeledImages.load(path)


# Continual learning --------------------------------------------------------------------------------------------------


def continual(table, folder):
    """Accuracy on the classes seen so far, after each task."""
    train, test = load("mnist5k")
    for ipc, seed in itertools.product((1, 2), range(ORDERS)):
        order = torch.randperm(10, generator=seeded(seed)).tolist()
        memories = {
            "Random": (random_subset(train, ipc, generator=seeded(seed)), MEMORY),
            "Herding": (herding(train, ipc), MEMORY),
            "DM": (made(folder, train, seed, ipc=ipc), MEMORY),
        }
        if ipc == 1:
            memories["All seen"] = (train, EVERYTHING)
        tasks = range(1, 6) if ipc == 1 else (5,)  # with two images the end alone, by one judge
        models = MODELS if ipc == 1 else MODELS[:1]
        for model, (name, (memory, budget)), task in itertools.product(models, memories.items(), tasks):
            seen = order[: 2 * task]
            key = {"experiment": "continual", "memory": name, "ipc": ipc, "judge": model, "order": seed, "task": task}
            judge = {"networks": NETWORKS, "recipe": Recipe(model=model, **budget)}
            table.judge(key, of(memory, seen), of(test, seen), **judge)
        for model in MODELS if ipc == 1 else ():
            fine_tuned(table, train, test, order, seed, model)


def photographs(table, path):
    """The same with ten images per class of CIFAR-10; DM's are the stored set."""
    real, _, test = split(path)
    recipe = Recipe(width=64, steps=300, batch_size=32)
    for seed in range(3):
        order = torch.randperm(10, generator=seeded(seed)).tolist()
        memories = {
            "DM": results.images("cifar10_dm_10"),
            "Random": random_subset(real, 10, generator=seeded(seed)),
            "Herding": herding(real, 10),
            "All seen": real,
        }
        for (name, memory), task in itertools.product(memories.items(), range(1, 6)):
            key = {"experiment": "photographs", "memory": name, "ipc": 10, "order": seed, "task": task}
            seen = order[: 2 * task]
            table.judge(key, of(memory, seen), of(test, seen), networks=1, recipe=recipe)


def fine_tuned(table, train, test, order, seed, model):
    """One network goes from task to task, without a memory."""
    recipe = Recipe(model=model)
    key = {"experiment": "continual", "memory": "None", "ipc": 0, "judge": model, "order": seed}
    if table.find(**key):
        return
    right = {task: [] for task in range(1, 6)}
    for j in range(NETWORKS):
        draw = keyed_generator(seed, "train", j)
        network = recipe.network(train.images, 10, generator=draw)
        for task in right:
            go_on(network, of(train, order[2 * task - 2 : 2 * task]), steps=100, draw=draw)
            right[task].append(correctness(network.eval(), of(test, order[: 2 * task])))
    for task, answers in right.items():
        accuracies = Accuracies(torch.stack(answers)[None])
        table.add({**key, "task": task, "accuracies": results.pack(accuracies)})
        print(f"{key}, task {task}: {accuracies}", flush=True)


def go_on(network, data, *, steps, draw, lr=0.003, batch_size=64):
    """Train on, by the quick recipe's SGD, on these images alone."""
    sgd = torch.optim.SGD(network.train().parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    for _ in range(steps):
        rows = torch.randint(len(data), (batch_size,), generator=draw)
        loss = torch.nn.functional.cross_entropy(network(data.images[rows]), data.labels[rows])
        sgd.zero_grad()
        loss.backward()
        sgd.step()


# A memory by its bytes -----------------------------------------------------------------------------------------------

HERDING = "Herding, random network"
STORED = (  # what is kept, images of a class, bits of a number; 16 and 32 are floating
    *(("DM", 1, bits) for bits in (8, 32)),
    *((name, ipc, 8) for name, ipc in ((HERDING, 4), (HERDING, 1), ("Random", 4), ("Random", 1))),
    *(("DM", 1, bits) for bits in (4, 2)),
    (HERDING, 8, 1),  # eight of 1 bit in the room of one of 8
    ("DM", 2, 4),  # and two of 4
    *((HERDING, ipc, 1) for ipc in (4, 16)),
    (HERDING, 4, 2),
    ("DM", 4, 4),
    ("Reservoir", 1, 8),
    *((name, ipc, 8) for ipc in (2, 10) for name in (HERDING, "Random")),
    *(("DM", ipc, bits) for ipc in (10, 4) for bits in (8, 32)),
    *(("DM", 1, bits) for bits in (16, 1)),
    *(("Herding", ipc, 8) for ipc in (1, 4)),
    ("Random", 8, 1),
    ("Reservoir", 4, 8),
)
SMALL = {"width": 16, "steps": 200, "lr": 0.01}
JUDGES = {"small convnet": SMALL, "convnet": {}, "mlp": {"model": "mlp"}}
LARGER_STEP = {"mlp, larger step": {"model": "mlp", "lr": 0.01}}  # of two random digits of a class: chapter 9's pairs


def by_bytes(table, folder):
    """Five memories of each kind, all ten classes seen; how many images, and in how many bits a number."""
    train, test = load("mnist5k")
    for name, ipc, bits in STORED:
        judges = JUDGES | (LARGER_STEP if (name, ipc) == ("Random", 2) else {})
        keys = {judge: {"experiment": "bytes", "memory": name, "ipc": ipc, "bits": bits, "judge": judge}
                for judge in judges}
        if all(table.find(**key) for key in keys.values()):
            continue
        sets = [stored(remembered(folder, train, name, ipc, seed), bits)
                for seed in range(1 if name == "Herding" else ORDERS)]
        for judge, key in keys.items():
            networks = 1 if judge == "convnet" else NETWORKS
            table.judge(key, sets, test, networks=networks, recipe=Recipe(**judges[judge]))


def remembered(folder, train, name, ipc, seed):
    """What one learner keeps of the digits: ``ipc`` of each class, or of the reservoir as many on average."""
    match name:
        case "DM":
            return made(folder, train, seed, ipc=ipc)
        case "Random":  # equally many of each class, as GDumb keeps them
            return random_subset(train, ipc, generator=seeded(seed))
        case "Reservoir":  # any images of the stream, with equal chance
            return train.select(torch.randperm(len(train), generator=seeded(seed))[: ipc * len(train.classes)])
        case "Herding":
            return herding(train, ipc)
        case _:
            network = Recipe().network(train.images, 10, generator=seeded(100 + seed)).eval()
            return herding(train, ipc, embed=network.embed)


def stored(data, bits):
    """The images as they come back from so many bits a number; 16 and 32 are floating."""
    if bits >= 16:
        return data if bits == 32 else replace(data, images=data.images.half().float())
    return data.quantized(bits)


# Photographs by their bytes ------------------------------------------------------------------------------------------

PHOTOGRAPHS = (  # what is kept, images of a class or, of files, bytes; how
    *(("DM", 1, how) for how in ("8 bits", "4 bits", "32 bits")),
    *((name, ipc, "8 bits") for ipc in (1, 4) for name in (HERDING, "Random")),
    *((name, 3072, "webp") for name in (HERDING, "Random")),  # as many as fit in the bytes of one at 8 bits
    *((name, 1, "8 bits") for name in ("DM, tiles", "Herded tiles")),
    *(("DM", 10, how) for how in ("8 bits", "4 bits", "webp")),
    *((name, 10, "8 bits") for name in (HERDING, "Random")),
    ("Herded tiles", 3072, "webp"),
    (HERDING, 30_720, "webp"),
    *(("DM, tiles", 1, how) for how in ("4 bits", "webp")),
    *(("DM", ipc, "16 bits") for ipc in (1, 10)),
    (HERDING, 40, "8 bits"),
    ("DM, seven tiles", 7, "webp"),
)
MADE_BY = {"DM": "DM, larger step", "DM, tiles": "+ decoding, 550 steps", "DM, seven tiles": "+ decoding"}
PHOTOGRAPH_JUDGE = {"steps": 500, "lr": 0.01}
QUALITY = 20  # of a WebP file, of 0 … 100


def photographs_by_bytes(table, folder, path):
    """Three memories of each kind, on every other test image; a file's quality is chosen on validation images."""
    real, validation, test = split(path)
    judge = {"networks": 1, "recipe": Recipe(**PHOTOGRAPH_JUDGE)}
    test = test.select(torch.arange(0, len(test), 2))

    def score(key, images, *kept):
        if table.find(**key) is None:
            sets, sizes = zip(*(pressed(photograph_set(real, *kept[:2], seed, folder), *kept[1:])
                                for seed in range(3)), strict=True)
            sizes = [round(size) for size in sizes]
            counts = [round(len(s) / 10, 1) for s in sets]
            table.judge(key, list(sets), images, **judge, bytes=sizes, images_of_class=counts)

    for quality in (10, QUALITY, 50, 80):
        key = {"experiment": "photograph bytes, quality", "quality": quality}
        score(key, validation, HERDING, 3072, "webp", quality)
    for name, ipc, how in PHOTOGRAPHS:
        score({"experiment": "photograph bytes", "memory": name, "ipc": ipc, "store": how}, test, name, ipc, how)


@cache
def photograph_set(real, name, ipc, seed, folder):
    """What one learner keeps, the first choice first; if ``ipc`` is a number of bytes, more than they can hold."""
    if name in MADE_BY:
        state = files.read(beyond.run_file(folder, MADE_BY[name], ipc, seed), keys=["state"])["state"]
        meta = {**real.meta, **({"factor": 2} if "tiles" in name else {})}
        return replace(as_set(real, state["images"], ipc), meta=meta)
    most = 160 if ipc > 1000 else ipc
    if name == "Herded tiles":
        return beyond.herded_tiles(real, min(most, 50), seed, folder)[0]
    if name == "Random":
        return random_subset(real, most, generator=seeded(seed))
    path = folder / f"photographs-herded-{seed}.pt"
    if not path.exists():
        herded(real, seed).save(path)
    return prefix(LabeledImages.load(path), most)


def herded(real, seed):
    """Chosen from a thousand of each class, in the embedding of a random network."""
    some = random_subset(real, 1000, generator=seeded(200 + seed))
    network = Recipe(**PHOTOGRAPH_JUDGE).network(real.images[:1], 10, generator=seeded(100 + seed)).eval()
    return herding(some, 160, embed=network.embed)


def pressed(data, ipc, how, quality=QUALITY):
    """The images as they come back, and the bytes of a class; as many files as fit, if ``ipc`` is a number of bytes."""
    if how != "webp":
        bits = int(how.split()[0])
        return stored(data, bits), bits / 8 * data.images[0].numel() * len(data) / len(data.classes)
    written = [as_file(pixels, quality) for pixels in data.pixels.clamp(0, 1)]
    sizes = torch.tensor([len(file) for file in written])
    most = ipc if ipc > 1000 else math.inf
    rows = torch.cat([rows[sizes[rows].cumsum(0) <= most] for rows in data.rows_of_class])
    kept = data.select(rows)
    pixels = torch.stack([to_tensor(Image.open(io.BytesIO(written[row]))) for row in rows])
    back = replace(kept, images=(pixels - data.mean.view(-1, 1, 1)) / data.std.view(-1, 1, 1))
    return back, float(sizes[rows].sum()) / len(data.classes)


def as_file(pixels, quality):
    """An image in [0, 1] as a WebP file."""
    file = io.BytesIO()
    to_pil_image(pixels).save(file, "webp", quality=quality, method=6)
    return file.getvalue()


# Sent by clients -----------------------------------------------------------------------------------------------------

CLIENTS = 10
LEAST = 10  # of a class with fewer images a client sends nothing
WIDTH, ROUNDS = 8, (1, 2, 3, 5, 10, 20)  # of the network whose weights are sent
MESSAGES = (("DM", 1, 8), (HERDING, 1, 8), (HERDING, 8, 1), ("Random", 1, 8), ("All", 400, 1))
NARROW = ((HERDING, 8), ("All", 400))  # at one bit, which also teach the network whose weights are sent
ON_IMAGES = (0.003, 0.03)  # the quick judge's step size, and one of the better of STEPS_ON_IMAGES
STEPS_ON_IMAGES = (0.003, 0.01, 0.03, 0.1)
LOCAL = {"steps": 180, "lr": 0.1, "batch_size": 32}  # the best of these after five rounds
LOCALS = [{"steps": steps, "lr": lr, "batch_size": 32} for steps in (20, 60, 180) for lr in (0.01, 0.03, 0.1)]


def clients(table, folder):
    """Digits spread unevenly over ten clients: learned or chosen images sent once, or weights sent in rounds."""
    train, test = load("mnist5k")
    for seed in range(3):
        parts = uneven_parts(train, seed)
        for (name, ipc, bits), lr in itertools.product(MESSAGES, ON_IMAGES):
            key = {"experiment": "clients", "sent": name, "ipc": ipc, "bits": bits, "seed": seed, "lr": lr}
            if table.find(**key) is None:
                count, images = message(folder, parts, name, ipc, bits, seed)
                table.judge(key, images, test, networks=1, recipe=Recipe(lr=lr), count=count, bytes=count * bits * 98,
                            parts=[part.counts.tolist() for part in parts])
        for name, ipc in NARROW:
            key = {"experiment": "clients, narrow", "sent": name, "ipc": ipc, "bits": 1, "seed": seed}
            if table.find(**key) is None:
                count, images = message(folder, parts, name, ipc, 1, seed)
                table.judge(key, images, test, networks=1, recipe=narrowest(table, name), bytes=count * 98)
        averaged(table, parts, test, seed)


def narrowest(table, name):
    """For the network whose weights are sent the best training that ``local_training`` found."""
    tried = [row for row in table.rows if row["experiment"] == "clients, images" and row.get("width") == WIDTH]
    best = max((row for row in tried if row["sent"] == name), key=lambda row: row["read"])
    return Recipe(width=WIDTH, lr=best["lr"], steps=best["steps"])


def message(folder, parts, name, ipc, bits, seed):
    """How many images arrive, and a set in which each is as often as it stands for ten of a client's."""
    if name == "All":
        return sum(map(len, parts)), stored(pooled(parts), bits)
    sent = [stored(from_client(folder, part, name, ipc, seed, i), bits) for i, part in enumerate(parts)]
    return sum(map(len, sent)), in_proportion(sent, parts)


def pooled(parts):
    return replace(parts[0], images=torch.cat([p.images for p in parts]), labels=torch.cat([p.labels for p in parts]))


def uneven_parts(train, seed):
    """Each class divided among the clients by shares from a Dirichlet distribution, all parameters 0.3."""
    shares = np.random.default_rng(seed).dirichlet([0.3] * CLIENTS, size=len(train.classes))
    rows = [[] for _ in range(CLIENTS)]
    for of_class, share in zip(train.rows_of_class, shares, strict=True):
        order = of_class[torch.randperm(len(of_class), generator=seeded(seed))]
        cuts = (share.cumsum()[:-1] * len(order)).round().astype(int).tolist()
        for mine, part in zip(rows, order.tensor_split(cuts), strict=True):
            mine.append(part)
    return [train.select(torch.cat(mine)) for mine in rows]


def from_client(folder, part, name, ipc, seed, client):
    """What a client sends: images of the classes of which it has enough."""
    classes = [c for c, count in enumerate(part.counts.tolist()) if count >= max(LEAST, ipc)]
    own = part.select(torch.isin(part.labels, torch.tensor(classes)))
    if name == "DM":
        path = folder / f"client{client}-ipc{ipc}-{seed}.pt"
        if not path.exists():
            config = DMConfig(ipc=ipc, init="noise", iterations=300)
            dm_steps(own, config=config, generator=seeded(seed), classes=classes).finish().save(path)
        return LabeledImages.load(path)
    # The rules choose of every class there is, so the classes get new numbers for them.
    numbers = torch.searchsorted(torch.tensor(classes), own.labels)
    few = replace(own, labels=numbers, classes=tuple(own.classes[c] for c in classes))
    if name == "Random":
        chosen = random_subset(few, ipc, generator=seeded(seed))
    else:
        network = Recipe().network(part.images, 10, generator=seeded(100 + seed)).eval()
        chosen = herding(few, ipc, embed=network.embed)
    return replace(chosen, labels=torch.tensor(classes)[chosen.labels], classes=part.classes)


def in_proportion(sent, parts):
    """All that was sent; an image is there as often as it stands for ten of a client's."""
    times = [(part.counts[s.labels] / s.counts[s.labels] / 10).round().long().clamp(1) for s, part in
             zip(sent, parts, strict=True)]
    return replace(sent[0], images=torch.cat([s.images for s in sent]).repeat_interleave(torch.cat(times), 0),
                   labels=torch.cat([s.labels for s in sent]).repeat_interleave(torch.cat(times)))


def averaged(table, parts, test, seed):
    """What is read after some rounds of federated averaging."""
    key = {"experiment": "clients", "sent": "weights", "width": WIDTH, "seed": seed}
    if table.find(**key):
        return
    for round_, size, accuracies in list(federated(parts, test, seed, ROUNDS, LOCAL)):  # all rows or none
        table.add({**key, "rounds": round_, "parameters": size, "bytes": size * CLIENTS * round_,
                   "accuracies": results.pack(accuracies)})
        print(f"{key}, {round_} rounds: {accuracies}", flush=True)


def federated(parts, test, seed, rounds, local):
    """Every client trains on and sends how its weights changed, a byte a number; their mean, by numbers of images, goes
    back. After each of these rounds: its number, how many weights there are, and the accuracies."""
    recipe, draw = Recipe(width=WIDTH), seeded(seed)
    network = recipe.network(test.images[:1], 10, generator=draw)
    size = sum(p.numel() for p in network.parameters())
    shares = torch.tensor([len(part) / sum(map(len, parts)) for part in parts])
    for round_ in range(1, max(rounds) + 1):
        start, trained = [p.detach().clone() for p in network.parameters()], []
        for part in parts:
            network.load_parameters(start)
            go_on(network.requires_grad_(True), part, draw=draw, **local)
            trained.append([eight_bits(p.detach() - old) for p, old in zip(network.parameters(), start, strict=True)])
        changes = [torch.einsum("n,n...->...", shares, torch.stack(each)) for each in zip(*trained, strict=True)]
        network.load_parameters([old + change for old, change in zip(start, changes, strict=True)])
        if round_ in rounds:
            yield round_, size, Accuracies(correctness(network.eval(), test)[None, None])


def local_training(table):
    """How long, and by which step, a client trains in a round: tried on another draw, on digits held out."""
    rest, held_out = load("mnist5k")[0].split(0.2, generator=seeded(0))
    parts = uneven_parts(rest, 10)
    for name, ipc in ((HERDING, 8), ("All", 400)):
        for lr in STEPS_ON_IMAGES:
            key = {"experiment": "clients, images", "sent": name, "ipc": ipc, "lr": lr}
            if table.find(**key) is None:
                images = message(None, parts, name, ipc, 1, 10)[1]
                found = evaluate(images, held_out, networks=1, recipe=Recipe(lr=lr), generator=seeded(0))
                table.add({**key, "read": round(found.mean, 4)})
                print(table.rows[-1], flush=True)
    for (name, ipc), lr, steps in itertools.product(NARROW, STEPS_ON_IMAGES[1:], (500, 2000)):
        key = {"experiment": "clients, images", "sent": name, "ipc": ipc, "lr": lr, "width": WIDTH, "steps": steps}
        if table.find(**key) is None:
            images = message(None, parts, name, ipc, 1, 10)[1]
            recipe = Recipe(width=WIDTH, lr=lr, steps=steps)
            found = evaluate(images, held_out, networks=1, recipe=recipe, generator=seeded(0))
            table.add({**key, "read": round(found.mean, 4)})
            print(table.rows[-1], flush=True)
    for local in LOCALS:
        key = {"experiment": "clients, choice", **local}
        if table.find(**key) is None:
            found = federated(parts, held_out, 10, (2, 5, 10), local)
            table.add({**key, "read": {round_: round(a.mean, 4) for round_, _, a in found}})
            print(table.rows[-1], flush=True)


ON_A_PROCESSOR = """
import sys, torch
from dmtutor import DMConfig, dm_steps, files, load
torch.set_num_threads(1)
steps = dm_steps(load("mnist5k")[0], config=DMConfig(ipc=1, init="noise"), generator=torch.Generator().manual_seed(0))
seen = {}
for _ in steps:
    if steps.iteration in (1, 5, 50, len(steps)):
        seen[steps.iteration] = steps.synthetic.images
files.write({"seen": seen}, sys.argv[1])
"""


def processors(table, folder):
    """One run of the library's defaults from noise, on this processor and on two that are imitated: how far apart are
    the images after some steps, as a share of their deviation, and what do they teach?"""
    (_, test), images = load("mnist5k"), {}
    for name in ("own", *INSTRUCTIONS):
        path = folder / f"processor-{name}.pt"
        if not path.exists():
            there = {**os.environ, **environment(name, folder)}
            subprocess.run([sys.executable, "-c", ON_A_PROCESSOR, path], env=there, check=True)
        images[name] = files.read(path, keys=("seen",))["seen"]
        apart = {i: float((x - images["own"][i]).square().mean().sqrt() / x.std()) for i, x in images[name].items()}
        last = replace(results.images("mnist5k_dm_1"), images=list(images[name].values())[-1])
        key = {"experiment": "processors", "processor": name}
        table.judge(key, last, test, networks=5, recipe=Recipe(), apart=apart)
        print(apart, flush=True)


def eight_bits(x):
    """The nearest of 256 levels between the least and the largest value."""
    low, high = x.aminmax()
    step = ((high - low) / 255).clamp(min=1e-12)
    return low + step * ((x - low) / step).round()


# The choice of a network ---------------------------------------------------------------------------------------------


def search(table, folder, path):
    """All networks of GRID on the whole set, twice, and on its proxies."""
    train, validation = load("mnist5k")
    with np.load(path) as file:
        mnist = from_arrays(file["x_test"], file["y_test"], like=train)
    proxies = {"Random": [random_subset(train, 10, generator=seeded(i)) for i in range(3)]}
    proxies["Herding"] = [herding(train, 10)]
    proxies["DM"] = [made(folder, train, i, ipc=10) for i in range(3)]
    for name in proxies:
        score(table, "proxy", name, 0, proxies[name][0], validation, PROXY, seed=2)
    score(table, "proxy", "Early stopping", 0, train, validation, PROXY, seed=2)
    for seed in range(2):
        score(table, "truth", "Whole set", seed, train, mnist, TRUTH, seed=seed)
    for number, name in itertools.product((1, 2), ("DM", "Random")):
        score(table, "proxy", name, number, proxies[name][number], validation, PROXY, seed=2 + number)
    key = {"experiment": "search", "kind": "size"}
    if table.find(**key) is None:
        sizes = []
        for fields in GRID:
            network = Recipe(**fields).network(train.images, 10, generator=seeded(0))
            sizes.append(sum(p.numel() for p in network.parameters()))
        table.add({**key, "grid": GRID, "parameters": sizes})


def search_photographs(table, folder, path):
    """The same networks on CIFAR-10, by proxies of a hundred photographs that are scored on the images held out."""
    (real, validation, test), name = split(path), "search photographs"
    for seed in range(3):
        proxies = {
            "Random": random_subset(real, 10, generator=seeded(seed)),
            "Herding": prefix(herded(real, seed), 10),
            "DM": beyond.found(real, "DM, larger step", 10, seed, folder)[0],
            "Early stopping": real,
        }
        for kind, proxy in proxies.items():
            judge = validation.normalized_like(proxy)
            score(table, "proxy", kind, seed, proxy, judge, PROXY, 2 + seed, experiment=name)
        if seed < 2:
            score(table, "truth", "Whole set", seed, real, test, PHOTOGRAPH_TRUTH, seed, experiment=name)


def score(table, kind, name, number, data, test, budget, seed, experiment="search"):
    """Which test images each network of GRID has right: a row of (36, 1, n). How many, of photographs and in a truth
    that is only compared with another."""
    key = {"experiment": experiment, "kind": kind, "set": name, "number": number}
    if table.find(**key) is None:
        right = []
        for k, fields in enumerate(GRID):
            recipe, draw = Recipe(**budget, **fields), keyed_generator(seed, "train", k)
            right.append(correctness(train_network(data, recipe=recipe, generator=draw), test))
        accuracies = Accuracies(torch.stack(right)[:, None])
        values = accuracies.values[:, 0]
        if experiment == "search" and (kind, number) != ("truth", 0):
            found = {"accuracies": results.pack(accuracies)}
        else:
            found = {"means": [round(float(v), 4) for v in values]}
        table.add({**key, **found})
        print(f"{key}: {values.min():.3f} to {values.max():.3f}", flush=True)


def seconds(table):
    """Processor seconds of ten steps of each network, on all digits and on a proxy; and of making the proxies."""
    train, _ = load("mnist5k")
    ten = random_subset(train, 10, generator=seeded(0))
    for name, data, budget in (("truth", train, TRUTH), ("proxy", ten, PROXY)):
        key = {"experiment": "seconds", "of": name}
        if table.find(**key) is None:
            each = [timed(train_network, data, recipe=Recipe(**{**budget, "steps": 10}, **fields), generator=seeded(0))
                    for fields in GRID]
            table.add({**key, "steps": budget["steps"], "of_ten_steps": [round(x, 3) for x in each]})
    makes = {"Herding": lambda: herding(train, 10), "DM": lambda: condense(train, ipc=10, progress=False)}
    for name, make in makes.items():
        key = {"experiment": "seconds", "of": name}
        if table.find(**key) is None:
            table.add({**key, "seconds": round(timed(make), 2)})


def timed(run, *given, **options):
    start = time.process_time()
    run(*given, **options)
    return time.process_time() - start


# After how many trainings does it pay? -------------------------------------------------------------------------------


def against_time(table, path):
    """Accuracy by processor seconds of training: short trainings, each with a schedule of its own."""
    train, test = load("mnist5k")
    sets = {("All", 400): train, **{("DM", ipc): results.images(f"mnist5k_dm_{ipc}") for ipc in (1, 10)}}
    for steps, (name, ipc) in itertools.product((10, 20, 50, 100, 200, 500), sets):
        follow(table, "digits", name, ipc, sets[name, ipc], test, Recipe(steps=steps, lr=0.01), networks=3)
    real, _, test = split(path)
    few = test.select(torch.arange(0, len(test), 5))
    sets = {("All", 4500): real, **{("DM", ipc): results.images(f"cifar10_dm_{ipc}") for ipc in (1, 10)}}
    lengths = {"All": (10, 20, 50, 100, 200, 400, 800, 1600), "DM": (50, 100, 200, 400)}
    for (name, ipc), steps in ((key, steps) for key in sets for steps in lengths[key[0]]):
        recipe = Recipe(width=128, steps=steps, lr=0.01)
        judge = few.normalized_like(sets[name, ipc])
        follow(table, "photographs", name, ipc, sets[name, ipc], judge, recipe, networks=1)


def follow(table, images, name, ipc, data, test, recipe, networks):
    key = {"experiment": "time", "images": images, "set": name, "ipc": ipc, "steps": recipe.steps}
    if table.find(**key) is None:
        answers, seconds = [], []
        for j in range(networks):
            start = time.process_time()
            network = train_network(data, recipe=recipe, generator=keyed_generator(0, "train", j))
            seconds.append(round(time.process_time() - start, 2))
            answers.append(correctness(network, test))
        accuracies = Accuracies(torch.stack(answers)[None])
        table.add({**key, "seconds": seconds, "accuracies": results.pack(accuracies)})
        print(f"{key}: {accuracies}, {seconds} s", flush=True)


# Who was used --------------------------------------------------------------------------------------------------------


def private(table, folder):
    """How near the images of a run come to those it started from, to those it only saw, and to those it never saw."""
    train, held_out = load("mnist5k")
    for init, seed in itertools.product(("real", "noise"), range(5)):
        key = {"experiment": "private", "init": init, "seed": seed}
        if table.find(**key):
            continue
        steps = dm_steps(train, config=DMConfig(ipc=10, init=init), generator=seeded(seed))
        first = to(steps.images, train.images).argmin(1)  # the rows themselves, if they are real ones
        rows = []
        for moment in MOMENTS:
            while steps.iteration < moment:
                next(steps)
            own, other = to(steps.images, train.images), to(steps.images, held_out.images)
            same = float((own.argmin(1) == first).double().mean())
            rows.append({"iteration": moment, "same": same, **rates(own.amin(0), other.amin(0), first)})
        table.add({**key, "moments": rows})
        print(key, rows[0], rows[-1], flush=True)
    for ipc, init in itertools.product((1, 10), ("real", "noise")):  # what it costs
        fields = {"ipc": ipc, **({"init": init} if init == "noise" else {})}
        sets = [made(folder, train, seed, **fields) for seed in range(3)]
        key = {"experiment": "start", "init": init, "ipc": ipc}
        table.judge(key, sets, held_out, networks=2, recipe=Recipe())


def to(images, real):
    """Distances at unit norm, since contrast grows along a run: (m, C, H, W), (n, C, H, W) → (m, n)."""
    return torch.cdist(*(normalize(x.flatten(1)) for x in (images, real)))


def rates(used, unused, first):
    """Of the images a run started from and of the others it saw: the share that is nearer to the set than all but 1 %
    of the images that it never saw, and the chance that one of them is nearer than one of those."""
    began = torch.zeros(len(used), dtype=torch.bool)
    began[first] = True
    threshold = unused.sort().values[len(unused) // 100 - 1]
    found = {}
    for name, group in (("start", used[began]), ("seen", used[~began]), ("all", used)):
        above = (group[:, None] < unused).double().mean() + (group[:, None] == unused).double().mean() / 2
        found[name] = {"tpr": float((group <= threshold).double().mean()), "auc": float(above)}
    return found


def leak(table):
    """From how many images a class hides its members: condensed to one image of each class, attacked by distance."""
    whole = pooled(load("mnist5k"))
    networks = [Recipe().network(whole.images, 10, generator=seeded(200 + i)).eval() for i in range(5)]
    runs = [(init, size) for init, sizes in SIZES.items() for size in sizes]
    for seed, (init, size) in itertools.product(range(6), runs):
        key = {"experiment": "leak", "init": init, "size": size, "seed": seed}
        if table.find(**key):
            continue
        used, unused = some_used(whole, seed, size)
        steps = dm_steps(used, config=DMConfig(ipc=1, init=init, iterations=500), generator=seeded(seed))
        first = to(steps.images, used.images).argmin(1)
        images = steps.finish().images
        attacks = {"pixels": [lambda x: x.flatten(1)], "random networks": [n.embed for n in networks]}
        found = {}
        for name, spaces in attacks.items():
            near, far = (own_distance(images, data, spaces) for data in (used, unused))
            found[name] = rates(near, far, first)
            found[name]["by class"] = [float((near[used.labels == c, None] < far[unused.labels == c]).double().mean())
                                       for c in range(10)]
        table.add({**key, "found": found})
        print(key, *((name, round(f["all"]["auc"], 3)) for name, f in found.items()), flush=True)


@torch.no_grad()
def own_distance(images, data, spaces):
    """Distance of each image to the learned one of its class, at unit norm, mean over spaces: (n,)."""
    return torch.stack([
        (normalize(embedded(data.images, space)) - normalize(space(images))[data.labels]).norm(dim=1)
        for space in spaces
    ]).mean(0)


# Protected by noise --------------------------------------------------------------------------------------------------

DELTA = 1 / 4000
PROTECTED = (  # images of a class, and ε
    *((400, epsilon) for epsilon in (math.inf, 1.0)),
    *((size, epsilon) for size in (40, 4) for epsilon in (math.inf, 1.0)),
    *((400, epsilon) for epsilon in (0.3, 10.0, 3.0)),
    *((size, epsilon) for size in (40, 4) for epsilon in (10.0,)),
    *((40, epsilon) for epsilon in (3.0, 0.3)),
)
VIEWS = 32  # networks
LEARN = {"steps": 500, "lr": 100.0}  # chosen on a draw that is not judged
EPSILONS = (0.3, 1.0, 3.0, 10.0, math.inf)
READOUTS = ((5, 10, 20, 50), (1.0, 3.0, 10.0, 30.0))  # steps and step sizes of the classifier


def protect(table, folder):
    """Images learned from class means with noise, beside the means of pixels as images."""
    whole = pooled(load("mnist5k"))
    attackers = [Recipe().network(whole.images, 10, generator=seeded(200 + i)).eval() for i in range(5)]
    spaces = {"pixels": [lambda x: x.flatten(1)], "random networks": [n.embed for n in attackers]}
    for (size, epsilon), seed in itertools.product(PROTECTED, range(3)):
        key = {"experiment": "protect", "size": size, "epsilon": epsilon if epsilon < math.inf else None, "seed": seed}
        if table.find(**key, method="learned"):
            continue
        used, unused = some_used(whole, seed, size)
        views = UnitViews(used, seed)
        path = folder / f"protect-means-{size}-{seed}.pt"
        if not path.exists():
            files.write({"means": views.means(used)}, path)
        means = files.read(path, keys=["means"])["means"]
        pixels = torch.stack([unit_pixels(used.select(rows)).mean(0) for rows in used.rows_of_class])
        sigma = noise_scale(epsilon, DELTA)
        noise = seeded(3000 + seed)
        means, pixels = (x + sigma / size * torch.randn(x.shape, generator=noise) for x in (means, pixels))
        sets = {"learned": learned_from(means, views, seed, **LEARN)}
        if size == 400 and epsilon in (math.inf, 1.0, 0.3):
            sets["pixel means"] = 28 * normalize(pixels).view(10, 1, 28, 28)
        for name, images in sets.items():
            auc = {}
            for attack, space in spaces.items():
                near, far = (own_distance(images, data, space) for data in (used, unused))
                auc[attack] = round(float((near[:, None] < far).double().mean()), 4)
            table.judge({**key, "method": name}, replace(used, images=images, labels=torch.arange(10)), unused,
                        networks=1, recipe=Recipe(), auc=auc, sigma=round(sigma, 3))


def linear(table):
    """A linear classifier, trained by noisy steps under the same promise: how many and how large are chosen for each
    promise on two draws that are not judged."""
    whole = pooled(load("mnist5k"))

    def read(seed, size, epsilon, draws, **setting):
        (used, unused), sigma = some_used(whole, seed, size), noise_scale(epsilon, DELTA)
        trained = (private_readout(used, sigma, seeded(4000 + 100 * seed + draw), **setting) for draw in range(draws))
        return torch.stack([(unit_pixels(unused) @ weights.T).argmax(1) == unused.labels for weights in trained])

    for size, epsilon in itertools.product((400, 40), EPSILONS):
        key = {"experiment": "protect", "method": "linear classifier", "size": size,
               "epsilon": epsilon if epsilon < math.inf else None}
        if table.find(**key, seed=2):
            continue
        tried = {(steps, lr): sum(read(seed, size, epsilon, 3, steps=steps, lr=lr).double().mean() for seed in (10, 11))
                 for steps, lr in itertools.product(*READOUTS)}
        steps, lr = max(tried, key=tried.get)
        for seed in range(3):
            accuracies = Accuracies(read(seed, size, epsilon, 10, steps=steps, lr=lr)[None])
            row = {**key, "seed": seed, "steps": steps, "lr": lr}
            table.add({**row, "accuracies": results.pack(accuracies)})
            print(f"{row}: {accuracies}", flush=True)


def noisy_means(table):
    """What the simplest release under the same promise reads: pixel means with noise, an image goes to the nearest."""
    whole = pooled(load("mnist5k"))
    for size, epsilon, seed in itertools.product((400, 40), EPSILONS, range(3)):
        key = {"experiment": "protect", "method": "noisy means", "size": size,
               "epsilon": epsilon if epsilon < math.inf else None, "seed": seed}
        if table.find(**key) is None:
            used, unused = some_used(whole, seed, size)
            means = torch.stack([unit_pixels(used.select(rows)).mean(0) for rows in used.rows_of_class])
            sigma, right = noise_scale(epsilon, DELTA), []
            for draw in range(10):
                noisy = means + sigma / size * torch.randn(means.shape, generator=seeded(5000 + 100 * seed + draw))
                right.append((unit_pixels(unused) @ normalize(noisy).T).argmax(1) == unused.labels)
            accuracies = Accuracies(torch.stack(right)[None])  # a draw in the place of a network
            table.add({**key, "accuracies": results.pack(accuracies), "sigma": round(sigma, 3)})
            print(f"{key}: {accuracies}", flush=True)


def some_used(whole, seed, size):
    """``size`` images of each class that are used, and 100 that are not."""
    draw = seeded(1000 + seed)
    rows = [rows[torch.randperm(len(rows), generator=draw)] for rows in whole.rows_of_class]
    return (whole.select(torch.cat([of_class[:size] for of_class in rows])),
            whole.select(torch.cat([of_class[-100:] for of_class in rows])))


class UnitViews:
    """An image as one vector of length one: what random networks see in it, about what they see in noise."""

    def __init__(self, real, seed):
        shape, draw = real.images.shape[1:], seeded(seed)
        networks = RandomConvNets(shape, networks=VIEWS, generator=draw)
        self.networks = [networks[r] for r in range(VIEWS)]
        noise = torch.randn(100, *shape, generator=draw)
        self.centers = [network.embed(noise).mean(0) for network in self.networks]

    def of(self, r, images):
        """The part of the r-th network, of length 1 / √VIEWS: (n, C, H, W) → (n, d')."""
        return normalize(self.networks[r].embed(images) - self.centers[r]) / VIEWS**0.5

    @torch.no_grad()
    def means(self, real):
        """Of each class, (VIEWS, K, d')."""
        return torch.stack([
            torch.stack([embedded(real.of_class(c), lambda x, r=r: self.of(r, x)).mean(0) for c in range(10)])
            for r in range(VIEWS)
        ])


def learned_from(means, views, seed, steps, lr):
    """One image of each class, from noise, by descent on the distance to given means: all of DM but its data."""
    draw = seeded(seed)
    images = torch.randn(10, 1, 28, 28, generator=draw)
    for step in range(steps):
        r = int(torch.randint(VIEWS, (), generator=draw))
        seen = images.clone().requires_grad_()
        loss = VIEWS * (means[r] - views.of(r, seen)).square().sum()
        images = images - lr * (1 - step / steps) * torch.autograd.grad(loss, seen)[0]
    return images


def noise_scale(epsilon, delta):
    """σ with which a sum of vectors no longer than 1 is (ε, δ)-private when one is added or left out.

    The analytic Gaussian mechanism: Balle & Wang, ICML 2018, theorem 8.
    """
    if epsilon == math.inf:
        return 0.0
    low, high, cdf = 1e-2, 1e4, NormalDist().cdf
    for _ in range(100):
        sigma = (low * high) ** 0.5
        leaked = cdf(0.5 / sigma - epsilon * sigma) - math.exp(epsilon) * cdf(-0.5 / sigma - epsilon * sigma)
        low, high = (sigma, high) if leaked > delta else (low, sigma)
    return high


def unit_pixels(data):
    return normalize(data.images.flatten(1))


def private_readout(used, sigma, draw, steps, lr):
    """Logistic regression by descent on all images, each gradient clipped to 1, noise in each sum of them.

    The noise is √steps as large, so all steps together are as private as one sum with σ (Gaussian mechanisms compose
    to one: Dong, Roth & Su, 2022).
    """
    x, y = unit_pixels(used), torch.nn.functional.one_hot(used.labels).float()
    weights = torch.zeros(10, x.shape[1])
    for _ in range(steps):
        error = (x @ weights.T).softmax(1) - y
        error = error / error.norm(dim=1, keepdim=True).clamp(min=1)
        noise = sigma * steps**0.5 * torch.randn(weights.shape, generator=draw)
        weights = weights - lr * (error.T @ x + noise) / len(x)
    return weights


# Rough photographs ---------------------------------------------------------------------------------------------------

STEPS_OF_ROUGH = {1: (0.1, 1.0, 10.0), 10: (1.0, 10.0, 100.0)}


def rough(table, path):
    """How rough photographs become, by the step size: at one image of a class, and at ten with ten times the step."""
    real, validation, _ = split(path)
    recipe = Recipe(**PHOTOGRAPH_JUDGE)
    for seed, (ipc, steps) in itertools.product(range(2), STEPS_OF_ROUGH.items()):
        for lr in steps:
            key = {"experiment": "rough", "ipc": ipc, "lr_img": lr, "seed": seed}
            if table.find(**key) is None:
                config = DMConfig(ipc=ipc, lr_img=lr, iterations=150, batch_real=16)
                run = dm_steps(real, config=config, generator=seeded(seed))
                first, images = run.synthetic, run.finish()
                table.judge(key, images, validation, networks=1, recipe=recipe,
                            roughness=roughness(images), at_start=roughness(first))


def roughness(data):
    """Mean size of the step from a pixel to the next, over the mean size of that two pixels on."""
    x = data.pixels
    return round(float(x.diff(dim=-1).abs().mean() / (x[..., 2:] - x[..., :-2]).abs().mean()), 4)


# Smaller sets --------------------------------------------------------------------------------------------------------


class Prefixes(DMSteps):
    """The first images of a class are a set of their own: the loss is the mean of theirs."""

    def distance(self, real, syn, labels):
        return torch.stack([mean_distance(real, syn[:, :m]) for m in PREFIXES]).mean(0)


def cut(table, folder):
    """The first images of each class of a set, against a set of that size."""
    train, test = load("mnist5k")
    config, ten = DMConfig(ipc=10), [made(folder, train, seed, ipc=10) for seed in range(3)]
    meant = [start(Prefixes, DMConfig, train, config, seeded(seed)).finish() for seed in range(3)]
    for ipc in PREFIXES:
        sets = {
            "DM of this size": [made(folder, train, seed, ipc=ipc) for seed in range(3)],
            "DM, cut": [prefix(whole, ipc) for whole in ten],
            "DM, meant to be cut": [prefix(whole, ipc) for whole in meant],
            "Random": [random_subset(train, ipc, generator=seeded(seed)) for seed in range(3)],
        }
        for name, made_sets in sets.items():
            if ipc < 10 or name != "DM, cut":  # there it is the whole set
                key = {"experiment": "cut", "set": name, "ipc": ipc}
                table.judge(key, made_sets, test, networks=2, recipe=Recipe())


def prefix(data, ipc):
    """The first images of every class."""
    return data.select(torch.cat([rows[:ipc] for rows in data.rows_of_class]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    tasks = ("continual", "photographs", "search", "private", "cut", "bytes", "photograph-bytes", "clients", "leak",
             "protect", "processors", "search-photographs", "seconds", "time", "rough")
    parser.add_argument("task", choices=tasks)
    asked = parser.parse_args()
    with_data = ("photographs", "photograph-bytes", "search", "search-photographs", "time", "rough")
    if asked.task in with_data and not asked.data:
        parser.error(f"--data is required for {asked.task}")
    torch.set_num_threads(1)
    asked.runs.mkdir(exist_ok=True)
    recipes = {"memory": MEMORY, "all seen": EVERYTHING, "truth": TRUTH, "proxy": PROXY}
    recipes = {name: str(Recipe(**fields)) for name, fields in recipes.items()}
    table = Table("uses", command="python benchmarks/uses.py --runs FOLDER TASK", recipes=recipes)
    match asked.task:
        case "continual":
            continual(table, asked.runs)
        case "photographs":
            photographs(table, asked.data)
        case "search":
            search(table, asked.runs, asked.data)
        case "processors":
            processors(table, asked.runs)
        case "search-photographs":
            search_photographs(table, asked.runs, asked.data)
        case "private":
            private(table, asked.runs)
        case "cut":
            cut(table, asked.runs)
        case "bytes":
            by_bytes(table, asked.runs)
        case "photograph-bytes":
            photographs_by_bytes(table, asked.runs, asked.data)
        case "clients":
            local_training(table)
            clients(table, asked.runs)
        case "protect":
            noisy_means(table)
            linear(table)
            protect(table, asked.runs)
        case "rough":
            rough(table, asked.data)
        case "leak":
            leak(table)
        case "seconds":
            seconds(table)
        case "time":
            against_time(table, asked.data)


if __name__ == "__main__":
    main()
