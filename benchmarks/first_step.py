"""Why means? What one step of training on a small set has in common with one step on all real digits.

    python benchmarks/first_step.py
    python benchmarks/first_step.py --chosen
    python benchmarks/first_step.py --photographs PATH.npz

Random and condensed digits, one and ten of each class, three sets each; three halves of the real ones; and all of them.
Five networks that no set has met look at them, unaugmented. Two questions for each set and network:

- With the last layer at zero one step moves the last layer alone, towards class means. What does it read then?
- How far does its gradient point the way that all real digits' does: with the last layer at zero, at the default start,
  and after 200 steps on real digits; in the last layer and below it?

The second command asks the first question of real digits that were chosen, one of each class: five sets, made as those
of benchmarks/coresets.py. How far from the classes' means are they, and random and learned ones? And what do these sets
teach the last layer of a frozen network, as they are and shifted to the right means?

The third command asks the first question of CIFAR-10, with networks of width 128: random photographs, five sets each,
the stored condensed ones, and 400 real ones of each class as all. Then it trains networks of width 32 by the quick
judge: all layers; the last one alone; and the last one with all embeddings of a class shifted so that their mean is
that of the real ones, or of random ones. What does the gain owe to the layers below, and what to right means?
Last, the quick judge in two variants: as wide as the published one, or with twice the steps and the published rate,
which is three times as large. Do they add to the gain?
PATH.npz holds x_train, y_train, x_test and y_test.

Rows go to dmtutor/results/first_step.json; ten minutes of one core, one minute, and a quarter of an hour.
"""

import argparse
from itertools import islice
from pathlib import Path

import coresets
import torch
import torch.nn.functional as F
from cifar10 import split
from store import Table, seeded

from dmtutor import (
    Accuracies,
    ConvNet,
    Recipe,
    SiameseAugment,
    condense,
    load,
    random_subset,
    results,
    train_network,
)
from dmtutor.data import batches
from dmtutor.evaluation import correctness

SETS, NETWORKS, REAL_STEPS = 3, 5, 200
UNSEEN = 1000  # the seeds of networks that judge begin here
CHANGED = {"longer": Recipe(lr=0.01, steps=1000), "wider": Recipe(width=128)}  # the quick judge, changed


def sets(train):
    """Name → the sets of that kind."""
    half = len(train) // len(train.classes) // 2
    seeds = range(SETS)
    yield "random, 1", [random_subset(train, 1, generator=seeded(s)) for s in seeds]
    yield "random, 10", [random_subset(train, 10, generator=seeded(s)) for s in seeds]
    yield "condensed, 1", [condense(train, ipc=1, seed=s, progress=False) for s in seeds]
    yield "condensed, 10", [condense(train, ipc=10, seed=s, progress=False) for s in seeds]
    yield "half of the real", [random_subset(train, half, generator=seeded(s)) for s in seeds]
    yield "all real", [train]


def gradient(network, data):
    """Of the mean cross-entropy: in the last layer's weights, and in all below it, each as one vector."""
    network.zero_grad()
    for images, labels in zip(data.images.split(100), data.labels.split(100), strict=True):
        F.cross_entropy(network(images), labels, reduction="sum").backward()
    last = {id(p) for p in network.classifier.parameters()}
    below = torch.cat([p.grad.flatten() for p in network.parameters() if id(p) not in last])
    return network.classifier.weight.grad.flatten() / len(data), below / len(data)


@torch.no_grad()
def class_means(network, data):
    """The mean embedding of each class, (K, d')."""
    z = torch.cat([network.embed(x) for x in data.images.split(100)])
    return torch.stack([z[data.labels == c].mean(0) for c in range(len(data.classes))])


@torch.no_grad()
def one_step(network, data, test):
    """Which test images are read rightly after one step from a zero last layer: (n,), the same for every step size."""
    means = class_means(network, data)
    weights = means - means.mean(0)
    seen = torch.cat([network.embed(x) for x in test.images.split(100)])
    return (seen @ weights.T).argmax(1) == test.labels


def network_at(start, train, seed):
    """A network that no set has met, at one of three moments of its life."""
    if start == "after real training":
        return train_network(train, recipe=Recipe(steps=REAL_STEPS), generator=seeded(seed))
    channels, side, _ = train.images.shape[1:]
    network = ConvNet(channels=channels, image_size=side, width=32, generator=seeded(seed))
    if start == "zero":
        torch.nn.init.zeros_(network.classifier.weight), torch.nn.init.zeros_(network.classifier.bias)
    return network


@torch.no_grad()
def straying(network, data):
    """Mean squared distance of an image from its class's mean, over that of the classes' means from their own."""
    z = torch.cat([network.embed(x) for x in data.images.split(100)])
    of_class = [z[data.labels == c] for c in range(len(data.classes))]
    means = torch.stack([x.mean(0) for x in of_class])
    within = torch.stack([x.var(0).sum() for x in of_class]).mean()
    return float(within / (means - means.mean(0)).square().sum(1).mean())


def trained(data, seed, layers, other):
    """A network of width 32 after one step, or trained as `dmtutor.train_network` does: all layers, or the last alone.

    With "last, means of" all embeddings of a class are shifted by as much as its mean lies from that in other images.
    """
    recipe, draw = Recipe(steps=500), seeded(seed)
    network = recipe.network(data.images, len(data.classes), generator=draw)
    network.features.requires_grad_(layers == "all")
    means = class_means(network, data)
    if layers == "one step":
        network.classifier.weight.data, network.classifier.bias.data = means - means.mean(0), torch.zeros(10)
        return network
    shift = torch.zeros(len(data), 1)
    if layers.startswith("last, means of"):
        shift = (class_means(network, other) - means)[data.labels]
    options = {"lr": recipe.lr, "momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
    sgd = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], **options)
    schedule = torch.optim.lr_scheduler.MultiStepLR(sgd, [recipe.steps // 2], gamma=0.1)
    augment = SiameseAugment(data.meta["augment"])
    for rows in islice(batches(len(data), recipe.batch_size, draw), recipe.steps):
        omega = augment.sample(len(rows), generator=draw, same_operation=True)
        seen = network.embed(augment.apply(data.images[rows], omega)) + shift[rows]
        loss = F.cross_entropy(network.classifier(seen), data.labels[rows])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        schedule.step()
    return network


@torch.no_grad()
def strayed(network, data, real):
    """Mean squared distance of a set's class means from the real ones."""
    return round(float((class_means(network, data) - real).square().sum(1).mean()), 3)


def chosen():
    """What chosen, random and learned digits teach in a step, how far they are from the classes' means, and what they
    teach a last layer as they are and with right means."""
    table, (train, test) = Table("first_step"), load("mnist5k")
    made = {
        "chosen, 1": [coresets.make("chosen", "Herding", "trained", 1, s, train) for s in range(5)],
        "random, 1": [random_subset(train, 1, generator=seeded(s)) for s in range(5)],
        "condensed, 1": [results.images(name) for name in ("mnist5k_dm_1", "mnist5k_dm_1_4")],
    }
    networks = [network_at("zero", train, UNSEEN + j) for j in range(NETWORKS)]
    real = [class_means(network, train) for network in networks]
    for name, sets in made.items():
        if not table.find(experiment="one step", set=name):
            right = torch.stack([torch.stack([one_step(net, s, test) for net in networks]) for s in sets])
            table.add({"experiment": "one step", "set": name, "accuracies": results.pack(Accuracies(right))})
            print(f"{name}: {Accuracies(right)}", flush=True)
        if not table.find(experiment="distance", set=name):
            found = [[strayed(net, s, there) for net, there in zip(networks, real, strict=True)] for s in sets]
            table.add({"experiment": "distance", "set": name, "all": found})
        for layers in ("last", "last, means of the real"):
            key = {"experiment": "trained, digits", "set": name, "layers": layers}
            if not table.find(**key):
                add_trained(table, key, [(s, train) for s in sets], range(UNSEEN, UNSEEN + 2), test)


def photographs(path):
    """What one step reads on CIFAR-10, for networks that no set has met; how far images stray, digits beside them.

    Then what networks read after training, of the last layer alone and of all layers.
    """
    table = Table("first_step")
    real, _, test = split(path)
    for name, data, width in (("digits", load("mnist5k")[0], 32), ("photographs", real, 128)):
        if not table.find(experiment="straying", data=name):
            some = random_subset(data, 200, generator=seeded(97))
            channels, side, _ = some.images.shape[1:]
            networks = [ConvNet(channels=channels, image_size=side, width=width, generator=seeded(UNSEEN + j))
                        for j in range(NETWORKS)]
            found = [round(straying(network, some), 2) for network in networks]
            table.add({"experiment": "straying", "data": name, "ratio": found})
            print(f"{name}: {found}", flush=True)
    real, test = random_subset(real, 400, generator=seeded(99)), random_subset(test, 200, generator=seeded(98))
    networks = [ConvNet(channels=3, image_size=32, width=128, generator=seeded(UNSEEN + j)) for j in range(NETWORKS)]
    made = {f"random, {n}": [random_subset(real, n, generator=seeded(s)) for s in range(5)] for n in (1, 10, 50)}
    made |= {f"condensed, {n}": [results.images(f"cifar10_dm_{n}{end}")] for n, end in ((1, ""), (10, "_average"))}
    for name, sets in {**made, "all real": [real]}.items():
        key = {"experiment": "one step, photographs", "set": name}
        if not table.find(**key):
            right = torch.stack([torch.stack([one_step(net, s, test) for net in networks]) for s in sets])
            table.add({**key, "accuracies": results.pack(Accuracies(right))})
            print(f"{name}: {Accuracies(right)}", flush=True)
    for name, sets in made.items():
        few = range(UNSEEN, UNSEEN + (2 if len(sets) > 1 else NETWORKS))
        for layers in ("one step", "last", "last, means of the real", "all"):
            key = {"experiment": "trained, photographs", "set": name, "layers": layers}
            if name != "random, 50" and not table.find(**key):
                add_trained(table, key, [(s, real) for s in sets], few, test)
    for n in (1, 10):  # the converse: learned images with the means of random ones
        key = {"experiment": "trained, photographs", "set": f"condensed, {n}", "layers": "last, means of the random"}
        if not table.find(**key):
            pairs = [(made[f"condensed, {n}"][0], s) for s in made[f"random, {n}"]]
            add_trained(table, key, pairs, range(UNSEEN, UNSEEN + 2), test)
    for judge, recipe in CHANGED.items():
        for name in ("random, 1", "condensed, 1", "random, 10", "condensed, 10"):
            key = {"experiment": "judges, photographs", "set": name, "judge": judge}
            if not table.find(**key):
                seeds = range(UNSEEN, UNSEEN + (1 if name.startswith("random") else 2))
                right = [[correctness(train_network(s, recipe=recipe, generator=seeded(seed)), test) for seed in seeds]
                         for s in made[name][:2]]
                accuracies = Accuracies(torch.stack([torch.stack(one) for one in right]))
                table.add({**key, "accuracies": results.pack(accuracies)})
                print(f"{key}: {accuracies}", flush=True)


def add_trained(table, key, pairs, seeds, test):
    """A row of networks trained on each set, beside the images whose means they may be shifted to."""
    right = [torch.stack([correctness(trained(s, seed, key["layers"], other), test) for seed in seeds])
             for s, other in pairs]
    accuracies = Accuracies(torch.stack(right))
    table.add({**key, "accuracies": results.pack(accuracies)})
    print(f"{key}: {accuracies}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--chosen", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.chosen:
        chosen()
        return
    if asked.photographs:
        photographs(asked.photographs)
        return
    train, test = load("mnist5k")
    table = Table("first_step", new=True, command="python benchmarks/first_step.py")
    starts = ("zero", "default", "after real training")
    networks = {start: [network_at(start, train, UNSEEN + j) for j in range(NETWORKS)] for start in starts}
    real = {start: [gradient(net, train) for net in nets] for start, nets in networks.items()}
    for name, made in sets(train):
        right = torch.stack([torch.stack([one_step(net, s, test) for net in networks["zero"]]) for s in made])
        accuracies = Accuracies(right)
        table.add({"experiment": "one step", "set": name, "accuracies": results.pack(accuracies)})
        print(f"{name}: {accuracies}", flush=True)
        for start, nets in networks.items():
            cosines = [
                [[float(F.cosine_similarity(a, b, dim=0)) for a, b in zip(gradient(net, s), there, strict=True)]
                 for net, there in zip(nets, real[start], strict=True)]
                for s in made
            ]  # (sets, networks, 2)
            last, below = torch.tensor(cosines).unbind(-1)
            row = {"experiment": "cosine", "set": name, "start": start, "last": last.tolist()}
            table.add({**row, **({} if start == "zero" else {"below": below.tolist()})})
            print(f"  {start}: last {last.mean():.3f}, below {below.mean():.3f}", flush=True)


if __name__ == "__main__":
    main()
