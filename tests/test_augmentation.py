import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import seeded

from dmtutor.augmentation import OPERATIONS, Draws, SiameseAugment, cutmix
from dmtutor.sources import EVERYTHING

QUICK = settings(max_examples=40, deadline=None)
unit = st.floats(0, 1, exclude_max=True, width=32)
side = st.integers(1, 9)


def images(n=4, channels=3, height=8, width=8, dtype=torch.float64):
    return torch.randn(n, channels, height, width, generator=seeded(), dtype=dtype)


def numbers(*u, n=1):
    """The same u for n images: (n, 4)."""
    return torch.tensor([*u, 0.0, 0.0, 0.0, 0.0][:4], dtype=torch.float64).expand(n, 4)


# The operations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_gradcheck(name, channels):
    x = images(3, channels, 6, 5).requires_grad_()
    u = torch.rand(3, 4, generator=seeded(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: OPERATIONS[name](x, u), x)


@pytest.mark.parametrize("name", OPERATIONS)
def test_shape_and_dtype_are_kept(name):
    for x in (images(2, 1, 28, 28, torch.float32), images(2, 3, 7, 12)):
        y = OPERATIONS[name](x, torch.full((2, 4), 0.3).to(x))
        assert y.shape == x.shape
        assert y.dtype == x.dtype


FACTOR_ONE = (1 - 1 / 1.2) / (1.2 - 1 / 1.2)
NEUTRAL = {"color": (0.5, 0.5, 0.5), "crop": (0.5, 0.5), "flip": (0.5,), "scale": (FACTOR_ONE, FACTOR_ONE),
           "rotate": (0.5,)}


@pytest.mark.parametrize("name", NEUTRAL)
def test_identity_at_the_neutral_parameters(name):
    x = images(2)
    torch.testing.assert_close(OPERATIONS[name](x, numbers(*NEUTRAL[name], n=2)), x, rtol=0, atol=1e-12)
    assert not torch.allclose(OPERATIONS[name](x, numbers(0.01, 0.02, 0.03, n=2)), x)


@QUICK
@given(side, side, unit, unit)
def test_crop_is_a_shift_that_brings_in_zeros(height, width, u, v):
    x = images(2, 2, height, width)
    y = OPERATIONS["crop"](x, numbers(u, v, n=2))
    most_y, most_x = int(height / 8 + 0.5), int(width / 8 + 0.5)
    down, right = math.floor(u * (2 * most_y + 1)) - most_y, math.floor(v * (2 * most_x + 1)) - most_x
    assert abs(down) <= most_y
    assert abs(right) <= most_x
    for i in range(height):
        for j in range(width):
            within = 0 <= i + down < height and 0 <= j + right < width
            expected = x[:, :, i + down, j + right] if within else torch.zeros_like(x[:, :, 0, 0])
            assert torch.equal(y[:, :, i, j], expected)


@QUICK
@given(side, side, unit, unit)
def test_cutout_is_a_hole_of_half_each_side(height, width, u, v):
    x = images(2, 2, height, width)
    y = OPERATIONS["cutout"](x, numbers(u, v, n=2))
    tall, wide = int(height / 2 + 0.5), int(width / 2 + 0.5)
    top = math.floor(u * (height + 1 - tall % 2)) - tall // 2
    left = math.floor(v * (width + 1 - wide % 2)) - wide // 2
    for i in range(height):
        for j in range(width):
            hole = top <= i < top + tall and left <= j < left + wide
            assert torch.equal(y[:, :, i, j], torch.zeros_like(x[:, :, i, j]) if hole else x[:, :, i, j])


@pytest.mark.parametrize("name", ["crop", "cutout"])
def test_every_position_is_reached_and_none_is_preferred(name):
    u = torch.rand(8000, 4, generator=seeded(), dtype=torch.float64)
    first_row = OPERATIONS[name](torch.ones(8000, 1, 8, 8, dtype=torch.float64), u)[:, 0].sum((1, 2))
    _, counts = first_row.unique(return_counts=True)
    # crop by −1, 0, 1: areas 49 (4 of 9 ways), 56 (4 of 9), 64 (1 of 9); cutout of 4×4 at 9×9 places
    areas = {"crop": [4 / 9, 4 / 9, 1 / 9]}.get(name)
    if areas:
        torch.testing.assert_close(counts / 8000, torch.tensor(areas), atol=0.03, rtol=0)
    else:
        whole = 64 - 16
        assert math.isclose(float((first_row == whole).double().mean()), (5 / 9) ** 2, abs_tol=0.03)


def ramps(height=8, width=12):
    """Two images whose pixels are their own coordinates from −1 to 1: x, then y."""
    y = ((2 * torch.arange(height, dtype=torch.float64) + 1) / height - 1)[:, None].expand(height, width)
    x = ((2 * torch.arange(width, dtype=torch.float64) + 1) / width - 1).expand(height, width)
    return torch.stack([x, y])[None], x, y


@pytest.mark.parametrize("u", [0.0, 0.3, 1 - 1e-12])
def test_rotation_by_up_to_15_degrees(u):
    image, x, y = ramps()
    angle = math.radians(15) * (2 * u - 1)
    inner = (slice(2, 6), slice(3, 9))  # away from what rotates in
    turned = OPERATIONS["rotate"](image, numbers(u))[0]
    torch.testing.assert_close(turned[0][inner], (math.cos(angle) * x - math.sin(angle) * y)[inner])
    torch.testing.assert_close(turned[1][inner], (math.sin(angle) * x + math.cos(angle) * y)[inner])


@pytest.mark.parametrize(("u", "factor"), [(0.0, 1 / 1.2), (1 - 1e-12, 1.2), (0.5, (1.2 + 1 / 1.2) / 2)])
def test_scale_of_each_side_between_its_bounds(u, factor):
    image, x, y = ramps()
    inner = (slice(2, 6), slice(3, 9))
    wide = OPERATIONS["scale"](image, numbers(u, FACTOR_ONE))[0]
    tall = OPERATIONS["scale"](image, numbers(FACTOR_ONE, u))[0]
    torch.testing.assert_close(wide[0][inner], (factor * x)[inner])
    torch.testing.assert_close(wide[1][inner], y[inner])
    torch.testing.assert_close(tall[0][inner], x[inner])
    torch.testing.assert_close(tall[1][inner], (factor * y)[inner])


@pytest.mark.parametrize("name", ["scale", "rotate"])
def test_zero_comes_in_from_outside(name):
    x = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    assert OPERATIONS[name](x, numbers(1 - 1e-12, 1 - 1e-12))[0, 0, 0, 0] < 1


def test_color_ranges():
    constant = torch.full((1, 1, 4, 4), 0.7, dtype=torch.float64)
    for u, brightness in ((0.0, -0.5), (0.25, -0.25), (1 - 1e-12, 0.5)):
        torch.testing.assert_close(OPERATIONS["color"](constant, numbers(u, 0.9, 0.9)), constant + brightness)
    x = images(1)
    grey = x.mean(1, keepdim=True).expand_as(x)
    torch.testing.assert_close(OPERATIONS["color"](x, numbers(0.5, 0, 0.5)), grey)  # no saturation is left
    torch.testing.assert_close(OPERATIONS["color"](x, numbers(0.5, 1, 0.5)), grey + 2 * (x - grey))
    level = x.mean()
    for u, factor in ((0.0, 0.5), (1.0, 1.5)):
        torch.testing.assert_close(OPERATIONS["color"](x, numbers(0.5, 0.5, u)), level + factor * (x - level))


def test_flip_mirrors_left_and_right_for_half_of_the_draws():
    x = images(2)
    assert torch.equal(OPERATIONS["flip"](x, numbers(0.4999, n=2)), x[:, :, :, range(7, -1, -1)])
    assert torch.equal(OPERATIONS["flip"](x, numbers(0.5, n=2)), x)


# Sampling ------------------------------------------------------------------------------------------------------------


def test_same_seed_same_draws_and_other_seeds_differ():
    augment = SiameseAugment(EVERYTHING)
    one, same, other = (augment.sample(50, generator=seeded(s)) for s in (3, 3, 4))
    assert torch.equal(one.operation, same.operation)
    assert torch.equal(one.u, same.u)
    assert not torch.equal(one.u, other.u)
    assert not torch.equal(one.operation, other.operation)


def test_draws_are_plain_uniform_tensors():
    draws = SiameseAugment(EVERYTHING).sample(6000, generator=seeded())
    assert len(draws) == 6000
    assert draws.u.shape == (6000, 4)
    assert 0 <= draws.u.min() <= draws.u.max() < 1
    torch.testing.assert_close(draws.u.mean(0), torch.full((4,), 0.5, dtype=torch.float64), atol=0.02, rtol=0)
    counts = draws.operation.bincount()
    assert len(counts) == 6
    assert (counts - 1000).abs().max() < 120  # four standard deviations


def test_one_operation_for_all_with_parameters_of_their_own():
    augment = SiameseAugment(EVERYTHING)
    operations = set()
    for seed in range(40):
        draws = augment.sample(9, generator=seeded(seed), same_operation=True)
        assert len(draws.operation.unique()) == 1
        assert len(draws.u.unique(dim=0)) == 9
        operations.add(int(draws.operation[0]))
    assert operations == set(range(6))


def test_only_the_operations_of_the_strategy_happen():
    augment = SiameseAugment("rotate_flip")
    for seed in range(20):
        draws = augment.sample(1, generator=seeded(seed))
        name = ("rotate", "flip")[int(draws.operation)]
        x = images(2)
        assert torch.equal(augment.apply(x, draws), OPERATIONS[name](x, draws.u.expand(2, 4)))


def test_a_generator_is_compulsory():
    with pytest.raises(TypeError, match="generator"):
        SiameseAugment("flip").sample(1)
    with pytest.raises(TypeError, match="generator"):
        SiameseAugment("flip").sample(1, generator=None)


# Applying ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATIONS)
def test_siamese_one_draw_transforms_every_image_of_both_batches_alike(name):
    augment = SiameseAugment(name)
    draws = augment.sample(1, generator=seeded(5))
    real, syn = images(6, 1), images(3, 1) * 2
    for batch in (real, syn):
        alone = torch.cat([augment.apply(image[None], draws) for image in batch])
        assert torch.equal(augment.apply(batch, draws), alone)
    both = augment.apply(torch.cat([real, syn]), draws)
    assert torch.equal(both[:6], augment.apply(real, draws))
    assert torch.equal(both[6:], augment.apply(syn, draws))


def test_each_group_of_images_gets_its_own_draw():
    augment = SiameseAugment(EVERYTHING)
    draws = augment.sample(12, generator=seeded(1))
    assert len(draws.operation.unique()) > 3
    x = images(24)
    groups = [
        augment.apply(part, Draws(draws.operation[i : i + 1], draws.u[i : i + 1])) for i, part in enumerate(x.split(2))
    ]
    assert torch.equal(augment.apply(x, draws), torch.cat(groups))


def test_one_draw_an_image():
    augment = SiameseAugment("rotate")
    x = images(1).expand(5, -1, -1, -1)
    different = augment.apply(x, augment.sample(5, generator=seeded()))
    alike = augment.apply(x, augment.sample(1, generator=seeded()))
    assert len(different.unique(dim=0)) == 5
    assert len(alike.unique(dim=0)) == 1


def test_mixed_operations_are_differentiable():
    augment = SiameseAugment(EVERYTHING)
    draws = augment.sample(6, generator=seeded(2))
    assert len(draws.operation.unique()) > 2
    x = images(6, 3, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment.apply(x, draws), x)


def test_apply_is_pure():
    augment = SiameseAugment(EVERYTHING)
    draws = augment.sample(4, generator=seeded())
    x = images()
    before, u = x.clone(), draws.u.clone()
    first = augment.apply(x, draws)
    assert torch.equal(first, augment.apply(x, draws))
    assert torch.equal(x, before)
    assert torch.equal(draws.u, u)


def test_draws_mean_the_same_in_every_dtype():
    augment = SiameseAugment(EVERYTHING)
    draws = augment.sample(24, generator=seeded())
    x = images(24)
    torch.testing.assert_close(augment.apply(x.float(), draws).double(), augment.apply(x, draws), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_largest_u_stays_in_range(dtype):
    """1 − 2⁻³⁰ is 1 in float32: the shift must not become one too large."""
    draws = Draws(torch.zeros(1, dtype=torch.int64), torch.full((1, 4), 1 - 2**-30, dtype=torch.float64))
    x = images(1)
    for name in ("crop", "cutout"):
        augment = SiameseAugment(name)
        assert torch.equal(augment.apply(x, draws).to(dtype), augment.apply(x.to(dtype), draws))


def test_none_is_the_identity():
    augment = SiameseAugment("none")
    x = images()
    for k in (1, 2, 4):
        assert torch.equal(augment.apply(x, augment.sample(k, generator=seeded())), x)


@pytest.mark.parametrize("strategy", ["", "colour", "crop_crop", "crop_", "crop,flip", "none_flip", None, 3])
def test_unknown_strategies_are_refused(strategy):
    with pytest.raises(ValueError, match=r"augment must be .*color, crop, cutout, flip, scale, rotate.*got"):
        SiameseAugment(strategy)


def test_what_is_no_batch_of_images_is_refused():
    augment = SiameseAugment("color")
    with pytest.raises(ValueError, match=r"x must be images, \(n, C, H, W\); got shape \(4, 28, 28\)"):
        augment.apply(torch.zeros(4, 28, 28), augment.sample(1, generator=seeded()))


@pytest.mark.parametrize("k", [3, 8])
def test_draws_must_divide_the_images(k):
    augment = SiameseAugment("flip")
    with pytest.raises(ValueError, match=f"divisor of the number of images, 4; got {k}"):
        augment.apply(images(), augment.sample(k, generator=seeded()))


def test_draws_are_of_the_strategy_that_uses_them():
    """One that has as many operations may use them; a shorter one would not know which is meant."""
    rest = SiameseAugment("color_crop_flip").sample(100, generator=seeded())
    with pytest.raises(ValueError, match="draws must be of this strategy, 'color_crop'; got those of a longer one"):
        SiameseAugment("color_crop").apply(torch.zeros(100, 1, 8, 8), rest)
    for k in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"k must be a positive integer; got {k}"):
            SiameseAugment("color").sample(k, generator=seeded())


# On the way back -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATIONS)
def test_given_its_numbers_an_operation_is_affine_in_the_image(name):
    """A(x) = Jx + b: so the gradient at one image is the gradient at all."""
    x, y = images(2), images(2).flip(0) + 0.5
    u = torch.rand(2, 4, generator=seeded(3), dtype=torch.float64)
    between = OPERATIONS[name](0.3 * x + 0.7 * y, u)
    torch.testing.assert_close(between, 0.3 * OPERATIONS[name](x, u) + 0.7 * OPERATIONS[name](y, u))


@pytest.mark.parametrize("name", ["crop", "cutout", "flip"])
def test_a_gradient_returns_to_the_pixel_it_came_from(name):
    """Operations that move or drop pixels, run backwards, bring each one home, and zero for those dropped."""
    for seed in range(20):
        x = images(2).requires_grad_()
        u = torch.rand(2, 4, generator=seeded(seed), dtype=torch.float64)
        y = OPERATIONS[name](x, u)
        (back,) = torch.autograd.grad(y, x, y.detach())
        kept = back != 0
        assert torch.equal(back[kept], x.detach()[kept])
        assert kept.sum() == (y != 0).sum()


def test_saturation_does_nothing_to_one_channel():
    x = images(2, channels=1)
    full, none = (OPERATIONS["color"](x, numbers(0.2, u, 0.7, n=2)) for u in (1.0, 0.0))
    torch.testing.assert_close(full, none)


def test_cutmix_mixes_labels_by_the_area_of_what_was_cut():
    n, size = 6, 16
    images = torch.arange(float(n)).view(n, 1, 1, 1).expand(n, 2, size, size)
    shares = []
    for seed in range(200):
        mixed, labels = cutmix(images, torch.eye(n), generator=torch.Generator().manual_seed(seed))
        changed = (mixed != images)[:, 0]
        torch.testing.assert_close(labels.sum(1), torch.ones(n))
        for i in range(n):
            own = float((mixed[i] == i).double().mean())
            torch.testing.assert_close(float(labels[i, i]), own, rtol=0, atol=1e-6)
            rows, columns = changed[i].any(1).nonzero().flatten(), changed[i].any(0).nonzero().flatten()
            assert changed[i].sum() == len(rows) * len(columns)  # one rectangle
            assert not len(rows) or rows[-1] - rows[0] + 1 == len(rows)
        shares.append(1 - float(labels.diagonal().min()))
    assert min(shares) < 0.05 and max(shares) > 0.7 and 0.2 < sum(shares) / 200 < 0.5
