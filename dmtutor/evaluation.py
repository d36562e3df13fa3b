"""What a small set is worth: train networks from scratch on it, score them on real images, repeat."""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice, product

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from . import threads
from .accuracies import Accuracies
from .augmentation import SiameseAugment, cutmix
from .checks import (
    check_flag,
    check_fraction,
    check_generator,
    check_not_negative,
    check_one_of,
    check_positive,
    check_positive_number,
    fill,
)
from .data import LabeledImages, batches, check_set
from .decoding import decode
from .memory import keep_freed_memory
from .networks import MODELS, check_architecture, default_depth
from .randomness import keyed_generator, root_seed


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained from scratch: SGD on the cross-entropy, one recipe for all sets compared.

    The defaults are quick; :meth:`reference` is the recipe of the papers. A ValueError if a field is out of range.

    Parameters
    ----------
    steps, epochs : int, optional
        Length of the training, in gradient steps or in passes over the set: one of the two. 500 steps if both are
        left out, so that a network costs about the same whatever the size of its set.
    lr, momentum, weight_decay : float
        Of SGD; the step size falls to a tenth half-way.
    batch_size : int
    augment : str, optional
        One random operation per batch, with parameters of its own for every image; the set's own strategy if None.
    cutmix : float
        Probability, in [0, 1], with which a batch gets a rectangle of other images, and their share of its labels.
    model : {"convnet", "lenet", "mlp", "alexnet", "vgg11", "resnet18"}
        The network that is trained: :class:`~dmtutor.ConvNet`, or another of :mod:`dmtutor.networks`, to ask whether a
        set that was made with one network teaches others.
    width : int, optional
        32 for the ConvNet if None, and as published for the others.
    norm : str, optional
        If None, instance norm where the network has a choice.
    depth, activation, pooling
        Of the ConvNet alone.
    amp : bool
        Convolve and multiply in bfloat16, all else in float32: quicker where hardware does so (Intel's AMX, most GPUs).

    Examples
    --------
    >>> Recipe(epochs=10).num_steps(100)  # in batches of 32
    40
    """

    steps: int | None = None
    epochs: int | None = None
    lr: float = 0.003
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 32
    augment: str | None = None
    cutmix: float = 0.0
    model: str = "convnet"
    width: int | None = None
    depth: int = 3
    norm: str | None = None
    activation: str = "relu"
    pooling: str = "avg"
    amp: bool = False

    def __post_init__(self):
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"give steps or epochs, not both; got steps={self.steps} and epochs={self.epochs}")
        for name in ("steps", "epochs", "batch_size"):
            if name == "batch_size" or getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        check_positive_number("lr", self.lr)
        check_fraction("momentum", self.momentum)
        check_not_negative("weight_decay", self.weight_decay)
        if self.augment is not None:
            SiameseAugment(self.augment)
        check_fraction("cutmix", self.cutmix, closed=True)
        check_flag("amp", self.amp)
        check_one_of("model", self.model, MODELS)
        others = {} if self.model == "convnet" else {"depth": 3, "activation": "relu", "pooling": "avg"}
        for name, default in others.items():
            if getattr(self, name) != default:
                raise ValueError(f"{name} must be left out for model={self.model!r}; got {getattr(self, name)!r}")
        network = MODELS[self.model]
        fill(self, width=getattr(network, "width", 32), norm=getattr(network, "norms", ("instance",))[0])

    @classmethod
    def reference(cls, **changes):
        """The published evaluation: ConvNet-3/128, 1,000 epochs of batches of 256, lr 0.01, momentum 0.9.

        As in Zhao & Bilen, *Dataset Condensation with Distribution Matching*, WACV 2023, section 4.1, and its code.
        Another ``model`` has its own width.

        Examples
        --------
        >>> Recipe.reference().epochs
        1000
        """
        length = {} if changes.get("steps") else {"epochs": 1000}
        width = {"width": 128} if changes.get("model", "convnet") == "convnet" else {}
        return cls(**{**length, **width, **dict(lr=0.01, batch_size=256), **changes})

    @classmethod
    def of(cls, images):
        """The quick recipe for images, (n, C, H, W): from 64 pixels on, a block more for each doubling of the side."""
        return cls(depth=default_depth(images.shape[2:]))

    def num_steps(self, n):
        """Gradient steps on a set of n images."""
        if self.epochs is None:
            return self.steps or 500
        return self.epochs * math.ceil(n / self.batch_size)

    def check(self, images):
        """Raise a ValueError if the network can't be built for images of this shape, (n, C, H, W)."""
        if self.model == "convnet":
            check_architecture(images.shape[2:], **self._architecture)
        else:
            self.network(images[:1], 1, generator=torch.Generator())

    def network(self, images, classes, *, generator):
        """A fresh network for images of this shape, (n, C, H, W), on their device and in their dtype."""
        network = MODELS[self.model](channels=images.shape[1], image_size=images.shape[2:], classes=classes,
                                     generator=generator, **self._architecture)
        return network.to(images[:0], memory_format=torch.channels_last)

    @property
    def _architecture(self):
        names = ("width", "norm", "depth", "activation", "pooling")[: 5 if self.model == "convnet" else 2]
        return {name: getattr(self, name) for name in names}


@threads.single_threaded()
def train_network(train, *, recipe=None, generator, teacher=None):
    """Train one network from scratch; on a CPU by one thread, so that the bits do not depend on how many there are.

    It is returned in evaluation mode: ``embed`` gives its features.

    Parameters
    ----------
    train : LabeledImages
        The set, real or synthetic; stored images are decoded, see :func:`~dmtutor.decode`.
    recipe : Recipe, optional
        By the images' size if left out, see :meth:`Recipe.of`.
    generator : torch.Generator, on the CPU
        Draws weights, order and augmentation.
    teacher : torch.nn.Module, optional
        A trained network in evaluation mode: its probabilities for the images, not yet augmented, replace their labels.

    Examples
    --------
    >>> from dmtutor import from_arrays
    >>> data = from_arrays(torch.rand(4, 8, 8), [0, 1, 0, 1])
    >>> net = train_network(data, recipe=Recipe(steps=1, width=4), generator=torch.Generator().manual_seed(0))
    >>> net(data.images).shape
    torch.Size([4, 2])
    """
    recipe = recipe or Recipe.of(train.images)
    check_generator(generator)
    train = decode(train)
    check_teacher(teacher, train)
    augment = SiameseAugment(recipe.augment or train.meta.get("augment", "none"))
    targets = train.labels if teacher is None else soft_labels(teacher, train)
    network = recipe.network(train.images, len(train.classes), generator=generator)
    options = {"lr": recipe.lr, "momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
    optimizer = torch.optim.SGD(network.parameters(), **options)
    steps = recipe.num_steps(len(train))
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [max(1, steps // 2)], gamma=0.1)
    for rows in islice(batches(len(train), recipe.batch_size, generator), steps):
        rows = rows.to(train.labels.device)
        omega = augment.sample(len(rows), generator=generator, same_operation=True)
        images, wanted = augment.apply(train.images[rows], omega), targets[rows]
        if recipe.cutmix and torch.rand((), generator=generator) < recipe.cutmix:
            one_hot = wanted if teacher is not None else F.one_hot(wanted, len(train.classes)).to(images)
            images, wanted = cutmix(images, one_hot, generator=generator)
        with torch.autocast(images.device.type, torch.bfloat16) if recipe.amp else nullcontext():
            loss = F.cross_entropy(network(images), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def correctness(network, test, *, block=100):
    """Which images of a test set a network classifies rightly: Tensor, (n,), bool, on the CPU."""
    return predict(network, test, block=block) == test.labels.cpu()


@threads.single_threaded()
@torch.no_grad()
def predict(network, test, *, block=100):
    """The class that a network sees in each image of a test set: Tensor, (n,), int64, on the CPU."""
    return torch.cat([network(images).argmax(1) for images in test.images.split(block)]).cpu()


@torch.no_grad()
def check_teacher(teacher, data):
    """Raise a TypeError for what is neither None nor a network, a ValueError if it does not fit images and classes."""
    if teacher is None:
        return
    if not isinstance(teacher, torch.nn.Module):
        raise TypeError(f"teacher must be a trained network, a torch.nn.Module; got {teacher!r:.80}")
    image, expected = data.images[:1], (1, len(data.classes))
    try:
        found = tuple(teacher(image).shape)
    except RuntimeError as error:
        raise ValueError(f"teacher must take images of {tuple(image.shape[1:])}, as in the set; {error}") from error
    if found != expected:
        raise ValueError(f"teacher must give a number for each of the {expected[1]} classes; one image gave {found}")


@torch.no_grad()
def soft_labels(network, data, *, block=100):
    """The probabilities that a network gives the classes in each image: Tensor, (n, K), where the images are."""
    return torch.cat([network(images).softmax(1) for images in data.images.split(block)])


def evaluate(sets, test, *, networks=3, recipe=None, generator, teacher=None, progress=False):
    r"""Train ``networks`` networks from scratch on each set and score them on real images: :class:`Accuracies`.

    .. math:: y_{ij} = \mu + a_i + e_{ij}, \qquad i = 1 \dots I \text{ sets}, \; j = 1 \dots J \text{ networks}

    Network j has the same initial weights, order and augmentation for every set, so that sets are compared under
    the same luck. A ValueError, before any work, if the sets and the test images do not fit together.

    Parameters
    ----------
    sets : LabeledImages or sequence of them
        I sets made in the same way with different seeds. Three or more give an interval.
    test : LabeledImages
        Real images, normalised as the sets are (see :meth:`LabeledImages.normalized_like`).
    networks : int
        J, for each set.
    recipe : Recipe, optional
        By the images' size if left out, see :meth:`Recipe.of`.
    generator : torch.Generator
        Gives the root of all draws, once. Use the same seed for methods that are compared.
    teacher : torch.nn.Module, optional
        Labels all sets: see :func:`train_network`.
    progress : bool
        Show a progress bar over the networks.

    Examples
    --------
    >>> from dmtutor import load, random_subset
    >>> train, test = load("mnist5k")
    >>> g = torch.Generator().manual_seed(0)
    >>> sets = [random_subset(train, 1, generator=g) for _ in range(3)]
    >>> result = evaluate(sets, test, networks=1, recipe=Recipe(steps=2, width=8), generator=g)
    >>> result.values.shape
    torch.Size([3, 1])
    """
    sets = [sets] if isinstance(sets, LabeledImages) else list(sets)
    if not sets:
        raise ValueError("sets must hold at least one set of images; got none")
    check_positive("networks", networks)
    check_set(test, "test", whole=True)
    check_teacher(teacher, test)
    recipe = recipe or Recipe.of(test.images)
    for s in sets:
        check_set(s, "sets")
        if (s.images.dtype, s.images.device) != (test.images.dtype, test.images.device):
            raise ValueError(f"test must be of the dtype and on the device of the sets, {s.images.dtype} and "
                             f"{s.images.device}: use test.to(...); got {test.images.dtype} and {test.images.device}")
        if s.images.shape[1:] != test.images.shape[1:] or s.classes != test.classes:
            raise ValueError(f"sets must hold images of {tuple(test.images.shape[1:])} in the {len(test.classes)} "
                             f"classes of test; got {tuple(s.images.shape[1:])} in {len(s.classes)} classes")
        if not torch.allclose(s.mean, test.mean.to(s.mean)) or not torch.allclose(s.std, test.std.to(s.std)):
            raise ValueError("test must be normalised as the sets are: use test.normalized_like(set)")
    recipe.check(test.images)
    if test.images.device.type == "cpu":
        keep_freed_memory()
    root = root_seed(generator)

    def judge(part):
        i, j = part
        draws = keyed_generator(root, "train", j)
        return predict(train_network(sets[i], recipe=recipe, generator=draws, teacher=teacher), test)

    parts = list(product(range(len(sets)), range(networks)))
    with tqdm(total=len(parts), desc="evaluate", unit="network", disable=not progress) as bar:
        judged = threads.parallel_map(judge, parts, test.images.device, done=bar.update)
    predicted, labels = torch.stack(judged).unflatten(0, (len(sets), networks)), test.labels.cpu()
    return Accuracies(predicted == labels, labels=labels, predicted=predicted, classes=test.classes)
