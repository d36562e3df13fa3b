"""DD, DC, DSA and DM on MNIST-5k at one processor time: the tables of chapters 4, 7 and 8.

    python benchmarks/predecessors.py                 # all of it: about two hours of one core
    python benchmarks/predecessors.py search ladder   # some of: cost, search, ladder, search_equal, equal, path, own,
                                                      # search_fewer, fewer, longer

Every method has the same time to condense and some step sizes to choose from, on a validation part of the training
images. The test images are read by `ladder` alone, with the setting that `search` favoured. `path` says
how far networks that learn from one set of each method stray from their real path, as in chapter 8's first picture,
and how far the set is from real digits by DC's own distance; DM also in as many steps as DC.
`fewer` runs DC with as many real images as DM, in equal time, `longer` DC and DM for four times the steps. `own`
judges DD's sets at ten images after their own ten steps. Results go to
dmtutor/results/predecessors.json, row by row, so a run that was stopped goes on where it was. One thread does the
work, and seconds are the processor's, so they hardly depend on what else the machine does.
"""

import itertools
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from store import Table, peak_above, seeded, start_peak
from torch.utils._python_dispatch import TorchDispatchMode

from dmtutor import ConvNet, Recipe, evaluate, load, random_subset, results
from dmtutor.condensation import METHODS
from dmtutor.data import batches
from dmtutor.evaluation import correctness
from dmtutor.gradient_matching import gradient_distance
from dmtutor.steps import start
from dmtutor.unrolling import train_as_learned

NETWORKS = 2  # for each set
SETS = {1: 5, 10: 3}
SECONDS = {1: 30, 10: 60}  # of one quiet core for a set, about: the iterations below were counted off from it
DD = {"inner_steps": 10, "batch_real": 8, "lr_lr": 0.02}
SETTINGS = {  # method: ipc: settings to choose from
    "DD": {
        1: [{"iterations": 135, **DD, "lr_img": lr} for lr in (0.1, 0.2)],
        10: [{"iterations": 270, **DD, "lr_img": lr} for lr in (0.05, 0.1)],
    },
    "DC": {
        1: [{"iterations": 230, "lr_img": lr} for lr in (0.5, 1.0, 2.0, 4.0)],
        10: [{"iterations": 125, "lr_img": lr} for lr in (1.5, 3.0, 6.0)],
    },
    "DSA": {
        1: [{"iterations": 220, "lr_img": lr} for lr in (0.5, 1.0, 2.0, 4.0, 8.0)],
        10: [{"iterations": 125, "lr_img": lr} for lr in (1.5, 3.0, 6.0)],
    },
    "DM": {
        1: [{"iterations": 820, "lr_img": lr} for lr in (0.25, 0.5, 1.0)],
        10: [{"iterations": 670, "lr_img": lr} for lr in (5.0, 10.0)],
    },
}

EQUAL = [{"iterations": 230, "lr_img": lr} for lr in (0.5, 1.0, 2.0)]  # DM at one image: as many steps as DC takes
FEWER = [{"iterations": 400, "batch_real": 4, "lr_img": lr} for lr in (0.5, 1.0, 2.0)]  # DC, real images as DM has
LONGER = 4  # times the steps of the ladder, with its step sizes
STARTS = (50, 51, 52)  # networks of the paths


def new_steps(method, train, seed, changes):
    steps_type = METHODS[method.lower()]
    return start(steps_type, steps_type.config_type, train, steps_type.config_type(**changes), seeded(seed))


def make(method, train, seed, changes):
    """One set, and the seconds of one core that it took."""
    start = time.process_time()
    if method == "Random":
        return random_subset(train, changes["ipc"], generator=seeded(seed)), 0.0
    steps = new_steps(method, train, seed, changes)
    for _ in steps:
        pass
    return steps.synthetic, time.process_time() - start


def score(method, sets, train, judge, changes):
    """What is stored of a setting."""
    made, seconds = zip(*(make(method, train, seed, changes) for seed in range(sets)), strict=True)
    accuracies = evaluate(made, judge, networks=NETWORKS, generator=seeded(0))
    return {"seconds": [round(s, 1) for s in seconds], "accuracies": results.pack(accuracies)}, accuracies


class Convolutions(TorchDispatchMode):
    """Counts convolutions, forward and backward: they are what all methods spend their time on."""

    forward = backward = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.forward += function is torch.ops.aten.convolution.default
        self.backward += function is torch.ops.aten.convolution_backward.default
        return function(*args, **(kwargs or {}))


def measure(method, changes):
    """Seconds and convolutions of a step, megabytes above the data: meant for a process of its own, on Linux."""
    torch.set_num_threads(1)
    train, _ = load("mnist5k")
    before = start_peak()
    steps = new_steps(method, train, 0, changes)
    next(steps)
    cycle, start = 20, time.process_time()
    for _ in range(cycle):
        next(steps)
    seconds = (time.process_time() - start) / cycle
    peak = peak_above(before)
    with Convolutions() as count:
        for _ in range(cycle):
            next(steps)
    each = cycle * steps.config.depth  # a pass through a network is `depth` convolutions
    passes = {"forward": round(count.forward / each, 1), "backward": round(count.backward / each, 1)}
    print(json.dumps({"milliseconds": round(1000 * seconds, 1), "megabytes": peak, **passes}))


def cost(method, changes):
    code = f"import predecessors; predecessors.measure({method!r}, {changes!r})"
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=here)
    return json.loads(done.stdout)


def path(data, number):
    """The weights at the start and after 60 updates on data."""
    net = ConvNet(channels=1, image_size=28, width=16, generator=seeded(number))
    sgd = torch.optim.SGD(net.parameters(), lr=0.02)
    begin = torch.nn.utils.parameters_to_vector(net.parameters()).detach().clone()
    for rows in itertools.islice(batches(len(data), 100, seeded(0)), 60):
        sgd.zero_grad()
        F.cross_entropy(net(data.images[rows]), data.labels[rows]).backward()
        sgd.step()
    return begin, torch.nn.utils.parameters_to_vector(net.parameters()).detach()


def push(net, images, c):
    loss = F.cross_entropy(net(images), torch.full((len(images),), c))
    return torch.autograd.grad(loss, list(net.parameters()))


def along_paths(sets, train):
    """For each start and its set: how far the path strays, and DC's distance to a hundred real digits of a class."""
    strays, angles = [], []
    for number, made in zip(STARTS, sets, strict=True):
        (begin, real), (_, end) = path(train, number), path(made, number)
        strays.append(round(float((end - real).norm() / (real - begin).norm()), 3))
        net = ConvNet(channels=1, image_size=28, width=32, generator=seeded(number))
        apart = [gradient_distance(push(net, train.of_class(c)[:100], c), push(net, made.of_class(c), c))
                 for c in range(10)]
        angles.append(round(float(sum(apart)) / 10, 2))
    return {"strays": strays, "angles": angles}


def after_ten_steps(made, sizes, test):
    """What five fresh networks read after training on a set with these step sizes, nothing else."""
    made = replace(made, meta={**made.meta, "step_sizes": sizes})
    nets = (ConvNet(channels=1, image_size=28, width=32, generator=seeded(i)) for i in range(100, 105))
    return [round(float(correctness(train_as_learned(net, made), test).double().mean()), 4) for net in nets]


def main(wanted):
    torch.set_num_threads(1)
    train, test = load("mnist5k")
    rest, validation = train.split(0.2, generator=seeded(0))
    recipe = f"{Recipe()}, {NETWORKS} networks for each set"
    table = Table("predecessors", command="python benchmarks/predecessors.py", recipe=recipe)

    def missing(**key):
        return (not wanted or key["experiment"] in wanted) and table.find(**key) is None

    def store(key, sets, train, judge):
        row, accuracies = score(key["method"], sets, train, judge, {"ipc": key["ipc"], **key["changes"]})
        table.add({**key, **row})
        print(f"{key}: {accuracies}, {row['seconds']} s", flush=True)

    for ipc in SETS:
        for method in SETTINGS:
            for changes in SETTINGS[method][ipc]:
                key = {"experiment": "search", "method": method, "ipc": ipc, "changes": changes}
                if missing(**key):
                    store(key, 1, rest, validation)
        for method in ("Random", *SETTINGS):
            tried = [row for row in table.rows if row["experiment"] == "search" and row["ipc"] == ipc
                     and row["method"] == method]
            if method != "Random" and len(tried) < len(SETTINGS[method][ipc]):
                continue
            best = max(tried, key=lambda row: results.unpack(row["accuracies"]).mean, default={"changes": {}})
            changes = {"ipc": ipc, **best["changes"]}
            if method != "Random" and missing(experiment="cost", method=method, ipc=ipc):
                row = cost(method, changes)
                table.add({"experiment": "cost", "method": method, "ipc": ipc, "changes": best["changes"], **row})
                print(method, ipc, row, flush=True)
            if missing(experiment="ladder", method=method, ipc=ipc):
                key = {"experiment": "ladder", "method": method, "ipc": ipc, "changes": best["changes"]}
                store(key, SETS[ipc], train, test)

    for changes in EQUAL:
        key = {"experiment": "search_equal", "method": "DM", "ipc": 1, "changes": changes}
        if missing(**key):
            store(key, 1, rest, validation)
    tried = [row for row in table.rows if row["experiment"] == "search_equal"]
    for name, more in (("equal", {}), ("equal, no augmentation", {"augment": "none"})):  # DC has none
        if len(tried) == len(EQUAL) and missing(experiment=name, method="DM", ipc=1):
            best = max(tried, key=lambda row: results.unpack(row["accuracies"]).mean)
            changes = {**best["changes"], **more}
            store({"experiment": name, "method": "DM", "ipc": 1, "changes": changes}, SETS[1], train, test)

    for ipc, method in itertools.product(SETS, ("DC", "DM")):
        key = {"experiment": "longer", "method": method, "ipc": ipc}
        if missing(**key):
            (row,) = (row for row in table.rows if row["experiment"] == "ladder" and row["ipc"] == ipc
                      and row["method"] == method)
            changes = {**row["changes"], "iterations": LONGER * row["changes"]["iterations"]}
            store({**key, "changes": changes}, 3, train, test)

    for changes in FEWER:
        key = {"experiment": "search_fewer", "method": "DC", "ipc": 1, "changes": changes}
        if missing(**key):
            store(key, 1, rest, validation)
    tried = [row for row in table.rows if row["experiment"] == "search_fewer"]
    if len(tried) == len(FEWER) and missing(experiment="fewer", method="DC", ipc=1):
        best = max(tried, key=lambda row: results.unpack(row["accuracies"]).mean)
        store({"experiment": "fewer", "method": "DC", "ipc": 1, "changes": best["changes"]}, SETS[1], train, test)

    (chosen,) = (row["changes"] for row in table.rows if row["experiment"] == "ladder" and row["method"] == "DD"
                 and row["ipc"] == 10)
    if missing(experiment="own", method="DD", ipc=10):
        distilled = make("DD", train, 0, {"ipc": 10, **chosen})[0]
        etas = {"DD": [distilled.meta["step_sizes"]], "Random": [[eta] * 10 for eta in (0.05, 0.1, 0.2, 0.4)]}
        for method, made in (("Random", random_subset(train, 10, generator=seeded(0))), ("DD", distilled)):
            made = replace(made, meta=distilled.meta)
            read = [after_ten_steps(made, sizes, test) for sizes in etas[method]]
            table.add({"experiment": "own", "method": method, "ipc": 10, "changes": {}, "step_sizes": etas[method],
                       "read": read})
            print(method, read, flush=True)

    for seed in range(1, SETS[10]):
        key = {"experiment": "own", "method": "DD", "ipc": 10, "seed": seed}
        if missing(**key):
            distilled = make("DD", train, seed, {"ipc": 10, **chosen})[0]
            sizes = distilled.meta["step_sizes"]
            table.add({**key, "step_sizes": [sizes], "read": [after_ten_steps(distilled, sizes, test)]})
            print(key, table.rows[-1]["read"], flush=True)

    few = {"iterations": 125, "lr_img": 10.0}  # DC's steps
    asked = [(m, {}) for m in ("Random", "DC", "DSA", "DM")] + [("DM", few), ("DM", {**few, "augment": "none"})]
    for method, changes in asked:
        key = {"experiment": "path", "method": method, "ipc": 10, "changes": changes}
        if missing(**key):
            if method == "Random":
                sets = [random_subset(train, 10, generator=seeded(i)) for i in range(len(STARTS))]
            elif changes:
                sets = [make(method, train, 0, {"ipc": 10, **changes})[0]] * len(STARTS)
            else:  # the first set of the ladder, which ladder.py has stored
                sets = [results.images(f"mnist5k_{method.lower()}_10")] * len(STARTS)
            row = along_paths(sets, train)
            table.add({**key, **row})
            print(key, row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
