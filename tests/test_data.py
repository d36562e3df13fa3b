import dataclasses
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import arrays, seeded, toy

from dmtutor import LabeledImages, from_arrays

# LabeledImages -------------------------------------------------------------------------------------------------------


def test_access():
    x, y = arrays()
    data = from_arrays(x, y, classes=["a", "b", "c"])
    assert len(data) == 12
    assert data.counts.tolist() == [4, 4, 4]
    assert torch.equal(data.of_class(1), data.images[1::3])
    for c in (-1, 3, "cat"):
        with pytest.raises(ValueError, match="class must be 0 … 2"):
            data.of_class(c)
    torch.testing.assert_close(data.pixels, torch.from_numpy(x)[:, None] / 255, atol=1e-6, rtol=0)
    chosen = data.select(torch.tensor([5, 2]))
    assert torch.equal(chosen.images, data.images[[5, 2]])
    assert chosen.labels.tolist() == [2, 2]
    assert len(data.select(data.labels == 0)) == 4
    assert repr(data) == "LabeledImages(12 images of 1×8×6, 3 classes)"
    assert torch.tensor(0) in data.labels
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.images = None


def test_a_set_is_a_data_set_of_torch():
    data = toy(shape=(8, 6, 3))
    image, label = data[7]
    assert torch.equal(image, data.images[7]) and label == data.labels[7]
    assert torch.equal(data[-1][0], data.images[-1])
    assert len(list(data)) == len(data)  # a loop over it ends
    with pytest.raises(IndexError):
        data[12]
    assert isinstance(data, torch.utils.data.Dataset)
    loader = torch.utils.data.DataLoader(data, batch_size=5, shuffle=True, generator=seeded())
    images, labels = map(torch.cat, zip(*loader, strict=True))
    assert images.dtype == torch.float32 and labels.dtype == torch.int64
    assert not torch.equal(images, data.images)
    for image, label in zip(images, labels, strict=True):
        [row] = (data.images == image).flatten(1).all(1).nonzero()
        assert data.labels[row] == label
    parts = torch.utils.data.random_split(data, [10, 2], generator=seeded())
    assert [len(part) for part in parts] == [10, 2] and parts[0][0][0].shape == (3, 8, 6)
    assert len(torch.utils.data.ConcatDataset([data, data])) == 24


def test_images_on_disk_are_a_data_set_too(tmp_path):
    x, y = arrays()
    np.save(tmp_path / "x.npy", x)
    data, mapped = from_arrays(x, y), from_arrays(np.load(tmp_path / "x.npy", mmap_mode="r"), y)
    torch.testing.assert_close(mapped[5][0], data[5][0])
    batch, labels = next(iter(torch.utils.data.DataLoader(mapped, batch_size=4)))
    assert batch.shape == (4, 1, 8, 6) and torch.equal(labels, data.labels[:4])
    with pytest.raises(IndexError):
        mapped[12]


def test_a_folder_with_the_name_of_a_data_set_is_not_that_data_set():
    data = toy()
    for meta, name in ({"name": "mnist", "built_in": True}, "mnist"), ({"name": "mnist", "built_in": False}, None):
        assert dataclasses.replace(data, meta=meta).built_in_name == name
    assert dataclasses.replace(data, meta={}).built_in_name is None


def test_a_class_without_images_counts_zero():
    x, y = arrays(classes=2)
    data = from_arrays(x, y, classes=["a", "b", "ghost"])
    assert data.counts.tolist() == [6, 6, 0]
    assert data.of_class(2).shape == (0, 1, 8, 6)


def test_to():
    data = toy().to(dtype=torch.float64)
    assert data.images.dtype == data.mean.dtype == data.std.dtype == torch.float64
    assert data.labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(12, 8, 6)}, r"images must be a floating tensor \(n, C, H, W\)"),
        ({"images": torch.zeros(12, 1, 8, 6, dtype=torch.uint8)}, "images must be a floating tensor.*uint8"),
        ({"labels": torch.zeros(11, dtype=torch.int64)}, r"labels must hold one integer per image, shape \(12,\)"),
        ({"labels": torch.zeros(12)}, "labels must be int64; got torch.float32"),
        ({"labels": torch.full((12,), 3)}, "labels must lie in 0 … 2 for 3 classes; got 3 … 3"),
        ({"labels": torch.full((12,), -1)}, "labels must lie in 0 … 2"),
        ({"mean": torch.zeros(3)}, "mean must hold one number per channel, 1"),
        ({"std": torch.tensor(1.0)}, "std must hold one number per channel, 1"),
        ({"meta": [1]}, "meta must be a dict"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(toy(), **changes)


@settings(max_examples=20, deadline=None)
@given(
    counts=st.lists(st.integers(4, 15), min_size=1, max_size=4),
    fraction=st.floats(0.25, 0.75),
    seed=st.integers(0, 2**32 - 1),
)
def test_split_is_stratified_disjoint_and_whole(counts, fraction, seed):
    labels = np.repeat(np.arange(len(counts)), counts)[np.random.default_rng(seed).permutation(sum(counts))]
    identity = np.arange(len(labels), dtype=np.float32).reshape(-1, 1, 1) / 100
    data = from_arrays(np.broadcast_to(identity, (len(labels), 2, 2)).copy(), labels)
    rest, part = data.split(fraction, generator=seeded(seed))
    assert part.counts.tolist() == [round(fraction * n) for n in counts]
    assert (part.counts + rest.counts).tolist() == counts
    ids = [p[:, 0, 0, 0].mul(100).round().int().tolist() for p in (rest.pixels, part.pixels)]
    assert sorted(ids[0] + ids[1]) == list(range(len(labels)))
    for side, data in zip(ids, (rest, part), strict=True):
        assert [labels[i] for i in side] == data.labels.tolist()


def test_split_follows_its_generator():
    parts = [toy(n=30).split(0.5, generator=seeded(s))[1].images for s in (0, 0, 1)]
    assert torch.equal(parts[0], parts[1])
    assert not torch.equal(parts[0], parts[2])


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5, float("nan")])
def test_split_needs_a_fraction(fraction):
    with pytest.raises(ValueError, match="fraction must be between 0 and 1"):
        toy().split(fraction, generator=seeded())


def test_split_leaves_no_class_empty():
    with pytest.raises(ValueError, match=r"fraction must leave images of every class on both sides; 0\.1 of the 4"):
        toy().split(0.1, generator=seeded())


def test_normalized_like_keeps_the_pixels():
    one, other = toy(), toy(seed=1, dtype=np.float32)
    other = dataclasses.replace(other, mean=torch.tensor([0.2]), std=torch.tensor([0.7]))
    same = one.normalized_like(other)
    torch.testing.assert_close(same.pixels, one.pixels)
    assert torch.equal(same.mean, other.mean)
    torch.testing.assert_close(same.images, (one.pixels - 0.2) / 0.7)
    with pytest.raises(ValueError, match="other must hold images of"):
        one.normalized_like(toy(shape=(6, 8)))
    with pytest.raises(ValueError, match=r"other must .*classes"):
        one.normalized_like(dataclasses.replace(other, classes=("x", "y", "z")))


# Files ---------------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_to_the_bit(tmp_path):
    data = dataclasses.replace(toy(), meta={"config": {"ipc": 1, "block": None}, "seed": 3, "steps": torch.ones(2)})
    data.save(tmp_path / "S.pt")
    again = LabeledImages.load(tmp_path / "S.pt")
    for name in ("images", "labels", "mean", "std"):
        assert torch.equal(getattr(again, name), getattr(data, name))
        assert getattr(again, name).dtype == getattr(data, name).dtype
    assert again.classes == data.classes
    assert isinstance(again.classes, tuple)
    assert torch.equal(again.meta.pop("steps"), data.meta.pop("steps"))
    assert again.meta == data.meta


@pytest.mark.parametrize("bits", [1, 3, 8, 16])
def test_quantized_images_stay_within_half_a_step(bits):
    data = toy()
    few = data.quantized(bits)
    step = (data.images.max() - data.images.min()) / (2**bits - 1)
    assert (few.images - data.images).abs().max() <= step / 2 + 1e-6
    assert len(few.images.unique()) <= 2**bits
    torch.testing.assert_close(few.quantized(bits).images, few.images, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bits", [0, 17, 1.5])
def test_quantized_needs_a_number_of_bits(bits):
    with pytest.raises(ValueError, match="bits must be"):
        toy().quantized(bits)


def test_photographs_fit_into_eight_bits_and_one_colour_into_any():
    real = from_arrays(torch.arange(256, dtype=torch.uint8).view(1, 16, 16), [0])
    torch.testing.assert_close(real.quantized().images, real.images, rtol=0, atol=1e-5)
    flat = dataclasses.replace(real, images=torch.full_like(real.images, 0.3))
    assert torch.equal(flat.quantized(1).images, flat.images)


def test_saved_in_eight_bits(tmp_path):
    data = toy(n=60)
    data.save(tmp_path / "S.pt")
    data.save(tmp_path / "S8.pt", eight_bits=True)
    content = torch.load(tmp_path / "S8.pt", weights_only=True)
    assert content["images"].dtype == torch.uint8
    saved = (tmp_path / "S.pt").stat().st_size - (tmp_path / "S8.pt").stat().st_size
    assert abs(saved - 3 * data.images.numel()) < 2000
    again = LabeledImages.load(tmp_path / "S8.pt")
    assert torch.equal(again.images, data.quantized().images) and torch.equal(again.labels, data.labels)
    assert again.meta == data.meta


def test_the_same_set_gives_the_same_bytes(tmp_path):
    data = toy()
    view = data.select(torch.arange(12))
    data.save(tmp_path / "a.pt")
    dataclasses.replace(view, images=view.images.contiguous(memory_format=torch.channels_last)).save(tmp_path / "b")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_view_does_not_drag_its_storage_along(tmp_path):
    data = from_arrays(*arrays(n=300))
    dataclasses.replace(data, images=data.images[:3], labels=data.labels[:3]).save(tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 5000 < data.images.nbytes


def test_the_file_is_a_flat_dict_of_plain_data(tmp_path):
    toy().save(tmp_path / "S.pt")
    content = torch.load(tmp_path / "S.pt", weights_only=True)
    assert list(content) == ["images", "labels", "mean", "std", "classes", "meta"]
    assert content["classes"] == ["0", "1", "2"]


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize(
    "case", ["truncated", "empty", "text", "other pickle", "code", "a list", "misfit", "NaN", "meta"]
)
def test_what_is_no_set_is_refused(tmp_path, case):
    path, data = tmp_path / "S.pt", toy()
    data.save(path)
    content = torch.load(path, weights_only=True)
    if case == "truncated":
        path.write_bytes(path.read_bytes()[:-50])
    elif case == "empty":
        path.write_bytes(b"")
    elif case == "text":
        path.write_text("images")
    elif case == "other pickle":
        path.write_bytes(pickle.dumps(content["classes"]))
    elif case == "code":
        torch.save({**content, "meta": {"bomb": Bomb(tmp_path / "exploded")}}, path)
    elif case == "a list":
        torch.save([1, 2], path)
    elif case == "misfit":
        torch.save({**content, "labels": content["labels"] + 1}, path)
    elif case == "NaN":
        torch.save({**content, "images": content["images"] * float("nan")}, path)
    else:
        torch.save({**content, "meta": None}, path)
    with pytest.raises(ValueError, match=r"S\.pt"):
        LabeledImages.load(path)
    assert not (tmp_path / "exploded").exists()


def test_a_failure_while_saving_leaves_the_old_set_whole(tmp_path, monkeypatch):
    toy().save(tmp_path / "S.pt")
    before = (tmp_path / "S.pt").read_bytes()

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        toy(seed=1).save(tmp_path / "S.pt")
    assert (tmp_path / "S.pt").read_bytes() == before
    assert os.listdir(tmp_path) == ["S.pt"]
