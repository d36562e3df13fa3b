import math
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import seeded
from sklearn.metrics.pairwise import rbf_kernel

from dmtutor.mmd import (
    Gaussian,
    Linear,
    mmd2,
    squared_distances,
    witness,
)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def slow_mmd2(x, y, kernel, unbiased=False):
    """Loops over pairs, as the formula has them."""

    def mean(a, b, skip):
        pairs = [(p, q) for i, p in enumerate(a) for j, q in enumerate(b) if i != j or not skip]
        return math.fsum(float(kernel(p[None], q[None])) for p, q in pairs) / len(pairs)

    return mean(x, x, unbiased) - 2 * mean(x, y, False) + mean(y, y, unbiased)


def mmd2_of_gaussians(mean_x, cov_x, mean_y, cov_y, kernel):
    """Exact MMD² of two normal distributions: of a normal x − y, E k(x, y) is a Gaussian integral."""

    def expected(delta, cov):
        parts = [(torch.eye(len(delta)) + cov / h**2, delta / h) for h in kernel.bandwidths]
        return sum(m.det() ** -0.5 * torch.exp(-z @ m.inverse() @ z / 2) for m, z in parts) / len(parts)

    within = expected(0 * mean_x, 2 * cov_x) + expected(0 * mean_x, 2 * cov_y)
    return within - 2 * expected(mean_x - mean_y, cov_x + cov_y)


def in_tiles(block, function, *args, **options):
    """With kernel matrices of so many points."""
    with mock.patch("dmtutor.mmd.BLOCK", block):
        return function(*args, **options)


KERNELS = [Linear(), Gaussian(0.7), Gaussian((0.5, 1.0, 3.0)), lambda x, y: (1 + x @ y.mT) ** 3]
kernels = st.sampled_from(KERNELS)


@st.composite
def pairs_of_sets(draw):
    n, m, d = draw(st.integers(2, 7)), draw(st.integers(2, 7)), draw(st.integers(1, 4))
    seed, shift, scale = draw(st.integers(0, 2**31)), draw(st.floats(-3, 3)), draw(st.floats(0.1, 3))
    return randn(n, d, seed=seed), shift + scale * randn(m, d, seed=seed + 1)


# Kernels


@settings(deadline=None)
@given(pairs_of_sets(), st.floats(0.05, 50))
def test_the_gaussian_kernel_is_that_of_scikit_learn(sets, h):
    x, y = sets
    expected = torch.from_numpy(rbf_kernel(x.numpy(), y.numpy(), gamma=1 / (2 * h**2)))
    torch.testing.assert_close(Gaussian(h)(x, y), expected, rtol=1e-9, atol=1e-12)


@settings(deadline=None)
@given(pairs_of_sets(), kernels)
def test_kernels_are_symmetric_and_positive_semi_definite(sets, kernel):
    x, y = sets
    torch.testing.assert_close(kernel(x, y), kernel(y, x).mT)
    both = torch.cat([x, y])
    values = torch.linalg.eigvalsh(kernel(both, both))
    assert values.min() > -1e-9 * values.max()


def test_a_mixture_is_the_mean_of_its_kernels():
    x, y = randn(5, 3), randn(4, 3, seed=1)
    expected = (Gaussian(0.5)(x, y) + Gaussian(2.0)(x, y)) / 2
    torch.testing.assert_close(Gaussian((0.5, 2.0))(x, y), expected)


def test_distances_far_from_the_origin_keep_their_digits():
    x, y = randn(6, 3), randn(5, 3, seed=1)
    expected = (x[:, None] - y).square().sum(-1)
    torch.testing.assert_close(squared_distances(x + 1e6, y + 1e6), expected, rtol=1e-8, atol=1e-8)


def test_kernels_broadcast_over_leading_dimensions():
    x, y = randn(3, 1, 5, 2), randn(4, 6, 2, seed=1)
    for kernel in KERNELS:
        k = kernel(x, y)
        assert k.shape == (3, 4, 5, 6)
        torch.testing.assert_close(k[2, 1], kernel(x[2, 0], y[1]))


@pytest.mark.parametrize("bandwidth", [0, 0.0, -1.0, math.inf, math.nan, "1", None, True, (1.0, 0.0), (1.0, "2"), ()])
def test_a_bandwidth_is_positive(bandwidth):
    with pytest.raises(ValueError, match="bandwidth must be"):
        Gaussian(bandwidth)


# MMD


@settings(deadline=None, max_examples=40)
@given(pairs_of_sets(), kernels, st.booleans(), st.integers(1, 9))
def test_mmd_is_the_quadratic_loop_for_every_block(sets, kernel, unbiased, block):
    x, y = sets
    expected = slow_mmd2(x, y, kernel, unbiased)
    scale = float(kernel(torch.cat(sets), torch.cat(sets)).abs().max())
    assert abs(float(in_tiles(block, mmd2, x, y, kernel=kernel, unbiased=unbiased)) - expected) < 1e-12 * max(scale, 1)


@settings(deadline=None)
@given(pairs_of_sets(), kernels, st.booleans())
def test_mmd_is_symmetric(sets, kernel, unbiased):
    x, y = sets
    one, two = (mmd2(*pair, kernel=kernel, unbiased=unbiased) for pair in ((x, y), (y, x)))
    torch.testing.assert_close(one, two)


@settings(deadline=None)
@given(pairs_of_sets(), kernels)
def test_v_is_never_negative_and_zero_for_equal_sets(sets, kernel):
    x, y = sets
    scale = float(kernel(torch.cat(sets), torch.cat(sets)).abs().max())
    assert mmd2(x, y, kernel=kernel) > -1e-12 * max(scale, 1)
    doubled = torch.cat([x.flip(0), x])  # order and repetition do not change a measure
    assert abs(mmd2(x, doubled, kernel=kernel)) < 1e-12 * max(scale, 1)


@settings(deadline=None)
@given(pairs_of_sets(), st.integers(0, 1000), st.floats(0.1, 10))
def test_the_gaussian_kernel_sees_no_isometry_and_no_common_scale(sets, seed, scale):
    x, y = sets
    rotation = torch.linalg.qr(randn(x.shape[1], x.shape[1], seed=seed))[0]
    moved = [scale * (z @ rotation + 5) for z in sets]
    torch.testing.assert_close(
        mmd2(*moved, kernel=Gaussian(scale * 0.8)), mmd2(x, y, kernel=Gaussian(0.8)), rtol=1e-7, atol=1e-9
    )


@settings(deadline=None)
@given(pairs_of_sets())
def test_the_linear_kernel_is_the_distance_of_means(sets):
    x, y = sets
    torch.testing.assert_close(mmd2(x, y, kernel=Linear()), (x.mean(0) - y.mean(0)).square().sum())


@settings(deadline=None)
@given(pairs_of_sets(), kernels)
def test_mmd_obeys_the_triangle_inequality(sets, kernel):
    x, y = sets
    z = randn(5, x.shape[1], seed=7)
    xy, yz, xz = (mmd2(a, b, kernel=kernel).clamp(min=0).sqrt() for a, b in ((x, y), (y, z), (x, z)))
    assert xz <= xy + yz + 1e-6 * (1 + xz)


def test_mmd_broadcasts_over_leading_dimensions():
    x, y = randn(3, 1, 5, 2), randn(4, 6, 2, seed=1)
    for unbiased in (False, True):
        values = in_tiles(4, mmd2, x, y, kernel=Gaussian(1.0), unbiased=unbiased)
        assert values.shape == (3, 4)
        torch.testing.assert_close(values[2, 1], mmd2(x[2, 0], y[1], kernel=Gaussian(1.0), unbiased=unbiased))


def test_u_is_unbiased_and_v_is_too_large_by_the_traces():
    repeats, n, m, kernel = 3000, 6, 9, Gaussian(1.0)
    x, y = randn(repeats, n, 2), 0.5 + 1.3 * randn(repeats, m, 2, seed=1)
    zero, eye = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    exact = mmd2_of_gaussians(zero, eye, zero + 0.5, 1.69 * eye, kernel)
    u, v = (mmd2(x, y, kernel=kernel, unbiased=unbiased) for unbiased in (True, False))
    assert abs(u.mean() - exact) < 4 * u.std() / repeats**0.5
    traces = [1 - (1 + 2 * variance) ** -1 for variance in (1, 1.69)]  # 1 − E k(x, x′) in two dimensions
    bias = traces[0] / n + traces[1] / m
    assert abs(v.mean() - exact - bias) < 4 * v.std() / repeats**0.5
    assert (u < 0).any()


@pytest.mark.slow
@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("block", [3, 100])
@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients(kernel, unbiased, block):
    x, y = randn(4, 2).requires_grad_(), randn(5, 2, seed=1).requires_grad_()

    def function(x, y):
        return in_tiles(block, mmd2, x, y, kernel=kernel, unbiased=unbiased)

    assert torch.autograd.gradcheck(function, (x, y))
    assert torch.autograd.gradgradcheck(function, (x, y))


@pytest.mark.parametrize("block", [3, 100])
def test_gradients_reach_a_kernel_of_ones_own(block):
    embed = torch.nn.Linear(2, 3).double()

    def kernel(x, y):
        return embed(x) @ embed(y).mT

    in_tiles(block, mmd2, randn(5, 2), randn(7, 2, seed=1), kernel=kernel).backward()
    assert embed.weight.grad.abs().min() > 0


def test_a_point_that_two_sets_share_has_a_finite_gradient():
    x = randn(3, 2).requires_grad_()
    (g,) = torch.autograd.grad(mmd2(x, x.detach().clone(), kernel=Gaussian(1.0)), x)
    assert g.abs().max() < 1e-12


def test_float32_sums_do_not_drift():
    x, y = randn(3000, 3), randn(3000, 3, seed=1)
    exact = mmd2(x, y, kernel=Gaussian(2.0))
    single = mmd2(x.float(), y.float(), kernel=Gaussian(2.0))
    assert single.dtype == torch.float32
    assert abs(single - exact) < 1e-7


@pytest.mark.slow
def test_ten_thousand_points_in_little_memory():
    """10,000 × 10,000 kernel values are 400 MB in float32, and no more than a tile of them exists at a time."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the peak memory of a process is read from /proc")
    code = """if True:
        import re, torch
        from dmtutor.mmd import Gaussian, mmd2
        def peak():
            return re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
        x, y = torch.randn(2, 10_000, 64, generator=torch.Generator().manual_seed(0))
        mmd2(x[:100], y[:100], kernel=Gaussian(8.0))  # what the first call loads does not count
        before = peak()
        print(float(mmd2(x, y, kernel=Gaussian(8.0))), before, peak())
    """
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    value, before, peak = run.stdout.split()
    assert 0 < float(value) < 2e-3
    assert 1024 * (int(peak) - int(before)) < 2e8


def test_no_kernel_matrix_is_larger_than_a_tile():
    seen = []

    def kernel(x, y):
        seen.append((x.shape[-2], y.shape[-2]))
        return x @ y.mT

    in_tiles(4, mmd2, randn(10, 2), randn(23, 2), kernel=kernel)
    in_tiles(4, witness, randn(9, 2), randn(10, 2), randn(23, 2), kernel=kernel)
    assert max(max(shape) for shape in seen) == 4


# The witness


@settings(deadline=None)
@given(pairs_of_sets(), kernels, st.integers(1, 9))
def test_the_witness_shows_the_whole_difference(sets, kernel, block):
    x, y = sets
    at_x, at_y = (in_tiles(block, witness, z, x, y, kernel=kernel) for z in sets)
    torch.testing.assert_close(at_x.mean() - at_y.mean(), mmd2(x, y, kernel=kernel), rtol=1e-7, atol=1e-9)


def test_no_other_function_of_unit_norm_shows_more():
    x, y, kernel = randn(8, 2), 1 + randn(6, 2, seed=1), Gaussian(1.0)
    mmd = mmd2(x, y, kernel=kernel).sqrt()
    for seed in range(50):  # f = Σ_i w_i k(z_i, ·) with ‖f‖² = wᵀ K w = 1
        z, w = randn(5, 2, seed=seed), randn(5, seed=seed + 100)
        w = w / (w @ kernel(z, z) @ w).sqrt()
        assert (kernel(x, z) @ w).mean() - (kernel(y, z) @ w).mean() <= mmd


def test_the_witness_broadcasts_and_is_differentiable():
    z, x, y = randn(4, 2).requires_grad_(), randn(3, 5, 2, seed=1), randn(3, 6, 2, seed=2)
    f = witness(z, x, y, kernel=Gaussian(1.0))
    assert f.shape == (3, 4)
    torch.testing.assert_close(f[1], witness(z, x[1], y[1], kernel=Gaussian(1.0)))
    assert torch.autograd.gradcheck(lambda z: in_tiles(2, witness, z, x, y, kernel=Gaussian(1.0)), z)


# Closed form


@pytest.mark.slow
@settings(deadline=None, max_examples=8)
@given(st.integers(1, 3), st.floats(0.3, 3), st.integers(0, 1000))
def test_the_closed_form_is_what_large_samples_give(d, h, seed):
    mean, root_x, root_y = randn(d, seed=seed), randn(d, d, seed=seed + 1), randn(d, d, seed=seed + 2)
    x, y = randn(2000, d, seed=seed + 3) @ root_x.T, mean + randn(2000, d, seed=seed + 4) @ root_y.T
    kernel = Gaussian((h, 2 * h))
    zero = torch.zeros(d, dtype=torch.float64)
    exact = mmd2_of_gaussians(zero, root_x @ root_x.T, mean, root_y @ root_y.T, kernel)
    assert abs(mmd2(x, y, kernel=kernel, unbiased=True) - exact) < 5 * (exact.sqrt() / 2000**0.5 + 1 / 2000)


# Bad input


FUNCTIONS = {
    "mmd2": lambda x, y: mmd2(x, y, kernel=Gaussian(1.0)),
    "witness": lambda x, y: witness(x, x, y, kernel=Gaussian(1.0)),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
@pytest.mark.parametrize(
    "y, error, message",
    [
        (randn(4, 3), ValueError, "y must have (x|points)'s 2 dimensions; got 3"),
        (randn(4), ValueError, r"y must be points \(…, n, d\) with n, d ≥ 1, of floating point; got \(4,\)"),
        (randn(0, 2), ValueError, r"y must be points .* got \(0, 2\)"),
        (torch.ones(4, 2, dtype=torch.int64), ValueError, r"y must be points .* of torch\.int64"),
        (randn(4, 2).float(), ValueError, r"y must be torch\.float64 on cpu like (x|points); got torch\.float32"),
        (torch.full((4, 2), math.nan).double(), ValueError, "y must be finite; got 8 coordinates NaN or infinite"),
        (torch.full((4, 2), math.inf).double(), ValueError, "y must be finite"),
        ([[0.0, 1.0]], TypeError, "y must be a tensor; got list"),
    ],
)
def test_sets_are_checked(function, y, error, message):
    with pytest.raises(error, match=message):
        function(randn(5, 2), y)


@pytest.mark.parametrize("name", ["x", "y"])
def test_the_unbiased_estimator_needs_two_points(name):
    sets = {"x": randn(4, 2), "y": randn(4, 2), name: randn(1, 2)}
    assert mmd2(**sets, kernel=Gaussian(1.0)) > 0
    with pytest.raises(ValueError, match=f"{name} must hold at least two points for an unbiased estimate; got 1"):
        mmd2(**sets, kernel=Gaussian(1.0), unbiased=True)
