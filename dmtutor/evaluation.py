"""What a small set is worth: train networks from scratch on it, score them on real images, repeat."""

import math
from dataclasses import dataclass, field, replace
from itertools import islice, product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.special import stdtrit  # the quantile of Student's t; scipy.stats takes half a second to import
from tqdm.auto import tqdm

from . import threads
from .augmentation import SiameseAugment, cutmix
from .checks import (
    check_fraction,
    check_generator,
    check_number,
    check_one_of,
    check_positive,
    check_step_size,
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

    The defaults are quick. :meth:`reference` is the recipe of the condensation papers.

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

    Raises
    ------
    ValueError
        If a field is out of range.
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

    def __post_init__(self):
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"give steps or epochs, not both; got steps={self.steps} and epochs={self.epochs}")
        for name in ("steps", "epochs", "batch_size"):
            if name == "batch_size" or getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        check_step_size("lr", self.lr)
        check_fraction("momentum", self.momentum)
        check_number("weight_decay", self.weight_decay)
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay must not be negative; got {self.weight_decay!r}")
        if self.augment is not None:
            SiameseAugment(self.augment)
        check_number("cutmix", self.cutmix)
        if not 0 <= self.cutmix <= 1:
            raise ValueError(f"cutmix must be in [0, 1]; got {self.cutmix!r}")
        check_one_of("model", self.model, tuple(MODELS))
        others = {} if self.model == "convnet" else {"depth": 3, "activation": "relu", "pooling": "avg"}
        for name, default in others.items():
            if getattr(self, name) != default:
                raise ValueError(f"{name} must be left out for model={self.model!r}; got {getattr(self, name)!r}")
        network = MODELS[self.model]
        defaults = {"width": getattr(network, "width", 32), "norm": getattr(network, "norms", ("instance",))[0]}
        fill(self, **defaults)

    @classmethod
    def reference(cls, **changes):
        """The published evaluation: ConvNet-3/128, 1,000 epochs of batches of 256, lr 0.01, momentum 0.9.

        Another ``model`` has its own width.

        References
        ----------
        Zhao & Bilen, *Dataset Condensation with Distribution Matching*, WACV 2023, section 4.1, and its code.

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
            names = ("width", "depth", "norm", "activation", "pooling")
            check_architecture(images.shape[2:], **{name: getattr(self, name) for name in names})
        else:
            self.network(images[:1], 1, generator=torch.Generator())

    def network(self, images, classes, *, generator):
        """A fresh network for images of this shape, (n, C, H, W), on their device and in their dtype."""
        options = {"width": self.width, "norm": self.norm}
        if self.model == "convnet":
            options.update(depth=self.depth, activation=self.activation, pooling=self.pooling)
        return MODELS[self.model](
            channels=images.shape[1], image_size=images.shape[2:], classes=classes, generator=generator, **options
        ).to(images[:0], memory_format=torch.channels_last)


@threads.one()
def train_network(train, *, recipe=None, generator, teacher=None):
    """Train one network from scratch.

    Parameters
    ----------
    train : LabeledImages
        The set, real or synthetic; stored images are decoded, see :func:`~dmtutor.decode`.
    recipe : Recipe, optional
        By the images' size if left out, see :meth:`Recipe.of`.
    generator : torch.Generator
        On the CPU; draws weights, order and augmentation.
    teacher : torch.nn.Module, optional
        A trained network in evaluation mode: its probabilities for the images, before they are augmented, stand in the
        place of their labels.

    Returns
    -------
    torch.nn.Module
        The recipe's network, in evaluation mode: ``embed`` gives its features.

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
    augment = SiameseAugment(recipe.augment or train.meta.get("augment", "none"))
    targets = train.labels if teacher is None else soft_labels(teacher, train)
    network = recipe.network(train.images, len(train.classes), generator=generator)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    steps = recipe.num_steps(len(train))
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [max(1, steps // 2)], gamma=0.1)
    for rows in islice(batches(len(train), recipe.batch_size, generator), steps):
        rows = rows.to(train.labels.device)
        omega = augment.sample(len(rows), generator=generator, same_operation=True)
        images, wanted = augment.apply(train.images[rows], omega), targets[rows]
        if recipe.cutmix and torch.rand((), generator=generator) < recipe.cutmix:
            one_hot = wanted if teacher is not None else F.one_hot(wanted, len(train.classes)).to(images)
            images, wanted = cutmix(images, one_hot, generator=generator)
        loss = F.cross_entropy(network(images), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@threads.one()
@torch.no_grad()
def correctness(network, test, *, block=100):
    """Which images of a test set a network classifies rightly: Tensor, (n,), bool, on the CPU."""
    return predict(network, test, block=block) == test.labels.cpu()


@threads.one()
@torch.no_grad()
def predict(network, test, *, block=100):
    """The class that a network sees in each image of a test set: Tensor, (n,), int64, on the CPU."""
    return torch.cat([network(images).argmax(1) for images in test.images.split(block)]).cpu()


@torch.no_grad()
def soft_labels(network, data, *, block=100):
    """The probabilities that a network gives the classes in each image: Tensor, (n, K), where the images are."""
    return torch.cat([network(images).softmax(1) for images in data.images.split(block)])


def evaluate(sets, test, *, networks=3, recipe=None, generator, teacher=None, progress=False):
    r"""Train ``networks`` networks from scratch on each set and score them on real images.

    .. math:: y_{ij} = \mu + a_i + e_{ij}, \qquad i = 1 \dots I \text{ sets}, \; j = 1 \dots J \text{ networks}

    Network j has the same initial weights, order and augmentation for every set, so that sets are compared under
    the same luck.

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

    Returns
    -------
    Accuracies

    Raises
    ------
    ValueError
        Before any work, if the sets and the test images do not fit together.

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
    check_set(test, "test")
    recipe = recipe or Recipe.of(test.images)
    for s in sets:
        if not isinstance(s, LabeledImages):
            raise TypeError(f"sets must be LabeledImages; got {s!r}")
        if (s.images.dtype, s.images.device) != (test.images.dtype, test.images.device):
            raise ValueError(
                f"test must be of the dtype and on the device of the sets, {s.images.dtype} and {s.images.device}: "
                f"use test.to(...); got {test.images.dtype} and {test.images.device}"
            )
        if s.images.shape[1:] != test.images.shape[1:] or s.classes != test.classes:
            raise ValueError(
                f"sets must hold images of {tuple(test.images.shape[1:])} in the {len(test.classes)} classes of test; "
                f"got {tuple(s.images.shape[1:])} in {len(s.classes)} classes"
            )
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
        judged = threads.each(judge, parts, test.images.device, done=bar.update)
    predicted, labels = torch.stack(judged).unflatten(0, (len(sets), networks)), test.labels.cpu()
    return Accuracies(predicted == labels, labels=labels, predicted=predicted, classes=test.classes)


class Difference(NamedTuple):
    """How much better one method is than another, as a fraction of the test images.

    ``low`` and ``high`` bound the 95 % interval over sets, for these test images; ``image_error`` is the standard
    error over test images, for these sets; ``overall`` bounds an approximate 95 % interval over sets and test images
    together.
    ``f"{difference:.2f}"`` has two digits, in percentage points.
    """

    mean: float
    low: float
    high: float
    image_error: float
    overall: tuple[float, float]

    def __format__(self, spec):
        digits = int(spec.removeprefix(".").removesuffix("f")) if spec else 1
        mean, low, high = (round(100 * x, digits) + 0.0 for x in self[:3])  # + 0.0: no -0.0
        return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"

    def __str__(self):
        mean, interval = format(self).split(" ", 1)
        return f"{mean} points {interval}"


@dataclass(frozen=True, eq=False)
class Accuracies:
    r"""The result of :func:`evaluate`: sets × networks × test images.

    The sets are the sample: networks trained on one set share its luck. So the 95 % interval of the mean is

    .. math:: \bar y \pm t_{I-1,\,0.975} \, \frac{s}{\sqrt I}, \qquad
        s^2 = \frac{1}{I-1} \sum_i (\bar y_i - \bar y)^2

    over the means of the I sets. With one set it is over its networks and says so: it then tells nothing about
    other sets of the same method.

    Parameters
    ----------
    correct : Tensor, (I, J, n), bool
        Whether network j of set i is right about test image t.
    labels : Tensor, (n,), int64, optional
        The classes of the test images; stored results do not keep them.
    predicted : Tensor, (I, J, n), int64, optional
        The classes that the networks saw; stored results do not keep them.
    classes : tuple of str
        The K names.
    weights : Tensor, (n,), optional
        What a test image counts, 1 on average: see :attr:`balanced`.

    Raises
    ------
    ValueError
        If the parts do not fit together.

    Examples
    --------
    >>> correct = torch.zeros(3, 2, 100, dtype=torch.bool)
    >>> correct[0, :, :50] = correct[1, :, :60] = correct[2, :, :70] = True
    >>> print(Accuracies(correct))
    60.0 % [35.2, 84.8] (3 sets × 2 networks)
    >>> by_class = Accuracies(correct, labels=(torch.arange(100) < 50).long()).by_class
    >>> by_class.mean((0, 1))  # of images 50 to 99, and of the first 50
    tensor([0.2000, 1.0000], dtype=torch.float64)
    """

    correct: torch.Tensor
    labels: torch.Tensor | None = field(default=None, repr=False)
    predicted: torch.Tensor | None = field(default=None, repr=False)
    classes: tuple = field(default=(), repr=False)
    weights: torch.Tensor | None = field(default=None, repr=False)

    def __post_init__(self):
        n = self.correct.shape[-1]
        for name in ("labels", "weights"):
            if getattr(self, name) is not None and getattr(self, name).shape != (n,):
                raise ValueError(f"{name} must be one for each of {n} images; got {tuple(getattr(self, name).shape)}")
        if self.labels is not None and self.classes and n and int(self.labels.max()) >= len(self.classes):
            raise ValueError(f"labels must lie in 0 … {len(self.classes) - 1}; got {int(self.labels.max())}")
        right = None if self.labels is None or self.predicted is None else self.predicted == self.labels
        if self.predicted is not None and (right is None or not torch.equal(right, self.correct)):
            raise ValueError("predicted must be what labels are where correct says so, and need labels")

    @property
    def marks(self):
        """What each answer counts, (I, J, n), float64: 1 if it is right, or its weight."""
        return self.correct.double() if self.weights is None else self.correct * self.weights.double()

    @property
    def values(self):
        """Accuracy of every network: Tensor, (I, J), float64, in [0, 1]."""
        return self.marks.mean(-1)

    @property
    def test_counts(self):
        """Test images of each class: Tensor, (K,), int64."""
        self._require("labels")
        return torch.bincount(self.labels, minlength=len(self.classes))

    @property
    def by_class(self):
        """Accuracy of every network on each class: Tensor, (I, J, K), float64; NaN for a class without test images.

        Raises
        ------
        ValueError
            If the result does not know the labels; ``replace(result, labels=test.labels)`` tells it.
        """
        counts = self.test_counts
        return self.correct.double() @ F.one_hot(self.labels, len(counts)).double() / counts

    @property
    def balanced(self):
        r"""The same answers, weighted so that every class counts alike: its values are balanced accuracies.

        .. math:: \frac1K \sum_c \frac{1}{n_c} \sum_{t:\, y_t = c} [\hat y_t = y_t]

        over the K classes that have test images: mean, interval and difference follow. Image t has the weight
        :math:`n / (K n_c)`, so an interval over test images takes their classes as they were drawn.

        Returns
        -------
        Accuracies

        Raises
        ------
        ValueError
            As :attr:`by_class`.

        Examples
        --------
        >>> result = Accuracies(torch.tensor([[[True, True, True, False]]]), labels=torch.tensor([0, 0, 0, 1]))
        >>> result.mean, result.balanced.mean
        (0.75, 0.5)
        """
        counts = self.test_counts
        share = len(self.labels) / (int((counts > 0).sum()) * counts.double())
        return replace(self, weights=share[self.labels])

    @property
    def confusion(self):
        """Of the images of a class, the share that networks take for each class: Tensor, (K, K), float64.

        Row c is of the images of class c, mean over sets and networks; it sums to 1, or is NaN without test images.

        Raises
        ------
        ValueError
            If the result does not know the predictions: a stored one does not.
        """
        self._require("predicted")
        k = max(len(self.test_counts), int(self.predicted.max()) + 1)
        pairs = (self.labels * k + self.predicted).flatten()
        counts = torch.bincount(pairs, minlength=k * k).view(k, k).double()
        return counts / counts.sum(1, keepdim=True)

    def _require(self, name):
        if getattr(self, name) is None:
            raise ValueError(f"{name} must be known; this result keeps only which answers are right")

    @property
    def set_means(self):
        """Mean over the networks of each set: Tensor, (I,)."""
        return self.values.mean(1)

    @property
    def mean(self):
        """Mean over sets and networks: float in [0, 1]."""
        return float(self.values.mean())

    @property
    def interval(self):
        """The 95 % interval: (low, high), NaN where there is but one number."""
        return t_interval(self.set_means if len(self.correct) > 1 else self.values[0])

    def difference(self, other, *, paired=True):
        r"""Self minus other, on the networks that both have and the same test images.

        The interval is Student's over the differences set by set, or for sets that have nothing to do with each other
        Welch's:

        .. math:: \bar a - \bar b \pm t_{\nu,\,0.975} \sqrt{v_a + v_b}, \qquad
            \nu = \frac{(v_a + v_b)^2}{v_a^2 / (I_a - 1) + v_b^2 / (I_b - 1)},

        where :math:`v_a, v_b` are the variances of the set means over their numbers :math:`I_a, I_b`. It is for these
        test images. The interval ``overall`` is for new sets and new test images. With :math:`D_{it} = \delta + A_i +
        B_t + C_{it}` for set i and image t, the variance of the mean difference is

        .. math:: \frac{\sigma_A^2}{I} + \frac{\sigma_B^2}{n} + \frac{\sigma_C^2}{I n}
            = v_{\text{sets}} + v_{\text{images}} - v_C :

        the variances over sets and over images both hold the last part, which counts once. The freedom is
        Satterthwaite's, as in Welch's formula, so the interval is approximate, and with few sets it can be narrower
        than the one over sets. With one set its networks stand for the sets.

        Parameters
        ----------
        other : Accuracies
            From an evaluation with the same generator seed: network j of one is network j of the other.
        paired : bool
            Whether set i of one belongs to set i of the other, say because both grew from the same real images. If
            not, the two may have different numbers of sets, at least two each.

        Returns
        -------
        Difference

        Raises
        ------
        ValueError
            If the shapes do not allow it.

        References
        ----------
        B. L. Welch, *The generalization of "Student's" problem when several different population variances are
        involved*, Biometrika 34, 1947.

        Examples
        --------
        >>> a, b = (torch.arange(100) < torch.tensor(hits).view(3, 1, 1) for hits in ([50, 60, 71], [40, 50, 60]))
        >>> print(Accuracies(a).difference(Accuracies(b)))
        +10.3 points [+8.9, +11.8]
        >>> print(Accuracies(a).difference(Accuracies(b), paired=False))
        +10.3 points [-12.9, +33.6]
        """
        ours, theirs = tuple(self.correct.shape), tuple(other.correct.shape)
        if paired and ours[0] != theirs[0]:
            raise ValueError(f"paired must be False for other numbers of sets; got {ours[0]} and {theirs[0]}")
        if ours[2] != theirs[2]:
            raise ValueError(f"other must be about the same images, {ours[2]}; got {theirs[2]}")
        if (self.weights is None) != (other.weights is None):
            raise ValueError("other must be balanced as this is; got one that is and one that is not")
        if not paired and min(ours[0], theirs[0]) < 2:
            raise ValueError(f"paired must be True for fewer than two sets on one side; got {ours[0]} and {theirs[0]}")
        both = min(ours[1], theirs[1])  # networks
        a, b = (x.marks[:, :both] for x in (self, other))
        a, b = (x.mean(1) if max(ours[0], theirs[0]) > 1 else x[0] for x in (a, b))  # (sets or networks, n)
        per_image = a.mean(0) - b.mean(0)
        sides = (a - b,) if paired else (a, b)
        ends = t_interval(*(x.mean(1) for x in sides)) if paired else welch_interval(*(x.mean(1) for x in sides))
        return Difference(
            float(per_image.mean()), *ends, float(per_image.std() / ours[2] ** 0.5), overall_interval(per_image, sides)
        )

    def __str__(self):
        low, high = self.interval
        sets, networks = self.values.shape
        if sets == networks == 1:
            return f"{100 * self.mean:.1f} % (one network of one set)"
        if sets == 1:
            over = f"over {networks} networks of one set only"
        else:
            over = f"{sets} sets, one network each" if networks == 1 else f"{sets} sets × {networks} networks"
        if not low < high or (sets if sets > 1 else networks) < 3:  # two numbers, or equal ones, bound nothing
            return f"{100 * self.mean:.1f} % ({over})"
        return f"{100 * self.mean:.1f} % [{100 * low:.1f}, {100 * high:.1f}] ({over})"


def t_interval(values, level=0.95):
    """Student's t interval of the mean of independent values, (n,): (low, high), NaN for n = 1."""
    n = len(values)
    if n < 2:
        return float("nan"), float("nan")
    half = float(stdtrit(n - 1, (1 + level) / 2) * values.double().std() / n**0.5)
    return float(values.double().mean()) - half, float(values.double().mean()) + half


def welch_interval(a, b, level=0.95):
    """Welch's interval of the difference of two means, of independent values (n,) and (m,): (low, high)."""
    v_a, v_b = (float(x.double().var()) / len(x) for x in (a, b))
    middle = float(a.double().mean() - b.double().mean())
    if v_a + v_b == 0:
        return middle, middle
    freedom = (v_a + v_b) ** 2 / (v_a**2 / (len(a) - 1) + v_b**2 / (len(b) - 1))
    half = float(stdtrit(freedom, (1 + level) / 2)) * (v_a + v_b) ** 0.5
    return middle - half, middle + half


def overall_interval(per_image, sides, level=0.95):
    """The interval of a mean difference over sets and images together: (low, high), see `Accuracies.difference`.

    ``per_image``, (n,), is the mean difference at each image; ``sides`` hold what varies from set to set, each
    (sets, n): the paired differences, or the two methods' values.
    """
    n = len(per_image)
    middle = float(per_image.mean())
    if min(map(len, sides)) < 2 or n < 2:
        return float("nan"), float("nan")
    of_images = float(per_image.var()) / n
    of_sets, of_rest = [], []
    for x in sides:
        rest = x - x.mean(1, keepdim=True) - x.mean(0) + x.mean()
        of_sets.append((float(x.mean(1).var()) / len(x), len(x) - 1))
        freedom = (len(x) - 1) * (n - 1)
        of_rest.append((float(rest.square().sum()) / freedom / x.numel(), freedom))
    parts, more = of_sets, of_images - sum(v for v, _ in of_rest)
    variance = sum(v for v, _ in of_sets)
    if more > 0:  # else the images bring nothing that can be seen
        variance, parts = variance + more, [*of_sets, (of_images, n - 1), *of_rest]
    if variance == 0:
        return middle, middle
    freedom = variance**2 / sum(v**2 / nu for v, nu in parts)
    half = float(stdtrit(freedom, (1 + level) / 2)) * variance**0.5
    return middle - half, middle + half
