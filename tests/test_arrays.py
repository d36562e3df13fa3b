"""Arrays, lists and data sets as users have them: taken as they are meant, or refused with what would help."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

from dmtutor import condense, evaluate, from_arrays, from_dataset, load
from dmtutor.arrays import held_out, labels

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
Y = np.array([0, 1, 2, 0, 1, 2])
FLOATS = (X / 255).astype(np.float32)
NAMES = ["cat", "dog", "eel"]


def same(ours, theirs, atol=1e-6):
    torch.testing.assert_close(ours.pixels, theirs.pixels, atol=atol, rtol=0)
    assert torch.equal(ours.labels, theirs.labels) and ours.classes == theirs.classes


# Images --------------------------------------------------------------------------------------------------------------


def pictures():
    """An array of objects, filled one by one: numpy 1 would look into each."""
    array = np.empty(len(X), dtype=object)
    for i, x in enumerate(X):
        array[i] = Image.fromarray(x)
    return array


@pytest.mark.parametrize(
    "form",
    [list(X), [Image.fromarray(x) for x in X], tuple(torch.from_numpy(x) for x in X), X.tolist() and list(FLOATS),
     [torch.from_numpy(x).permute(2, 0, 1) for x in FLOATS], torch.from_numpy(FLOATS).requires_grad_(),
     pictures()],
    ids=["arrays", "pictures", "tensors", "floats", "channels first", "with a gradient", "objects"],
)
def test_lists_of_images(form):
    same(from_arrays(form, Y), from_arrays(X, Y), atol=1e-5)


def test_images_of_different_shapes_need_a_size():
    ragged = [Image.fromarray(x).resize((8 + i, 8)) for i, x in enumerate(X)]
    with pytest.raises(ValueError, match=r"x must hold images of one shape; got 6, such as .*: give size=64"):
        from_arrays(ragged, Y)
    assert from_arrays(ragged, Y, size=8).images.shape == (6, 3, 8, 8)
    same(from_arrays([X[0], *ragged[1:]], Y, size=8), from_arrays(ragged, Y, size=8))
    with pytest.raises(ValueError, match="all grey or all of three channels"):
        from_arrays([X[0, :, :, 0], *ragged[1:]], Y, size=8)


def test_resizing_arrays():
    assert torch.equal(from_arrays(X, Y, size=8).images, from_arrays(X, Y).images)
    fit, pad = (from_arrays(X[:, :4] // 2 + 99, Y, size=8, resize=resize).pixels for resize in ("fit", "pad"))
    assert pad.shape == fit.shape == (6, 3, 8, 8)
    assert pad[:, :, :2].abs().max() < 1e-6 and fit[:, :, :2].min() > 0.01
    same(from_arrays(FLOATS, Y, size=5), from_arrays(X, Y, size=5), atol=1.5 / 255)
    for bad in ({"size": 0}, {"size": 2.5}, {"resize": "stretch"}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be"):
            from_arrays(X, Y, **bad)


def test_a_mapped_array_can_be_resized(tmp_path):
    np.save(tmp_path / "x.npy", X)
    same(from_arrays(np.load(tmp_path / "x.npy", mmap_mode="r"), Y, size=4), from_arrays(X, Y, size=4))


def test_sixteen_bits_of_bfloat_are_read():
    assert from_arrays(torch.from_numpy(FLOATS).bfloat16(), Y).images.dtype == torch.float32


@pytest.mark.parametrize(
    ("x", "remedy"),
    [
        (FLOATS * 255, "divide by 255"),
        (FLOATS * 65535, "divide by the value of white"),
        ((FLOATS - 0.5) / 0.2, r"undo the normalisation, x \* std \+ mean"),
        (X.astype(np.int64), r"x.astype\('uint8'\)"),
        (X.astype(np.uint16) * 257, r"got uint16 up to .*\(x / 65535\)"),
        (X > 99, r"x.astype\('uint8'\) \* 255"),
        (X.repeat(2, -1)[..., :4], r"of red, green, blue and alpha keep three, x\[\.\.\., :3\]"),
        (X.repeat(5, -1)[..., :13], r"choose the three channels"),
        (X.transpose(0, 3, 1, 2).repeat(2, 1), r"choose the three channels"),
        (X[..., 0].reshape(6, 64), r"are they flat\? x.reshape\(-1, 8, 8\)"),
        (X[:, :, :, :, None], "x must be images"),
        (X[:, :0], "x must be images"),
        ([], "x must"),
        (X.astype(complex), "x must be uint8, or floating"),
        (X.astype(str), "x must be uint8, or floating"),
        (np.ma.masked_greater(X, 200), "must not be a masked array"),
        ([[1, 2], [3]], "x must hold images of one shape"),
        ([[[1, 2], [3]]], "lists of different lengths"),
        ([{"image": 1}] * 6, "x must be uint8"),
        (None, "x must be uint8"),
    ],
)
def test_a_remedy_is_named(x, remedy):
    with pytest.raises(ValueError, match=remedy):
        from_arrays(x, Y)


# Labels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "y",
    [np.array(NAMES)[Y], np.array(NAMES, dtype=object)[Y], [NAMES[c] for c in Y], np.array(NAMES, dtype="S")[Y],
     np.array(NAMES)[Y][:, None]],
    ids=["text", "objects", "list", "bytes", "column"],
)
def test_names_are_labels(y):
    same(from_arrays(X, y), from_arrays(X, Y, classes=NAMES))
    data = from_arrays(X, y, classes=NAMES[::-1])
    assert data.classes == tuple(NAMES[::-1]) and data.labels.tolist() == (2 - Y).tolist()
    assert from_arrays(X[:1], ["eel"], like=data).labels.tolist() == [0]


def test_labels_in_a_column_are_labels():
    same(from_arrays(X, Y[:, None]), from_arrays(X, Y))


@pytest.mark.parametrize(
    ("y", "keywords", "message"),
    [
        (["cat"] * 5 + ["cow"], {"classes": NAMES}, "y must be names of the classes, 'cat', 'dog', 'eel'; got 'cow'"),
        (np.eye(3)[Y], {}, r"got shape \(6, 3\): one row of scores\? y.argmax\(1\)"),
        (Y.astype(float), {}, r"y must be integers; got float64: use y.astype\(int\)"),
        (Y + 0.5, {}, "y must be integers; got float64$"),
        ([0, 1, 2, 0, 1, None], {}, "y must be integers; got object"),
        (Y + 1, {"classes": NAMES}, r"y must lie in 0 … 2 for 3 classes; got 1 … 3: do they count from 1\? subtract 1"),
        (Y, {"classes": ["cat", "dog", "cat"]}, "classes must be a sequence of different names"),
        (Y, {"classes": "abc"}, "classes must be a sequence of different names; got 'abc'"),
        ([[0], [1, 2]], {}, "lists of different lengths"),
    ],
)
def test_labels_that_do_not_fit(y, keywords, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(X, y, **keywords)


def test_labels_from_one_are_hinted_at():
    with pytest.raises(ValueError, match=r"1 of 4 have none, '0': do labels count from 1\? subtract 1"):
        condense(from_arrays(X, Y + 1), ipc=1)
    with pytest.raises(ValueError, match=r"998 of 1001 have none, '0', .*…: number the classes anew, names, y = numpy"):
        condense(from_arrays(X, np.array([7, 500, 1000] * 2)), ipc=1)


def test_labels_are_a_copy():
    y = Y.copy()
    labels(y)[0][0] = 9
    assert y[0] == 0


def test_what_is_held_out_is_about_a_fifth_of_each_class():
    y = RNG.permutation(np.repeat([0, 1, 2, 3], [1, 2, 3, 1000]))
    test = held_out(y, [RNG.bytes(8) for _ in y])
    none, one, few, many = np.bincount(y[test], minlength=4)
    assert (none, one) == (0, 1) and few in (1, 2) and 160 <= many <= 240


def test_images_that_are_added_move_no_training_image_into_the_test_part():
    """Nor one of a whole test part into the training part; but the only one of a small class may give way."""
    keys = [f"{i}.png".encode() for i in range(400)]
    y = np.arange(400) % 40
    for n in (40, 77, 120, 200, 399):
        few, all_ = held_out(y[:n], keys[:n]), held_out(y, keys)[:n]
        counts = np.bincount(y[:n])
        assert not (all_ & ~few)[counts[y[:n]] > 4].any()
        assert not (few & ~all_)[np.bincount(y[:n][few], minlength=40)[y[:n]] > 1].any()
    order = RNG.permutation(400)
    assert np.array_equal(held_out(y[order], [keys[i] for i in order]), held_out(y, keys)[order])


def test_a_copy_is_in_the_part_of_the_image(tmp_path):
    x = RNG.integers(0, 256, (50, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", x_train=np.concatenate([x, x]), y_train=np.arange(100) % 2)
    parts = [{image.numpy().tobytes() for image in part.images} for part in load(tmp_path / "own.npz")]
    assert not set.intersection(*parts) and len(set.union(*parts)) == 50


# Data sets -----------------------------------------------------------------------------------------------------------


def test_a_data_set_of_tensors():
    same(from_dataset(TensorDataset(torch.from_numpy(FLOATS).permute(0, 3, 1, 2), torch.from_numpy(Y))),
         from_arrays(FLOATS, Y))


@pytest.mark.parametrize("transform", [None, ToTensor()])
def test_a_folder_of_torchvisions(tmp_path, transform):
    for i, (x, c) in enumerate(zip(X, Y, strict=True)):
        (tmp_path / NAMES[c]).mkdir(exist_ok=True)
        Image.fromarray(x).save(tmp_path / NAMES[c] / f"{i}.png")
    folder = ImageFolder(tmp_path, transform)
    order = np.argsort(Y, kind="stable")
    same(from_dataset(folder), from_arrays(X[order], Y[order], classes=NAMES), atol=1e-5)
    part = from_dataset(Subset(Subset(folder, range(1, 6)), [0, 2, 4]))
    assert part.classes == tuple(NAMES) and part.labels.tolist() == [0, 1, 2]
    assert from_dataset(folder, size=4).images.shape == (6, 3, 4, 4)
    test = from_dataset(folder, like=part)
    assert torch.equal(test.mean, part.mean) and test.classes == part.classes


class Stream(IterableDataset):
    def __iter__(self):
        return zip(X, [NAMES[c] for c in Y], strict=True)


def test_a_stream_is_read_to_its_end():
    same(from_dataset(Stream()), from_arrays(X, Y, classes=NAMES))


class Failing(TensorDataset):
    def __getitem__(self, i):
        raise ValueError("own trouble")


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (DataLoader(TensorDataset(torch.zeros(2))), r"a DataLoader: use loader\.dataset"),
        (TensorDataset(torch.zeros(2, 8, 8)), "dataset must give pairs"),
        ([{"image": 1, "label": 2}], r"its items are dict; give \[\(d\['image'\], d\['label'\]\) for d in"),
        ([(X[0], 0, "more")], "dataset must give pairs"),
        ([], "dataset must give pairs"),
        (7, "dataset must give pairs"),
        (Failing(torch.zeros(2)), "own trouble"),
    ],
)
def test_what_gives_no_pairs_is_refused(dataset, message):
    with pytest.raises(TypeError, match=message):
        from_dataset(dataset)


def test_normalised_images_of_a_data_set_are_refused():
    with pytest.raises(ValueError, match="undo the normalisation"):
        from_dataset(TensorDataset(torch.randn(6, 3, 8, 8), torch.from_numpy(Y)))


@pytest.mark.parametrize("wrong", [TensorDataset(torch.zeros(2)), "data", (1, 2), None, torch.zeros(2)])
def test_condense_and_evaluate_say_how_to_make_a_set(wrong):
    with pytest.raises(TypeError, match=r"train must be LabeledImages.*from_dataset\(dataset\)"):
        condense(wrong)
    with pytest.raises(TypeError, match=r"test must be LabeledImages.*from_dataset\(dataset\)"):
        evaluate(from_arrays(X, Y), wrong, generator=torch.Generator())
