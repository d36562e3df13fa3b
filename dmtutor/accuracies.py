"""Which answers of which networks were right: means, their intervals, and the differences between two methods."""

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F


class Difference(NamedTuple):
    """How much better one method is than another, as a fraction of the test images.

    ``low`` and ``high`` bound the 95 % interval over sets, for these test images; ``overall`` bounds an approximate one
    over sets and test images together. ``f"{difference:.2f}"`` has two digits, in percentage points.
    """

    mean: float
    low: float
    high: float
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
    r"""The result of :func:`~dmtutor.evaluate`: sets × networks × test images.

    The sets are the sample: networks trained on one set share its luck. So the 95 % interval of the mean is

    .. math:: \bar y \pm t_{I-1,\,0.975} \, \frac{s}{\sqrt I}, \qquad
        s^2 = \frac{1}{I-1} \sum_i (\bar y_i - \bar y)^2

    over the means of the I sets. With one set it is over its networks and says so: it then tells nothing about other
    sets of the same method. A ValueError if the parts do not fit together.

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

    def select(self, sets):
        """The answers on some of the sets, by their numbers."""
        predicted = None if self.predicted is None else self.predicted[sets]
        return replace(self, correct=self.correct[sets], predicted=predicted)

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

        A ValueError if the result does not know the labels; ``replace(result, labels=test.labels)`` tells it.
        """
        counts = self.test_counts
        return self.correct.double() @ F.one_hot(self.labels, len(counts)).double() / counts

    @property
    def balanced(self):
        r"""The same answers, weighted so that every class counts alike: `Accuracies` whose values are balanced.

        .. math:: \frac1K \sum_c \frac{1}{n_c} \sum_{t:\, y_t = c} [\hat y_t = y_t]

        over the K classes that have test images: mean, interval and difference follow. Image t has the weight
        :math:`n / (K n_c)`, so an interval over test images takes their classes as they were drawn. Needs the labels,
        as :attr:`by_class`.

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

        Row c is of the images of class c, mean over sets and networks; it sums to 1, or is NaN without test images. A
        ValueError if the result does not know the predictions: a stored one does not.
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
        r"""Self minus other, on the networks that both have and the same test images: a `Difference`.

        The interval is Student's over the differences set by set, or for independent sets Welch's:

        .. math:: \bar a - \bar b \pm t_{\nu,\,0.975} \sqrt{v_a + v_b}, \qquad
            \nu = \frac{(v_a + v_b)^2}{v_a^2 / (I_a - 1) + v_b^2 / (I_b - 1)},

        where :math:`v_a, v_b` are the variances of the set means over their numbers :math:`I_a, I_b`. It is for these
        test images. The interval ``overall`` is for new sets and new test images. With :math:`D_{it} = \delta + A_i +
        B_t + C_{it}` for set i and image t, the variance of the mean difference is

        .. math:: \frac{\sigma_A^2}{I} + \frac{\sigma_B^2}{n} + \frac{\sigma_C^2}{I n}
            = v_{\text{sets}} + v_{\text{images}} - v_C :

        both variances, over sets and over images, hold the last part, which counts once. The freedom is
        Satterthwaite's, as in Welch's formula, so the interval is approximate, and with few sets it can be narrower
        than the one over sets. With one set its networks stand for the sets. A ValueError if the shapes forbid it.

        Parameters
        ----------
        other : Accuracies
            From an evaluation with the same generator seed: network j of one is network j of the other.
        paired : bool
            Whether set i of one belongs to set i of the other, say because both grew from the same real images. If
            not, the two may have different numbers of sets, at least two each.

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
        mean = float(per_image.mean())
        sides = (a - b,) if paired else (a, b)
        over_sets = student_interval(mean, [variance_of_mean(x.mean(1)) for x in sides])
        return Difference(mean, *over_sets, overall_interval(per_image, sides))

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


def t_interval(values):
    """Student's 95 % interval of the mean of independent values, (n,): (low, high), NaN for n = 1."""
    return student_interval(float(values.double().mean()), [variance_of_mean(values)])


def variance_of_mean(values):
    """The variance of the mean of values, (n,), NaN for one of them, and its degrees of freedom."""
    n = len(values)
    return float(values.double().var()) / n if n > 1 else math.nan, n - 1


def student_interval(middle, parts):
    """Student's 95 % interval about ``middle`` with Satterthwaite's degrees of freedom: (low, high).

    ``parts`` are the variances that add up to that of ``middle``, those to subtract with a minus, each with its
    degrees of freedom; NaN where one has none.
    """
    if min(freedom for _, freedom in parts) < 1:
        return math.nan, math.nan
    variance = sum(v for v, _ in parts)
    if variance == 0:
        return middle, middle
    from scipy.special import stdtrit  # Student's quantile, a tenth of a second to import (scipy.stats: half a one)

    freedom = variance**2 / sum(v**2 / nu for v, nu in parts)
    half = float(stdtrit(freedom, 0.975)) * variance**0.5
    return middle - half, middle + half


def overall_interval(per_image, sides):
    """The interval of a mean difference over sets and images together: (low, high), see `Accuracies.difference`.

    ``per_image``, (n,), is the mean difference at each image; ``sides`` hold what varies from set to set, each
    (sets, n): the paired differences, or the two methods' values.
    """
    n = len(per_image)
    middle = float(per_image.mean())
    if min(map(len, sides)) < 2 or n < 2:
        return math.nan, math.nan
    of_sets, of_images = [], [variance_of_mean(per_image)]
    for x in sides:
        rest = x - x.mean(1, keepdim=True) - x.mean(0) + x.mean()
        freedom = (len(x) - 1) * (n - 1)
        of_sets.append(variance_of_mean(x.mean(1)))
        of_images.append((-float(rest.square().sum()) / freedom / x.numel(), freedom))
    seen = sum(v for v, _ in of_images) > 0  # else the images bring nothing that can be seen
    return student_interval(middle, [*of_sets, *of_images] if seen else of_sets)
