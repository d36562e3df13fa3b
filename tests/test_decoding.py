"""Several images in the pixels of one: against torch's own interpolation, and everywhere where sets are used."""

import pytest
import torch
import torch.nn.functional as F
from runs import real_images, seeded
from torch.utils.data import DataLoader

from dmtutor import (
    DMConfig,
    LabeledImages,
    Recipe,
    as_tiles,
    decode,
    dm_steps,
    evaluate,
    export,
    herding,
    load_exported,
    random_subset,
    random_tiles,
)
from dmtutor.decoding import enlarge, shrink, tiles

QUICK = Recipe(steps=3, width=4, depth=1, augment="none")


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_enlarging_is_bilinear_interpolation_of_every_tile(factor):
    images = torch.randn(3, 2, 6, 12, generator=seeded(), dtype=torch.float64)
    seen = enlarge(images, factor)
    h, w = 6 // factor, 12 // factor
    one_by_one = [images[n : n + 1, :, i * h : (i + 1) * h, j * w : (j + 1) * w]
                  for n in range(3) for i in range(factor) for j in range(factor)]
    expected = torch.cat([F.interpolate(part, (6, 12), mode="bilinear", align_corners=False) for part in one_by_one])
    torch.testing.assert_close(seen, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(tiles(images, factor), torch.cat(one_by_one))


def test_the_gradient_is_the_transposed_map():
    x = torch.randn(2, 1, 8, 8, generator=seeded(), dtype=torch.float64)
    g = torch.randn(8, 1, 8, 8, generator=seeded(1), dtype=torch.float64)
    by_autograd = torch.func.vjp(lambda s: enlarge(s, 2), x)[1](g)[0]
    inner = (by_autograd * x).sum()
    torch.testing.assert_close(inner, (g * enlarge(x, 2)).sum(), rtol=1e-12, atol=1e-12)  # ⟨fᵀ g, x⟩ = ⟨g, f x⟩
    columns = enlarge(torch.ones_like(x), 2)
    torch.testing.assert_close(columns, torch.ones_like(columns))  # rows of U sum to 1


def test_shrinking_is_the_mean_and_keeps_places():
    images = torch.randn(8, 3, 6, 4, generator=seeded(), dtype=torch.float64)
    parts = tiles(shrink(images, 2), 2)
    expected = images.unflatten(2, (3, 2)).unflatten(4, (2, 2)).mean((3, 5))
    torch.testing.assert_close(parts, expected)


@pytest.mark.parametrize("ipc", [1, (1, 2, 1)])
def test_random_tiles_hold_the_images_of_a_random_subset(ipc):
    real = real_images((8, 9, 7))
    stored = random_tiles(real, ipc, generator=seeded(3))
    many = random_subset(real, tuple(4 * n for n in ipc) if isinstance(ipc, tuple) else 4, generator=seeded(3))
    assert stored.counts.tolist() == (list(ipc) if isinstance(ipc, tuple) else [1, 1, 1])
    seen = decode(stored)
    assert torch.equal(seen.labels, many.labels) and "factor" not in seen.meta and stored.meta["factor"] == 2
    torch.testing.assert_close(tiles(stored.images, 2), F.avg_pool2d(many.images, 2))
    assert "factor" not in real.meta


def test_factor_one_is_a_random_subset():
    real = real_images()
    one, other = random_tiles(real, 2, factor=1, generator=seeded()), random_subset(real, 2, generator=seeded())
    assert torch.equal(one.images, other.images) and one.meta == other.meta and decode(one) is one


@pytest.mark.parametrize(("factor", "ipc", "message"), [
    (3, 1, "factor must divide the images' sides, 8 × 8; got 3"),
    (0, 1, "factor must be a positive integer; got 0"),
    (2, 2, "ipc must be at most 6, the images of class '0'; got 8"),
])
def test_what_does_not_fit_is_refused(factor, ipc, message):
    with pytest.raises(ValueError) as caught:
        random_tiles(real_images(), ipc, factor=factor, generator=seeded())
    assert str(caught.value) == message


def test_tiles_are_refused_where_images_are_asked_for():
    real = real_images()
    stored, message = random_tiles(real, 1, generator=seeded()), "must be images, not yet stored as tiles; decode"
    for work in (
        lambda: herding(stored, 1),
        lambda: as_tiles(stored),
        lambda: dm_steps(stored, config=DMConfig(ipc=1), generator=seeded()),
        lambda: evaluate(stored, stored, generator=seeded()),
    ):
        with pytest.raises(ValueError, match=message):
            work()
    with pytest.raises(TypeError, match="real must be LabeledImages; got Tensor"):
        herding(real.images, 1)
    with pytest.raises(ValueError, match=r"images must be of shape \(n, C, H, W\); got \(4, 4\)"):
        enlarge(torch.zeros(4, 4), 2)


def test_chosen_images_are_stored_in_their_order():
    chosen = herding(real_images((8, 9, 7)), 4)
    stored = as_tiles(chosen)
    torch.testing.assert_close(tiles(stored.images, 2), F.avg_pool2d(chosen.images, 2))
    assert torch.equal(decode(stored).labels, chosen.labels)


def test_a_stored_image_is_of_one_class():
    real = real_images((8, 9, 7))
    for data in (real.select(torch.arange(7)), real.select(torch.arange(6, 10))):  # too few; of two classes
        with pytest.raises(ValueError, match="data must hold a multiple of factor² = 4 images of each class"):
            as_tiles(data)
    for store_or_show in (as_tiles, decode):
        with pytest.raises(TypeError, match="data must be LabeledImages; got Tensor"):
            store_or_show(real.images)
    with pytest.raises(TypeError, match="real must be LabeledImages; got Tensor"):
        random_tiles(real.images, 1, generator=seeded())
    with pytest.raises(ValueError, match="not yet stored as tiles"):
        as_tiles(as_tiles(herding(real, 4)))


def test_a_judge_decodes(tmp_path):
    real = real_images()
    stored = random_tiles(real, 1, generator=seeded())
    scores = [evaluate(s, real, networks=2, recipe=QUICK, generator=seeded()) for s in (stored, decode(stored))]
    assert torch.equal(scores[0].predicted, scores[1].predicted)
    stored.save(tmp_path / "S.pt")
    assert torch.equal(decode(LabeledImages.load(tmp_path / "S.pt")).images, decode(stored).images)


@pytest.mark.parametrize("name", ["folder", "set.npz", "set.pt"])
def test_other_tools_get_the_images_that_are_seen(tmp_path, name):
    stored = random_tiles(real_images(), 1, generator=seeded())
    export(stored, tmp_path / name)
    back = load_exported(tmp_path / name)
    torch.testing.assert_close(back.pixels, decode(stored).pixels.clamp(0, 1), rtol=0, atol=0.003)
    assert back.counts.tolist() == [4, 4, 4]
    assert evaluate(back, real_images().normalized_like(back), networks=1, recipe=QUICK, generator=seeded())


@pytest.mark.parametrize("use", [lambda s: s[0], lambda s: next(iter(DataLoader(s)))])
def test_a_program_that_would_see_tiles_is_told(use):
    stored = random_tiles(real_images(), 1, generator=seeded())
    with pytest.raises(ValueError, match=r"these images hold several each: take decode\(data\)"):
        use(stored)
    assert use(decode(stored))
