import dataclasses
import hashlib
import os
import pickle
import struct
import urllib.error

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from runs import seeded

from dmtutor import LabeledImages, from_arrays, load
from dmtutor.data import EVERYTHING, TORCHVISION


def arrays(n=12, shape=(8, 6), dtype=np.uint8, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n, *shape)).astype(np.uint8)
    return x if dtype == np.uint8 else (x / 255).astype(dtype), np.arange(n) % classes


def toy(**changes):
    return from_arrays(*arrays(**changes))


# LabeledImages -------------------------------------------------------------------------------------------------------


def test_access():
    x, y = arrays()
    data = from_arrays(x, y, classes=["a", "b", "c"])
    assert len(data) == 12
    assert data.counts.tolist() == [4, 4, 4]
    assert torch.equal(data.of_class(1), data.images[1::3])
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


def test_in_the_place_of_a_data_set_of_torchvision():
    """A program that normalises by itself gets pixels, and after its own normalisation the images of the set."""
    data = toy(shape=(8, 6, 3))
    plain = data.dataset()
    image, label = plain[4]
    assert isinstance(plain, torch.utils.data.Dataset) and type(label) is int and label == data.labels[4]
    torch.testing.assert_close(image, data.pixels[4])
    assert len(plain) == 12 and plain.classes == data.classes and plain.targets == data.labels.tolist()
    normalize = torchvision.transforms.Normalize(plain.mean, plain.std)
    images, labels = zip(*data.dataset(normalize), strict=True)
    torch.testing.assert_close(torch.stack(images), data.images)
    assert list(labels) == data.labels.tolist()
    with pytest.raises(IndexError):
        plain[12]


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


# from_arrays ---------------------------------------------------------------------------------------------------------


def test_every_form_of_array_gives_the_same_images():
    x, y = arrays(shape=(8, 6, 3))
    expected = from_arrays(x, y)
    assert expected.images.shape == (12, 3, 8, 6)
    forms = [x.transpose(0, 3, 1, 2), x.astype(np.float64) / 255, (x / 255).astype(np.float32), torch.from_numpy(x),
             torch.from_numpy(x.transpose(0, 3, 1, 2).copy()) / 255, np.asfortranarray(x)]  # fmt: skip
    for form in forms:
        data = from_arrays(form, torch.from_numpy(y))
        assert data.images.dtype == torch.float32
        assert data.images.is_contiguous()
        torch.testing.assert_close(data.images, expected.images, atol=1e-5, rtol=0)
    grey, y = arrays()
    for form in (grey, grey[:, None], grey[..., None]):
        assert torch.equal(from_arrays(form, y.tolist()).images, from_arrays(grey, y.astype(np.int8)).images)


def test_normalised_per_channel():
    x, y = arrays(shape=(8, 6, 3))
    x[..., 1] //= 3
    data = from_arrays(x, y)
    torch.testing.assert_close(data.mean, torch.from_numpy(x / 255).float().mean((0, 1, 2)))
    torch.testing.assert_close(data.std, torch.from_numpy(x / 255).float().std((0, 1, 2), correction=0))
    torch.testing.assert_close(data.images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.images.std((0, 2, 3), correction=0), torch.ones(3))


def test_like_takes_classes_and_normalisation():
    train = from_arrays(*arrays(), classes=["a", "b", "c"])
    x, _ = arrays(n=2, seed=1)
    test = from_arrays(x // 2, [0, 0], like=train)
    assert test.classes == ("a", "b", "c")
    assert torch.equal(test.mean, train.mean)
    assert torch.equal(test.std, train.std)
    torch.testing.assert_close(test.pixels, torch.from_numpy(x // 2)[:, None] / 255, atol=1e-6, rtol=0)
    assert test.meta["augment"] == train.meta["augment"] == EVERYTHING


def test_the_callers_arrays_are_neither_changed_nor_shared():
    x, y = arrays(dtype=np.float32)
    x.flags.writeable = False  # nor is it a warning
    before = y.copy()
    data = from_arrays(x, y)
    data.labels[0] = 2
    data.images.zero_()
    assert np.array_equal(y, before)
    y[1] = 0
    assert data.labels[1] == 1


def test_a_constant_channel_is_no_division_by_zero():
    data = from_arrays(np.full((2, 4, 4), 255, dtype=np.uint8), [0, 1])
    assert torch.isfinite(data.images).all()


X, Y = arrays(dtype=np.float64)


@pytest.mark.parametrize(
    ("x", "y", "keywords", "message"),
    [
        (X * 255, Y, {}, r"x must be uint8, or floating in \[0, 1\]; got .*float64"),
        (X - 0.1, Y, {}, r"x must be uint8, or floating in \[0, 1\]"),
        (np.where(X > 0.99, np.nan, X), Y, {}, "x must hold no NaN"),
        (np.where(X > 0.99, -np.inf, X), Y, {}, "x must hold no NaN or infinite"),
        ((X * 255).astype(np.int32), Y, {}, "x must be uint8, .*int32"),
        (X > 0.5, Y, {}, "x must be uint8, .*bool"),
        (X.astype(object), Y, {}, "x must be uint8, .*object"),
        (X[:, 0, 0], Y, {}, r"x must be images \(n, H, W\)"),
        (X[:, None, :, :].repeat(2, axis=1), Y, {}, "C = 1 or 3"),
        (X[:0], Y[:0], {}, "n ≥ 1"),
        (X, Y[:-1], {}, "y must hold one integer per image"),
        (X, Y.astype(float), {}, "y must be integers; got float64"),
        (X, Y == 0, {}, "y must be integers; got bool"),
        (X, Y - 1, {}, "y must lie in"),
        (X, Y, {"classes": ["a", "b"]}, "y must lie in 0 … 1 for 2 classes; got 0 … 2"),
        (X, Y, {"classes": ["a", "b", "c"], "like": toy()}, "classes must be left out where like is given"),
        (X[:, :4], Y, {"like": toy()}, r"x must be images of \(1, 8, 6\) as in like"),
        (X, Y + 1, {"like": toy()}, "y must lie in 0 … 2"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(x, y, keywords, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(x, y, **keywords)


# load: MNIST-5k ------------------------------------------------------------------------------------------------------


def digest(data):
    pixels = (data.pixels * 255).round().to(torch.uint8)
    return hashlib.sha256(pixels.numpy().tobytes() + data.labels.numpy().tobytes()).hexdigest()[:16]


def test_mnist5k_is_stratified_disjoint_and_fixed():
    train, test = load()
    assert train.images.shape == (4000, 1, 28, 28)
    assert test.images.shape == (1000, 1, 28, 28)
    assert train.counts.tolist() == [400] * 10
    assert test.counts.tolist() == [100] * 10
    assert train.classes == tuple("0123456789")
    rows = [{x.tobytes() for x in (d.pixels * 255).round().to(torch.uint8).numpy()} for d in (train, test)]
    assert len(rows[0]) == 4000
    assert len(rows[1]) == 1000
    assert not rows[0] & rows[1]
    assert [digest(train), digest(test)] == ["4120756427441604", "2eed51d1723245a0"]
    assert abs(float(train.images.mean())) < 1e-4
    assert float(train.images.std()) == pytest.approx(1, abs=1e-3)
    assert train.meta["name"] == "mnist5k"


def test_digits_are_not_mirrored_by_default():
    train, test = load("mnist5k")
    assert train.meta["augment"] == test.meta["augment"] == "crop_scale_rotate"


def test_two_loads_share_nothing():
    one, _ = load("mnist5k")
    before = digest(one)
    one.labels[0] = 9 - one.labels[0]
    one.images[0] = 0
    one.meta["name"] = "changed"
    again, _ = load("mnist5k")
    assert digest(again) == before
    assert again.meta["name"] == "mnist5k"


@pytest.mark.parametrize("name", ["mnits", "data.npy", "MNIST"])
def test_an_unknown_name_lists_the_known_ones(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"name must be one of mnist5k, mnist, .*cifar100, or the path.*got '{name}'"):
        load(name)


# load: .npz ----------------------------------------------------------------------------------------------------------


X_8 = np.zeros((2, 8, 8), np.uint8)


def write_npz(path, **changes):
    x, y = arrays(n=20)
    content = {"x_train": x[:14], "y_train": y[:14], "x_test": x[14:], "y_test": y[14:], **changes}
    np.savez(path, **{k: v for k, v in content.items() if v is not None})
    return x, y


@pytest.mark.parametrize("classes", [None, np.array(["a", "b", "c"])])
def test_npz(tmp_path, classes):
    x, y = write_npz(tmp_path / "own.npz", classes=classes)
    for path in (tmp_path / "own.npz", str(tmp_path / "own.npz")):
        train, test = load(path)
        torch.testing.assert_close(train.pixels, torch.from_numpy(x[:14])[:, None] / 255, atol=1e-6, rtol=0)
        torch.testing.assert_close(test.pixels, torch.from_numpy(x[14:])[:, None] / 255, atol=1e-6, rtol=0)
        assert test.labels.tolist() == y[14:].tolist()
        assert train.classes == test.classes == (("0", "1", "2") if classes is None else ("a", "b", "c"))
        assert torch.equal(train.mean, test.mean)
        assert train.meta["augment"] == EVERYTHING


def test_npz_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*gone\.npz"):
        load(tmp_path / "gone.npz")
    write_npz(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    for content in (b"", b"hello", whole[:-100], whole[: len(whole) // 2]):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.npz.* must be an \.npz file with arrays x_train, y_train, x_test"):
            load(tmp_path / "bad.npz")
    write_npz(tmp_path / "bad.npz", y_test=None, x_train=None)
    with pytest.raises(ValueError, match="it lacks x_train, y_test"):
        load(tmp_path / "bad.npz")


SPELLED = [
    ("X_train", "Y_train", "X_test", "Y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("xtrain", "ytrain", "xval", "yval"),
    ("trainX", "trainY", "testX", "testY"),
    ("images_train", "targets_train", "images_validation", "targets_validation"),
]


@pytest.mark.parametrize("names", SPELLED)
def test_npz_under_other_names(tmp_path, names):
    write_npz(tmp_path / "expected.npz")
    x, y = arrays(n=20)
    np.savez(tmp_path / "own.npz", **dict(zip(names, (x[:14], y[:14, None], x[14:], y[14:]), strict=True)))
    for ours, theirs in zip(load(tmp_path / "own.npz"), load(tmp_path / "expected.npz"), strict=True):
        assert torch.equal(ours.images, theirs.images) and torch.equal(ours.labels, theirs.labels)


@pytest.mark.parametrize("names", [("x_train", "y_train"), ("x", "y"), ("images", "labels"), ("data", "target")])
def test_npz_without_a_test_part_is_split(tmp_path, names):
    x, y = arrays(n=30)
    np.savez(tmp_path / "own.npz", **dict(zip(names, (x, np.array(list("abc"))[y]), strict=True)))
    train, test = load(tmp_path / "own.npz")
    assert train.counts.tolist() == [8, 8, 8] and test.counts.tolist() == [2, 2, 2]
    assert train.classes == ("a", "b", "c")
    rows = [{p.tobytes() for p in (d.pixels * 255).round().numpy()} for d in (train, test)]
    assert len(rows[0] | rows[1]) == 30


def test_npz_of_three_parts_says_which_is_not_used(tmp_path):
    write_npz(tmp_path / "own.npz", x_val=np.zeros((2, 8, 6), np.uint8), y_val=np.arange(2), notes=np.zeros(3))
    with pytest.warns(UserWarning, match="left out: notes, x_val, y_val"):
        assert len(load(tmp_path / "own.npz")[1]) == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"arr_0": X_8, "arr_1": [0, 1]}, "it lacks x_train, y_train; it holds arr_0, arr_1"),
        ({"x_train": X_8, "train_images": X_8, "y_train": [0, 1]}, "'x_train' and 'train_images' say the same"),
        ({"x_train": X_8, "y_train": [0, 1], "x_test": X_8}, "it lacks y_test"),
        ({"x_train": X_8, "y_train": ["a", "b"], "x_test": X_8, "y_test": [0, 1]}, "names in both"),
        ({"x_train": X_8, "y_train": ["a", "b"], "x_test": X_8, "y_test": ["a", "c"]}, r"y must be names.*got 'c'"),
        ({"x_train": np.array([{}, {}]), "y_train": [0, 1]}, "holds Python objects, not numbers"),
    ],
)
def test_npz_that_lacks_something_says_what_it_has(tmp_path, content, message):
    np.savez(tmp_path / "own.npz", **content)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "own.npz")


def test_one_array_is_no_archive(tmp_path):
    with (tmp_path / "own.npz").open("wb") as file:
        np.save(file, X_8)
    with pytest.raises(ValueError, match=r"one array without a name: numpy\.savez"):
        load(tmp_path / "own.npz")


@pytest.mark.parametrize("name", [{"images": 1}, (1, 2), None, 7])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(TypeError, match=r"name must be a name or a path; got .*: .*from_arrays\(x, y\)"):
        load(name)


def test_npz_with_code_in_it_is_refused(tmp_path):
    write_npz(tmp_path / "bad.npz", x_train=np.array([Bomb(tmp_path / "exploded")]))
    with pytest.raises(ValueError, match=r"bad\.npz"):
        load(tmp_path / "bad.npz")
    assert not (tmp_path / "exploded").exists()


# load: folders -------------------------------------------------------------------------------------------------------


def write_images(folder, count, mode="L", size=(6, 8), value=None, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    shape = (*size, 3) if mode == "RGB" else size
    for i in range(count):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8) if value is None else np.full(shape, value, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")


@pytest.mark.parametrize("part", ["test", "val"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_folder_of_train_and_test(tmp_path, part, mode):
    for c, value in (("cat", 10), ("dog", 250)):
        write_images(tmp_path / "train" / c, 3, mode, value=value)
        write_images(tmp_path / part / c, 2, mode, value=value - 5)
    train, test = load(tmp_path)
    assert train.images.shape == (6, 3 if mode == "RGB" else 1, 6, 8)
    assert train.classes == test.classes == ("cat", "dog")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert test.counts.tolist() == [2, 2]
    assert (train.pixels[:, 0, 0, 0] * 255).round().tolist() == [10] * 3 + [250] * 3
    assert (test.pixels[:, 0, 0, 0] * 255).round().tolist() == [5] * 2 + [245] * 2
    assert train.meta["augment"] == EVERYTHING
    assert load(str(tmp_path))[0].images.shape == train.images.shape


def test_folder_of_one_level_is_split_80_to_20(tmp_path):
    write_images(tmp_path / "a", 10)
    write_images(tmp_path / "b", 5, seed=1)
    (train, test), (again, _) = load(tmp_path), load(tmp_path)
    assert train.counts.tolist() == [8, 4]
    assert test.counts.tolist() == [2, 1]
    assert torch.equal(train.images, again.images)
    rows = [{x.tobytes() for x in (d.pixels * 255).round().numpy()} for d in (train, test)]
    assert len(rows[0] | rows[1]) == 15


def test_folder_of_different_shapes_needs_a_size(tmp_path):
    write_images(tmp_path / "a", 5)
    write_images(tmp_path / "b", 5, size=(9, 9))
    with pytest.raises(ValueError, match=r"size is required: .*2 different shapes"):
        load(tmp_path)
    train, test = load(tmp_path, size=4)
    assert train.images.shape == (8, 1, 4, 4)
    assert test.images.shape == (2, 1, 4, 4)


def test_a_folder_of_grey_and_colour_is_read_as_colour(tmp_path):
    write_images(tmp_path / "a", 5)
    write_images(tmp_path / "b", 5, mode="RGB")
    assert load(tmp_path)[0].images.shape == (8, 3, 6, 8)


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_size_must_be_positive(tmp_path, size):
    write_images(tmp_path / "a", 5)
    with pytest.raises(ValueError, match="size must be a positive integer"):
        load(tmp_path, size=size)


def test_folders_that_do_not_fit(tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match="class"):
        load(tmp_path)  # empty
    write_images(tmp_path / "differ" / "train" / "a", 2)
    write_images(tmp_path / "differ" / "test" / "b", 2)
    with pytest.raises(ValueError, match="same classes"):
        load(tmp_path / "differ")
    write_images(tmp_path / "alone" / "train" / "a", 6)
    with pytest.raises(ValueError, match="test"):
        load(tmp_path / "alone")
    for name in "ab":
        write_images(tmp_path / "mixed" / "train" / name, 2)
        write_images(tmp_path / "mixed" / "test" / name, 2, mode="RGB")
    assert [part.images.shape[1] for part in load(tmp_path / "mixed")] == [3, 3]
    write_images(tmp_path / "broken" / "a", 5)
    (tmp_path / "broken" / "a" / "00.png").write_bytes(b"no image")
    with pytest.raises((ValueError, OSError), match=r"00\.png"):
        load(tmp_path / "broken")


@pytest.mark.parametrize("names", [("Train", "Test"), ("TRAIN", "Val"), ("training", "Validation"), ("train", "valid")])
def test_parts_are_found_under_any_spelling(tmp_path, names):
    for part in names:
        for c in "ab":
            write_images(tmp_path / part / c, 3, seed=len(part))
    train, test = load(tmp_path)
    assert train.classes == ("a", "b") and (len(train), len(test)) == (6, 6)


def test_a_part_that_is_there_twice_is_refused(tmp_path):
    for part in ("train", "Training", "test"):
        write_images(tmp_path / part / "a", 2)
    with pytest.raises(ValueError, match=r"with one train part; .* has 'Training' and 'train'"):
        load(tmp_path)


def test_what_is_beside_the_parts_is_told(tmp_path):
    for part in ("train", "test", "val"):
        for c in "ab":
            write_images(tmp_path / part / c, 2, seed=len(part))
    with pytest.warns(UserWarning, match=r"left out, as no images of a class: val$"):
        assert len(load(tmp_path)[1]) == 4


@pytest.mark.parametrize("deep", ["a/more/0.png", "a/x/y/0.png"])
def test_images_below_their_class_are_refused(tmp_path, deep):
    for c in "ab":
        write_images(tmp_path / c, 5)
    (tmp_path / deep).parent.mkdir(parents=True)
    Image.new("L", (6, 8)).save(tmp_path / deep)
    with pytest.raises(ValueError, match=rf"lies deeper: name '.*{(tmp_path / deep).parent.parent.name}'"):
        load(tmp_path)


def test_a_folder_of_a_folder_of_classes_names_that_one(tmp_path):
    for c in "abc":
        write_images(tmp_path / "nested" / "super" / c, 5)
    with pytest.raises(ValueError, match=r"nested/super/a/00\.png' lies deeper: name '.*nested/super'"):
        load(tmp_path / "nested")
    assert len(load(tmp_path / "nested" / "super")[0].classes) == 3


def test_one_class_is_refused(tmp_path):
    write_images(tmp_path / "own" / "cat", 6)
    with pytest.raises(ValueError, match=r"two classes or more; .*own' has one, 'cat'"):
        load(tmp_path / "own")
    np.savez(tmp_path / "one.npz", x_train=np.zeros((4, 8, 8), np.uint8), y_train=np.zeros(4, int))
    with pytest.raises(ValueError, match="has one, '0'"):
        load(tmp_path / "one.npz")


def test_images_without_a_class_are_refused(tmp_path):
    write_images(tmp_path / "flat", 5)
    with pytest.raises(ValueError, match="5 images lie in it without one"):
        load(tmp_path / "flat")
    (tmp_path / "empty" / "a").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no \.jpg, .*was found"):
        load(tmp_path / "empty")


def test_all_broken_files_are_named_and_left_out_when_asked(tmp_path):
    for c in "ab":
        write_images(tmp_path / c, 10, size=(40, 40), seed=ord(c))
    whole = (tmp_path / "a" / "01.png").read_bytes()
    for name, content in (("a/01", whole[:300]), ("a/02", b""), ("b/03", b"no image")):  # the first has a sound head
        (tmp_path / f"{name}.png").write_bytes(content)
    (tmp_path / "b" / "04.png").unlink()
    (tmp_path / "b" / "04.png").symlink_to(tmp_path / "nowhere.png")
    for case in ({}, {"size": 8}):
        with pytest.raises(ValueError, match=r"^4 of 20 images in .* cannot be read: .*--skip-broken") as failure:
            load(tmp_path, **case)
        assert all(f"{name}.png (" in str(failure.value) for name in ("a/01", "a/02", "b/03", "b/04"))
        assert "\n" not in str(failure.value) and str(failure.value).count(str(tmp_path)) == 1
    with pytest.warns(UserWarning, match=r"4 of 20 images .*; left out"):
        train, test = load(tmp_path, skip_broken=True)
    assert (train.counts + test.counts).tolist() == [8, 8]
    known = {(np.asarray(Image.open(f), dtype=np.float32) / 255).tobytes() for f in tmp_path.glob("?/0[5-9].png")}
    pixels = [(p[0] * 255).round() / 255 for p in torch.cat([train.pixels, test.pixels])]
    assert len(known & {p.numpy().astype(np.float32).tobytes() for p in pixels}) == 10


def test_a_class_of_which_nothing_can_be_read_is_refused(tmp_path):
    write_images(tmp_path / "a", 5)
    write_images(tmp_path / "b", 5)
    for file in (tmp_path / "b").iterdir():
        file.write_bytes(b"")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"class 'b' in .* has no image left"):
        load(tmp_path, skip_broken=True)


def test_empty_class_folders_are_skipped_with_a_word(tmp_path):
    for c in "ab":
        write_images(tmp_path / c, 5)
    (tmp_path / "empty").mkdir()
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "a" / "._00.png").write_bytes(b"macOS")
    with pytest.warns(UserWarning, match="no images in the class folders 'empty' of .*: skipped") as told:
        assert load(tmp_path)[0].classes == ("a", "b")
    assert len(told) == 1


def test_files_that_are_no_images_are_told(tmp_path):
    for c in "ab":
        write_images(tmp_path / c, 5)
    for name in ("a/0.heic", "a/1.heic", "b/notes.txt", "cover.jpg"):
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"left out, as no images of a class: cover\.jpg, 2 × \.heic, 1 × \.txt"):
        assert len(load(tmp_path)[0]) == 8


def test_classes_that_differ_in_case_alone_are_told(tmp_path):
    for c in ("cat", "Cat"):
        write_images(tmp_path / c, 5)
    with pytest.warns(UserWarning, match="differ in upper and lower case alone: 'cat'"):
        load(tmp_path)


def test_small_classes_are_split_too(tmp_path):
    for c, count in zip("abcd", (10, 3, 2, 1), strict=True):
        write_images(tmp_path / c, count, seed=count)
    with pytest.warns(UserWarning, match="no test image of 1 classes in .*: 'd'"):
        train, test = load(tmp_path)
    assert train.counts.tolist() == [8, 2, 1, 1] and test.counts.tolist() == [2, 1, 1, 0]
    for c in "abc":
        [file.unlink() for file in sorted((tmp_path / c).iterdir())[1:]]
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="every class has but one image"):
        load(tmp_path)


def test_a_class_that_only_the_test_part_has_is_named(tmp_path):
    for part, classes in (("train", "ab"), ("test", "abc")):
        for c in classes:
            write_images(tmp_path / part / c, 2)
    with pytest.raises(ValueError, match=r"the same classes; .* has no 'c' in train"):
        load(tmp_path)


def test_padding_keeps_the_whole_image(tmp_path):
    for c in "ab":
        write_images(tmp_path / c, 5, size=(4, 8), value=200)
    fit, pad = (load(tmp_path, size=8, resize=resize)[0] for resize in ("fit", "pad"))
    assert (fit.pixels * 255).round().unique().tolist() == [200]
    assert (pad.pixels[:, :, [0, 1, 6, 7]] == 0).all() or pad.pixels[:, :, [0, 1, 6, 7]].abs().max() < 1e-6
    assert (pad.pixels[:, :, 2:6] * 255).round().unique().tolist() == [200]
    assert "resize" not in fit.meta and pad.meta["resize"] == "pad"
    with pytest.raises(ValueError, match="resize must be 'fit' or 'pad'; got 'crop'"):
        load(tmp_path, size=8, resize="crop")


def test_a_named_set_and_an_archive_are_resized(tmp_path):
    assert load("mnist5k", size=16)[0].images.shape == (4000, 1, 16, 16)
    write_npz(tmp_path / "own.npz")
    train, test = load(tmp_path / "own.npz", size=4)
    assert train.images.shape[1:] == test.images.shape[1:] == (1, 4, 4)


# load: torchvision ---------------------------------------------------------------------------------------------------


def write_idx(folder, seed=0):
    """Tiny files in MNIST's own format."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, n in (("train", 20), ("t10k", 10)):
        x, y = arrays(n, (28, 28), classes=10, seed=seed)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, n, 28, 28) + x.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, n) + bytes(y.tolist()))


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_torchvisions_files_are_read(tmp_path, monkeypatch, name, folder):
    write_idx(tmp_path / folder / "raw")
    train, test = load(name, root=tmp_path, download=False)
    x, y = arrays(20, (28, 28), classes=10)
    torch.testing.assert_close(train.pixels, torch.from_numpy(x)[:, None] / 255, atol=1e-6, rtol=0)
    assert train.labels.tolist() == y.tolist()
    assert len(test) == 10
    assert train.meta["name"] == name
    assert ("flip" in train.meta["augment"]) == (name == "fashion-mnist")
    assert train.classes[0] == ("0" if name == "mnist" else "T-shirt/top")
    monkeypatch.setenv("DMTUTOR_DATA", str(tmp_path))
    assert digest(load(name, download=False)[0]) == digest(train)


class Stub:
    """Stands in for a torchvision data set: a file that its download writes, and that it cannot do without."""

    broken = None

    def __init__(self, root, train=None, split=None, download=False):
        train = split == "train" if train is None else train
        path = os.path.join(root, type(self).__name__, "train" if train else "test")
        if download:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write("whole")
            if self.broken and not train:
                raise self.broken
        if not os.path.exists(path):
            raise RuntimeError("Dataset not found or corrupted. You can use download=True to download it")
        self.data, self.targets = arrays(20 if train else 10, (8, 8, 3), classes=10)
        self.labels = self.targets
        self.classes = [f"class {c}" for c in range(10)]


@pytest.fixture(params=sorted(TORCHVISION))
def stub(request, monkeypatch):
    cls = type(TORCHVISION[request.param], (Stub,), {})
    monkeypatch.setattr(torchvision.datasets, TORCHVISION[request.param], cls)
    return request.param, cls


def test_a_download_appears_whole(tmp_path, stub):
    name, cls = stub
    root = tmp_path / "data" / "sets"
    train, test = load(name, root=root)
    assert (len(train), len(test)) == (20, 10)
    assert os.listdir(root) == [cls.__name__]
    assert sorted(os.listdir(root / cls.__name__)) == ["test", "train"]
    assert ("flip" not in train.meta["augment"]) == (name in ("mnist", "svhn"))
    assert train.classes[3] == ("3" if name in ("mnist", "svhn") else "class 3")
    cls.broken = AssertionError("a second download")
    assert digest(load(name, root=root)[0]) == digest(train)


@pytest.mark.parametrize(
    "error",
    [urllib.error.URLError("Name or service\nnot known"), RuntimeError("Error downloading\nit"), TimeoutError("slow")],
)
def test_a_failed_download_leaves_nothing_and_says_what_to_do(tmp_path, stub, error):
    name, cls = stub
    cls.broken = error
    with pytest.raises(ConnectionError) as failure:
        load(name, root=tmp_path)
    message = str(failure.value)
    assert "\n" not in message
    assert message.startswith(f"could not download '{name}' (")
    assert "Check the network and try again" in message
    assert "mnist5k" in message
    assert os.listdir(tmp_path) == []


def test_a_failed_download_leaves_what_was_there(tmp_path, stub):
    name, cls = stub
    cls.broken = urllib.error.URLError("no network")
    (tmp_path / cls.__name__).mkdir()
    (tmp_path / cls.__name__ / "train").write_text("half of it, by hand")
    with pytest.raises(ConnectionError):
        load(name, root=tmp_path)
    assert (tmp_path / cls.__name__ / "train").read_text() == "half of it, by hand"
    assert os.listdir(tmp_path) == [cls.__name__]


def test_no_download_if_it_is_not_allowed(tmp_path, stub):
    name, _ = stub
    with pytest.raises(FileNotFoundError, match=f"no whole copy of '{name}' in .*allow the download, or give root"):
        load(name, root=tmp_path / "nothing", download=False)
    assert os.listdir(tmp_path) == []


def test_torchvisions_own_failure_is_understood(tmp_path, monkeypatch):
    """The real class, whose every mirror fails."""

    def fail(*_, **__):
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", fail)
    with pytest.raises(ConnectionError, match=r"could not download 'mnist'.*no network here"):
        load("mnist", root=tmp_path)
    assert os.listdir(tmp_path) == []
