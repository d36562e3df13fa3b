import math
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import seeded

from dmtutor import ConvNet, load, mean_distance
from dmtutor.embeddings import IMAGES, RandomConvNets, RandomFourierFeatures, class_separability
from dmtutor.mmd import Gaussian, Linear, mmd2, witness


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def fourier(dim=2, features=8, bandwidth=1.0, seed=0):
    return RandomFourierFeatures(dim, features, bandwidth=bandwidth, generator=seeded(seed))


def convnets(networks=3, seed=0, shape=(1, 8, 8), **architecture):
    architecture = {"width": 4, "depth": 2, **architecture}
    return RandomConvNets(shape, networks=networks, generator=seeded(seed), **architecture)


@st.composite
def pairs_of_sets(draw):
    n, m, d = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(1, 5))
    seed, scale = draw(st.integers(0, 2**31)), draw(st.floats(0.1, 3))
    return randn(n, d, seed=seed), 0.5 + scale * randn(m, d, seed=seed + 1)


# Random Fourier features


@settings(deadline=None, max_examples=30)
@given(pairs_of_sets(), st.floats(0.3, 5), st.integers(0, 1000))
def test_many_features_are_the_gaussian_kernel(sets, h, seed):
    x, y = sets
    D = 20_000
    phi, k = fourier(x.shape[1], D, h, seed), Gaussian(h)(x, y)
    error = (phi(x) @ phi(y).T - k).abs()
    assert (error <= 6 * (1 - k**2) / D**0.5 + 1e-9).all()
    mmd = mmd2(phi(x), phi(y), kernel=Linear())
    assert abs(mmd - mmd2(x, y, kernel=Gaussian(h))) < 6 * 4 / D**0.5


def test_the_error_is_what_theory_says():
    """Unbiased, with standard deviation (1 − k²)/√D, at every distance and for every D."""
    x, y = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[0.3, 0.0], [1.0, 0.5], [0.0, 3.0]]).double()
    k = Gaussian(1.0)(x, y)
    for D in (2, 16, 128):
        values = torch.stack([(phi := fourier(2, D, seed=s))(x) @ phi(y).T for s in range(2000)])
        deviation = (1 - k**2) / D**0.5
        assert ((values.mean(0) - k).abs() < 4 * deviation / 2000**0.5).all()
        torch.testing.assert_close(values.std(0), deviation, rtol=0.1, atol=0)


@settings(deadline=None)
@given(pairs_of_sets(), st.integers(1, 10), st.floats(0.1, 10))
def test_features_have_unit_norm_and_see_only_differences(sets, pairs, h):
    x, y = sets
    phi = fourier(x.shape[1], 2 * pairs, h)
    torch.testing.assert_close(phi(x).square().sum(-1), torch.ones(len(x)).double())
    torch.testing.assert_close(phi(x + 3) @ phi(y + 3).T, phi(x) @ phi(y).T, rtol=1e-6, atol=1e-6)


@settings(deadline=None)
@given(pairs_of_sets(), st.floats(0.1, 10))
def test_bandwidth_is_the_unit_of_length(sets, h):
    x, _ = sets
    torch.testing.assert_close(fourier(x.shape[1], bandwidth=h)(h * x), fourier(x.shape[1])(x))


def test_features_are_cosines_and_sines():
    phi, x = fourier(2, 6, 0.5), randn(4, 2)
    slow = [[f(w @ p) / 3**0.5 for f in (torch.cos, torch.sin) for w in phi.frequencies] for p in x]
    torch.testing.assert_close(phi(x), torch.tensor(slow, dtype=torch.float64))
    assert fourier(2, 2).frequencies.shape == (1, 2)


def test_features_broadcast_keep_the_dtype_and_are_differentiable():
    phi, x = fourier(2, 6), randn(3, 4, 5, 2)
    assert phi(x).shape == (3, 4, 5, 6)
    torch.testing.assert_close(phi(x)[1, 2], phi(x[1, 2]))
    assert phi(x.float()).dtype == torch.float32
    assert torch.autograd.gradcheck(phi, randn(3, 2).requires_grad_())


def test_the_generator_decides():
    assert torch.equal(fourier(seed=1).frequencies, fourier(seed=1).frequencies)
    assert not torch.equal(fourier(seed=1).frequencies, fourier(seed=2).frequencies)
    before = torch.get_rng_state()
    fourier()(randn(2, 2))
    x = randn(2, 64).requires_grad_()
    convnets().distances(x, x + 1).sum().backward()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"dim": 0}, ValueError, "dim must be a positive integer; got 0"),
        ({"features": 0}, ValueError, "features must be a positive integer; got 0"),
        ({"features": 7}, ValueError, "features must be even, a cosine and a sine for every frequency; got 7"),
        ({"bandwidth": 0.0}, ValueError, "bandwidth must be positive and finite; got 0.0"),
        ({"bandwidth": -1}, ValueError, "bandwidth must be positive and finite; got -1"),
        ({"bandwidth": math.nan}, ValueError, "bandwidth must be positive and finite; got nan"),
        ({"bandwidth": (1.0, 2.0)}, ValueError, r"bandwidth must be a number; got \(1.0, 2.0\)"),
        ({"bandwidth": "1"}, ValueError, "bandwidth must be a number; got '1'"),
        ({"generator": None}, TypeError, r"generator must be a torch\.Generator"),
    ],
)
def test_fourier_parameters_are_checked(options, error, message):
    right = {"dim": 2, "features": 8, "bandwidth": 1.0, "generator": seeded()}
    assert RandomFourierFeatures(right.pop("dim"), right.pop("features"), **right)(randn(3, 2)).shape == (3, 8)
    right = {"dim": 2, "features": 8, "bandwidth": 1.0, "generator": seeded(), **options}
    with pytest.raises(error, match=message):
        RandomFourierFeatures(right.pop("dim"), right.pop("features"), **right)


# Random networks


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["instance", "layer", "group", "none"])
@pytest.mark.parametrize("unequal", [False, True])
def test_mmd_under_the_kernel_is_the_mean_of_distribution_matchings_loss(norm, unequal):
    nets = convnets(5, norm=norm)
    x, y = randn(7, 64), 0.5 + randn(9 if unequal else 7, 64, seed=1)
    losses = []
    for net in nets:
        net = net.double()
        losses.append(mean_distance(*(net.embed(z.unflatten(1, (1, 8, 8))) for z in (x, y))))
    losses = torch.stack(losses)
    torch.testing.assert_close(nets.distances(x, y), losses)
    torch.testing.assert_close(mmd2(x, y, kernel=nets.kernel), losses.mean())
    with mock.patch("dmtutor.mmd.BLOCK", 4):
        torch.testing.assert_close(mmd2(x, y, kernel=nets.kernel), losses.mean())


def test_the_kernel_is_the_mean_over_networks():
    nets, x, y = convnets(4), randn(3, 64), randn(5, 64, seed=1)
    slow = torch.zeros(3, 5, dtype=torch.float64)
    for net in nets:
        for i, a in enumerate(x):
            for j, b in enumerate(y):
                slow[i, j] += net.double().embed(a.view(1, 1, 8, 8))[0] @ net.embed(b.view(1, 1, 8, 8))[0] / 4
    torch.testing.assert_close(nets.kernel(x, y), slow)
    torch.testing.assert_close(nets.kernel(x, x), nets.kernel(x, x.clone()))


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 4), st.integers(0, 1000), st.floats(-1, 1))
def test_the_kernel_is_symmetric_and_positive_semi_definite(networks, seed, shift):
    nets, x, y = convnets(networks, seed), randn(4, 64, seed=seed), shift + randn(5, 64, seed=seed + 1)
    torch.testing.assert_close(nets.kernel(x, y), nets.kernel(y, x).mT)
    both = torch.cat([x, y])
    values = torch.linalg.eigvalsh(nets.kernel(both, both))
    assert values.min() > -1e-9 * values.max()


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.floats(0.5, 0.7) | st.floats(1.5, 5), st.sampled_from([1, 2]))
def test_instance_norm_does_not_see_contrast(seed, a, depth):
    """Up to the constant in the norm's denominator: a bias is the same everywhere, so the norm takes it out."""
    nets = convnets(2, seed, depth=depth)
    x = 30 * randn(4, 64, seed=seed)
    total = nets.kernel(x, x).diagonal().mean()
    change = nets.distances(x, a * x).mean() / total
    assert change < 1e-3
    seen = convnets(2, seed, depth=depth, norm="none").distances(x, a * x).mean()
    assert seen > 1e-3 * (a - 1) ** 2 * convnets(2, seed, depth=depth, norm="none").kernel(x, x).diagonal().mean()


def test_blocks_and_leading_dimensions_change_nothing():
    nets = convnets(2)
    x, y = randn(2, 3 * IMAGES + 1, 64), randn(2, 5, 64, seed=1)
    assert nets.kernel(x, y).shape == (2, 3 * IMAGES + 1, 5)
    assert nets.mean_embeddings(x).shape == (2, 2, nets.embedding_dim)
    assert nets.distances(x, y).shape == (2, 2)
    for i in range(2):
        torch.testing.assert_close(nets.kernel(x, y)[i], nets.kernel(x[i], y[i]))
        torch.testing.assert_close(nets.distances(x, y)[:, i], nets.distances(x[i], y[i]))
    one_by_one = torch.stack([nets.mean_embeddings(point[None]) for point in x[0]]).mean(0)
    torch.testing.assert_close(nets.mean_embeddings(x[0]), one_by_one)


def test_no_more_than_a_block_is_in_a_network(monkeypatch):
    seen, embed = [], ConvNet.embed
    monkeypatch.setattr(ConvNet, "embed", lambda self, x: seen.append(len(x)) or embed(self, x))
    x = randn(700, 64, dtype=torch.float32)
    convnets(2).mean_embeddings(x)
    convnets(2).kernel(x, x[:5])
    assert max(seen) == IMAGES and sum(seen) == 2 * (700 + 700 + 5)


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, IMAGES + 2])
def test_gradients(n):
    """Those in blocks are those of the plain formula; second derivatives included."""
    nets = convnets(2, shape=(1, 4, 4), width=2, activation="swish")
    x, y = randn(n, 16).requires_grad_(), randn(4, 16, seed=1)

    def plain(x):
        psi = (net.double().embed(z.unflatten(1, (1, 4, 4))).mean(0) for net in nets for z in (x, y))
        psi = torch.stack(list(psi)).view(2, 2, -1)
        return (psi[:, 0] - psi[:, 1]).square().sum()

    (expected,) = torch.autograd.grad(plain(x), x)
    (by_distances,) = torch.autograd.grad(nets.distances(x, y).sum(), x)
    (by_kernel,) = torch.autograd.grad(2 * mmd2(x, y, kernel=nets.kernel), x)
    torch.testing.assert_close(by_distances, expected)
    torch.testing.assert_close(by_kernel, expected)
    if n < IMAGES:
        assert torch.autograd.gradcheck(lambda x: nets.kernel(x, y), x)
        assert torch.autograd.gradgradcheck(lambda x: nets.distances(x, y), x)


def test_the_kernel_fits_the_witness():
    nets, x, y = convnets(4), randn(20, 64), randn(20, 64, seed=1) * torch.linspace(0, 2, 64)
    at_x, at_y = (witness(z, x, y, kernel=nets.kernel).mean() for z in (x, y))
    torch.testing.assert_close(at_x - at_y, nets.distances(x, y).mean())


def test_networks_are_drawn_once_and_more_of_them_begin_alike():
    few, many, other = convnets(2), convnets(5), convnets(5, seed=1)
    x = randn(3, 64)
    assert len(many) == 5 and len(list(many)) == 5
    assert torch.equal(many.mean_embeddings(x)[:2], few.mean_embeddings(x))
    assert torch.equal(many.mean_embeddings(x), many.mean_embeddings(x))
    assert not torch.equal(many.mean_embeddings(x), other.mean_embeddings(x))
    assert len({float(m.sum()) for m in many.mean_embeddings(x)}) == 5
    assert not any(p.requires_grad for p in many[-1].parameters())
    with pytest.raises(IndexError):
        many[5]


def test_single_precision_stays_single():
    nets, x, y = convnets(3), randn(6, 64), randn(6, 64, seed=1)
    for function in (nets.kernel, nets.distances):
        single = function(x.float(), y.float())
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), function(x, y), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"networks": 0}, ValueError, "networks must be a positive integer; got 0"),
        ({"networks": 2.0}, ValueError, "networks must be a positive integer; got 2.0"),
        ({"image_shape": (8, 8)}, ValueError, r"image_shape must be \(C, H, W\); got \(8, 8\)"),
        ({"image_shape": 64}, ValueError, r"image_shape must be \(C, H, W\); got 64"),
        ({"image_shape": (1, 0, 8)}, ValueError, "each of image_shape must be a positive integer; got 0"),
        ({"norm": "batch"}, ValueError, "norm must not be 'batch'"),
        ({"norm": "other"}, ValueError, "norm must be one of"),
        ({"depth": 4}, ValueError, "depth must be at most 3 for images of 8×8"),
        ({"width": 0}, ValueError, "width must be a positive integer; got 0"),
        ({"generator": None}, TypeError, r"generator must be a torch\.Generator"),
    ],
)
def test_network_parameters_are_checked(options, error, message):
    right = {"image_shape": (1, 8, 8), "networks": 2, "generator": seeded()}
    assert len(RandomConvNets(**right)) == 2
    with pytest.raises(error, match=message):
        RandomConvNets(**{**right, **options})


# Bad points, of both


CALLS = {
    "fourier": fourier(64),
    "kernel": lambda y: convnets().kernel(randn(3, 64), y),
    "mean_embeddings": convnets().mean_embeddings,
    "distances": lambda y: convnets().distances(randn(3, 64), y),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize(
    "points, error, message",
    [
        (randn(4, 63), ValueError, "(x|y) must have (x's )?64 dimensions.*; got 63"),
        (randn(4, 1, 8, 8), ValueError, "(x|y) must have (x's )?64 dimensions.*; got 8"),
        (randn(64), ValueError, r"(x|y) must be points \(…, n, d\)"),
        (randn(0, 64), ValueError, r"(x|y) must be points \(…, n, d\)"),
        (torch.full((2, 64), math.nan).double(), ValueError, "(x|y) must be finite; got 128"),
        ([[0.0] * 64], TypeError, "(x|y) must be a tensor; got list"),
    ],
)
def test_points_are_checked(call, points, error, message):
    with pytest.raises(error, match=message):
        call(points)


def test_points_must_agree():
    for function in (convnets().kernel, convnets().distances):
        with pytest.raises(ValueError, match=r"y must be torch\.float64 on cpu like x; got torch\.float32"):
            function(randn(3, 64), randn(3, 64).float())


# Class separability


def slow_separability(x, labels, test_x, test_labels):
    """With the features written out, and each point left out in its turn."""
    targets = torch.nn.functional.one_hot(labels).double()

    def fit(x, y, ridge):
        mean, center = x.mean(0), y.mean(0)
        w = torch.linalg.solve((x - mean).T @ (x - mean) + ridge * torch.eye(x.shape[1]), (x - mean).T @ (y - center))
        return lambda z: center + (z - mean) @ w

    def error(ridge):
        others = [torch.arange(len(x)) != i for i in range(len(x))]
        return sum(
            float((fit(x[keep], targets[keep], ridge)(x[i]) - targets[i]).square().sum())
            for i, keep in enumerate(others)
        )

    scale = float((x - x.mean(0)).square().sum()) / len(x)
    ridge = min((scale * 10.0**e for e in range(-6, 1)), key=error)
    return float((fit(x, targets, ridge)(test_x).argmax(1) == test_labels).double().mean())


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 1000), st.integers(2, 4), st.floats(0.5, 3))
def test_separability_is_ridge_regression_with_each_point_left_out(seed, d, noise):
    labels, test_labels = torch.arange(24) % 3, torch.arange(60) % 3
    centers = randn(3, d, seed=seed)
    x = centers[labels] + noise * randn(24, d, seed=seed + 1)
    test_x = centers[test_labels] + noise * randn(60, d, seed=seed + 2)
    expected = slow_separability(x, labels, test_x, test_labels)
    assert class_separability(x, labels, test_x, test_labels, kernel=Linear()) == expected


def test_separability_sees_what_the_kernel_sees():
    angle, radius = 2 * math.pi * torch.rand(400, generator=seeded()), torch.arange(400) % 2 + 1
    x = (radius * torch.stack([angle.cos(), angle.sin()])).T + 0.1 * randn(400, 2, dtype=torch.float32)
    sets = (x[:200], radius[:200] - 1, x[200:], radius[200:] - 1)
    assert class_separability(*sets, kernel=Linear()) < 0.7
    assert class_separability(*sets, kernel=Gaussian(0.5)) > 0.99


def test_separability_does_not_change_with_the_scale_of_a_kernel_nor_with_a_constant():
    train, test = load("mnist5k")
    sets = (train.images[::20].flatten(1), train.labels[::20], test.images[::5].flatten(1), test.labels[::5])
    one = class_separability(*sets, kernel=Linear())
    assert one > 0.6
    assert one == class_separability(*sets, kernel=lambda x, y: 1e3 * (x @ y.mT))
    assert one == class_separability(*sets, kernel=lambda x, y: x @ y.mT + 100)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"labels": torch.zeros(4, dtype=torch.int64)}, "labels must be 5 labels in int64, as x has points"),
        ({"labels": torch.zeros(5)}, r"labels must be 5 labels in int64, as x has points; got \(5,\) torch\.float32"),
        ({"test_labels": torch.zeros(5, dtype=torch.int64)}, "test_labels must be 3 labels in int64, as test_x has"),
        ({"x": randn(5, 2), "test_x": randn(3, 3)}, "test_x must have x's 2 dimensions; got 3"),
        ({"x": randn(1, 5, 2)}, r"x must be \(n, d\); got \(1, 5, 2\)"),
        ({"x": torch.full((5, 2), math.inf).double()}, "x must be finite"),
    ],
)
def test_labelled_points_are_checked(wrong, message):
    labels, test_labels = torch.arange(5) % 2, torch.arange(3) % 2
    right = {"x": randn(5, 2), "labels": labels, "test_x": randn(3, 2), "test_labels": test_labels}
    assert 0 <= class_separability(**right, kernel=Linear()) <= 1
    with pytest.raises(ValueError, match=message):
        class_separability(**{**right, **wrong}, kernel=Linear())
