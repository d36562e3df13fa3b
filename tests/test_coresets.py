import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import seeded

from dmtutor import ConvNet, from_arrays, random_subset
from dmtutor.coresets import BLOCK, herding, herding_order, k_center, k_center_order
from dmtutor.mmd import Linear, mmd2

RULES = {herding: herding_order, k_center: k_center_order}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


@pytest.fixture
def real():
    """Every image is constant: its own index / 100. Classes of 5, 9 and 6 images, mixed."""
    labels = torch.tensor([0] * 5 + [1] * 9 + [2] * 6)[torch.randperm(20, generator=seeded())]
    pixels = (torch.arange(20) / 100).view(20, 1, 1).expand(20, 4, 4)
    return from_arrays(pixels, labels, classes=["a", "b", "c"])


@pytest.fixture
def noise():
    """300 images of random pixels in two mixed classes of 130 and 170."""
    labels = torch.tensor([0] * 130 + [1] * 170)[torch.randperm(300, generator=seeded())]
    return from_arrays(torch.rand(300, 8, 8, 3, generator=seeded()), labels, classes=["a", "b"])


def identities(data):
    return [round(100 * float(p.mean())) for p in data.pixels]


methods = pytest.mark.parametrize(
    "choose", [lambda real, ipc: random_subset(real, ipc, generator=seeded()), *RULES], ids=["random", "herd", "k-c"]
)
rules = pytest.mark.parametrize("rule", RULES, ids=["herding", "k_center"])
orders = pytest.mark.parametrize("order", RULES.values(), ids=["herding", "k_center"])


@methods
@pytest.mark.parametrize("ipc", [1, 3, 5])
def test_real_images_of_every_class_sorted_without_repeats(real, choose, ipc):
    subset = choose(real, ipc)
    assert subset.labels.tolist() == [0] * ipc + [1] * ipc + [2] * ipc
    chosen = identities(subset)
    assert len(set(chosen)) == 3 * ipc
    assert [int(real.labels[i]) for i in chosen] == subset.labels.tolist()
    assert subset.classes == real.classes
    assert torch.equal(subset.mean, real.mean)


def test_seeds(real):
    draws = [identities(random_subset(real, 3, generator=seeded(s))) for s in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_every_image_is_as_likely(real):
    generator = seeded()
    counts = torch.zeros(20)
    for _ in range(1500):
        for i in identities(random_subset(real, 2, generator=generator)):
            counts[i] += 1
    expected = torch.tensor([1500 * 2 / real.counts.tolist()[c] for c in real.labels.tolist()])
    assert ((counts - expected).abs() / expected.sqrt()).max() < 4


@methods
def test_it_is_a_copy(real, choose):
    subset = choose(real, 5)
    subset.images.zero_()
    assert real.images.abs().max() > 0


@methods
@pytest.mark.parametrize("ipc", [0, -1, 1.0, "2", True, None])
def test_ipc_must_be_a_positive_integer(real, choose, ipc):
    with pytest.raises(ValueError, match="ipc must be a positive integer; got"):
        choose(real, ipc)


@methods
def test_ipc_must_not_exceed_a_class(real, choose):
    with pytest.raises(ValueError, match="ipc must be at most 5, the images of class 'a'; got 6"):
        choose(real, 6)


# The rules, on points


def first(candidates, value):
    """The first candidate with the smallest value; a tie that rounding broke is a tie."""
    values = [value(i) for i in candidates]
    return next(i for i, v in zip(candidates, values, strict=True) if v <= min(values) + 1e-9)


def slow_herding(points, m):
    """The definition, one candidate after the other."""
    mean, chosen = points.mean(0), []
    for _ in range(m):
        left = [i for i in range(len(points)) if i not in chosen]
        chosen.append(first(left, lambda i: float((mean - points[[*chosen, i]].mean(0)).norm())))
    return chosen


def slow_k_center(points, m):
    chosen = [first(range(len(points)), lambda i: float((points[i] - points.mean(0)).norm()))]
    while len(chosen) < m:
        left = [i for i in range(len(points)) if i not in chosen]
        chosen.append(first(left, lambda i: -min(float((points[i] - points[j]).norm()) for j in chosen)))
    return chosen


@st.composite
def clouds(draw):
    n, d, seed = draw(st.integers(1, 12)), draw(st.integers(1, 5)), draw(st.integers(0, 2**31))
    return draw(st.floats(-5, 5)) + draw(st.floats(0.1, 3)) * randn(n, d, seed=seed), draw(st.integers(1, n))


@settings(deadline=None)
@given(clouds())
def test_orders_are_those_of_the_definitions(cloud):
    points, m = cloud
    assert herding_order(points, m).tolist() == slow_herding(points, m)
    assert k_center_order(points, m).tolist() == slow_k_center(points, m)


@settings(deadline=None, max_examples=30)
@given(clouds())
def test_herding_is_greedy_descent_on_mmd(cloud):
    points, m = cloud
    chosen = herding_order(points, m).tolist()
    for k in range(m):
        left = [i for i in range(len(points)) if i not in chosen[:k]]
        values = {i: float(mmd2(points[[*chosen[:k], i]], points, kernel=Linear())) for i in left}
        assert values[chosen[k]] <= min(values.values()) + 1e-9


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 4))
def test_k_center_covers_within_twice_the_best_radius(seed, m):
    distances = torch.cdist(points := randn(9, 2, seed=seed), points)

    def radius(chosen):
        return float(distances[:, list(chosen)].min(1).values.max())

    best = min(map(radius, combinations(range(9), m)))
    assert radius(k_center_order(points, m).tolist()) <= 2 * best + 1e-9


@orders
def test_all_points_are_chosen_once_and_the_first_do_not_depend_on_m(order):
    points = randn(40, 3)
    everything = order(points, 40)
    assert everything.dtype == torch.int64
    assert sorted(everything.tolist()) == list(range(40))
    for m in (1, 2, 17):
        assert torch.equal(order(points, m), everything[:m])


@orders
def test_only_relative_positions_count(order):
    points = randn(60, 4)
    rotation = torch.linalg.qr(randn(4, 4, seed=1))[0]
    assert torch.equal(order(7 * (points @ rotation) - 100, 20), order(points, 20))


@orders
def test_the_order_of_the_points_does_not_count(order):
    points, shuffled = randn(60, 4), torch.randperm(60, generator=seeded(1))
    assert torch.equal(shuffled[order(points[shuffled], 20)], order(points, 20))


def test_by_hand():
    line = torch.tensor([[0.0], [1.0], [2.0], [9.0]])  # mean 3
    assert herding_order(line, 4).tolist() == [2, 1, 3, 0]  # means 2, 1.5, 4, 3
    assert k_center_order(line, 4).tolist() == [2, 3, 0, 1]


@orders
def test_the_first_of_equal_points_is_taken(order):
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]])  # equally far from their mean
    assert order(corners, 2).tolist() == [0, 2]
    same = torch.full((7, 3), 0.1)
    assert order(same, 7).tolist() == list(range(7))
    twice = randn(25, 7).repeat(2, 1)
    distinct = order(twice, 25) if order is k_center_order else order(twice, 1)
    assert distinct.max() < 25


@orders
def test_float32_far_from_the_origin_is_what_it_is_in_float64(order):
    """1,000 choices: sums kept in float32 would have lost half of their digits."""
    points = 100 + torch.randn(2000, 16, generator=seeded())
    assert torch.equal(order(points, 1000), order(points.double(), 1000))
    x, chosen = points.double(), order(points, 1000)
    mean, radius = x[chosen].mean(0) - x.mean(0), torch.cdist(x, x[chosen]).min(1).values.max()
    if order is herding_order:
        assert mean.norm() < 0.01  # a random subset's is about √(d/2m) = 0.09
    else:
        assert radius < torch.cdist(x[chosen], x[chosen]).fill_diagonal_(math.inf).min() + 1e-9


@orders
def test_gradients_are_not_needed(order):
    points = randn(9, 2).requires_grad_()
    assert not order(points, 3).requires_grad


# The rules, on images


@rules
def test_each_class_is_chosen_by_the_rule_alone(noise, rule):
    chosen = rule(noise, 7)
    for c in range(2):
        pool = noise.of_class(c)
        assert torch.equal(chosen.of_class(c), pool[RULES[rule](pool.flatten(1), 7)])
    assert torch.equal(chosen.images[:3], rule(noise, 3).images[:3])


@rules
def test_an_embedding_is_where_the_rule_looks(noise, rule):
    net = ConvNet(channels=3, image_size=8, width=4, generator=seeded()).eval()
    seen = []

    def embed(images):
        seen.append((len(images), torch.is_grad_enabled()))
        return net.embed(images)

    chosen = rule(noise, 5, embed=embed)
    assert max(n for n, _ in seen) == BLOCK and not any(grad for _, grad in seen)
    for c in range(2):
        pool = noise.of_class(c)
        with torch.no_grad():
            points = net.embed(pool)
        assert torch.equal(chosen.of_class(c), pool[RULES[rule](points, 5)])
    assert not torch.equal(chosen.images, rule(noise, 5).images)


@rules
def test_the_global_generator_is_left_alone(noise, rule):
    before = torch.get_rng_state()
    rule(noise, 2)
    assert torch.equal(torch.get_rng_state(), before)


# Bad input


@rules
@pytest.mark.parametrize(
    "embed, error, message",
    [
        (3, TypeError, r"embed must be callable, \(n, C, H, W\) → \(n, d'\); got 3"),
        (lambda x: x, ValueError, r"embed must return \(n, d'\) for n = 100 images; got \(100, 3, 8, 8\)"),
        (lambda x: x.flatten(1)[1:], ValueError, r"embed must return .* n = 100 images; got \(99, 192\)"),
        (lambda x: x.flatten(1).tolist(), ValueError, "embed must return .*; got list"),
        (lambda x: x.flatten(1) / 0, ValueError, "embed must return finite numbers; got NaN or infinite ones"),
    ],
)
def test_embeddings_are_checked(noise, rule, embed, error, message):
    with pytest.raises(error, match=message):
        rule(noise, 2, embed=embed)


@rules
def test_pixels_are_checked(noise, rule):
    noise.images[3, 0, 0, :2] = math.nan
    for embed in (None, lambda images: images.nan_to_num().flatten(1)):
        with pytest.raises(ValueError, match="real must be finite; got 2 pixels NaN or infinite"):
            rule(noise, 2, embed=embed)


@orders
@pytest.mark.parametrize(
    "points, m, error, message",
    [
        ([[0.0]], 1, TypeError, "points must be a tensor; got list"),
        (torch.zeros(4), 1, ValueError, r"points must be points .* got \(4,\)"),
        (torch.zeros(2, 4, 3), 1, ValueError, r"points must be \(n, d\); got \(2, 4, 3\)"),
        (torch.zeros(0, 3), 1, ValueError, r"points must be points .* got \(0, 3\)"),
        (torch.zeros(4, 2, dtype=torch.int64), 1, ValueError, "points must be points .* of torch.int64"),
        (torch.full((4, 2), math.nan), 1, ValueError, "points must be finite; got 8 coordinates NaN or infinite"),
        (torch.full((4, 2), math.inf), 1, ValueError, "points must be finite"),
        (torch.zeros(4, 2), 0, ValueError, "m must be a positive integer; got 0"),
        (torch.zeros(4, 2), 2.0, ValueError, "m must be a positive integer; got 2.0"),
        (torch.zeros(4, 2), 5, ValueError, "m must be at most 4, the number of points; got 5"),
    ],
)
def test_points_are_checked(order, points, m, error, message):
    with pytest.raises(error, match=message):
        order(points, m)
