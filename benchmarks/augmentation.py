"""What augmentation does to learned digits, on MNIST-5k, and to photographs: the tables of chapter 4.

    python benchmarks/augmentation.py                 # all digits: about twenty minutes of one core
    python benchmarks/augmentation.py operation       # some of: operation, siamese, recipe, pairs
    python benchmarks/augmentation.py PATH.npz        # photographs: half an hour

One image per class and short runs, judged on a validation part of the training images; the test images are not read.
Of CIFAR-10, in PATH.npz, DM learns ten photographs of each class by the library's defaults: with all six operations or
none, judged by networks that train with all six or none. Results go to dmtutor/results/augmentation.json, row by row,
so a run that was stopped goes on where it was. One thread does the work, and seconds are the processor's.
"""

import sys
import time
from dataclasses import replace

import torch
from cifar10 import split
from store import Table, seeded

from dmtutor import ConvNet, DMConfig, Recipe, SiameseAugment, dm_steps, evaluate, load, random_subset, results
from dmtutor.augmentation import OPERATIONS, Draws
from dmtutor.gradient_matching import DSAConfig, dc_steps

SETS, NETWORKS = 3, 2
SETS_OF_PAIRS = 5
METHODS = {
    "DSA": (dc_steps, DSAConfig(ipc=1, iterations=80, width=16, lr_img=1.0)),
    "DM": (dm_steps, DMConfig(ipc=1, iterations=300, batch_real=16)),
}
DIGITS = "color_crop_cutout_scale_rotate"  # the papers' strategy for digits: all six but the flip
STRATEGIES = ("none", *OPERATIONS, "crop_scale_rotate", DIGITS, "_".join(OPERATIONS))


class TwoDraws(SiameseAugment):
    """Not Siamese: two draws, one for the real images, one for those that are learned, which require a gradient."""

    def sample(self, k, *, generator, **more):
        first, second = (super(TwoDraws, self).sample(k, generator=generator, **more) for _ in range(2))
        return Draws(torch.stack([first.operation, second.operation], 1), torch.stack([first.u, second.u], 1))

    def apply(self, x, draws):
        side = int(x.requires_grad)
        return super().apply(x, Draws(draws.operation[:, side], draws.u[:, side]))


def condensed(method, real, seed, strategy, draws):
    """One set: `draws` says whether both sides have the same ω."""
    make_steps, config = METHODS[method]
    steps = make_steps(real, config=replace(config, augment=strategy), generator=seeded(seed))
    if draws == "independent":
        steps.augment = TwoDraws(strategy)
    for _ in steps:
        pass
    return steps.synthetic


def learn(real, shared, pairs, seed, iterations=150, lr=2.0):
    """DM with `pairs` draws of ω for each class on each side, as chapter 4 writes it out.

    A real batch of 16 is split over the draws, and as many views of the one synthetic image are matched.
    """
    pools, augment, n = [real.of_class(c) for c in range(10)], SiameseAugment(DIGITS), 10 * pairs
    net = ConvNet(channels=1, image_size=28, width=16, generator=seeded(0)).requires_grad_(False)
    net.to(memory_format=torch.channels_last)
    start = random_subset(real, 1, generator=seeded(seed))
    s, velocity = start.images, 0
    for k in range(iterations):
        draw = seeded(1_000_000 * seed + k)
        net.reset_parameters(generator=draw)
        rows = [torch.randperm(len(pool), generator=draw)[:16] for pool in pools]
        x = torch.cat([pool[r] for pool, r in zip(pools, rows, strict=True)])
        omega = other = augment.sample(n, generator=draw)
        if not shared:
            other = augment.sample(n, generator=draw)
        with torch.no_grad():
            m = torch.cat([net.embed(part) for part in augment.apply(x, omega).split(16)])
        m = m.unflatten(0, (n, -1)).mean(1)
        s = s.clone().requires_grad_()
        views = net.embed(augment.apply(s.repeat_interleave(pairs, 0), other))
        loss = (m - views).square().sum() / pairs
        velocity = 0.5 * velocity + torch.autograd.grad(loss, s)[0]
        s = s.detach() - lr * (1 - k / iterations) * velocity
    return replace(start, images=s)


def settings():
    """What identifies a row, and the augmentation that the judge trains with: None is the data set's own."""
    for strategy in STRATEGIES:
        yield {"experiment": "operation", "method": "DSA", "augment": strategy, "draws": "shared"}, None
    yield {"experiment": "siamese", "method": "DSA", "augment": DIGITS, "draws": "independent"}, None
    for strategy, draws in (("none", "shared"), (DIGITS, "independent"), (DIGITS, "shared")):
        yield {"experiment": "siamese", "method": "DM", "augment": strategy, "draws": draws}, None
    for strategy in STRATEGIES:
        yield {"experiment": "recipe", "method": "Random", "recipe": strategy}, strategy
    for draws in ("shared", "independent"):
        for pairs in (1, 8, 16):
            yield {"experiment": "pairs", "method": "DM", "augment": DIGITS, "draws": draws, "pairs": pairs}, None


def make(key, real, seed):
    """One set and the seconds that it took."""
    if key["method"] == "Random":
        return random_subset(real, 1, generator=seeded(seed)), 0.0
    start = time.process_time()
    if key["experiment"] == "pairs":
        synthetic = learn(real, key["draws"] == "shared", key["pairs"], seed)
    else:
        synthetic = condensed(key["method"], real, seed, key["augment"], key["draws"])
    return synthetic, round(time.process_time() - start, 1)


def photographs(table, path):
    """Ten of each class, learned and judged with all six operations or without."""
    real, validation, _ = split(path)
    every = "_".join(OPERATIONS)
    for augment, draws in (("none", "shared"), (every, "shared"), (every, "independent")):
        keys = [{"experiment": "photographs", "method": "DM", "augment": augment, "draws": draws, "recipe": judge}
                for judge in ("none", every)]
        if all(table.find(**key) for key in keys):
            continue
        sets, start = [], time.process_time()
        for seed in range(SETS):
            steps = dm_steps(real, config=DMConfig(ipc=10, augment=augment), generator=seeded(seed))
            if draws == "independent":
                steps.augment = TwoDraws(augment)
            sets.append(steps.finish())
        seconds = round((time.process_time() - start) / SETS, 1)
        for key in keys:
            table.judge({**key, "seconds": seconds}, sets, validation, networks=1, recipe=Recipe(augment=key["recipe"]))


def more_photographs(table, path):
    """Seven sets more of each kind, judged with all six: does learning with augmentation gain anything?"""
    real, validation, _ = split(path)
    every = "_".join(OPERATIONS)
    for seed in range(SETS, SETS + 7):
        for augment in ("none", every):
            key = {"experiment": "more photographs", "method": "DM", "augment": augment, "seed": seed}
            if table.find(**key) is None:
                made = dm_steps(real, config=DMConfig(ipc=10, augment=augment), generator=seeded(seed)).finish()
                table.judge(key, made, validation, networks=1, recipe=Recipe(augment=every))


def main(wanted):
    torch.set_num_threads(1)
    train, _ = load("mnist5k")
    rest, validation = train.split(0.2, generator=seeded(0))
    configs = {name: str(config) for name, (_, config) in METHODS.items()}
    recipe = f"{Recipe()}, {NETWORKS} networks for each set"
    table = Table("augmentation", command="python benchmarks/augmentation.py", configs=configs, recipe=recipe)
    if wanted and wanted[0].endswith(".npz"):
        photographs(table, wanted[0])
        more_photographs(table, wanted[0])
        return
    for key, judge in settings():
        if (wanted and key["experiment"] not in wanted) or table.find(**key):
            continue
        number = SETS_OF_PAIRS if key["experiment"] == "pairs" else SETS
        sets, seconds = zip(*(make(key, rest, seed) for seed in range(number)), strict=True)
        recipe = Recipe(augment=judge)
        accuracies = evaluate(sets, validation, networks=NETWORKS, recipe=recipe, generator=seeded(0))
        table.add({**key, "seconds": seconds, "accuracies": results.pack(accuracies)})
        print(f"{key}: {accuracies}, {seconds} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
