"""Results that hold up, on MNIST-5k: what chapters 10 and 11 add to the tables of the chapters before.

    python benchmarks/ladder.py                     # all of it: about 40 minutes of one core
    python benchmarks/ladder.py sets ladder         # some of: sets, curves, transfer, grounds, ladder, more

`sets`: the first set of each method's ladder at 10 images per class, and of DM's at 1, made again and stored as .pt
files. `curves`: accuracy along one run of each method, on validation images. `transfer`: the stored sets train other
networks, as they are and rescaled to the contrast of real images. `grounds`: networks with batch norm on DSA's set with
its ground cleared and its contrast kept, and on random digits at that contrast. `ladder`: 50 images per class; DC and
DSA get DM's processor time, each with the setting that `predecessors.py` favoured at 10 images, its step size rescaled
by the root of the images, as the library's default is. `more`: DM at 100 and 200 images per class. All but `curves`
read the test images, and nothing is chosen by what they say. Results go to dmtutor/results/ladder.json, row by row, so
a run that was stopped goes on where it was. One thread does the work, and seconds are the processor's.
"""

import sys
import time
from dataclasses import replace

import torch
from coresets import half
from predecessors import make, new_steps
from store import FOLDER, Table, seeded

from dmtutor import ConvNet, Recipe, evaluate, herding, load, random_subset, results

NETWORKS = 1  # for each set, unless there is but one set
CHOSEN = {  # method: ipc: what predecessors.py favoured, and at 50 the rescaled step and DM's seconds
    "DD": {10: {"iterations": 270, "inner_steps": 10, "batch_real": 8, "lr_lr": 0.02, "lr_img": 0.1}},
    "DC": {10: {"iterations": 125, "lr_img": 3.0}, 50: {"iterations": 27, "lr_img": 6.7}},
    "DSA": {10: {"iterations": 125, "lr_img": 6.0}, 50: {"iterations": 27, "lr_img": 13.4}},
    "DM": {1: {"iterations": 820, "lr_img": 0.5}, 10: {"iterations": 670, "lr_img": 10.0}, 50: {}},
}
MODELS = {  # name: (changes to the recipe, networks)
    "ConvNet, instance norm": ({}, 2),
    "ConvNet, batch norm": ({"norm": "batch"}, 2),
    "LeNet": ({"model": "lenet"}, 3),
    "MLP": ({"model": "mlp"}, 3),
    "AlexNet, width 32": ({"model": "alexnet", "width": 32}, 1),
    "VGG-11, width 16": ({"model": "vgg11", "width": 16, "norm": "batch"}, 1),
    "ResNet-18, width 8": ({"model": "resnet18", "width": 8, "norm": "batch"}, 1),
}
MARKS = {"DM": (20, 80, 300, 670), "DC": (4, 15, 50, 125), "DSA": (4, 15, 50, 125), "DD": (9, 32, 110, 270)}


def judged(sets, judge, seconds=None, networks=NETWORKS, **recipe):
    """What is stored of sets, and their accuracies."""
    accuracies = evaluate(sets, judge, networks=networks, recipe=Recipe(**recipe), generator=seeded(0))
    row = {} if seconds is None else {"seconds": [round(s, 1) for s in seconds]}
    return {**row, "accuracies": results.pack(accuracies)}, accuracies


def made(method, train, ipc, seeds, changes=None):
    """Sets, and the seconds that each took."""
    sets, seconds = [], []
    for seed in seeds:
        start = time.process_time()
        if method == "Herding":  # as chapter 9 chose: from a random half, seen by a random network
            net = ConvNet(channels=1, image_size=28, width=32, generator=seeded(seed))
            sets.append(herding(half(train, seed), ipc, embed=net.embed))
        else:
            sets.append(make(method, train, seed, {"ipc": ipc, **(changes or {})})[0])
        seconds.append(time.process_time() - start)
    return sets, seconds


def rescaled(synthetic, real):
    """Every image at the median norm of the real images of its class."""
    norms = torch.stack([real.of_class(c).flatten(1).norm(dim=1).median() for c in range(len(real.classes))])
    factor = norms[synthetic.labels] / synthetic.images.flatten(1).norm(dim=1)
    return replace(synthetic, images=synthetic.images * factor.view(-1, 1, 1, 1))


def file_of(method, ipc):
    return FOLDER / f"mnist5k_{method.lower()}_{ipc}.pt"


def sets(table, train, test):
    for method, ipc in (("DM", 10), ("DSA", 10), ("DC", 10), ("DM", 1)):
        if not file_of(method, ipc).exists():
            (one,), (seconds,) = made(method, train, ipc, [0], CHOSEN[method][ipc])
            replace(one, images=one.images.half(), meta={**one.meta, "seed": 0}).save(file_of(method, ipc))
            print(f"{file_of(method, ipc).name}: {seconds:.1f} s", flush=True)


def ladder(table, train, test):
    for method in ("DM", "DSA", "DC", "Herding"):  # Random is in coresets.json, with the same network
        key = {"experiment": "ladder", "method": method, "ipc": 50}
        if table.find(**key) is None:
            changes = CHOSEN.get(method, {}).get(50, {})
            these, seconds = made(method, train, 50, range(3), changes)
            row, accuracies = judged(these, test, seconds)
            table.add({**key, "changes": changes, **row})
            print(f"{key}: {accuracies}, {row['seconds']} s", flush=True)


def transfer(table, train, test):
    stored = {m: results.images(f"mnist5k_{m.lower()}_10") for m in ("DM", "DSA")}
    stored["Random"] = random_subset(train, 10, generator=seeded(0))
    cases = [("Random", False), ("DSA", False), ("DSA", True), ("DM", False), ("DM", True)]
    for name, (changes, networks) in MODELS.items():
        for method, scaled in cases:
            key = {"experiment": "transfer", "method": method, "model": name, "rescaled": scaled}
            if table.find(**key) or (scaled and not changes):
                continue  # with instance norm a factor is invisible
            one = rescaled(stored[method], train) if scaled else stored[method]
            row, accuracies = judged([one], test, networks=networks, lr=0.01, **changes)
            table.add({**key, **row})
            print(f"{key}: {accuracies}", flush=True)


def cleared(synthetic):
    """Every image with black where it was darker than the mean of all pixels, at the contrast that it had."""
    x, black = synthetic.images, -synthetic.mean / synthetic.std
    return at_contrast(replace(synthetic, images=torch.where(x < 0, black.view(1, -1, 1, 1), x)), synthetic)


def at_contrast(synthetic, other):
    """Every image at the mean of its own and the spread of an image of the same place in another set."""
    x, spread = synthetic.images, other.images.std((1, 2, 3), keepdim=True)
    mean, own = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
    return replace(synthetic, images=mean + (x - mean) * spread / own)


def grounds(table, train, test):
    dsa, real = results.images("mnist5k_dsa_10"), random_subset(train, 10, generator=seeded(0))
    cases = {"DSA": dsa, "DSA, cleared": cleared(dsa), "Random": real, "Random, as contrasty": at_contrast(real, dsa)}
    for name, (changes, _) in MODELS.items():
        for case, one in cases.items():
            key = {"experiment": "grounds", "set": case, "model": name}
            if changes.get("norm") == "batch" and not table.find(**key):
                row, accuracies = judged([one], test, networks=3, lr=0.01, **changes)
                table.add({**key, **row})
                print(f"{key}: {accuracies}", flush=True)


def curves(table, train, test):
    rest, validation = train.split(0.2, generator=seeded(0))
    for method, marks in MARKS.items():
        if table.find(experiment="curve", method=method, step=marks[-1]):
            continue
        steps = new_steps(method, rest, 0, {"ipc": 10, **CHOSEN[method][10]})
        snapshots, start = {}, time.process_time()
        for step in steps:
            if step.iteration in marks:
                snapshots[step.iteration] = step.synthetic, time.process_time() - start
        for iteration, (synthetic, seconds) in snapshots.items():
            key = {"experiment": "curve", "method": method, "ipc": 10, "step": iteration}
            if table.find(**key) is None:
                row, accuracies = judged([synthetic], validation, [seconds])
                table.add({**key, **row})
                print(f"{method}, {iteration} steps, {seconds:.1f} s: {accuracies}", flush=True)


def more(table, train, test):
    for ipc in (200, 100):
        key = {"experiment": "more", "method": "DM", "ipc": ipc}
        if table.find(**key) is None:
            these, seconds = made("DM", train, ipc, range(3))
            row, accuracies = judged(these, test, seconds)
            table.add({**key, **row})
            print(f"{key}: {accuracies}, {row['seconds']} s", flush=True)


PARTS = {"sets": sets, "curves": curves, "transfer": transfer, "grounds": grounds, "ladder": ladder, "more": more}


def main(wanted):
    torch.set_num_threads(1)
    train, test = load("mnist5k")
    recipe = f"{Recipe()}, {NETWORKS} network for each set"
    table = Table("ladder", command="python benchmarks/ladder.py", recipe=recipe)
    for name, part in PARTS.items():
        if not wanted or name in wanted:
            part(table, train, test)


if __name__ == "__main__":
    main(sys.argv[1:])
