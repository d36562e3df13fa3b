"""A set goes out in every format and comes back, and files of the published codes come in."""

import dataclasses
import json
import os
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from runs import real_images, seeded

from dmtutor import LabeledImages, evaluate, export, from_arrays, load_exported, load_published, results
from dmtutor.evaluation import Recipe
from dmtutor.exchange import PUBLISHED, cost

ROOT = Path(__file__).parents[1]
FORMATS = ["", ".npz", ".safetensors", ".pt"]


@pytest.fixture(params=FORMATS, ids=lambda suffix: suffix or "folder")
def suffix(request):
    if request.param == ".safetensors":
        pytest.importorskip("safetensors")
    return request.param


def condensed(channels=3, counts=(3, 5, 2), size=8, spread=1.5, seed=0):
    """Images of an uneven set, many pixels outside [0, 1], not sorted by class, with names that no file could have."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=seeded(seed))]
    return LabeledImages(
        images=torch.randn(len(labels), channels, size, size, generator=seeded(seed)) * spread,
        labels=labels,
        classes=("a/b: ü", "..", "x" * 300)[: len(counts)],
        mean=torch.tensor([0.1, 0.5, 0.7])[:channels],
        std=torch.tensor([0.3, 0.2, 0.4])[:channels],
        meta={"name": "mine", "augment": "crop", "config": {"ipc": 3, "block": None}, "step_sizes": torch.ones(2)},
    )


def by_class(data):
    return data.select(data.labels.argsort(stable=True))


# Out and in ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "counts"), [(1, (3, 5, 2)), (3, (3, 5, 2)), (1, (1, 1, 1)), (3, (1, 1, 1))])
def test_what_was_written_comes_back(tmp_path, suffix, channels, counts):
    data = condensed(channels, counts)
    path = tmp_path / f"set{suffix}"
    told = export(data, path)
    again = load_exported(path)
    expected = by_class(data) if suffix in ("", ".pt") else data
    assert torch.equal(again.labels, expected.labels)
    assert again.classes == data.classes
    assert torch.equal(again.mean, data.mean) and torch.equal(again.std, data.std)
    assert [*again.meta.pop("step_sizes")] == [1, 1] and again.meta.items() <= data.meta.items()
    assert again.images.dtype == torch.float32 and again.images.is_contiguous()
    if suffix:
        assert torch.equal(again.images, expected.images)
        assert told.clipping == told.rounding == 0
    else:
        assert torch.equal((again.pixels * 255).round(), (expected.pixels.clamp(0, 1) * 255).round())
        assert (again.pixels - expected.pixels.clamp(0, 1)).abs().max() < 0.5 / 255 + 1e-6
        assert told == cost(expected, again)
    assert os.listdir(tmp_path) == [path.name]  # nothing beside
    assert told.outside == pytest.approx(float(((data.pixels < 0) | (data.pixels > 1)).double().mean()))


def test_the_same_set_gives_the_same_bytes(tmp_path, suffix):
    for name in ("one", "two"):
        export(condensed(), tmp_path / f"{name}{suffix}")
    one, two = (tmp_path / f"{name}{suffix}" for name in ("one", "two"))
    files = [path.relative_to(one) for path in one.rglob("*") if path.is_file()] or ["."]
    assert len(files) == (1 if suffix else 11)
    assert all((one / file).read_bytes() == (two / file).read_bytes() for file in files)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions_come_back_where_the_format_holds_them(tmp_path, suffix, dtype):
    data = condensed().to(dtype=dtype)
    export(data, tmp_path / f"set{suffix}")
    again = load_exported(tmp_path / f"set{suffix}")
    assert again.images.dtype == (dtype if suffix in (".npz", ".safetensors") else torch.float32)
    if suffix in (".npz", ".safetensors"):
        assert torch.equal(again.images, data.images)


def test_a_set_in_memory_is_not_changed_nor_shared(tmp_path, suffix):
    data = condensed()
    before = data.images.clone()
    export(data, tmp_path / f"set{suffix}")
    load_exported(tmp_path / f"set{suffix}").images.zero_()
    assert torch.equal(data.images, before)


def test_networks_learn_the_same_from_what_came_back(tmp_path, suffix):
    real = real_images((20, 20), size=16)
    data = dataclasses.replace(real, images=real.images * 1.5)  # beyond [0, 1]
    export(data, tmp_path / f"set{suffix}")
    again = load_exported(tmp_path / f"set{suffix}")
    recipe, data = Recipe(steps=5, width=4, augment="none"), by_class(data) if suffix in ("", ".pt") else data
    one, two = (evaluate(s, real, networks=2, recipe=recipe, generator=seeded(0)) for s in (data, again))
    assert torch.equal(one.correct, two.correct) or not suffix
    assert abs(one.difference(two).mean) < 0.2


# What others see -----------------------------------------------------------------------------------------------------


def test_image_folder_gives_the_same_labels_and_pixels(tmp_path):
    """Twelve classes: by their names alone, "10" comes before "2"."""
    data = from_arrays(np.random.default_rng(0).random((24, 8, 8, 3)), np.arange(24) % 12)
    export(data, tmp_path / "digits")
    folder = torchvision.datasets.ImageFolder(tmp_path / "digits", torchvision.transforms.ToTensor())
    assert folder.classes == [f"{c:05d}_{c}" for c in range(12)]
    images, labels = (torch.stack(list(map(torch.as_tensor, part))) for part in zip(*folder, strict=True))
    assert torch.equal(labels, data.labels.sort().values)
    torch.testing.assert_close(images, by_class(data).pixels, atol=0.5 / 255 + 1e-6, rtol=0)


def test_pixels_are_clipped_not_wrapped_around(tmp_path):
    pixels = torch.tensor([[-0.1, 0.0], [1.0, 1.2]]).expand(1, 1, 2, 2)
    data = LabeledImages(images=pixels, labels=torch.tensor([0]), classes=("c",), mean=torch.zeros(1),
                         std=torch.ones(1))
    told = export(data, tmp_path / "set")
    assert np.asarray(Image.open(tmp_path / "set" / "00000_c" / "00000.png")).tolist() == [[0, 0], [255, 255]]
    assert told.outside == 0.5 and told.low == pytest.approx(-0.1) and told.high == pytest.approx(1.2)
    assert told.clipping == pytest.approx(((0.1**2 + 0.2**2) / 4) ** 0.5) and told.rounding == 0
    assert str(told).startswith("50.0% of the pixels lie outside [0, 1], from -0.10 to 1.20: changed by 0.11 (")


def test_rounding_is_that_of_eight_bits(tmp_path):
    data = from_arrays(torch.rand(4, 16, 16, generator=seeded(0)), [0, 1, 0, 1])
    told = export(data, tmp_path / "set")
    assert told.outside == told.clipping == 0
    assert 0.4 / 255 < told.rounding <= 0.5 / 255 + 1e-6


def test_numpy_alone_reads_the_npz(tmp_path):
    data = condensed()
    export(data, tmp_path / "set.npz")
    with np.load(tmp_path / "set.npz", allow_pickle=False) as file:
        assert set(file) == {"images", "labels", "mean", "std", "classes", "meta"}
        assert np.array_equal(file["images"], data.images.numpy())
        assert file["labels"].dtype == np.int64 and file["classes"].tolist() == list(data.classes)
        assert json.loads(str(file["meta"]))["augment"] == "crop"


def test_the_package_safetensors_reads_the_file(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    export(condensed(), tmp_path / "set.safetensors")
    tensors = safetensors.load_file(tmp_path / "set.safetensors")
    assert set(tensors) == {"images", "labels", "mean", "std"}
    assert torch.equal(tensors["images"], condensed().images)


def test_without_the_package_safetensors_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match="pip install safetensors"):
        export(condensed(), tmp_path / "set.safetensors")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["cifar10", "mnist", "mine"])
def test_the_published_file_is_normalised_as_that_code_normalises(tmp_path, name):
    channels = 1 if name == "mnist" else 3
    data = dataclasses.replace(condensed(channels), meta={"name": name})
    export(data, tmp_path / "res.pt")
    content = torch.load(tmp_path / "res.pt", weights_only=True)  # as that code reads it
    [[images, labels]] = content["data"]
    assert content["accs_all_exps"] == {}
    assert images.dtype == torch.float32 and labels.tolist() == [0] * 3 + [1] * 5 + [2] * 2
    if name == "mine":
        assert torch.equal(images, by_class(data).images)
    else:
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in PUBLISHED[name])
        torch.testing.assert_close(images * std + mean, by_class(data).pixels)
    [again] = load_published(tmp_path / "res.pt", like=data, **({"mean": data.mean, "std": data.std} if name == "mine"
                                                                else {}))
    torch.testing.assert_close(again.pixels, by_class(data).pixels)
    assert torch.equal(again.labels, labels)


# Files of the published codes ----------------------------------------------------------------------------------------


@pytest.fixture
def real():
    return dataclasses.replace(real_images(), meta={"name": "mnist", "augment": "crop"})


def pair(real, seed=0):
    return [torch.randn(9, 1, 8, 8, generator=seeded(seed), requires_grad=True), torch.arange(3).repeat_interleave(3)]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "of torch 1.2"])
def test_a_published_file(tmp_path, real, zipped):
    """With NumPy numbers beside the images, which torch alone refuses to read without running code."""
    pairs = [pair(real, seed) for seed in (0, 1)]
    accuracies = {"ConvNet": [np.float64(0.5), np.float64(0.25)]}
    path = tmp_path / "res_DM_MNIST_ConvNet_3ipc.pt"
    torch.save({"data": pairs, "accs_all_exps": accuracies}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError, match="scalar"):
        torch.load(path, weights_only=True)
    sets = load_published(path, like=real)
    assert len(sets) == 2
    for (images, labels), one in zip(pairs, sets, strict=True):
        assert torch.equal(one.images, images) and not one.images.requires_grad
        assert torch.equal(one.labels, labels)
        assert one.mean.tolist() == pytest.approx([0.1307]) and one.std.tolist() == pytest.approx([0.3081])
        assert one.classes == real.classes and one.meta == real.meta
    test = real.normalized_like(sets[0])
    assert evaluate(sets, test, networks=1, recipe=Recipe(steps=1, width=4), generator=seeded()).values.shape == (2, 1)


def test_a_published_file_of_the_numpy_before_2(tmp_path, real):
    path = tmp_path / "res.pt"
    torch.save({"data": [pair(real)], "accs_all_exps": {"ConvNet": [np.float64(0.5)]}}, path,
               _use_new_zipfile_serialization=False)
    old = path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in old
    path.write_bytes(old)
    assert len(load_published(path, like=real)) == 1


@pytest.mark.parametrize("names", [("images_best.pt", "labels_best.pt"),
                                   ("MNIST_IPC3_normalize_images.pt", "MNIST_IPC3_normalize_labels.pt")])
def test_a_pair_of_files(tmp_path, real, names):
    for name, tensor in zip(names, pair(real), strict=True):
        torch.save(tensor, tmp_path / name)
    [one] = load_published(tmp_path / names[0], like=real, mean=[0.25], std=[0.5])
    assert torch.equal(one.images, pair(real)[0]) and torch.equal(one.labels, pair(real)[1])
    assert (one.mean.tolist(), one.std.tolist()) == ([0.25], [0.5])


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("where", ["data", "accs_all_exps", "classes"])
def test_no_code_from_a_file_is_run(tmp_path, real, where):
    export(real, tmp_path / "res.pt")
    content = torch.load(tmp_path / "res.pt", weights_only=True)
    torch.save({**content, where: Bomb(tmp_path / "exploded")}, tmp_path / "res.pt")
    for read in (load_exported, lambda path: load_published(path, like=real)):
        with pytest.raises(ValueError, match=r"res\.pt"):
            read(tmp_path / "res.pt")
    assert not (tmp_path / "exploded").exists()
    torch.load(tmp_path / "res.pt", weights_only=False)
    assert (tmp_path / "exploded").exists()  # the file was dangerous indeed


def test_pickled_arrays_are_not_read(tmp_path):
    export(condensed(), tmp_path / "set.npz")
    with np.load(tmp_path / "set.npz") as file:
        arrays = {**file, "classes": np.array([Bomb(tmp_path / "exploded")] * 3)}
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(ValueError, match=r"set\.npz.*was not written by export, or it is damaged"):
        load_exported(tmp_path / "set.npz")
    assert not (tmp_path / "exploded").exists()


def published(folder, content, name="res.pt", **more):
    for file, tensor in {name: content, **more}.items():
        torch.save(tensor, folder / file)
    return folder / name


IMAGES, LABELS = pair(None)
BAD_FILES = {  # case: (content, other files, message)
    "a set of this library": ({"images": IMAGES, "labels": LABELS}, {}, "read by LabeledImages.load"),
    "three in a pair": ({"data": [[IMAGES, LABELS, LABELS]]}, {}, "must hold pairs of images and labels"),
    "no dictionary": ([IMAGES, LABELS], {}, "must hold pairs of images and labels"),
    "pixels": ({"data": [[IMAGES.sigmoid(), LABELS]]}, {}, "must hold normalised images; got no negative number"),
    "another shape": ({"data": [[IMAGES[..., :4], LABELS]]}, {}, r"images of \(1, 8, 8\).*got \(9, 1, 8, 4\)"),
    "soft labels": ({"data": [[IMAGES, torch.rand(9, 3)]]}, {}, r"not soft ones; got torch.float32, \(9, 3\)"),
    "labels with fractions": ({"data": [[IMAGES, LABELS / 2]]}, {}, "one integer per image"),
    "too few labels": ({"data": [[IMAGES, LABELS[:-1]]]}, {}, "labels must hold one integer per image"),
    "labels beyond the classes": ({"data": [[IMAGES, LABELS + 1]]}, {}, "labels must lie in 0 … 2"),
    "NaN": ({"data": [[IMAGES / 0 * 0, LABELS]]}, {}, "NaN or infinite"),
    "a tensor of an unknown name": (IMAGES, {}, "must have images in its name"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_published_files_that_do_not_fit(tmp_path, real, case):
    content, more, message = BAD_FILES[case]
    with pytest.raises(ValueError, match=message):
        load_published(published(tmp_path, content, **more), like=real)


def test_a_pair_that_is_not_whole(tmp_path, real):
    path = published(tmp_path, IMAGES, "images_best.pt")
    with pytest.raises(FileNotFoundError, match=r"labels_best\.pt"):
        load_published(path, like=real)
    published(tmp_path, LABELS, "labels_best.pt")
    assert len(load_published(path, like=real)) == 1
    published(tmp_path, IMAGES, "images_zca_5000.pt")
    with pytest.raises(ValueError, match=r"run on whitened images, as images_zca_5000\.pt says"):
        load_published(path, like=real)


def test_a_published_file_needs_mean_and_std(tmp_path, real):
    path = published(tmp_path, {"data": [pair(real)]})
    with pytest.raises(ValueError, match="mean and std are required: the published code has no data set 'flowers'"):
        load_published(path, like=dataclasses.replace(real, meta={"name": "flowers"}))
    with pytest.raises(ValueError, match=r"mean and std must be given together; got \[0\.5\] and None"):
        load_published(path, like=real, mean=[0.5])
    with pytest.raises(ValueError, match="mean must hold one number per channel"):
        load_published(path, like=real, mean=[0.5] * 3, std=[0.5] * 3)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_published(tmp_path / "nothing.pt", like=real)


# What is refused -----------------------------------------------------------------------------------------------------


def test_every_truncation_is_noticed(tmp_path, suffix):
    path = tmp_path / f"set{suffix}"
    export(condensed(), path)
    broken = path if suffix else path / "00001_.." / "00002.png"
    whole = broken.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 30):
        broken.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"set.*' was not written by export, or it is damaged"):
            load_exported(path)


@pytest.mark.parametrize("what", ["no card", "a folder less", "a folder renamed", "colour", "16 bits", "another size"])
def test_a_folder_that_was_changed(tmp_path, what):
    path = tmp_path / "set"
    export(condensed(1), path)
    one = path / "00000_a_b__ü" / "00000.png"
    if what == "no card":
        (path / "dataset.json").unlink()
    elif what == "a folder less":
        one.parent.rename(tmp_path / "elsewhere")
    elif what == "a folder renamed":
        one.parent.rename(path / "last")
    elif what == "another size":
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(one)
    else:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8) if what == "colour" else np.zeros((8, 8), np.uint16)).save(one)
    with pytest.raises(ValueError, match="was not written by export, or it is damaged"):
        load_exported(path)


def test_an_image_that_is_missing_is_noticed(tmp_path):
    export(condensed(), tmp_path / "set")
    (tmp_path / "set" / "00001_.." / "00000.png").unlink()
    with pytest.raises(ValueError, match=r"set' was not written by export.*00001_\.\. must hold 5 images; it holds 4"):
        load_exported(tmp_path / "set")


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({}, "set.jpg", r"path must be a new folder, without a dot, or end in \.npz, \.safetensors or \.pt; got"),
        ({}, "missing/set", "folder that exists"),
        ({}, "missing/set.npz", "folder that exists"),
        ({}, "there", "path must be a new folder; .*is there: remove it"),
        ({"images": torch.full((10, 3, 8, 8), float("nan"))}, "set.npz", "data must hold no NaN or infinite pixels"),
        ({"labels": torch.tensor([0] * 5 + [2] * 5)}, "set", r"images of every class .*; none of \.\."),
        ({"images": torch.zeros(10, 2, 8, 8), "mean": torch.zeros(2), "std": torch.ones(2)}, "set", "1 or 3 channels"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_nothing_is_written(tmp_path, changes, path, message):
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match=message):
        export(dataclasses.replace(condensed(), **changes), tmp_path / path)
    assert os.listdir(tmp_path) == ["there"] and os.listdir(tmp_path / "there") == []


def test_a_failure_in_the_middle_leaves_nothing_behind(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"set{suffix}"
    if suffix:
        path.write_bytes(b"precious")

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        export(condensed(), path)
    assert os.listdir(tmp_path) == ([path.name] if suffix else [])
    assert not suffix or path.read_bytes() == b"precious"


def test_files_that_are_not_there_or_not_ours(tmp_path, real):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        load_exported(tmp_path / "set")
    with pytest.raises(ValueError, match="path must be a folder or end in"):
        load_exported(tmp_path / "set.jpg")
    with pytest.raises(ValueError, match="read by load_published"):
        load_exported(published(tmp_path, {"data": [pair(real)], "accs_all_exps": {}}))


def test_cost_compares_the_same_images(real):
    with pytest.raises(ValueError, match="after must be the same images"):
        cost(real, real.select(torch.arange(3)))
    with pytest.raises(ValueError, match="after must have the labels of before"):
        cost(real, dataclasses.replace(real, labels=real.labels.flip(0)))


def test_what_png_costs_a_stored_set(tmp_path):
    """What chapters and the README say: a fifth of the pixels of a condensed CIFAR-10 set lie outside [0, 1]."""
    told = export(results.images("cifar10_dm_10"), tmp_path / "cifar")
    assert 0.15 < told.outside < 0.25 and 0.05 < told.clipping < 0.1


# The README ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_readmes_network_learns_from_a_condensed_set(tmp_path, monkeypatch, capsys):
    """The README's lines as they stand, on a set of ten digits a class."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    [lines] = [block for block in blocks if "LabeledImages.load" in block]
    monkeypatch.chdir(tmp_path)
    results.images("mnist5k_dm_10").save("S.pt")
    with torch.random.fork_rng():
        exec(lines, {})
    share, rest = capsys.readouterr().out.split("%")
    assert rest == " of 1000 real images\n"
    assert float(share) > 90


def test_the_readmes_numbers_are_the_stored_ones():
    def of(experiment, network):
        rows = {row["method"]: row["accuracies"] for row in results.rows("exchange", experiment, network=network)}
        dm, random = rows["DM"], rows["Random"]
        return f"{100 * dm.mean:.1f}", f"{100 * random.mean:.1f}", dm.difference(random, paired=False)

    dm, random, ahead = of("own network", "as in the README")
    instance, flips = (of("choice", f"input as it is, {change}")[2] for change in ("instance norm", "flips alone"))
    told = " ".join((ROOT / "README.md").read_text().split())
    assert f"{dm} % of the test images right from condensed images and {random} % from random ones" in told
    for one in (ahead, instance, flips):
        low, high = sorted(abs(100 * end) for end in one[1:3])
        assert f"{abs(100 * one.mean):.1f} points" in told and f"{low:.1f} to {high:.1f}" in told
    assert flips.high < 0 < min(ahead.low, instance.low)
