import dataclasses
from dataclasses import replace
from functools import partial
from unittest import mock

import pytest
import torch
from runs import seeded
from torch import nn

import dmtutor.evaluation as evaluation
from dmtutor import ConvNet, Recipe, evaluate, from_arrays, train_network

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


def test_in_16_bits_a_network_learns_as_well():
    recipe = Recipe(steps=60, width=8, depth=2, augment="none")
    plain, rounded = (evaluate([TRAIN], TEST, networks=2, recipe=replace(recipe, amp=amp), generator=seeded())
                      for amp in (False, True))
    assert abs(plain.mean - rounded.mean) < 0.1 and plain.mean > 0.5
    network = train_network(TRAIN, recipe=replace(recipe, amp=True, steps=2), generator=seeded())
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    with pytest.raises(ValueError, match="amp must be True or False; got 1"):
        Recipe(amp=1)


def test_the_published_recipe():
    assert dataclasses.asdict(Recipe.reference()) == {
        "steps": None, "epochs": 1000, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 256,
        "augment": None, "cutmix": 0.0, "model": "convnet", "width": 128, "depth": 3, "norm": "instance",
        "activation": "relu", "pooling": "avg", "amp": False,
    }
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
    recipe = Recipe(model=model, width=8, steps=2, augment="none")
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
)
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
                        train_network(s, recipe=TINY, generator=generator))
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
               for teacher in (None, Says(100.0))]
    assert torch.equal(results[0].predicted, results[1].predicted)
    with pytest.raises(TypeError, match="teacher must be a trained network"):
        train_network(data, recipe=recipe, generator=seeded(), teacher="resnet18")
    with pytest.raises(TypeError, match="teacher must be a trained network"):
        evaluate(data, data, recipe=recipe, generator=seeded(), teacher="resnet18")


@pytest.mark.parametrize(("channels", "classes", "message"), [
    (3, 2, r"teacher must take images of \(1, 8, 8\), as in the set"),
    (1, 10, r"teacher must give a number for each of the 2 classes; one image gave \(1, 10\)"),
])
def test_a_teacher_of_other_images_or_classes_is_refused_before_any_work(channels, classes, message):
    data = of_two_brightnesses()
    teacher = ConvNet(channels=channels, image_size=8, classes=classes, width=4, depth=1, generator=seeded())
    for use in (partial(train_network, data), partial(evaluate, data, data)):
        with pytest.raises(ValueError, match=message):
            use(recipe=Recipe(steps=1), generator=seeded(), teacher=teacher.eval())


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


def test_freed_memory_is_kept_on_a_cpu(monkeypatch):
    """A batch of 100 colour images trains up to twice as fast so."""
    called = []
    monkeypatch.setattr("dmtutor.evaluation.keep_freed_memory", lambda: called.append(1))
    evaluate(TRAIN, TEST, networks=1, recipe=Recipe(steps=1, width=4, depth=2), generator=seeded())
    assert called == [1]
