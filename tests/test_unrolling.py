import copy
import dataclasses
import io
import itertools

import pytest
import torch
import torch.nn.functional as F
from runs import real_images, seeded
from torch import nn
from torch.func import functional_call

from dmtutor import ConvNet, from_arrays, keyed_generator, unrolling
from dmtutor.unrolling import DDConfig, dd_steps, train_as_learned, turns, unroll

TINY = {"ipc": 2, "iterations": 4, "batch_real": 3, "width": 4, "depth": 2, "inner_steps": 3, "batch_syn": 1,
        "lr_net": 0.1}


def make(real=None, seed=0, **fields):
    real = real_images() if real is None else real
    return dd_steps(real, config=DDConfig(**{**TINY, **fields}), generator=seeded(seed))


def finished(*args, **fields):
    """The steps, all taken."""
    steps = make(*args, **fields)
    steps.finish()
    return steps


def smooth_network(seed=0, width=4, **fields):
    """Without kinks, so that finite differences hold."""
    fields = {"activation": "swish", "depth": 2, **fields}
    return ConvNet(channels=1, image_size=8, classes=3, width=width, generator=seeded(seed), **fields).double()


def batch(n=3, seed=1):
    return torch.randn(n, 1, 8, 8, generator=seeded(seed), dtype=torch.float64), torch.arange(n) % 3


def params_of(network):
    return {name: p.detach() for name, p in network.named_parameters()}


def trained_by_sgd(network, images, labels, step_sizes, rows=None):
    """What `unroll` does, by torch's own optimiser."""
    network = copy.deepcopy(network).requires_grad_(True)
    for t, eta in enumerate(step_sizes):
        sgd = torch.optim.SGD(network.parameters(), lr=float(eta))
        x, y = (images, labels) if rows is None else (images[rows[t]], labels[rows[t]])
        F.cross_entropy(network(x), y).backward()
        sgd.step()
        network.zero_grad()
    return params_of(network)


def assert_same(params, others, **tolerance):
    assert list(params) == list(others)
    for name in params:
        torch.testing.assert_close(params[name].detach(), others[name].detach(), **tolerance)


# Unrolling -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [None, torch.tensor([[0, 1], [2, 0], [1, 1], [0, 2]])])
def test_unrolling_is_training(rows):
    network, (images, labels) = smooth_network(activation="relu"), batch()
    etas = torch.tensor([0.3, 0.1, 0.5, 0.2], dtype=torch.float64)
    before = copy.deepcopy(params_of(network))
    found = unroll(network, params_of(network), images, labels, etas, rows=rows)
    assert_same(found, trained_by_sgd(network, images, labels, etas, rows), rtol=1e-12, atol=1e-14)
    assert_same(params_of(network), before, rtol=0, atol=0)


def test_one_step_of_softmax_regression_in_closed_form():
    """θ₁ = θ₀ − η Xᵀ(p − Y)/n, and its derivatives by X and η."""
    x = torch.randn(5, 4, generator=seeded(), dtype=torch.float64).requires_grad_()
    y, eta = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([0.7], dtype=torch.float64).requires_grad_()
    theta = torch.randn(3, 4, generator=seeded(1), dtype=torch.float64)
    found = unroll(nn.Linear(4, 3, bias=False), {"weight": theta}, x, y, eta)["weight"]
    by_hand = theta - eta * ((x @ theta.T).softmax(1) - F.one_hot(y, 3)).T @ x / 5
    torch.testing.assert_close(found, by_hand)
    direction = torch.randn(3, 4, generator=seeded(2), dtype=torch.float64)
    for a, b in zip(*(torch.autograd.grad((o * direction).sum(), (x, eta)) for o in (found, by_hand)), strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_against_finite_differences():
    network, (images, labels) = smooth_network(width=2, depth=1), batch()
    x, y = batch(4, seed=3)
    names = list(params_of(network))
    rows = torch.tensor([[0, 1, 2], [1, 2, 0]])

    def judged(images, step_sizes, *start):
        params = unroll(network, dict(zip(names, start, strict=True)), images, labels, step_sizes, rows=rows)
        return F.cross_entropy(functional_call(network, params, x), y)

    etas = torch.tensor([0.3, 0.5], dtype=torch.float64)
    inputs = [t.clone().requires_grad_() for t in (images, etas, *params_of(network).values())]
    assert torch.autograd.gradcheck(judged, inputs, fast_mode=True)


def test_without_gradients_no_graph_is_kept():
    network, (images, labels) = smooth_network(), batch()
    etas = torch.full((3,), 0.2, dtype=torch.float64)
    with torch.no_grad():
        found = unroll(network, dict(network.named_parameters()), images, labels, etas)
    assert not any(p.requires_grad for p in found.values())
    assert_same(found, trained_by_sgd(network, images, labels, etas), rtol=1e-12, atol=1e-14)
    assert all(p.grad is None for p in network.parameters())


def test_no_step_is_no_change():
    network, (images, labels) = smooth_network(), batch()
    params = params_of(network)
    assert_same(unroll(network, params, images, labels, torch.ones(0)), params, rtol=0, atol=0)


def test_step_sizes_and_rows_of_other_shapes_are_refused():
    network, (images, labels) = smooth_network(), batch()
    with pytest.raises(ValueError, match=r"step_sizes must be of one dimension; got shape \(\)"):
        unroll(network, params_of(network), images, labels, torch.tensor(0.1))
    with pytest.raises(ValueError, match="rows must be as many as step_sizes, 3; got 2"):
        unroll(network, params_of(network), images, labels, torch.ones(3), rows=torch.zeros(2, 1, dtype=torch.long))


def test_images_take_turns():
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert turns(labels, 1, 4).tolist() == [[0, 3], [1, 4], [2, 5], [0, 3]]
    assert turns(labels, 2, 3).tolist() == [[0, 1, 3, 4], [2, 0, 5, 3], [1, 2, 4, 5]]
    assert turns(labels, 3, 2).tolist() == [[0, 1, 2, 3, 4, 5]] * 2


# Configuration -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *itertools.product(["inner_steps", "batch_syn", "ipc", "iterations"], [0, -1, 1.5, "3", True]),
        *itertools.product(["lr_net", "lr_img"], [0, -1.0, float("nan"), float("inf"), "0.1"]),
        *itertools.product(["lr_lr"], [-0.1, float("nan"), float("inf"), "0.1"]),
        ("norm", "batch"),
    ],
)
def test_a_value_out_of_range_names_its_field(field, value):
    with pytest.raises(ValueError, match=f"{field} must .*got"):
        DDConfig(**{field: value})


def test_images_that_no_step_would_see_are_refused():
    with pytest.raises(ValueError, match="batch_syn must be at most ipc=2; got 3"):
        DDConfig(ipc=2, batch_syn=3)
    with pytest.raises(ValueError, match=r"inner_steps must be at least 4, .* got 3"):
        DDConfig(ipc=7, batch_syn=2, inner_steps=3)
    assert DDConfig(ipc=7, batch_syn=2, inner_steps=4).inner_steps == 4
    for ipc in (1, 10, 50):
        config = DDConfig(ipc=ipc)
        assert config.inner_steps * config.batch_syn >= ipc


def test_the_published_setting():
    ours = DDConfig.reference()
    published = {"ipc": 10, "inner_steps": 30, "batch_syn": 1, "lr_net": 0.02, "lr_img": 0.01, "momentum": 0.5,
                 "init": "noise", "augment": "none"}
    assert {k: getattr(ours, k) for k in published} == published
    assert DDConfig.reference(ipc=1).inner_steps == 3
    assert DDConfig.reference(ipc=1, width=8) == dataclasses.replace(DDConfig.reference(ipc=1), width=8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ipc": 10, "inner_steps": 10}, "ipc must be at most 9, the images of class '1'; got 10"),
        ({"norm": "instnce"}, "norm must be one of instance"),
        ({"depth": 4}, "depth must be at most 3 for images of 8×8"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_draw(fields, message):
    generator = seeded()
    before = generator.get_state()
    with pytest.raises(ValueError, match=message):
        dd_steps(real_images(), config=DDConfig(**{**TINY, **fields}), generator=generator)
    assert torch.equal(generator.get_state(), before)


def test_wrong_types_are_refused():
    with pytest.raises(TypeError, match="config must be a DDConfig"):
        dd_steps(real_images(), config={"ipc": 1}, generator=seeded())
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator.*got None"):
        dd_steps(real_images(), config=DDConfig(**TINY), generator=None)


# The objective -------------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_networks_trained_on_the_images():
    """Followed by hand: the documented streams, torch's own optimiser."""
    real = real_images(dtype=torch.float64)
    steps = make(real)
    next(steps)
    network = ConvNet(channels=1, image_size=8, classes=3, width=4, depth=2,
                      generator=keyed_generator(steps.root, "network", 1, 0)).double()
    rows = torch.tensor([[0, 2, 4], [1, 3, 5], [0, 2, 4]])
    params = trained_by_sgd(network, steps.images, steps.labels, steps.log_step_sizes.exp(), rows)
    losses = []
    for c in range(3):
        pool = real.of_class(c)
        x = pool[torch.randperm(len(pool), generator=keyed_generator(steps.root, "batch", 1, c))[:3]]
        losses.append(F.cross_entropy(functional_call(network, params, x), torch.full((3,), c)).detach())
    assert float(steps.loss_and_gradients()[0]) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-10)


@pytest.mark.parametrize("variable", ["images", "log_step_sizes"])
def test_the_gradients_are_those_of_the_loss(variable):
    steps = make(real_images(dtype=torch.float64), augment="rotate", activation="swish")
    _, *gradients = steps.loss_and_gradients()
    gradient = gradients[["images", "log_step_sizes"].index(variable)]
    start = getattr(steps, variable).clone()
    direction = torch.randn(start.shape, generator=seeded(), dtype=torch.float64)
    losses = []
    for h in (1e-5, -1e-5):
        getattr(steps, variable).copy_(start + h * direction)
        losses.append(float(steps.loss_and_gradients()[0]))
    assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(float((gradient * direction).sum()), rel=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_steps_are_those_of_adam(schedule):
    fields = {"schedule": schedule, "momentum": 0.7, "lr_img": 0.3, "lr_lr": 0.2}
    steps, twin = (make(real_images(dtype=torch.float64), **fields) for _ in range(2))
    variables = [twin.images.clone().requires_grad_(), twin.log_step_sizes.clone().requires_grad_()]
    groups = [{"params": [v], "lr": lr} for v, lr in zip(variables, (0.3, 0.2), strict=True)]
    optimizer = torch.optim.Adam(groups, betas=(0.7, 0.999))
    for step in steps:
        if schedule == "linear":
            for group, lr in zip(optimizer.param_groups, (0.3, 0.2), strict=True):
                group["lr"] = lr * (1 - (step.iteration - 1) / len(steps))
        twin.images.copy_(variables[0].detach())
        twin.log_step_sizes.copy_(variables[1].detach())
        _, variables[0].grad, variables[1].grad = twin.loss_and_gradients()
        optimizer.step()
        twin.iteration += 1
        torch.testing.assert_close(step.synthetic.images, variables[0].detach(), rtol=0, atol=1e-8)
        torch.testing.assert_close(steps.log_step_sizes, variables[1].detach(), rtol=0, atol=1e-8)


def test_step_sizes_are_learned_and_go_with_the_images():
    steps = make()
    assert steps.synthetic.meta["step_sizes"] == pytest.approx([0.1] * 3)
    steps.finish()
    learned = steps.synthetic.meta["step_sizes"]
    assert learned == steps.log_step_sizes.exp().tolist()
    assert all(type(eta) is float and eta > 0 for eta in learned)
    assert all(abs(eta / 0.1 - 1) > 0.01 for eta in learned)
    assert make(lr_lr=0.0).finish().meta["step_sizes"] == make().synthetic.meta["step_sizes"]


def test_training_as_learned():
    synthetic = make(real_images(dtype=torch.float64), batch_syn=2).finish()
    network = smooth_network(seed=5)
    expected = trained_by_sgd(network, synthetic.images, synthetic.labels, synthetic.meta["step_sizes"])
    assert train_as_learned(network, synthetic) is network
    assert_same(params_of(network), expected, rtol=1e-12, atol=1e-14)


def test_a_set_without_step_sizes_is_refused():
    with pytest.raises(ValueError, match="synthetic must bring step sizes"):
        train_as_learned(smooth_network(), real_images())


@pytest.mark.parametrize("fields", [{"norm": "none"}, {"norm": "layer", "activation": "swish"}, {"pooling": "max"},
                                    {"init": "noise", "ipc": 20, "inner_steps": 20}, {"augment": None}])
def test_every_network_and_start_works(fields):
    steps = make(iterations=2, **fields)
    start = steps.images.clone()
    steps.finish()
    assert torch.isfinite(steps.images).all()
    assert (steps.images != start).flatten(1).any(1).all()  # every image is moved


def test_it_learns():
    """Networks it has not met, trained on the images for T steps, do better on real images than at the start."""
    labels = torch.arange(90) % 3
    patterns, noise = torch.rand(3, 8, 8, generator=seeded()), torch.rand(90, 8, 8, generator=seeded(1))
    real = from_arrays(0.3 * patterns[labels] + 0.7 * noise, labels)
    steps = make(real, iterations=40, ipc=1, batch_real=20, width=8, lr_lr=0.1)
    start = steps.synthetic
    steps.finish()

    def loss(synthetic):
        total = 0
        for seed in range(5):
            network = ConvNet(channels=1, image_size=8, classes=3, width=8, depth=2, generator=seeded(100 + seed))
            with torch.no_grad():
                total += float(F.cross_entropy(train_as_learned(network, synthetic)(real.images), real.labels))
        return total / 5

    assert loss(steps.synthetic) < 0.7 * loss(start)


# Seeds and states ----------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits():
    one, two, other = (finished(seed=seed) for seed in (5, 5, 6))
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.log_step_sizes, two.log_step_sizes)
    assert not torch.equal(one.images, other.images)


def test_the_global_generator_is_left_alone_and_the_callers_advances_once():
    one, two = seeded(), seeded()
    before = torch.get_rng_state()
    dd_steps(real_images(), config=DDConfig(**TINY), generator=one).finish()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    images = make().finish().images
    torch.manual_seed(2)
    assert torch.equal(make().finish().images, images)
    dd_steps(real_images(), config=DDConfig(**TINY), generator=two)
    assert torch.equal(one.get_state(), two.get_state())


def test_augmentation_off_leaves_networks_and_batches_as_they_were():
    losses = {a: float(make(augment=a).loss_and_gradients()[0]) for a in ("none", "flip", "rotate")}
    assert losses["rotate"] != losses["none"]
    steps, same = make(augment="none"), make(augment="rotate")
    assert torch.equal(steps.draw(1)[0], same.draw(1)[0])
    for s in (steps, same):
        s.loss_and_gradients()
    assert_same(params_of(steps.network), params_of(same.network), rtol=0, atol=0)


@pytest.mark.parametrize("done", [0, 1, 3, 4])
def test_a_resumed_run_equals_the_uninterrupted_one_to_the_bit(done):
    whole, first, second = finished(), make(), make()
    for _ in range(done):
        next(first)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    assert second.iteration == done
    second.finish()
    assert torch.equal(second.images, whole.images)
    assert torch.equal(second.log_step_sizes, whole.log_step_sizes)


def test_an_interruption_within_a_step_leaves_the_state_from_before_it(monkeypatch):
    whole, steps = finished(), make()
    next(steps)
    plain, calls = unrolling.adam, []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(*args, **options)

    monkeypatch.setattr(unrolling, "adam", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(steps)
    assert steps.iteration == 1
    assert torch.equal(steps.finish().images, whole.images)


def test_a_state_of_another_configuration_is_refused():
    with pytest.raises(ValueError, match=r"same configuration.*inner_steps=2 there, 3 here"):
        make().load_state_dict(make(inner_steps=2).state_dict())
