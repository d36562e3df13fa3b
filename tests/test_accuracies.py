"""Means, intervals and differences of accuracies: against closed forms, and by counting how often they hold."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import seeded
from scipy import stats

from dmtutor import Accuracies
from dmtutor.accuracies import t_interval

# The statistics ------------------------------------------------------------------------------------------------------


def accuracies(counts, n=100):
    """Accuracies from how many of n images each network (sets × networks) gets right."""
    return Accuracies(torch.arange(n) < torch.as_tensor(counts)[..., None])


def test_values_and_means():
    result = accuracies([[50, 60], [70, 90]])
    expected = torch.tensor([[0.5, 0.6], [0.7, 0.9]], dtype=torch.float64)
    torch.testing.assert_close(result.values, expected)
    torch.testing.assert_close(result.set_means, expected.mean(1))
    assert result.mean == pytest.approx(0.675)


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_the_interval_is_students(n):
    values = torch.rand(n, generator=seeded(n), dtype=torch.float64)
    expected = stats.t.interval(0.95, n - 1, np.mean(values.numpy()), stats.sem(values.numpy()))
    assert t_interval(values) == pytest.approx(expected, rel=1e-9)


def test_the_interval_in_closed_form():
    """Two values: Student's t with one degree of freedom is Cauchy's, whose quantile is a tangent."""
    low, high = t_interval(torch.tensor([0.4, 0.6], dtype=torch.float64))
    assert high - 0.5 == pytest.approx(math.tan(math.pi * 0.475) * 0.1)
    assert low == pytest.approx(1 - high)


def test_the_interval_is_over_sets_not_over_all_networks():
    counts = [[50, 52, 48], [60, 61, 59], [71, 69, 70], [65, 65, 65]]
    result = accuracies(counts)
    means = np.mean(counts, axis=1) / 100
    expected = stats.t.interval(0.95, 3, means.mean(), stats.sem(means))
    assert result.interval == pytest.approx(expected)
    # the spread of the networks of a set does not enter
    assert accuracies([[30, 50, 70], [40, 60, 80], [70, 50, 90], [45, 65, 85]]).interval == pytest.approx(expected)
    assert "4 sets × 3 networks" in str(result)
    assert str(result).startswith("61.2 % [")
    assert str(accuracies([[50], [60], [71]])).endswith("(3 sets, one network each)")


def test_with_one_set_it_says_that_it_is_over_networks():
    result = accuracies([[50, 60, 70]])
    assert result.interval == pytest.approx(stats.t.interval(0.95, 2, 0.6, stats.sem([0.5, 0.6, 0.7])))
    assert "3 networks of one set only" in str(result)


def test_one_number_has_no_interval():
    result = accuracies([[50]])
    assert all(map(math.isnan, result.interval))
    assert str(result).startswith("50.0 %")
    assert "nan" not in str(result)
    assert "1 networks" not in str(result)


def test_two_numbers_or_equal_ones_bound_nothing():
    assert str(accuracies([[27], [27]])) == "27.0 % (2 sets, one network each)"
    assert str(accuracies([[20, 30], [40, 50]])) == "35.0 % (2 sets × 2 networks)"
    assert str(accuracies([[20, 30]])) == "25.0 % (over 2 networks of one set only)"
    assert str(accuracies([[50], [50], [50]])) == "50.0 % (3 sets, one network each)"
    assert str(accuracies([[50], [50], [51]])).startswith("50.3 % [")


# Class by class ------------------------------------------------------------------------------------------------------

LABELS = torch.tensor([0] * 6 + [1] * 3 + [2])


def seen(*rows):
    """Accuracies of networks of one set, each given by the classes it saw."""
    predicted = torch.tensor(rows)[None]
    return Accuracies(predicted == LABELS, labels=LABELS, predicted=predicted, classes=("cat", "dog", "owl"))


ALL_CATS, RIGHT = [0] * 10, LABELS.tolist()
MIXED = [0, 0, 0, 1, 1, 2, 1, 1, 0, 0]


def test_accuracy_class_by_class_in_closed_form():
    result = seen(ALL_CATS, RIGHT, MIXED)
    expected = [[1, 0, 0], [1, 1, 1], [1 / 2, 2 / 3, 0]]
    torch.testing.assert_close(result.by_class, torch.tensor([expected], dtype=torch.float64))
    assert result.test_counts.tolist() == [6, 3, 1]
    torch.testing.assert_close(result.by_class @ result.test_counts.double() / 10, result.values)


def test_balanced_accuracy_is_the_mean_over_classes_and_all_follows():
    result = seen(ALL_CATS, RIGHT, MIXED)
    balanced = result.balanced
    torch.testing.assert_close(balanced.values, result.by_class.mean(-1))
    assert balanced.mean == pytest.approx((1 / 3 + 1 + 7 / 18) / 3)
    assert balanced.interval == pytest.approx(t_interval(result.by_class.mean(-1)[0]))
    assert result.mean == pytest.approx((0.6 + 1 + 0.5) / 3)
    other = seen(RIGHT, RIGHT, RIGHT).balanced
    assert other.difference(balanced).mean == pytest.approx(1 - balanced.mean)
    assert torch.equal(balanced.by_class, result.by_class)
    with pytest.raises(ValueError, match="balanced as this is"):
        other.difference(result)


def test_classes_alike_are_balanced_already():
    labels = torch.arange(30) % 3
    correct = torch.rand(2, 2, 30, generator=seeded()) < 0.5
    torch.testing.assert_close(Accuracies(correct, labels=labels).balanced.values, Accuracies(correct).values)


def test_the_confusion_in_closed_form():
    confusion = seen(MIXED, RIGHT).confusion
    expected = [[9 / 12, 2 / 12, 1 / 12], [1 / 6, 5 / 6, 0], [1 / 2, 0, 1 / 2]]
    torch.testing.assert_close(confusion, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(confusion.diagonal(), seen(MIXED, RIGHT).by_class.mean((0, 1)))


def test_a_class_without_test_images_counts_in_neither():
    few = LABELS[:9]
    result = Accuracies((torch.tensor(MIXED)[:9] == few)[None, None], labels=few, classes=("cat", "dog", "owl"))
    assert result.by_class[0, 0].isnan().tolist() == [False, False, True]
    assert result.balanced.mean == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_result_that_knows_no_labels_says_so():
    bare = accuracies([[50]])
    for name in ("by_class", "balanced", "test_counts"):
        with pytest.raises(ValueError, match="labels must be known"):
            getattr(bare, name)
    with pytest.raises(ValueError, match="predicted must be known; this result keeps only which answers are right"):
        bare.confusion  # noqa: B018
    told = replace(bare, labels=torch.arange(100) % 2)
    assert told.by_class.tolist() == [[[0.5, 0.5]]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": LABELS[:9]}, "labels must be one for each of 10 images"),
        ({"weights": torch.ones(9)}, "weights must be one for each of 10 images"),
        ({"labels": LABELS + 1}, "labels must lie in 0 … 2; got 3"),
        ({"predicted": torch.zeros(1, 1, 10, dtype=torch.int64)}, "predicted must be what labels are where correct"),
        ({"labels": None}, "predicted must be .*, and need labels"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(seen(RIGHT), **changes)


# Differences ---------------------------------------------------------------------------------------------------------


def test_coverage_of_nested_luck():
    """y_ij = μ + a_i + e_ij: the interval over set means holds μ in 95 % of cases, one over all networks does not."""
    generator = np.random.default_rng(0)
    runs, sets, networks = 2000, 5, 20
    y = generator.normal(0, 0.6, (runs, sets, 1)) + generator.normal(0, 0.4, (runs, sets, networks))

    def coverage(values):
        intervals = [t_interval(torch.from_numpy(v)) for v in values]
        return np.mean([low < 0 < high for low, high in intervals])

    assert coverage(y.mean(2)) == pytest.approx(0.95, abs=0.015)
    assert coverage(y.reshape(runs, -1)) < 0.5


def test_the_difference_is_paired():
    one, other = accuracies([[60, 62], [70, 72], [80, 82]]), accuracies([[50, 52], [61, 63], [69, 71]])
    difference = one.difference(other)
    per_set = np.array([0.10, 0.09, 0.11])
    assert difference.mean == pytest.approx(per_set.mean())
    assert (difference.low, difference.high) == pytest.approx(stats.t.interval(0.95, 2, 0.1, stats.sem(per_set)))
    assert difference.low > 0
    assert one.interval[0] < other.interval[1]  # unpaired, the two could not be told apart
    reverse = other.difference(one)
    assert reverse[:3] == pytest.approx((-difference.mean, -difference.high, -difference.low))
    assert str(difference) == f"+10.0 points [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def test_the_difference_of_two_single_sets_is_paired_over_networks():
    difference = accuracies([[60, 72, 80]]).difference(accuracies([[50, 61, 71]]))
    per_network = np.array([0.10, 0.11, 0.09])
    expected = stats.t.interval(0.95, 2, per_network.mean(), stats.sem(per_network))
    assert (difference.low, difference.high) == pytest.approx(expected)


def test_sets_that_have_nothing_in_common_are_compared_as_welch_does():
    one, other = accuracies([[60, 62], [70, 72], [83, 82]]), accuracies([[50, 52], [61, 63], [69, 71], [55, 58]])
    difference = one.difference(other, paired=False)
    welch = stats.ttest_ind(one.set_means, other.set_means, equal_var=False).confidence_interval()
    assert difference.mean == pytest.approx(one.mean - other.mean)
    assert (difference.low, difference.high) == pytest.approx((welch.low, welch.high))
    shuffled = Accuracies(other.correct[[2, 0, 3, 1]])
    again = one.difference(shuffled, paired=False)
    assert (*again[:3], *again.overall) == pytest.approx((*difference[:3], *difference.overall))
    assert one.difference(one, paired=False).low < 0 == one.difference(one).low
    same = accuracies([[60], [60]])
    assert same.difference(accuracies([[50], [50]]), paired=False)[:3] == pytest.approx((0.1, 0.1, 0.1))


def test_only_like_can_be_compared():
    with pytest.raises(ValueError, match=r"paired must be False for other numbers of sets; got 1 and 2"):
        accuracies([[50, 60]]).difference(accuracies([[50, 60], [70, 80]]))
    with pytest.raises(ValueError, match=r"paired must be True for fewer than two sets on one side; got 1 and 2"):
        accuracies([[50, 60]]).difference(accuracies([[50, 60], [70, 80]]), paired=False)
    with pytest.raises(ValueError, match=r"other must be about the same images, 100; got 50"):
        accuracies([[50, 60]]).difference(Accuracies(accuracies([[50, 60]]).correct[..., :50]))


def test_sets_are_compared_on_the_networks_that_both_have():
    one, other = accuracies([[60, 62, 90], [70, 72, 20]]), accuracies([[50, 55], [61, 63]])
    first_two = Accuracies(one.correct[:, :2])
    for paired in (True, False):
        assert one.difference(other, paired=paired) == first_two.difference(other, paired=paired)
        assert other.difference(one, paired=paired) == other.difference(first_two, paired=paired)


def test_the_overall_interval_is_that_of_a_crossed_design():
    """Written out from the mean squares of sets × images, with Satterthwaite's degrees of freedom."""
    chance = torch.linspace(0.1, 0.9, 50)
    one, other = (Accuracies(torch.rand(4, 1, 50, generator=seeded(k)) < p) for k, p in enumerate((chance, 0.5)))
    d = (one.correct.double() - other.correct.double())[:, 0]  # (I, n)
    sets, n = d.shape
    squares_of_sets = n * d.mean(1).var()
    squares_of_images = sets * d.mean(0).var()
    squares_of_rest = (d - d.mean(1, keepdim=True) - d.mean(0) + d.mean()).square().sum() / ((sets - 1) * (n - 1))
    parts = [(squares_of_sets, sets - 1), (squares_of_images, n - 1), (-squares_of_rest, (sets - 1) * (n - 1))]
    variance = sum(square for square, _ in parts) / (sets * n)
    freedom = (variance * sets * n) ** 2 / sum(square**2 / nu for square, nu in parts)
    found, half = one.difference(other), float(stats.t.ppf(0.975, freedom) * variance**0.5)
    assert squares_of_images > squares_of_rest  # nothing was cut off at zero
    assert found.overall == pytest.approx((found.mean - half, found.mean + half))


@pytest.mark.parametrize("paired", [True, False])
def test_the_overall_interval_holds_for_new_sets_and_new_images(paired):
    """Of 300 studies with luck of sets, of images and of both, 95 % hold the truth; the naive sum is too wide."""
    g, hits, naive = seeded(3), 0, 0
    for _ in range(300):
        luck = torch.randn(2, 4, 1, generator=g) * 0.15
        if paired:  # what the sets of one seed share
            luck += torch.randn(1, 4, 1, generator=g) * 0.3
        image = torch.randn(2, 1, 60, generator=g) * 0.5
        score = luck + image + torch.randn(2, 4, 60, generator=g)
        one, other = (Accuracies((s > 0)[:, None]) for s in score)
        found = one.difference(other, paired=paired)
        hits += found.overall[0] <= 0 <= found.overall[1]
        per_image = (one.marks - other.marks).mean((0, 1))
        half = (((found.high - found.low) / 2) ** 2 + (1.96 * per_image.std() / 60**0.5) ** 2) ** 0.5
        naive += abs(found.mean) <= half
    assert 0.92 <= hits / 300 <= 0.985
    assert naive > hits


def test_with_nothing_but_luck_of_sets_the_overall_interval_is_that_over_sets():
    one, other = accuracies([[60], [70], [83]]), accuracies([[50], [61], [69]])
    same = torch.ones(3, 1, 40, dtype=torch.bool) & torch.tensor([True, False, True]).view(3, 1, 1)
    found = Accuracies(same).difference(Accuracies(~same))
    assert found.overall == pytest.approx((found.low, found.high))  # every image says the same
    assert one.difference(one).overall == (0, 0)
    assert all(map(math.isnan, accuracies([[50]]).difference(accuracies([[40]])).overall))
    found = one.difference(other)
    assert found.overall[0] < found.mean < found.overall[1]


def test_a_difference_is_written_in_points():
    found = accuracies([[60], [70], [83]]).difference(accuracies([[50], [60], [73]]))
    assert f"{found:.1f}" == "+10.0 [+10.0, +10.0]"
    assert f"{found:.2f}" == "+10.00 [+10.00, +10.00]"
    assert str(found) == "+10.0 points [+10.0, +10.0]"
