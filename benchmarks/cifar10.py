"""CIFAR-10 by the published evaluation: distribution matching with its 20,000 iterations, and what it is held against.

    python benchmarks/cifar10.py --data PATH.npz --runs FOLDER condense [WORD ...]
    python benchmarks/cifar10.py --data PATH.npz --runs FOLDER film [WORD ...]
    python benchmarks/cifar10.py --data PATH.npz --runs FOLDER choose [WORD ...]
    python benchmarks/cifar10.py --data PATH.npz --runs FOLDER test [WORD ...]
    python benchmarks/cifar10.py --data PATH.npz --runs FOLDER coresets
    python benchmarks/cifar10.py --data PATH.npz --runs FOLDER speed [WORD ...]

PATH.npz holds x_train, y_train, x_test and y_test. ``condense`` makes every set of RUNS whose name has all WORDs; it
writes its state to FOLDER once a minute and goes on from there. ``film`` scores what the runs left behind on their
way, on 5,000 training images that they never saw, and ``choose`` their ends with more networks on the same images;
``test`` reads the test images, with the published evaluation, cut to 300 epochs at IPC 50. ``coresets`` chooses real
images, each set from another random half: the space of each rule on the validation images, then the test. ``speed``
times a step of each run, to compare those that were made on different machines. Results go to
dmtutor/results/cifar10.json, row by row. One thread does the work, so that two runs share two cores: an hour and 20
minutes for IPC 10; 25 minutes for DM at IPC 1, 14 for DC or DSA; 10 for 400 iterations of IPC 50, half an hour for
1,000; 3 for a trial of DC or DSA at IPC 1, 6 at IPC 10; 4 to 6 minutes a network of the published evaluation at IPC
10, 6 at IPC 50; 50 for the coresets.
"""

import argparse
import functools
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from coresets import RULES, SPACES, half
from store import FOLDER, Table, seeded

from dmtutor import (
    ConvNet,
    Recipe,
    dm_steps,
    evaluate,
    files,
    load,
    random_subset,
    results,
    train_network,
)
from dmtutor.condensation import METHODS, saved
from dmtutor.steps import start

FALLING = {"schedule": "linear"}
LARGE = {"lr_img": 0.5, **FALLING}  # for DC and DSA, as the library has it; the published step is 0.1 and constant
TRIAL = {"ipc": 1, "batch_real": 16, "iterations": 300}  # to choose the step
LARGE_10 = {"lr_img": 1.6, **FALLING}  # √10 times as large, as the library has it
SHORT_LOOP = {"ipc": 10, "batch_real": 32, "training_epochs": 5}  # 4 s an iteration, with the published 50 it is 18
TRIAL_10 = {**SHORT_LOOP, "iterations": 90}
LONG_LOOP = {**TRIAL_10, **LARGE_10, "training_epochs": 50, "iterations": 20}  # in the same time
FIFTY = {"ipc": 50, "batch_real": 16, **FALLING, "iterations": 400, "lr_img": 10.0, "compile": True}
RUNS = {  # name: changes to the published setting of its method, DM unless it begins with another
    "IPC 1, falling step": {"ipc": 1, "batch_real": 8, **FALLING, "compile": True},
    "IPC 1, constant step": {"ipc": 1, "batch_real": 8, "average": 0.999, "compile": True},
    "IPC 10, falling step": {"ipc": 10, "batch_real": 16, **FALLING, "compile": True},
    "IPC 10, constant step": {"ipc": 10, "batch_real": 16, "average": 0.999, "compile": True},
    "IPC 50, 400 steps of 1": {**FIFTY, "lr_img": 1.0},
    "IPC 50, 400 steps of 10": FIFTY,
    "IPC 50, 1000 steps of 10": {**FIFTY, "iterations": 1000},
    "DC, IPC 1, try the published step": TRIAL,
    "DC, IPC 1, try a large step": {**TRIAL, **LARGE},
    "DSA, IPC 1, try the published step": TRIAL,
    "DSA, IPC 1, try a large step": {**TRIAL, **LARGE},
    "DC, IPC 1, large step": {"ipc": 1, "batch_real": 32, **LARGE},
    "DSA, IPC 1, large step": {"ipc": 1, "batch_real": 32, **LARGE},
    "DC, IPC 10, try the published loop": LONG_LOOP,
    "DC, IPC 10, try the published step": TRIAL_10,
    "DC, IPC 10, try a large step": {**TRIAL_10, **LARGE_10},
    "DSA, IPC 10, try the published loop": LONG_LOOP,
    "DSA, IPC 10, try the published step": TRIAL_10,
    "DSA, IPC 10, try a large step": {**TRIAL_10, **LARGE_10},
    "DC, IPC 10, large step": {**SHORT_LOOP, **LARGE_10, "iterations": 1200},
    "DSA, IPC 10, large step": {**SHORT_LOOP, **LARGE_10, "iterations": 1200},
}
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHORT, LONG = Recipe.reference(epochs=100), Recipe.reference()  # of the film and the choice, of the test
TREND = Recipe.reference(epochs=300)  # of the test at IPC 50, where the published one takes 20 minutes a network
PLAIN = Recipe.reference(epochs=300, augment="none")  # by which DC was published: is that of tables' Random, too?
FILMED = "IPC 10, falling step"
SNAPSHOTS = [0, 10, 30, 100, 300, 1000, 3000, 10_000, 20_000]


def split(path):
    """The images to condense, those that choose between settings, and the test images."""
    train, test = (replace(part, classes=NAMES) for part in load(path))
    rest, validation = train.split(0.1, generator=seeded(0))
    return rest, validation, test


def run_file(folder, name, seed):
    return folder / f"{name.replace(',', '').replace(' ', '-')}-{seed}.pt"


def method_of(name):
    return name.split(",")[0] if name.split(",")[0] in ("DC", "DSA") else "DM"


def config_of(name):
    config_type = METHODS[method_of(name).lower()].config_type
    return config_type.reference(init="real", **RUNS[name])  # DC, too: noise is published


def new_steps(real, name, seed):
    steps_type = METHODS[method_of(name).lower()]
    return start(steps_type, steps_type.config_type, real, config_of(name), seeded(seed))


def condense(real, name, seed, folder):
    """Make one set; its state, losses and snapshots are saved once a minute."""
    steps = new_steps(real, name, seed)
    path = run_file(folder, name, seed)
    run = {"state": steps.state_dict(), "losses": [], "snapshots": {0: steps.images.half()}, "seconds": 0.0}
    if path.exists():
        run = files.read(path, keys=run)
        steps.load_state_dict(run["state"])

    start = time.process_time() - run["seconds"]

    def save():
        run["seconds"] = time.process_time() - start
        files.write({**run, "state": steps.state_dict()}, path)
        print(f"{name}, seed {seed}: {steps.iteration} of {len(steps)}, {run['seconds']:.0f} s", flush=True)

    for step in saved(steps, save):
        run["losses"].append(float(step.loss))
        if step.iteration in SNAPSHOTS:
            run["snapshots"][step.iteration] = steps.images.half()


def made(folder, name, seed):
    """What a run that has ended left behind."""
    return files.read(run_file(folder, name, seed), keys=("state", "losses", "snapshots", "seconds"))


def noise_floor(real, config, networks=4, images=256):
    """Σ tr Σ_c / B, what the loss keeps however good the images are: mean over random networks and augmentations."""
    config = replace(config, batch_real=images, compile=False)
    steps = dm_steps(real, config=config, generator=seeded(0))
    floors = []
    for steps.iteration in range(networks):
        steps.network.load_parameters(steps.draw_weights(steps.iteration))
        with torch.no_grad():
            parts = [steps.augment.apply(*steps.draw(c)).split(16) for c in steps.classes]
            spread = [torch.cat([steps.embed(x) for x in part]).var(0).sum() for part in parts]
        floors.append(sum(spread))
    return float(torch.stack(floors).mean())


def ends(run):
    """What a run offers as its result."""
    sets = {"last images": run["state"]["images"]}
    return sets | ({"average": run["state"]["average"]} if "average" in run["state"] else {})


def film(table, real, validation, name, seed, folder):
    """Loss, contrast and validation accuracy of the snapshots of a run."""
    run = made(folder, name, seed)
    config = config_of(name)
    floor = noise_floor(real, config) / config.batch_real
    frames = [("last images", iteration, images.float()) for iteration, images in run["snapshots"].items()]
    if config.average:
        frames.append(("average", config.iterations, run["state"]["average"]))
    for result, iteration, images in frames:
        key = {"experiment": "film", "run": name, "result": result, "ipc": config.ipc, "seed": seed,
               "iteration": iteration}
        if table.find(**key):
            continue
        networks = 3 if config.ipc == 1 else 1
        synthetic = as_set(real, images, config.ipc)
        accuracies = evaluate(synthetic, validation, networks=networks, recipe=SHORT, generator=seeded(0))
        window = run["losses"][max(0, iteration - iteration // 10 - 1) : iteration + 1]  # a loss alone is noise
        table.add({
            **key, "loss": round(sum(window) / len(window), 2), "floor": round(floor, 2),
            "seconds": round(run["seconds"] * iteration / len(run["losses"])),
            "norm": round(float(images.flatten(1).norm(dim=1).mean()), 2),
            "accuracies": results.pack(accuracies),
        })
        print(f"{key}: {accuracies}", flush=True)
    if seed == 0:
        keep(real, run, name, config)


def choose(table, real, validation, name, seed, folder):
    """What a run offers, in the 16 bits that are stored, on validation images."""
    config = config_of(name)
    for result, images in ends(made(folder, name, seed)).items():
        key = {"experiment": "choice", "run": name, "result": result, "ipc": config.ipc, "seed": seed}
        synthetic = as_set(real, images.half().float(), config.ipc)
        networks = 5 if config.ipc < 50 else 2  # there 3 minutes each
        table.judge(key, synthetic, validation, networks=networks, recipe=SHORT)
    if config.ipc == 50:
        key = {"experiment": "choice", "method": "Random", "ipc": 50}
        table.judge(key, random_subset(real, 50, generator=seeded(0)), validation, networks=2, recipe=SHORT)


def keep(real, run, name, config):
    """Store, in 16 bits, what a run made, or its average; and of one run two images a class from on the way."""
    if config.ipc > 10:
        return
    final = as_set(real, run["state"]["average" if config.average else "images"].half(), config.ipc)
    meta = {**real.meta, "name": "cifar10", "method": "dm", "config": asdict(config), "seed": 0}
    file = f"cifar10_dm_{config.ipc}" + ("_average" if config.average else "")
    replace(final, meta=meta).save(FOLDER / f"{file}.pt")
    if name == FILMED:
        few = torch.arange(len(final)).view(-1, config.ipc)[:, :2].flatten()
        images = torch.cat([images[few] for images in run["snapshots"].values()])
        labels = final.labels[few].repeat(len(run["snapshots"]))
        film = replace(final, images=images, labels=labels, meta={**meta, "iterations": list(run["snapshots"])})
        film.save(FOLDER / f"{file}_film.pt")


def test(table, real, test_images, name, seed, folder):
    """The published evaluation of what a run made, and of random images beside it: test images."""
    run = made(folder, name, seed)
    config = config_of(name)
    ipc = config.ipc
    recipe, networks, draws = (LONG, 5, 5) if ipc < 50 else (TREND, 1, 1)
    if seed > 0 and ipc == 10:
        networks = 2  # 4 minutes each
    key = {"experiment": "test", "recipe": "published" if recipe is LONG else f"{recipe.epochs} epochs"}
    for result, images in list(ends(run).items())[-1 if seed > 0 else 0 :]:
        row = {**key, "method": method_of(name), "run": name, "result": result, "ipc": ipc, "seed": seed}
        one, seconds = as_set(real, images, ipc), round(run["seconds"])
        table.judge(row, one, test_images, networks=networks, recipe=recipe, seconds=seconds)
    sets = [random_subset(real, ipc, generator=seeded(i)) for i in range(draws)]
    table.judge({**key, "method": "Random", "ipc": ipc}, sets, test_images, networks=1, recipe=recipe)


@functools.cache
def chosen_images(real, rule, space, seed):
    """Ten images of each class of a random half, the first ones first, and the seconds that it took, training too."""
    start, embed = time.process_time(), None
    if space == "random":
        embed = ConvNet(channels=3, image_size=32, width=128, generator=seeded(seed)).embed
    elif space == "trained":
        recipe = Recipe.reference(epochs=3, batch_size=64)
        embed = train_network(half(real, seed), recipe=recipe, generator=seeded(seed)).embed
    return RULES[rule](half(real, seed), 10, embed=embed), time.process_time() - start


def coresets(table, real, validation, test_images):
    """Random without augmentation, herding and k-center; which space these need one set says, on validation images."""

    def subset(ipc, *key):
        ten, seconds = chosen_images(real, *key)
        return ten.select(torch.arange(len(ten)).view(-1, 10)[:, :ipc].flatten()), seconds

    for ipc in (1, 10):
        key = {"experiment": "test", "recipe": "no augmentation", "method": "Random", "ipc": ipc}
        sets = [random_subset(real, ipc, generator=seeded(i)) for i in range(5)]
        table.judge(key, sets, test_images, networks=1, recipe=PLAIN)
    for ipc in (1, 10):
        for rule in RULES if ipc > 1 else ["Herding"]:  # the first choice is the same for both
            found = {}
            for space in SPACES:
                key = {"experiment": "rules", "method": rule, "space": space, "ipc": ipc}
                if table.find(**key) is None:
                    one, _ = subset(ipc, rule, space, 0)
                    accuracies = evaluate(one, validation, networks=2, recipe=SHORT, generator=seeded(0))
                    table.add({**key, "accuracies": results.pack(accuracies)})
                    print(f"{key}: {accuracies}", flush=True)
                found[space] = results.unpack(table.find(**key)["accuracies"]).mean
            space = max(found, key=found.get)
            key = {"experiment": "test", "recipe": "published", "method": rule, "space": space, "ipc": ipc}
            if table.find(**key) is None:
                sets, seconds = zip(*(subset(ipc, rule, space, seed) for seed in range(3)), strict=True)
                accuracies = evaluate(list(sets), test_images, networks=1, recipe=LONG, generator=seeded(0))
                table.add({**key, "seconds": [round(s) for s in seconds], "accuracies": results.pack(accuracies)})
                print(f"{key}: {accuracies}", flush=True)


def speed(table, real, name):
    """Processor seconds of a step on this machine, to compare runs that were made on different ones."""
    steps = new_steps(real, name, 0)
    for _ in range(30):
        next(steps)  # compiles
    start = time.process_time()
    for _ in range(40):
        next(steps)
    row = {"experiment": "speed", "run": name, "seconds": round((time.process_time() - start) / 40, 3)}
    table.add(row)
    print(row, flush=True)


def as_set(real, images, ipc):
    """The images as a set of the classes of the real ones."""
    labels = torch.arange(len(real.classes)).repeat_interleave(ipc)
    return replace(real, images=images, labels=labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("task", choices=("condense", "film", "choose", "test", "coresets", "speed"))
    parser.add_argument("words", nargs="*")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.runs.mkdir(exist_ok=True)
    real, validation, test_images = split(asked.data)
    table = Table("cifar10", command="python benchmarks/cifar10.py --data PATH.npz --runs FOLDER TASK",
                  recipes={"film, choice": str(SHORT), "test": str(LONG), "300 epochs": str(TREND),
                           "no augmentation": str(PLAIN)})
    if asked.task == "coresets":
        coresets(table, real, validation, test_images)
        return
    for name in RUNS:
        if not all(word in name for word in asked.words) or (asked.task == "film" and method_of(name) != "DM"):
            continue
        if asked.task == "condense":
            condense(real, name, asked.seed, asked.runs)
        elif asked.task in ("film", "choose"):
            task = film if asked.task == "film" else choose
            task(table, real, validation, name, asked.seed, asked.runs)
        elif asked.task == "speed":
            speed(table, real, name)
        else:
            test(table, real, test_images, name, asked.seed, asked.runs)


if __name__ == "__main__":
    main()
