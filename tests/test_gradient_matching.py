import dataclasses
import io
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import InterruptAt, real_images, seeded

from dmtutor import DMConfig, from_arrays, keyed_generator
from dmtutor.evaluation import batches
from dmtutor.gradient_matching import LOOPS, DCConfig, DSAConfig, dc_steps, gradient_distance

TINY = {"ipc": 2, "iterations": 5, "batch_real": 4, "lr_img": 0.5, "width": 4, "depth": 2, "steps_per_network": 3,
        "training_epochs": 2, "batch_train": 4}


def make(real=None, seed=0, config_type=DCConfig, **fields):
    real = real_images() if real is None else real
    return dc_steps(real, config=config_type(**{**TINY, **fields}), generator=seeded(seed))


# The distance --------------------------------------------------------------------------------------------------------


def published_distance(real, syn):
    """The formula, number by number: rows of outputs, one minus cosine, 1e-6 in the denominator."""
    total = 0
    for a, b in zip(real, syn, strict=True):
        if a.ndim == 1:
            continue
        for row_a, row_b in zip(a, b, strict=True):
            row_a, row_b = row_a.reshape(-1), row_b.reshape(-1)
            dot = sum(x * y for x, y in zip(row_a, row_b, strict=True))
            lengths = [torch.sqrt(sum(x**2 for x in row)) for row in (row_a, row_b)]
            total = total + 1 - dot / (lengths[0] * lengths[1] + 0.000001)
    return total


SHAPES = [(3, 2, 3, 3), (3,), (4, 5), (2, 3, 2), (1, 1)]  # convolution, bias, linear, layer norm, a single number


def gradients(seed, shapes=SHAPES):
    generator = seeded(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def test_the_distance_is_the_published_one():
    real, syn = gradients(0), [g.requires_grad_() for g in gradients(1)]
    twins = [g.detach().clone().requires_grad_() for g in syn]
    ours, theirs = gradient_distance(real, syn), published_distance(real, twins)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    ours.backward()
    theirs.backward()
    for a, b in zip(syn, twins, strict=True):
        if a.ndim == 1:
            assert a.grad is None and b.grad is None
        else:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.floats(0.5, 100))
def test_of_parallel_gradients_it_is_0_of_opposite_ones_twice_the_rows(seed, scale):
    a = gradients(seed, [(3, 2, 3, 3), (4, 5)])
    assert float(gradient_distance(a, [scale * g for g in a])) == pytest.approx(0, abs=1e-4)
    assert float(gradient_distance(a, [-scale * g for g in a])) == pytest.approx(2 * 7, abs=1e-4)


def test_rows_count_alike_whatever_their_length():
    a, b = gradients(0, [(3, 4)]), gradients(1, [(3, 4)])
    lengths = torch.tensor([[1.0], [10.0], [100.0]], dtype=torch.float64)
    torch.testing.assert_close(gradient_distance([lengths * a[0]], b), gradient_distance(a, b), rtol=1e-4, atol=0)


def test_rows_of_zeros_have_distance_1_and_a_finite_gradient():
    zero = torch.zeros(2, 3, requires_grad=True)
    distance = gradient_distance([torch.ones(2, 3)], [zero])
    assert distance == 2
    distance.backward()
    assert zero.grad.isfinite().all()


def test_the_squared_distance_counts_biases_too():
    a, b = [torch.tensor([[1.0, 2.0]]), torch.tensor([5.0])], [torch.tensor([[0.0, 4.0]]), torch.tensor([2.0])]
    assert gradient_distance(a, b, distance="squared") == 1 + 4 + 9
    assert gradient_distance(a, a, distance="squared") == 0


@pytest.mark.parametrize(
    ("real", "syn", "distance", "message"),
    [
        ([(2, 3)], [(2, 3), (2,)], "cosine", r"syn must .*\[\(2, 3\)\]; got \[\(2, 3\), \(2,\)\]"),
        ([(2, 3)], [(3, 2)], "cosine", "syn must hold gradients of the shapes"),
        ([], [], "squared", "real must hold gradients"),
        ([(2,)], [(2,)], "cosine", "real must hold gradients to compare"),
        ([(2, 3)], [(2, 3)], "euclid", "distance must be one of cosine, squared; got 'euclid'"),
    ],
)
def test_gradients_that_cannot_be_compared_are_refused(real, syn, distance, message):
    with pytest.raises(ValueError, match=message):
        gradient_distance([torch.ones(s) for s in real], [torch.ones(s) for s in syn], distance=distance)


# Configuration -------------------------------------------------------------------------------------------------------


COUNTS = ["ipc", "iterations", "batch_real", "width", "steps_per_network", "training_epochs", "batch_train"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *itertools.product(COUNTS, [0, -1, 1.5, "3", True]),
        *itertools.product(["lr_img", "lr_net"], [0, -1.0, float("nan"), float("inf")]),
        ("distance", "mse"),
        ("norm", "batch"),
        ("init", "random"),
        ("augment", "colour"),
    ],
)
@pytest.mark.parametrize("config_type", [DCConfig, DSAConfig])
def test_a_value_out_of_range_names_its_field(config_type, field, value):
    with pytest.raises(ValueError, match=f"{field} must .*got"):
        config_type(**{field: value})


def test_the_published_setting():
    ours = DCConfig.reference()
    published = {"ipc": 10, "iterations": 10_000, "batch_real": 256, "lr_img": 0.1, "schedule": "constant",
                 "momentum": 0.5, "init": "noise", "augment": "none", "width": 128, "depth": 3, "norm": "instance",
                 "steps_per_network": 10, "training_epochs": 50, "lr_net": 0.01, "batch_train": 256,
                 "distance": "cosine"}
    assert {k: getattr(ours, k) for k in published} == published
    for ipc in (1, 10, 50):
        config = DSAConfig.reference(ipc=ipc)
        assert (config.steps_per_network, config.training_epochs) == LOOPS[ipc]
        assert config.iterations == 1000 * config.steps_per_network
        assert (config.init, config.augment) == ("real", None)
    assert DCConfig.reference(ipc=50, lr_img=1.0, steps_per_network=3).iterations == 3000


def test_an_ipc_without_published_loops_needs_them_given():
    with pytest.raises(ValueError, match=r"ipc must be one of 1, 10, 20, 30, 40, 50 unless .*got 2"):
        DCConfig.reference(ipc=2)
    with pytest.raises(ValueError, match="ipc must"):
        DCConfig.reference(ipc=2, training_epochs=3)
    config = DCConfig.reference(ipc=2, training_epochs=3, steps_per_network=4)
    assert (config.steps_per_network, config.training_epochs, config.iterations) == (4, 3, 4000)
    with pytest.raises(ValueError, match="steps_per_network must be a positive integer"):
        DCConfig.reference(ipc=2, training_epochs=3, steps_per_network="4")


@pytest.mark.parametrize("fields", [{"ipc": 10}, {"norm": "instnce"}, {"activation": "tanh"}, {"depth": 4}])
def test_what_does_not_fit_is_refused_before_any_draw(fields):
    generator = seeded()
    before = generator.get_state()
    (field,) = fields
    with pytest.raises(ValueError, match=f"{field} must be"):
        dc_steps(real_images(), config=DCConfig(**{**TINY, **fields}), generator=generator)
    assert torch.equal(generator.get_state(), before)


def test_wrong_types_are_refused():
    for config in ({"ipc": 1}, DMConfig(ipc=1)):
        with pytest.raises(TypeError, match="config must be a DCConfig"):
            dc_steps(real_images(), config=config, generator=seeded())
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator"):
        dc_steps(real_images(), config=DCConfig(**TINY), generator=None)
    with pytest.raises(TypeError, match="real must be LabeledImages; got Tensor"):
        dc_steps(real_images().images, config=DCConfig(**TINY), generator=seeded())


# The loss ------------------------------------------------------------------------------------------------------------


def plain_loss(network, steps, images):
    """Σ_c of the published distance between the gradients of all parameters, written with torch alone."""
    total = 0
    for c in range(len(steps.real.classes)):
        batch, omega = steps.draw(c)
        both = []
        for x in (batch, images[steps.labels == c]):
            logits = network(steps.augment.apply(x, omega))
            loss = -(logits - logits.logsumexp(1, keepdim=True))[:, c].mean()
            both.append(torch.autograd.grad(loss, list(network.parameters()), create_graph=True))
        total = total + published_distance([g.detach() for g in both[0]], both[1])
    return total


@pytest.mark.parametrize("augment", ["none", "rotate", "color"])
@pytest.mark.parametrize("norm", ["instance", "layer", "none"])
def test_loss_and_pixel_gradient_are_the_published_ones(augment, norm):
    steps = make(real_images((5, 6), dtype=torch.float64), augment=augment, norm=norm, depth=1, width=3)
    next(steps)
    loss, gradient = steps.loss_and_gradient()  # after one training of the network
    images = steps.images.clone().requires_grad_()
    expected = plain_loss(steps.network, steps, images)
    (expected_gradient,) = torch.autograd.grad(expected, images)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-9, atol=0)
    assert (gradient - expected_gradient).norm() < 1e-9 * expected_gradient.norm()


@pytest.mark.parametrize("distance", ["cosine", "squared"])
def test_second_derivatives_pass_gradcheck(distance):
    real = real_images((3, 3), dtype=torch.float64, size=4)
    steps = make(real, width=2, depth=1, activation="swish", distance=distance, batch_real=2, ipc=1)
    network = steps.network

    def loss(images):
        total = 0
        for c in range(2):
            gradients = steps.weight_gradients(steps.draw(c)[0], c)
            syn_gradients = steps.weight_gradients(images[c : c + 1], c, create_graph=True)
            total = total + gradient_distance(gradients, syn_gradients, distance=distance)
        return total

    assert all(p.requires_grad for p in network.parameters())
    assert torch.autograd.gradcheck(loss, (steps.images.clone().requires_grad_(),))
    assert float(steps.loss_and_gradient()[0]) == pytest.approx(float(loss(steps.images).detach()), rel=1e-12)


@pytest.mark.parametrize("counts", [(6, 6), (6, 7, 8), (5,) * 10])
def test_with_a_zero_last_layer_it_is_mean_matching(counts):
    """The squared distance of the two gradients of class c is (1 − 1/K)‖Δ_c‖²."""
    classes = len(counts)
    steps = make(real_images(counts, dtype=torch.float64), distance="squared")
    with torch.no_grad():
        for p in steps.network.classifier.parameters():
            p.zero_()
    images = steps.images.clone().requires_grad_()
    matched = means = 0
    for c in range(classes):
        batch, _ = steps.draw(c)
        syn = images[steps.labels == c]
        matched = matched + gradient_distance(
            steps.weight_gradients(batch, c),
            steps.weight_gradients(syn, c, create_graph=True),
            distance="squared",
        )
        delta = steps.network.embed(batch).mean(0).detach() - steps.network.embed(syn).mean(0)
        means = means + delta.square().sum()
    torch.testing.assert_close(matched, (1 - 1 / classes) * means, rtol=1e-12, atol=0)
    of_gradients, of_means = (torch.autograd.grad(loss, images, retain_graph=True)[0] for loss in (matched, means))
    torch.testing.assert_close(of_gradients, (1 - 1 / classes) * of_means, rtol=1e-9, atol=1e-12)


def test_classes_do_not_touch_each_other_in_a_step():
    one, two = make(), make()
    two.images[2:4] += 1  # class 1
    (_, a), (_, b) = one.loss_and_gradient(), two.loss_and_gradient()
    assert torch.equal(a[:2], b[:2])
    assert torch.equal(a[4:], b[4:])
    assert not torch.allclose(a[2:4], b[2:4])


def test_a_set_that_is_the_class_has_no_loss():
    """All images of a class, on both sides."""
    real = real_images((6, 6), dtype=torch.float64)
    steps = make(real, ipc=6, batch_real=6)
    loss, _ = steps.loss_and_gradient()
    assert 0 <= float(loss) < 1e-2  # not 0: the term in the denominator
    assert float(make(real, ipc=2, batch_real=6).loss_and_gradient()[0]) > 10 * float(loss)


# The three loops -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("ipc", "updates"), [(1, 0), (10, 450), (50, 980)])
def test_the_published_schedule_updates_a_network_0_450_980_times(ipc, updates, monkeypatch):
    config = DCConfig.reference(ipc=ipc, width=1, depth=1, iterations=LOOPS[ipc][0] + 1, batch_real=1)
    steps = dc_steps(real_images((1,) * 10, size=2), config=config, generator=seeded())  # ten classes, from noise
    counted, draws = [0], []

    class CountingSGD(torch.optim.SGD):
        def step(self):
            counted[0] += 1

    reset = steps.network.reset_parameters
    monkeypatch.setattr(torch.optim, "SGD", CountingSGD)
    monkeypatch.setattr(steps.network, "reset_parameters", lambda **k: draws.append(counted[0]) or reset(**k))
    monkeypatch.setattr(steps, "_match", lambda c: (torch.zeros(()), torch.zeros(ipc, 1, 2, 2)))
    steps.finish()
    assert draws == [0, updates]  # the second network is drawn after so many updates of the first


def test_a_run_is_the_published_loops():
    """Algorithm 1 written as three loops, with torch's own optimizers."""
    real = real_images(dtype=torch.float64)
    steps = make(real, momentum=0.6, schedule="constant", iterations=6, lr_net=0.05, augment="rotate")
    network, root = make(real).network, steps.root
    pixels = steps.images.clone().requires_grad_()
    sgd = torch.optim.SGD([pixels], lr=0.5, momentum=0.6)
    k = 0
    for _ in range(2):
        network.reset_parameters(generator=keyed_generator(root, "network", k))
        network_sgd = torch.optim.SGD(network.parameters(), lr=0.05)
        for t in range(3):
            if t > 0:  # two epochs of 6 images in batches of 4
                order, draw = (keyed_generator(root, name, k) for name in ("train", "augment"))
                for rows in itertools.islice(batches(6, 4, order), 4):
                    omega = steps.augment.sample(len(rows), generator=draw, same_operation=True)
                    logits = network(steps.augment.apply(pixels.detach()[rows], omega))
                    network_sgd.zero_grad()
                    F.cross_entropy(logits, steps.labels[rows]).backward()
                    network_sgd.step()
            sgd.zero_grad()
            loss = plain_loss(network, steps, pixels)
            loss.backward()
            sgd.step()
            step = next(steps)
            k += 1
            torch.testing.assert_close(step.loss, loss.detach(), rtol=1e-9, atol=0)
            torch.testing.assert_close(step.synthetic.images, pixels.detach(), rtol=0, atol=1e-9)
    assert k == len(steps)


def test_training_lowers_the_loss_on_the_synthetic_images():
    steps = make(training_epochs=60, lr_net=0.1)
    next(steps)
    before = F.cross_entropy(steps.network(steps.images), steps.labels)
    steps.load_weights()
    steps.train()
    assert F.cross_entropy(steps.network(steps.images), steps.labels) < before


def test_training_leaves_the_images_alone():
    steps = make()
    before = steps.images.clone()
    steps.train()
    assert torch.equal(steps.images, before)
    assert not steps.images.requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("init", ["real", "noise"])
def test_it_learns(init):
    """On networks and batches that it has not seen, the gradients of the learned images are nearer."""
    real = real_images((40, 40, 40))
    steps = make(real, iterations=40, width=8, batch_real=20, ipc=1, steps_per_network=1, lr_img=1.0, init=init)
    start = steps.images.clone()
    steps.finish()

    def distance(images):
        judge = make(real, seed=99, width=8, batch_real=40, ipc=1, steps_per_network=1)
        judge.images.copy_(images)
        losses = []
        for judge.iteration in range(5):
            losses.append(float(judge.loss_and_gradient()[0]))
        return sum(losses)

    assert distance(steps.images) < 0.8 * distance(start)


@pytest.mark.parametrize("fields", [{"norm": "layer", "activation": "swish"}, {"pooling": "max", "norm": "group"},
                                    {"ipc": 1}, {"norm": "none", "activation": "sigmoid"}])
def test_every_network_condenses(fields):
    assert torch.isfinite(make(**fields).finish().images).all()


def test_colour_images_of_any_shape():
    real = from_arrays(torch.rand(12, 10, 7, 3, generator=seeded()), torch.arange(2).repeat(6))
    assert make(real).finish().images.shape == (4, 3, 10, 7)


# DSA -----------------------------------------------------------------------------------------------------------------


def test_dsa_without_augmentation_is_dc():
    assert torch.equal(make(config_type=DSAConfig, augment="none").finish().images, make().finish().images)


def test_dsa_takes_the_data_sets_augmentation_dc_none():
    dsa, dc = make(config_type=DSAConfig), make()
    assert dsa.config.augment == "color_crop_cutout_flip_scale_rotate"
    assert dc.config.augment == "none"
    assert not torch.equal(dsa.finish().images, dc.finish().images)
    assert (dsa.synthetic.meta["method"], dc.synthetic.meta["method"]) == ("dsa", "dc")


def test_a_state_of_dc_is_none_of_dsa():
    state = make().state_dict()
    with pytest.raises(ValueError, match=r"same configuration.*method='dc' there, 'dsa' here"):
        make(config_type=DSAConfig, augment="none").load_state_dict(state)


# Seeds and states ----------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits():
    assert torch.equal(make(seed=5).finish().images, make(seed=5).finish().images)
    assert not torch.equal(make(seed=5).finish().images, make(seed=6).finish().images)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    make(config_type=DSAConfig).finish()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("done", range(6))
def test_a_resumed_run_equals_the_uninterrupted_one_to_the_bit(done):
    """Also where the network was trained, and where it is about to be redrawn."""
    whole = make().finish().images
    first = make()
    for _ in range(done):
        next(first)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = make()
    second.load_state_dict(torch.load(buffer, weights_only=True))
    assert second.iteration == done
    assert torch.equal(second.finish().images, whole)


def test_a_state_is_a_copy():
    steps = make()
    next(steps)
    state = steps.state_dict()
    copies = {k: state[k].clone() for k in ("images", "momentum", "weights")}
    steps.finish()
    assert all(torch.equal(state[k], copies[k]) for k in copies)
    other = make()
    other.load_state_dict(state)
    other.finish()
    assert all(torch.equal(state[k], copies[k]) for k in copies)


@pytest.mark.slow
def test_an_interruption_anywhere_in_a_step_leaves_a_state_to_go_on_from():
    """In the middle of the network's training, too."""
    real = real_images((3, 3), size=4)
    fields = {"ipc": 1, "iterations": 2, "depth": 1, "width": 1, "batch_real": 2, "training_epochs": 2}
    whole = make(real, **fields).finish().images
    for n in itertools.count(1, 4):
        steps = make(real, **fields)
        next(steps)
        try:
            with InterruptAt(n):
                next(steps)
        except KeyboardInterrupt:
            assert torch.equal(steps.finish().images, whole), f"interrupted at call {n}"
        else:
            break
    assert n > 50


def test_the_synthetic_set_carries_its_configuration():
    steps = make()
    assert steps.synthetic.meta["config"] == dataclasses.asdict(steps.config)
    assert steps.synthetic.labels.tolist() == [0, 0, 1, 1, 2, 2]
