"""Why means? What one step of training on a small set has in common with one step on all real digits.

    python benchmarks/first_step.py

Random and condensed digits, one and ten of each class, three sets each; three halves of the real ones; and all of them.
Five networks that no set has met look at them, unaugmented. Two questions for each set and network:

- With the last layer at zero one step moves the last layer alone, towards class means. What does it read then?
Random and condensed digits, one and ten of each class, three sets each; three halves of the real ones; and all.
  the default start, and after 200 steps on real digits; in the last layer and below it?

Rows go to dmtutor/results/first_step.json; ten minutes of one core.
"""

import torch
import torch.nn.functional as F
from store import Table, seeded

from dmtutor import Accuracies, ConvNet, Recipe, condense, load, random_subset, results, train_network

SETS, NETWORKS, REAL_STEPS = 3, 5, 200
UNSEEN = 1000  # the seeds of networks that judge begin here


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
def one_step(network, data, test):
    """Which test images are read rightly after one step from a zero last layer: (n,), the same for every step size."""
    z = torch.cat([network.embed(x) for x in data.images.split(100)])
    means = torch.stack([z[data.labels == c].mean(0) for c in range(len(data.classes))])
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


def main():
    torch.set_num_threads(1)
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
