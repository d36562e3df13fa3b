"""Beyond distribution matching, rung by rung, on CIFAR-10: sets made in equal time, judged alike.

    python benchmarks/beyond.py --data PATH.npz --runs FOLDER condense [WORD ...]
    python benchmarks/beyond.py --data PATH.npz --runs FOLDER choose [WORD ...] --ipc 10
    python benchmarks/beyond.py --data PATH.npz --runs FOLDER test [WORD ...]
    python benchmarks/beyond.py --data PATH.npz --runs FOLDER sizes [WORD ...] --ipc 10
    python benchmarks/beyond.py --data PATH.npz --runs FOLDER soft [WORD ...]
    python benchmarks/beyond.py --data PATH.npz --runs FOLDER own-class [WORD ...]
    python benchmarks/beyond.py --data PATH.npz --runs FOLDER partly [WORD ...]
    python benchmarks/beyond.py --data PATH.npz --runs FOLDER means [WORD ...]
    python benchmarks/beyond.py --data PATH.npz --runs FOLDER judges [WORD ...]
    python benchmarks/beyond.py --data PATH.npz --runs FOLDER higher [WORD ...]
    python benchmarks/beyond.py digits
    python benchmarks/beyond.py gaps

PATH.npz holds x_train, y_train, x_test and y_test. A tenth of the training images is left out of all sets and of the
networks' pool. ``condense`` makes sets of ``--ipc`` stored images per class for every rung of RUNGS that was made of so
many and whose name has all WORDs, in the order of the ``--seeds``; it saves its state in FOLDER once a minute and goes
on from there. Iterations are such that a set takes about five minutes of one core, or ten at ten images and half an
hour for the training of a pool of 20; ``--times`` T takes T times as many. ``choose`` scores sets on the tenth that was
left out. ``test`` scores sets on the test images, and random images and tiles, drawn or chosen, beside them, with a
judge that takes the same number of steps on every set. ``sizes`` scores ten or fifty images by the judge of one, with
up to 64 images in a step, ``soft`` on a teacher's labels, of which ``own-class`` tells how much they give an image's
own class and ``partly`` scores sets on a part of them. ``means`` tells how near the class means of a set are to the
real ones, for random networks new to both. Seconds in rows of different devices do not compare. ``judges`` scores sets
by other judges, too: for longer, with cutmix, and on the labels of a network that saw the training images for a
while. ``higher`` makes the sets of HIGHER and scores them on the tenth that was left out, in some six minutes
each and twenty for their networks. ``digits`` does both on digits, in some ten minutes; ``gaps`` measures how far the
stored sets of digits are from the real ones, for networks that were trained for a while, from ten first weights, in
three minutes. Results go to dmtutor/results/beyond.json, row by row. One thread does the work.
"""

import argparse
import itertools
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from cifar10 import split
from store import FOLDER, Table, seeded

from dmtutor import (
    Accuracies,
    ConvNet,
    IDMConfig,
    Recipe,
    as_tiles,
    decode,
    evaluate,
    files,
    idm_steps,
    keyed_generator,
    load,
    random_subset,
    random_tiles,
    results,
)
from dmtutor.condensation import saved
from dmtutor.coresets import embedded, herding_order
from dmtutor.distribution_matching import DMSteps, mean_distance
from dmtutor.evaluation import correctness, soft_labels, train_network
from dmtutor.idm import IDMSteps
from dmtutor.mmd import Gaussian, mmd2
from dmtutor.steps import start

COMMON = {"batch_real": 16, "width": 128, "depth": 3, "compile": True}
POOL = {"pool": 5, "pool_steps": 200}
MANY = {"pool": 20, "pool_steps": 600}
RUNGS = {  # changes to COMMON; the step size is for one image per class, and ten times as large for ten
    "DM": {"factor": 1, "pool": 0, "alpha": 0, "lr_img": 0.25},
    "+ decoding": {"pool": 0, "alpha": 0, "lr_img": 1.0},
    "+ trained networks": {**POOL, "alpha": 0, "lr_img": 1.0},
    "+ cross-entropy": {**POOL, "alpha": 10.0, "lr_img": 1.0},
    "+ kernel": {**POOL, "alpha": 10.0, "lr_img": 1.0},
    "+ more networks": {**MANY, "alpha": 10.0, "lr_img": 1.0},  # from here on what was tried at ten images
    "+ smaller step": {**MANY, "alpha": 10.0, "lr_img": 0.25},
    "chosen at ten": {**MANY, "alpha": 1.0, "lr_img": 0.5},
    "larger step": {**MANY, "alpha": 1.0, "lr_img": 1.0, "amp": True},
    "less entropy": {**MANY, "alpha": 0.3, "lr_img": 1.0, "amp": True},
    "in 16 bits": {**MANY, "alpha": 1.0, "lr_img": 0.5, "amp": True},  # as chosen at ten, and quicker
    "half the step": {"pool": 0, "alpha": 0, "lr_img": 0.5},  # of decoding alone
    "DM, larger step": {"factor": 1, "pool": 0, "alpha": 0, "lr_img": 1.0},  # the control: that of decoding
    "+ decoding, 550 steps": {"pool": 0, "alpha": 0, "lr_img": 1.0},  # as many as rungs with a pool took
    "one tile, four times": {"pool": 0, "alpha": 0, "lr_img": 1.0},  # the control: small, one in place of four
    "+ characteristic functions": {"pool": 0, "alpha": 0, "lr_img": 1.0},  # in place of the means, after decoding
    "+ characteristic functions, step 0.3": {"pool": 0, "alpha": 0, "lr_img": 0.3},
    "+ characteristic functions, step 3": {"pool": 0, "alpha": 0, "lr_img": 3.0},
}
ITERATIONS = {  # for five and ten core minutes, the pool aside at ten
    1: {"DM": 1200, "+ decoding": 800, "+ trained networks": 550, "+ cross-entropy": 550, "+ kernel": 550,
        "DM, larger step": 1200, "+ decoding, 550 steps": 550, "one tile, four times": 800,
        "+ characteristic functions": 800, "+ characteristic functions, step 0.3": 800,
        "+ characteristic functions, step 3": 800},
    4: {"DM, larger step": 800},  # as many images as four tiles hold, whole
    10: {"DM": 900, "+ decoding": 350, "+ trained networks": 320, "+ cross-entropy": 320, "+ more networks": 320,
         "+ smaller step": 320, "chosen at ten": 320, "larger step": 320, "less entropy": 320, "in 16 bits": 320,
         "half the step": 350, "DM, larger step": 350},
    7: {"+ decoding": 350},  # as files they take the room of one photograph
    50: {"+ decoding": 120, "DM, larger step": 120},
}
DIGITS = {
    "DM": {"factor": 1, "pool": 0, "alpha": 0, "iterations": 400},
    "+ decoding": {"pool": 0, "alpha": 0, "iterations": 200},
    "+ trained networks": {"pool": 6, "pool_steps": 200, "alpha": 0, "iterations": 200},
    "+ cross-entropy": {"pool": 6, "pool_steps": 200, "alpha": 10.0, "iterations": 200},
}
FILES = {"+ decoding": "decoding", "+ trained networks": "trained"}


class Translated(Recipe):
    """The same judge, its network through torch.compile: quicker, and other bits in the last place."""

    def network(self, images, classes, *, generator):
        network = super().network(images, classes, generator=generator)
        network.compile(dynamic=False)
        return network

    def __repr__(self):
        return super().__repr__().replace("Translated", "Recipe")


JUDGES = {1: Translated.reference(steps=400), 10: Translated.reference(steps=1000)}
OTHER_JUDGES = {
    1: {"soft labels": JUDGES[1]},
    10: {
        "soft labels": replace(JUDGES[10], amp=True),
        "cutmix, longer": Translated.reference(steps=10500, batch_size=64, cutmix=0.5, amp=True),  # 1,500 epochs
    },
}
TOP = {
    1: ("+ cross-entropy",),
    10: ("DM, larger step", "in 16 bits", "between first and trained"),
}
AS_PUBLISHED = Translated.reference(amp=True)  # 1,000 epochs, in 16 bits
SHORT = Translated.reference(steps=400, batch_size=64)  # on up to 64 images it is the judge of one image per class
BASELINES = ("Random", "Random tiles", "Herded tiles", "Surest tiles")
APART = ("One, blurred", "Four, whole", "Least sure tiles")  # what tells number from sharpness, and sureness from luck
CANDIDATES = 300  # of each class, from which a teacher takes the surest
LOOKS = (1, 10, 30, 100, 300)  # steps after which networks look at digits
TEACHER = Recipe(width=128, steps=400, batch_size=64, lr=0.01)


class Kernel(IDMSteps):
    """Embeddings of a class are compared by a Gaussian kernel, of the size of the distance of means."""

    def distance(self, real, syn, labels):
        """h² MMD² with h² the mean squared distance of two real images of the class, and the cross-entropy."""
        squared = 2 * real.var(1).sum(-1)
        classes = zip(real, syn, squared, strict=True)
        discrepancy = torch.stack([mmd2(r, s, kernel=Gaussian(float(h2) ** 0.5)) for r, s, h2 in classes])
        return squared * discrepancy + self.cross_entropy(syn, labels)


class OneTile(IDMSteps):
    """The four tiles of an image begin as one. Their gradients are equal, so they stay one: a single small image."""

    def first_images(self, generator):
        tiles = super().first_images(generator)
        height, width = (n // 2 for n in tiles.images.shape[2:])
        return replace(tiles, images=tiles.images[..., :height, :width].repeat(1, 1, 2, 2))


class CharacteristicFunctions(IDMSteps):
    """NCFM's distance of a class, without its pool, its cross-entropy and its sampling network."""

    frequencies, weight = 1024, 560.0  # so that its first gradient is as long as that of the means

    def draws(self, iteration):
        """Frequencies t, (d', 1024), normal."""
        draw = keyed_generator(self.root, "method", iteration)
        return (torch.randn(self.network.embedding_dim, self.frequencies, generator=draw),)

    def distance(self, real, syn, labels):
        """The mean of |Φ(t) − Φ̃(t)|, Φ(t) the mean of exp(i⟨t, ψ⟩) over images whose ψ have length 1."""
        angles = [F.normalize(views, dim=-1) @ self.drawn[0] for views in (real, syn)]  # (k, n, 1024) each
        cosine, sine = (f(angles[0]).mean(1) - f(angles[1]).mean(1) for f in (torch.cos, torch.sin))
        return self.weight * torch.hypot(cosine, sine).mean(1)


class SixteenBits(IDMSteps):
    """The networks of the pool are trained in 16 bits."""

    of_pool = "-16bits"

    def _recipe(self, steps):
        return replace(super()._recipe(steps), amp=True)


class HerdedStart(SixteenBits):
    """Images start from tiles that herding chose; ``seed`` and ``folder`` say which."""

    def first_images(self, generator):
        return herded_tiles(self.real, self.config.ipc, self.seed, self.folder)[0]


class Between(SixteenBits):
    """Half of the pool's networks are trained, all for as long, and the others are their first weights; a step sees one
    on the straight line between."""

    of_pool = "-between"

    def _trained(self, k):
        recipe = self._recipe(self.config.pool_steps)
        if k % 2 == 0:
            recipe = replace(recipe, steps=1, lr=1e-9)  # the first weights of the training that number k + 1 ends
        network = train_network(self.real, recipe=recipe, generator=keyed_generator(self.root, "train", k // 2))
        return [p.detach().cpu() for p in network.parameters()]

    def draw_weights(self, iteration):
        draw = keyed_generator(self.root, "network", iteration)
        k = 2 * int(torch.randint(self.config.pool // 2, (), generator=draw))
        share = self.place(float(torch.rand((), generator=draw)))
        return [first.lerp(last, share) for first, last in zip(self.pool[k], self.pool[k + 1], strict=True)]

    def place(self, share):
        return share


class Untrained(IDMSteps):
    """A step sees new random weights, as in DM, though there is a cross-entropy: the pool is never looked at."""

    draw_weights = DMSteps.draw_weights


class Ends(Between):
    """A step sees first weights or trained ones."""

    def place(self, share):
        return round(share)


class Trained(Between):
    """A step sees trained weights."""

    def place(self, share):
        return 1.0


KINDS = {"+ kernel": Kernel, "one tile, four times": OneTile}
KINDS |= {name: CharacteristicFunctions for name in RUNGS if "characteristic" in name}
CALM = {"batch_real": 64, "average": 0.98}
ENDS = {**CALM, "pool": 10, "pool_steps": 2000}  # five networks, first weights and trained ones
AT_ONE = {"ipc": 1, "iterations": 800, "alpha": 10.0, "lr_img": 1.0}
AT_TEN = {"ipc": 10, "iterations": 600, "amp": True, **MANY, "alpha": 1.0, "lr_img": 5.0}
HIGHER = {  # what was tried to get further than the rungs: a kind, and changes to AT_TEN
    "as chosen": (SixteenBits, {}),
    "64 real images": (SixteenBits, {"batch_real": 64}),
    "average": (SixteenBits, CALM),
    "herded start": (HerdedStart, CALM),
    "larger step, average": (SixteenBits, {**CALM, "lr_img": 15.0}),
    "between first and trained": (Between, ENDS),
    "first or trained": (Ends, ENDS),
    "trained alone": (Trained, ENDS),
    "first or trained for less": (Ends, {**ENDS, "pool_steps": 600}),
    "random, with entropy": (Untrained, {**CALM, "pool": 2, "pool_steps": 1}),
    "between, without entropy": (Between, {**ENDS, "alpha": 0.0}),
    "random, without entropy": (SixteenBits, {**CALM, "pool": 0, "alpha": 0.0}),
    "DM, as calm": (SixteenBits, {**CALM, "factor": 1, "pool": 0, "alpha": 0.0}),
    "photographs, with entropy": (Between, {**ENDS, "factor": 1}),
    "between, at one": (Between, {**ENDS, **AT_ONE}),
    "between, at one, less entropy": (Between, {**ENDS, **AT_ONE, "alpha": 1.0}),
    "first or trained, at one": (Ends, {**ENDS, **AT_ONE}),
    "for a while, at one": (SixteenBits, {**CALM, **AT_ONE}),
    "between, at one, larger step": (Between, {**ENDS, **AT_ONE, "lr_img": 3.0}),
    "between, at one, smaller step": (Between, {**ENDS, **AT_ONE, "lr_img": 0.3}),
    "between, at one, more entropy": (Between, {**ENDS, **AT_ONE, "lr_img": 0.3, "alpha": 30.0}),
    "between, at one, longer": (Between, {**ENDS, **AT_ONE, "lr_img": 0.3, "iterations": 3200}),
}
CHOSEN = ("between first and trained", "between, at one, longer")  # of these, on the images held out
ONE_BY_ONE = (
    "DM, as calm",
    "photographs, with entropy",
    "random, without entropy",
    "random, with entropy",
    "between, without entropy",
    "between first and trained",
)


def run_file(folder, name, ipc, seed, times=1):
    many = ("" if ipc == 1 else f"-{ipc}") + ("" if times == 1 else f"-x{times}")
    return folder / f"beyond-{name.replace('+', '').replace(' ', '')}{many}-{seed}.pt"


def make(real, name, ipc, seed, folder, times=1):
    """The steps of a run, before the first."""
    if name in HIGHER:
        kind, changes = HIGHER[name]
        kind = type(kind.__name__, (kind,), {"seed": seed, "folder": folder})
        return start(kind, IDMConfig, real, IDMConfig(**{**COMMON, **AT_TEN, **changes}), seeded(seed))
    fields = {**COMMON, "amp": ipc in (7, 50), **RUNGS[name], "ipc": ipc, "iterations": times * ITERATIONS[ipc][name]}
    fields["lr_img"] *= ipc
    return start(KINDS.get(name, IDMSteps), IDMConfig, real, IDMConfig(**fields), seeded(seed))


def condense(real, name, ipc, seed, folder, times):
    """Make one set of RUNGS."""
    run_to_the_end(make(real, name, ipc, seed, folder, times), run_file(folder, name, ipc, seed, times), name, seed)


def run_to_the_end(steps, path, name, seed):
    """Go on from the state in ``path``, which is saved once a minute, the seconds beside it; they are returned."""
    run = {"state": steps.state_dict(), "losses": [], "seconds": 0.0}
    if path.exists():
        run = files.read(path, keys=run)
        steps.load_state_dict(run["state"])
    begin = time.process_time() - run["seconds"]

    def save():
        run["seconds"] = time.process_time() - begin
        files.write({**run, "state": steps.state_dict()}, path)
        print(f"{name}, seed {seed}: {steps.iteration} of {len(steps)}, {run['seconds']:.0f} s", flush=True)

    if steps.config.pool and not run["losses"]:
        pool = trained_pool(steps, seed, path.parent)
        steps.pool, begin = pool["pool"], time.process_time() - pool["seconds"]  # whoever trained it
        save()
    for step in saved(steps, save):
        run["losses"].append(float(step.loss))
    return run["seconds"]


def trained_pool(steps, seed, folder):
    """The pool of all runs of this kind, size and seed, which is the same, and the seconds that it took."""
    kind = getattr(steps, "of_pool", "")
    path = folder / f"pool-{steps.config.pool}-{steps.config.pool_steps}{kind}-{seed}.pt"
    if not path.exists():
        begin = time.process_time()
        files.write({"pool": steps.pool, "seconds": time.process_time() - begin}, path)
    return files.read(path, keys=("pool", "seconds"))


def found(real, name, ipc, seed, folder, times=1):
    """A set, or what it is held against, and what its making took; None as long as it is not finished."""
    if name == "Random":
        return random_subset(real, ipc, generator=seeded(seed)), {}
    if name == "Random tiles":
        return random_tiles(real, ipc, generator=seeded(seed)), {}
    if name == "One, blurred":
        one = random_subset(real, ipc, generator=seeded(seed))
        return replace(one, images=blurred(one.images)), {}
    if name == "Four, whole":
        return random_subset(real, 4 * ipc, generator=seeded(seed)), {}
    if name == "Herded tiles":
        return herded_tiles(real, ipc, seed, folder)
    if name in ("Surest tiles", "Least sure tiles"):
        return surest_tiles(real, ipc, seed, trained_teacher(real, folder), largest=name == "Surest tiles"), {}
    path = run_file(folder, name, ipc, seed, times)
    if not path.exists():
        return None
    run = files.read(path, keys=("state", "seconds"))
    steps = make(real, name, ipc, seed, folder, times)
    steps.load_state_dict(run["state"])
    if steps.iteration < len(steps):
        return None
    return steps.synthetic, {"iterations": len(steps), "seconds": round(run["seconds"])}


def blurred(images):
    """Images as a network sees them after they were stored as tiles."""
    return F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")


def herded_tiles(real, ipc, seed, folder):
    """Tiles chosen by herding in the embeddings of two random networks, from a random half of the real images."""
    path, most = folder / f"herded-{seed}.pt", 4 * max(ITERATIONS)
    half = real.split(0.5, generator=seeded(seed))[0]
    if not path.exists():
        draws = seeded(seed)
        looks = [ConvNet(channels=3, image_size=32, width=128, generator=draws).embed for _ in range(2)]
        begin = time.process_time()
        views = (embedded(half.images[rows], partial(seen_by, looks)) for rows in half.rows_of_class)
        chosen = [rows[herding_order(x, most)] for rows, x in zip(half.rows_of_class, views, strict=True)]
        files.write({"chosen": torch.stack(chosen), "seconds": round(time.process_time() - begin)}, path)
    run = files.read(path, keys=("chosen", "seconds"))
    return as_tiles(half.select(run["chosen"][:, : 4 * ipc].flatten())), {"seconds": run["seconds"]}


def seen_by(looks, images):
    """What several networks see of images that were stored as tiles, (n, d')."""
    seen = blurred(images)
    return torch.cat([look(seen) for look in looks], dim=1)


@torch.no_grad()
def surest_tiles(real, ipc, seed, teacher, *, largest):
    """Of some random images of each class those whose class a teacher is surest (or least sure) of, as tiles."""
    some = random_subset(real, CANDIDATES, generator=seeded(seed))
    answers = torch.cat([teacher(blurred(block)).log_softmax(1) for block in some.images.split(100)])
    sure = answers.gather(1, some.labels[:, None])[:, 0].view(len(some.classes), CANDIDATES)
    best = sure.topk(4 * ipc, largest=largest).indices + CANDIDATES * torch.arange(len(some.classes))[:, None]
    return as_tiles(some.select(best.flatten()))


def test(table, real, images, name, ipc, seed, folder, times):
    """Score a set, or what it is held against, on the test images."""
    made = found(real, name, ipc, seed, folder, times)
    if made is None:
        return
    synthetic, spent = made
    if seed == 0 and ipc == times == 1 and name == "+ decoding":
        keep(synthetic, "cifar10", name)
    key = {"experiment": "test" if times == 1 else "longer", "rung": name, "ipc": ipc, "seed": seed}
    # A new set tells more than a second network.
    table.judge(key, synthetic, images, networks=1, recipe=JUDGES[ipc], judge=str(JUDGES[ipc]), **spent)


def sizes(table, real, images, name, ipc, seed, folder):
    """Score a set of ten or fifty images per class by SHORT, the judge of one image per class."""
    key = {"experiment": "sizes", "rung": name, "ipc": ipc, "seed": seed}
    made = None if table.find(**key) else found(real, name, ipc, seed, folder)
    if made:
        table.judge(key, made[0], images, networks=1, recipe=SHORT, judge=str(SHORT), **made[1])


def soft(table, real, images, name, ipc, seed, folder):
    """Score a set by SHORT on the labels of the teacher, which is scored itself."""
    key = {"experiment": "soft", "rung": name, "ipc": ipc, "seed": seed}
    made = None if table.find(**key) else found(real, name, ipc, seed, folder)
    if made:
        teacher = scored_teacher(table, real, images, folder, experiment="soft")
        table.judge(key, made[0], images, networks=1, recipe=SHORT, judge=str(SHORT), teacher=teacher, **made[1])


def own_class(table, real, name, ipc, seed, folder):
    """What probability the teacher gives the class of an image as a network sees it, mean over a set."""
    key = {"experiment": "own class", "rung": name, "ipc": ipc, "seed": seed}
    made = None if table.find(**key) else found(real, name, ipc, seed, folder)
    if made:
        seen = decode(made[0])
        probabilities = soft_labels(trained_teacher(real, folder), seen).gather(1, seen.labels[:, None])
        table.add({**key, "probability": round(float(probabilities.mean()), 4)})


class Partly(torch.nn.Module):
    """A teacher of which images hear a part: of "own" their class alone, the rest even, of "mean" the class mean.

    Of "exchanged" each image hears what is said of the next one of its class.
    """

    def __init__(self, teacher, labels, part):
        super().__init__()
        self.teacher, self.labels, self.part = teacher, labels, part

    def forward(self, images):  # all at once
        given = self.teacher(images).softmax(1)
        if self.part == "mean":
            of_class = F.one_hot(self.labels, given.shape[1]).to(given)
            given = of_class @ (of_class.T @ given / of_class.sum(0)[:, None])
        elif self.part == "exchanged":
            rows = self.labels.argsort(stable=True).unflatten(0, (given.shape[1], -1))  # as many of each class
            given = given.index_put((rows,), given[rows.roll(1, 1)])
        else:
            own = given.gather(1, self.labels[:, None])
            given = ((1 - own) / (given.shape[1] - 1)).expand_as(given).scatter(1, self.labels[:, None], own)
        return given.log()


def partly(table, real, images, name, ipc, seed, folder):
    """Score a set by SHORT on a part of the teacher's labels: does it rise or fall by that part?"""
    for part in ("own", "mean", "exchanged"):
        key = {"experiment": "partly", "part": part, "rung": name, "ipc": ipc, "seed": seed}
        made = None if table.find(**key) else found(real, name, ipc, seed, folder)
        if made and (part == "own" or decode(made[0]).labels.shape != made[0].labels.shape):
            teacher = Partly(trained_teacher(real, folder), decode(made[0]).labels, part)
            table.judge(key, made[0], images, networks=1, recipe=SHORT, judge=str(SHORT), teacher=teacher)


def spread_of(real):
    """Mean squared distance of the images of each class from their mean: (k, n, d') → (k,)."""
    return (real - real.mean(1, keepdim=True)).square().sum(2).mean(1)


def means(table, real, names, ipc, seeds, folder):
    """How near the class means of sets are to those of 400 real images, in the eyes of networks new to all of them.

    Squared distance over the spread of the real images, mean over classes: 1 / R for R random images. A number for each
    of five networks; and of how many classes the mean lies nearest to its own real one.
    """
    sets = {}
    for name, seed in itertools.product(names, seeds):
        made = found(real, name, ipc, seed, folder)
        if made and table.find(experiment="means", rung=name, ipc=ipc, seed=seed) is None:
            sets[name, seed] = decode(made[0]).images, [], []
    some = random_subset(real, 400, generator=seeded(1000))
    for number in range(1000, 1005):
        network = ConvNet(channels=3, image_size=32, width=128, generator=seeded(number)).requires_grad_(False)
        views = embedded(some.images, network.embed).unflatten(0, (len(real.classes), -1))
        for images, offsets, own in sets.values():
            ours = network.embed(images).unflatten(0, (len(real.classes), -1))
            nearest = torch.cdist(ours.mean(1), views.mean(1)).argmin(1)
            own.append(int((nearest == torch.arange(len(nearest))).sum()))
            offsets.append(round(float((mean_distance(views, ours) / spread_of(views)).mean()), 4))
    for (name, seed), (_, offsets, own) in sets.items():
        table.add({"experiment": "means", "rung": name, "ipc": ipc, "seed": seed, "offset": offsets, "own": own})
        print(f"{name}, seed {seed}: {offsets}, {own}", flush=True)


def choose(table, real, validation, name, ipc, seed, folder):
    """Score a set on the images held out, by the judge of one image per class."""
    key = {"experiment": "validation", "rung": name, "ipc": ipc, "seed": seed}
    made = found(real, name, ipc, seed, folder)
    if made is None or table.find(**key):
        return
    accuracies = evaluate(made[0], validation, networks=1, recipe=JUDGES[1], generator=seeded(0))
    table.add({**key, "judge": str(JUDGES[1]), **made[1], "mean": round(accuracies.mean, 4)})
    print(f"{key}: {accuracies}", flush=True)


def higher(table, real, validation, images, name, seed, folder):
    """Make a set of HIGHER and score it on the images held out, the chosen ones on the test images as well."""
    steps = make(real, name, 10, seed, folder)
    ipc = steps.config.ipc
    seconds = run_to_the_end(steps, run_file(folder, name, ipc, seed), name, seed)
    key = {"trial": name, "ipc": ipc, "seed": seed, "iterations": len(steps)}
    row = {"experiment": "higher", **key}
    if table.find(**row) is None:
        judge = replace(JUDGES[1], amp=True)
        accuracies = evaluate(steps.synthetic, validation, networks=1, recipe=judge, generator=seeded(0))
        table.add({**row, "seconds": round(seconds), "mean": round(accuracies.mean, 4)})
        print(f"{row}: {accuracies}", flush=True)
    if name in CHOSEN:
        row, judge = {"experiment": "higher, test", **key}, AS_PUBLISHED if ipc == 10 else JUDGES[1]
        table.judge(row, steps.synthetic, images, networks=1, recipe=judge, seconds=round(seconds))
    if name in ONE_BY_ONE:  # as the rungs were judged
        row, judge = {"experiment": "higher, as rungs", **key}, replace(JUDGES[10], amp=True)
        table.judge(row, steps.synthetic, images, networks=1, recipe=judge)


def judges(table, real, images, ipc, seed, folder, times, words):
    """Score random images, random tiles and those of TOP by each of OTHER_JUDGES."""
    key, with_teacher = {"experiment": "judge", "ipc": ipc}, {}
    for judge, recipe in OTHER_JUDGES[ipc].items():
        for name in ("Random", "Random tiles", *TOP[ipc]):
            row = {**key, "rung": name, "judge": judge, "seed": seed}
            if table.find(**row) or not all(word in f"{name}, {judge}" for word in words):
                continue
            made = found(real, name, ipc, seed, folder, times)
            if made is None:
                continue
            synthetic, spent = made
            if judge == "soft labels" and not with_teacher:
                with_teacher = {"teacher": scored_teacher(table, real, images, folder)}
            soft = with_teacher if judge == "soft labels" else {}
            table.judge(row, synthetic, images, networks=1, recipe=recipe, **spent, **soft)


def trained_teacher(real, folder):
    """The network whose labels are soft, and that says which tiles it is surest of."""
    path = folder / "teacher.pt"
    if not path.exists():
        network = train_network(real, recipe=TEACHER, generator=seeded(100))
        files.write({"parameters": [p.detach() for p in network.parameters()]}, path)
    teacher = TEACHER.network(real.images, len(real.classes), generator=seeded(0)).requires_grad_(False).eval()
    for ours, trained in zip(teacher.parameters(), files.read(path, keys=["parameters"])["parameters"], strict=True):
        ours.copy_(trained)
    return teacher


def scored_teacher(table, real, images, folder, experiment="judge"):
    """The teacher; its own accuracy is a row."""
    teacher = trained_teacher(real, folder)
    if table.find(experiment=experiment, judge="teacher") is None:
        accuracies = Accuracies(correctness(teacher, images)[None, None])
        row = {"experiment": experiment, "ipc": 1, "judge": "teacher", "recipe": str(TEACHER)}
        table.add({**row, "accuracies": results.pack(accuracies)})
    return teacher


def keep(synthetic, data, name):
    """Store a set of seed 0, in 16 bits."""
    meta = {**synthetic.meta, "name": data, "seed": 0}
    replace(synthetic, images=synthetic.images.half(), meta=meta).save(FOLDER / f"{data}_{FILES[name]}_1.pt")


def digits(table):
    """The first rungs on digits, one stored image per class: three sets each, all by the library's defaults."""
    train, images = load("mnist5k")
    judge = {"networks": 2, "recipe": Recipe()}
    key = {"experiment": "digits", "ipc": 1}
    sets = {
        "Random": [random_subset(train, 1, generator=seeded(i)) for i in range(3)],
        "Random tiles": [random_tiles(train, 1, generator=seeded(i)) for i in range(3)],
    }
    for name, fields in DIGITS.items():
        begin = time.process_time()
        sets[name] = [
            idm_steps(train, config=IDMConfig(ipc=1, **fields), generator=seeded(i)).finish() for i in range(3)
        ]
        print(f"{name}: {(time.process_time() - begin) / 3:.0f} s a set", flush=True)
        if name in FILES:
            keep(sets[name][0], "mnist5k", name)
    for name, made in sets.items():
        table.judge({**key, "rung": name}, made, images, **judge)


def gaps(table):
    """Distance of the means of each class, and the spread of the real class, for networks from ten first weights."""
    train, _ = load("mnist5k")
    some = random_subset(train, 100, generator=seeded(0))
    stems = {"DM": "dm", "+ decoding": "decoding", "+ trained networks": "trained"}
    sets = {name: [results.images(f"mnist5k_{stem}_1")] for name, stem in stems.items()}
    sets["Random"] = [random_subset(train, 1, generator=seeded(i)) for i in range(3)]
    for steps in LOOKS:
        key = {"experiment": "gap", "network_steps": steps}
        if table.find(**key):
            continue
        row = {"spread": [], "distance": {name: [] for name in sets}, "gap": {name: [] for name in sets}}
        for seed in range(10):
            network = train_network(train, recipe=Recipe(steps=steps), generator=seeded(seed)).requires_grad_(False)
            real = network.embed(some.images).unflatten(0, (10, -1))  # (classes, 100, d')
            spread = spread_of(real)
            row["spread"].append(round(float(spread.mean()), 3))
            for name, group in sets.items():
                apart = [mean_distance(real, network.embed(decode(s).images).unflatten(0, (10, -1))) for s in group]
                apart = torch.stack(apart).mean(0)  # over the sets; a number for each class
                row["distance"][name].append(round(float(apart.mean()), 3))
                row["gap"][name].append(round(float((apart / spread).mean()), 4))
        table.add({**key, **row})


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path)
    scored = ("choose", "test", "sizes", "soft", "own-class", "partly", "means", "judges", "digits", "gaps", "higher")
    tasks = ("condense", *scored)
    parser.add_argument("task", choices=tasks)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--ipc", type=int, choices=tuple(ITERATIONS), default=1)
    parser.add_argument("--seeds", type=int, nargs="*", default=(0, 1, 2))
    parser.add_argument("--times", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.task != "condense":
        command = "python benchmarks/beyond.py --data PATH.npz --runs FOLDER TASK"
        table = Table("beyond", command=command, recipes={"test": str(JUDGES[1]), "digits": str(Recipe())})
    on_digits = {"digits": digits, "gaps": gaps}.get(asked.task)
    if on_digits:
        on_digits(table)
        return
    if not asked.data or not asked.runs:
        parser.error("--data and --runs are required")
    asked.runs.mkdir(exist_ok=True)
    real, validation, images = split(asked.data)
    if asked.task == "means":
        names = (*BASELINES, *APART, *ITERATIONS[asked.ipc])
        names = [name for name in names if all(word in name for word in asked.words)]
        means(table, real, names, asked.ipc, asked.seeds, asked.runs)
        return
    for seed in asked.seeds:
        if asked.task == "judges":
            judges(table, real, images, asked.ipc, seed, asked.runs, asked.times, asked.words)
            continue
        if asked.task == "higher":
            for name in HIGHER:
                if all(word in name for word in asked.words):
                    higher(table, real, validation, images, name, seed, asked.runs)
            continue
        apart = APART if asked.task in ("test", "soft") and asked.ipc == 1 else ()
        for name in (*BASELINES, *apart, *ITERATIONS[asked.ipc]):
            if not all(word in name for word in asked.words):
                continue
            if asked.task == "choose":
                choose(table, real, validation, name, asked.ipc, seed, asked.runs)
            elif asked.task == "own-class":
                own_class(table, real, name, asked.ipc, seed, asked.runs)
            elif asked.task in ("sizes", "soft", "partly"):
                score = {"sizes": sizes, "soft": soft, "partly": partly}[asked.task]
                score(table, real, images, name, asked.ipc, seed, asked.runs)
            elif asked.task == "test":
                test(table, real, images, name, asked.ipc, seed, asked.runs, asked.times)
            elif name in RUNGS:
                condense(real, name, asked.ipc, seed, asked.runs, asked.times)


if __name__ == "__main__":
    main()
