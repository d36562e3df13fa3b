import pytest
import torch

from dmtutor import from_arrays, random_subset


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def real():
    """Every image is constant: its own index / 100. Classes of 5, 9 and 6 images, mixed."""
    labels = torch.tensor([0] * 5 + [1] * 9 + [2] * 6)[torch.randperm(20, generator=seeded())]
    pixels = (torch.arange(20) / 100).view(20, 1, 1).expand(20, 4, 4)
    return from_arrays(pixels, labels, classes=["a", "b", "c"])


def identities(data):
    return [round(100 * float(p.mean())) for p in data.pixels]


@pytest.mark.parametrize("ipc", [1, 3, 5])
def test_real_images_of_every_class_sorted_without_repeats(real, ipc):
    subset = random_subset(real, ipc, generator=seeded())
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


def test_it_is_a_copy(real):
    subset = random_subset(real, 5, generator=seeded())
    subset.images.zero_()
    assert real.images.abs().max() > 0


@pytest.mark.parametrize("ipc", [0, -1, 1.0, "2", True, None])
def test_ipc_must_be_a_positive_integer(real, ipc):
    with pytest.raises(ValueError, match="ipc must be a positive integer; got"):
        random_subset(real, ipc, generator=seeded())


def test_ipc_must_not_exceed_a_class(real):
    with pytest.raises(ValueError, match="ipc must be at most 5, the images of class 'a'; got 6"):
        random_subset(real, 6, generator=seeded())
