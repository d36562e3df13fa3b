import dataclasses
import math
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from runs import seeded
from scipy import stats
from torch import nn

import dmtutor.evaluation as evaluation
from dmtutor import Accuracies, Recipe, evaluate, from_arrays, train_network
from dmtutor.evaluation import t_interval

TINY = Recipe(epochs=3, width=4, depth=2, augment="none")


def toy(n=20, classes=2, seed=0, like=None):
    """Class c is bright in its own rows: easy to learn."""
    labels = torch.arange(n) % classes
    pixels = 0.3 * torch.rand(n, 8, 8, generator=seeded(seed))
    for c in range(classes):
        pixels[labels == c, 3 * c : 3 * c + 3] += 0.7
    return from_arrays(pixels, labels, like=like)


TRAIN = toy()
TEST = toy(40, seed=1, like=TRAIN)


# Recipes -------------------------------------------------------------------------------------------------------------


def test_the_published_recipe():
    assert dataclasses.asdict(Recipe.reference()) == {
        "steps": None, "epochs": 1000, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 256,
        "augment": None, "cutmix": 0.0, "model": "convnet", "width": 128, "depth": 3, "norm": "instance",
        "activation": "relu", "pooling": "avg",
    }  # fmt: skip
    assert Recipe.reference(epochs=300, norm="batch") == dataclasses.replace(
        Recipe.reference(), epochs=300, norm="batch"
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().epochs = 3
    assert Recipe.reference(model="resnet18").width == 64
    assert Recipe.reference(model="resnet18", width=16).width == 16


def test_a_model_brings_its_width_and_norm():
    assert (Recipe().width, Recipe().norm) == (32, "instance")
    assert (Recipe(model="lenet").width, Recipe(model="lenet").norm) == (6, "none")
    assert (Recipe(model="vgg11").width, Recipe(model="vgg11").norm) == (64, "instance")
    assert Recipe(model="vgg11", width=8, norm="batch").norm == "batch"


@pytest.mark.parametrize(("field", "value"), [("depth", 2), ("activation", "swish"), ("pooling", "max")])
def test_what_is_the_convnets_alone(field, value):
    with pytest.raises(ValueError, match=f"{field} must be left out for model='mlp'; got {value!r}"):
        Recipe(model="mlp", **{field: value})


@pytest.mark.parametrize("model", ["lenet", "mlp", "alexnet", "vgg11", "resnet18"])
def test_other_networks_are_trained_and_seeded(model):
    data = from_arrays(torch.rand(6, 32, 32, generator=seeded()), [0, 1] * 3)
    recipe = Recipe(model=model, width=6, steps=2, augment="none")
    before = torch.get_rng_state()
    networks = [train_network(data, recipe=recipe, generator=seeded(s)) for s in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert not networks[0].training
    assert type(networks[0]).__name__.lower() == model
    a, b, c = (network(data.images) for network in networks)
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert evaluate(data, data, networks=1, recipe=recipe, generator=seeded()).values.shape == (1, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("epochs", 1.5), ("epochs", True), ("steps", 0), ("batch_size", 0), ("lr", 0), ("lr", "1"),
     ("lr", float("nan")), ("model", "resnet"),
     ("momentum", 1), ("momentum", -0.1), ("weight_decay", -1), ("augment", "colour")],
)  # fmt: skip
def test_a_value_out_of_range_names_its_field(field, value):
    with pytest.raises(ValueError, match=f"{field} must"):
        Recipe(**{field: value})


def test_the_length_in_steps_or_in_epochs():
    assert Recipe().num_steps(10) == Recipe().num_steps(5000) == 500
    assert Recipe(steps=7).num_steps(5000) == 7
    assert [Recipe(epochs=3, batch_size=8).num_steps(n) for n in (1, 8, 9, 20)] == [3, 3, 6, 9]
    with pytest.raises(ValueError, match="give steps or epochs, not both; got steps=3 and epochs=4"):
        Recipe(steps=3, epochs=4)


# Training ------------------------------------------------------------------------------------------------------------


def test_training_is_sgd_with_a_step_that_falls_to_a_tenth_half_way():
    """The same, written out: full batches, so that their order does not matter."""
    recipe = Recipe(epochs=6, lr=0.1, momentum=0.8, weight_decay=0.01, width=4, depth=2, augment="none")
    data = TRAIN.to(dtype=torch.float64)
    trained = train_network(data, recipe=recipe, generator=seeded(3))
    network = recipe.network(data.images, 2, generator=seeded(3))
    velocity = [torch.zeros_like(p) for p in network.parameters()]
    for epoch in range(6):
        loss = nn.functional.cross_entropy(network(data.images), data.labels)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for p, v, g in zip(network.parameters(), velocity, gradients, strict=True):
                v.mul_(0.8).add_(g + 0.01 * p)
                p.sub_((0.1 if epoch < 3 else 0.01) * v)
    for ours, theirs in zip(trained.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_one_epoch_is_at_the_full_step():
    start = TINY.network(TRAIN.images, 2, generator=seeded()).classifier.bias.detach()
    moved = [
        train_network(TRAIN, recipe=dataclasses.replace(TINY, epochs=1, lr=lr), generator=seeded()).classifier.bias
        for lr in (0.01, 0.1)
    ]
    sizes = [float((m.detach() - start).norm()) for m in moved]
    gradient = sizes[1] / 0.1
    assert sizes[0] == pytest.approx(0.01 * gradient, rel=1e-3)
    network = TINY.network(TRAIN.images, 2, generator=seeded())
    nn.functional.cross_entropy(network(TRAIN.images), TRAIN.labels).backward()
    decayed = network.classifier.bias.grad + TINY.weight_decay * start
    assert gradient == pytest.approx(float(decayed.norm()), rel=1e-3)


def test_it_learns_and_is_left_in_evaluation_mode():
    network = train_network(TRAIN, recipe=dataclasses.replace(TINY, epochs=30, norm="batch"), generator=seeded())
    assert not network.training
    assert (network(TEST.images).argmax(1) == TEST.labels).double().mean() > 0.9


def test_every_image_is_seen_once_an_epoch_in_another_order(monkeypatch):
    batches = []
    monkeypatch.setattr(
        evaluation.SiameseAugment, "apply", lambda self, x, draws: batches.append((x.clone(), draws)) or x
    )
    recipe = dataclasses.replace(TINY, epochs=2, batch_size=8, augment="rotate_color_crop")
    train_network(TRAIN, recipe=recipe, generator=seeded())
    assert [len(x) for x, _ in batches] == [8, 8, 4, 8, 8, 4]
    epochs = [torch.cat([x for x, _ in part]) for part in (batches[:3], batches[3:])]
    everything = sorted(x.tolist() for x in TRAIN.images)
    assert [sorted(x.tolist() for x in e) for e in epochs] == [everything, everything]
    assert not torch.equal(*epochs)
    for x, draws in batches:  # one operation a batch, with parameters of its own for every image
        assert len(draws) == len(x) == len(draws.u.unique(dim=0))
        assert len(draws.operation.unique()) == 1


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
def test_steps_are_counted_one_by_one_through_the_epochs(monkeypatch, steps):
    sizes = []
    monkeypatch.setattr(evaluation.SiameseAugment, "apply", lambda self, x, draws: sizes.append(len(x)) or x)
    recipe = Recipe(steps=steps, batch_size=8, width=4, depth=2, augment="none")
    train_network(TRAIN, recipe=recipe, generator=seeded())
    assert sizes == [8, 8, 4, 8, 8, 4, 8, 8][:steps]


def test_the_set_brings_its_augmentation(monkeypatch):
    used = []
    original = evaluation.SiameseAugment
    monkeypatch.setattr(evaluation, "SiameseAugment", lambda strategy: used.append(strategy) or original(strategy))
    train = dataclasses.replace(TRAIN, meta={"augment": "crop_rotate"})
    recipe = Recipe(epochs=1, width=4, depth=2)
    train_network(train, recipe=recipe, generator=seeded())
    train_network(dataclasses.replace(TRAIN, meta={}), recipe=recipe, generator=seeded())
    train_network(train, recipe=TINY, generator=seeded())
    assert used[-3:] == ["crop_rotate", "none", "none"]


# Evaluating ----------------------------------------------------------------------------------------------------------


def test_correctness_is_that_of_the_trained_networks():
    result = evaluate([TRAIN, toy(seed=5, like=TRAIN)], TEST, networks=2, recipe=TINY, generator=seeded())
    assert result.correct.shape == (2, 2, 40)
    assert result.correct.dtype == torch.bool
    root = evaluation.root_seed(seeded())
    for i, train in enumerate([TRAIN, toy(seed=5, like=TRAIN)]):
        for j in range(2):
            generator = evaluation.keyed_generator(root, "train", j)
            network = train_network(train, recipe=TINY, generator=generator)
            assert torch.equal(result.correct[i, j], network(TEST.images).argmax(1) == TEST.labels)


def test_every_set_gets_the_same_networks():
    result = evaluate([TRAIN, TRAIN], TEST, networks=4, recipe=TINY, generator=seeded())
    assert torch.equal(result.correct[0], result.correct[1])
    assert len(result.correct[0].unique(dim=0)) > 1  # while networks differ


def test_seeds_and_a_single_set():
    results = [evaluate(TRAIN, TEST, networks=3, recipe=TINY, generator=seeded(s)).correct for s in (0, 0, 1)]
    assert results[0].shape == (1, 3, 40)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_a_network_does_not_depend_on_how_many_there_are():
    few, many = (evaluate(TRAIN, TEST, networks=n, recipe=TINY, generator=seeded()).correct for n in (1, 3))
    assert torch.equal(few[0, 0], many[0, 0])


def test_a_perfect_and_a_hopeless_set():
    recipe = dataclasses.replace(TINY, epochs=40, lr=0.1)
    swapped = dataclasses.replace(TRAIN, labels=1 - TRAIN.labels)
    result = evaluate([TRAIN, swapped], TEST, networks=2, recipe=recipe, generator=seeded())
    assert result.set_means[0] == 1
    assert result.set_means[1] == 0


def test_the_sets_are_left_alone():
    before = TRAIN.images.clone()
    evaluate(TRAIN, TEST, networks=1, recipe=dataclasses.replace(TINY, augment="color_flip"), generator=seeded())
    assert torch.equal(TRAIN.images, before)


def test_the_progress_bar_is_an_option(capsys):
    evaluate(TRAIN, TEST, networks=2, recipe=TINY, generator=seeded(), progress=True)
    assert "2/2" in capsys.readouterr().err
    evaluate(TRAIN, TEST, networks=1, recipe=TINY, generator=seeded())
    assert capsys.readouterr() == ("", "")


OTHER_SHAPE = from_arrays(torch.rand(4, 6, 6, generator=seeded()), [0, 1, 0, 1])
OTHER_CLASSES = dataclasses.replace(TRAIN, classes=("cat", "dog"))
MISFITS = {
    "no sets": (([], TEST), {}, "sets must hold at least one"),
    "networks": ((TRAIN, TEST), {"networks": 0}, "networks must be a positive integer; got 0"),
    "shape": ((OTHER_SHAPE, TEST), {}, r"sets must .*\(1, 8, 8\)"),
    "classes": ((OTHER_CLASSES, TEST), {}, "sets must .*classes"),
    "normalisation": ((TRAIN, toy(40, seed=1)), {}, r"normalised as the sets are: use test\.normalized_like"),
    "dtype": ((TRAIN.to(dtype=torch.float64), TEST), {}, "dtype"),
    "depth": ((TRAIN, TEST), {"recipe": Recipe(depth=4)}, "depth must be at most 3"),
    "norm": ((TRAIN, TEST), {"recipe": Recipe(norm="instnce")}, "norm must be one of"),
    "model": ((TRAIN, TEST), {"recipe": Recipe(model="vgg11")}, "image_size must be larger for VGG11; got 8×8"),
    "model's norm": ((TRAIN, TEST), {"recipe": Recipe(model="mlp", norm="batch")}, "norm must be none for MLP"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_refused_before_any_work(monkeypatch, case):
    monkeypatch.setattr(evaluation, "train_network", lambda *_, **__: pytest.fail("work has started"))
    (sets, test), changes, message = MISFITS[case]
    with pytest.raises(ValueError, match=message):
        evaluate(sets, test, **{"recipe": TINY, "generator": seeded(), **changes})


def test_what_is_no_set_is_refused():
    with pytest.raises((TypeError, ValueError), match="sets must"):
        evaluate([TRAIN.images], TEST, recipe=TINY, generator=seeded())


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
    for level in (0.95, 0.5):
        expected = stats.t.interval(level, n - 1, np.mean(values.numpy()), stats.sem(values.numpy()))
        assert t_interval(values, level) == pytest.approx(expected, rel=1e-9)


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
    told = dataclasses.replace(bare, labels=torch.arange(100) % 2)
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
        dataclasses.replace(seen(RIGHT), **changes)


def test_evaluation_knows_what_was_seen():
    result = evaluate([TRAIN, TRAIN], TEST, networks=2, recipe=TINY, generator=seeded())
    assert torch.equal(result.predicted == TEST.labels, result.correct)
    assert torch.equal(result.labels, TEST.labels) and result.classes == TEST.classes
    torch.testing.assert_close(result.by_class.mean(-1), result.values)
    assert "tensor" in repr(result) and repr(result).count("tensor") == 1


def test_the_recipe_follows_the_size_of_the_images(monkeypatch):
    used = []
    train_network = evaluation.train_network
    monkeypatch.setattr(evaluation, "train_network", lambda s, *, recipe, generator, teacher: used.append(recipe) or
                        train_network(s, recipe=TINY, generator=generator))  # fmt: skip
    for side, depth in ((8, 3), (32, 3), (64, 4)):
        data = from_arrays(torch.rand(4, side, side), [0, 1, 0, 1])
        evaluate(data, data, networks=1, generator=seeded())
        assert used.pop() == Recipe(depth=depth)


class Says(torch.nn.Module):
    """A teacher that knows the images' classes by their brightness, and is so sure."""

    def __init__(self, sureness):
        super().__init__()
        self.sureness = sureness

    def forward(self, images):
        bright = (images.mean((1, 2, 3)) > 0).to(images)
        return self.sureness * torch.stack([1 - bright, bright], 1)


def of_two_brightnesses():
    x = torch.rand(20, 8, 8, generator=seeded()) * 0.4
    x[10:] += 0.6
    return from_arrays(x, [0] * 10 + [1] * 10)


def test_a_sure_teacher_is_as_good_as_labels_and_one_that_is_not_teaches_no_class():
    data = of_two_brightnesses()
    recipe = Recipe(steps=30, lr=0.1, width=4, depth=1, norm="none", augment="none")
    by_labels, sure, unsure = (
        train_network(data, recipe=recipe, generator=seeded(), teacher=teacher)
        for teacher in (None, Says(100.0), Says(0.0))
    )
    for one, other in zip(by_labels.parameters(), sure.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    chance = [network(data.images).softmax(1)[torch.arange(20), data.labels].mean() for network in (sure, unsure)]
    assert chance[0] > 0.7 and abs(chance[1] - 0.5) < 0.1
    results = [evaluate(data, data, networks=2, recipe=recipe, generator=seeded(), teacher=teacher)
               for teacher in (None, Says(100.0))]  # fmt: skip
    assert torch.equal(results[0].predicted, results[1].predicted)


def test_cutmix_is_a_share_of_the_batches():
    data = of_two_brightnesses()
    recipe = Recipe(steps=4, width=4, depth=1, augment="none", cutmix=0.0)
    weights = [
        torch.cat([p.flatten() for p in train_network(data, recipe=r, generator=seeded()).parameters()])
        for r in (replace(recipe, cutmix=0), recipe, replace(recipe, cutmix=1))
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    calls = []
    with mock.patch.object(evaluation, "cutmix", side_effect=lambda x, y, generator: calls.append(y) or (x, y)):
        train_network(data, recipe=replace(recipe, steps=200, cutmix=0.3), generator=seeded())
    assert 35 < len(calls) < 90 and calls[0].shape == (20, 2)
    for wrong in (-0.1, 1.5, "half"):
        with pytest.raises(ValueError, match="cutmix must be"):
            Recipe(cutmix=wrong)


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


def test_the_standard_error_that_the_test_images_bring():
    generator = np.random.default_rng(0)
    one, other = (torch.from_numpy(generator.random((3, 2, 50)) < p) for p in (0.8, 0.6))
    per_image = (one.double() - other.double()).mean((0, 1)).numpy()
    assert Accuracies(one).difference(Accuracies(other)).image_error == pytest.approx(stats.sem(per_image))
    assert Accuracies(one).difference(Accuracies(one)).image_error == 0


def test_sets_that_have_nothing_in_common_are_compared_as_welch_does():
    one, other = accuracies([[60, 62], [70, 72], [83, 82]]), accuracies([[50, 52], [61, 63], [69, 71], [55, 58]])
    difference = one.difference(other, paired=False)
    welch = stats.ttest_ind(one.set_means, other.set_means, equal_var=False).confidence_interval()
    assert difference.mean == pytest.approx(one.mean - other.mean)
    assert (difference.low, difference.high) == pytest.approx((welch.low, welch.high))
    shuffled = Accuracies(other.correct[[2, 0, 3, 1]])
    assert one.difference(shuffled, paired=False)[:4] == pytest.approx(difference[:4])
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
        half = (((found.high - found.low) / 2) ** 2 + (1.96 * found.image_error) ** 2) ** 0.5
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


def test_freed_memory_is_kept_on_a_cpu(monkeypatch):
    """A batch of 100 colour images trains up to twice as fast so."""
    called = []
    monkeypatch.setattr("dmtutor.evaluation.keep_freed_memory", lambda: called.append(1))
    evaluate(TRAIN, TEST, networks=1, recipe=Recipe(steps=1, width=4, depth=2), generator=seeded())
    assert called == [1]
