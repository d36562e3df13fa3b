"""Images on disk are, to the bit, those in memory: read, split, condensed and scored."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from runs import seeded

from dmtutor import (
    DCConfig,
    DDConfig,
    DMConfig,
    LabeledImages,
    Recipe,
    dc_steps,
    dd_steps,
    dm_steps,
    evaluate,
    folders,
    from_arrays,
    herding,
    k_center,
    load,
    random_subset,
    train_network,
)
from dmtutor.mapped import MappedImages, mean_and_std

COUNT, CLASSES = 60, 3


def arrays(layout="NHW", seed=0):
    shape = {"NHW": (COUNT, 8, 8), "NHWC": (COUNT, 8, 8, 3), "NCHW": (COUNT, 3, 8, 8)}[layout]
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), np.arange(COUNT) % CLASSES


@pytest.fixture(params=["NHW", "NHWC", "NCHW"])
def both(request, tmp_path):
    """The same images in memory and on disk."""
    x, y = arrays(request.param)
    np.save(tmp_path / "x.npy", x)
    memory, disk = from_arrays(x, y), from_arrays(np.load(tmp_path / "x.npy", mmap_mode="r"), y)
    assert isinstance(memory.images, torch.Tensor) and isinstance(disk.images, MappedImages)
    return memory, disk


def test_what_is_read_is_what_would_be_in_memory(both):
    memory, disk = both
    assert repr(memory) == repr(disk) and disk.images.dtype == torch.float32
    for rows in (slice(None), slice(3, 9), torch.tensor([5, 1, 1]), torch.arange(150) % COUNT, memory.labels == 2, -1):
        assert torch.equal(disk.images[rows], memory.images[rows])
    assert torch.equal(disk.mean, memory.mean) and torch.equal(disk.std, memory.std)
    assert torch.equal(disk.pixels, memory.pixels) and torch.equal(disk.of_class(1), memory.of_class(1))
    parts = list(disk.images.split(7))
    assert all(map(torch.equal, parts, memory.images.split(7))) and len(parts) == 9
    assert torch.equal(disk.to(dtype=torch.float64).images[:5], memory.images[:5].double())


def test_a_part_stays_on_disk_and_a_choice_is_in_memory(both):
    memory, disk = both
    for ours, theirs in zip(disk.split(0.25, generator=seeded()), memory.split(0.25, generator=seeded()), strict=True):
        assert isinstance(ours.images, MappedImages)
        assert torch.equal(ours.images[:], theirs.images) and torch.equal(ours.labels, theirs.labels)
    again, _ = disk.split(0.25, generator=seeded())[0].split(0.5, generator=seeded(1))
    theirs, _ = memory.split(0.25, generator=seeded())[0].split(0.5, generator=seeded(1))
    assert torch.equal(again.images[:], theirs.images)
    for choose in (lambda d: random_subset(d, 2, generator=seeded()), lambda d: herding(d, 2),
                   lambda d: k_center(d, 2)):
        assert torch.equal(choose(disk).images, choose(memory).images)


def test_it_can_be_normalised_like_another_set_and_saved(both, tmp_path):
    memory, disk = both
    other = from_arrays(arrays({1: "NHW", 3: "NHWC"}[memory.images.shape[1]], seed=1)[0] // 2, memory.labels)
    assert isinstance(disk.normalized_like(other).images, MappedImages)
    torch.testing.assert_close(disk.normalized_like(other).images[:], memory.normalized_like(other).images)
    disk.save(tmp_path / "disk.pt"), memory.save(tmp_path / "memory.pt")
    assert (tmp_path / "disk.pt").read_bytes() == (tmp_path / "memory.pt").read_bytes()
    assert isinstance(LabeledImages.load(tmp_path / "disk.pt").images, torch.Tensor)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dm", "dc", "dd", "noise"])
def test_a_run_is_the_same_to_the_bit(both, method):
    fields = {"ipc": 2, "iterations": 3, "batch_real": 5, "width": 4, "depth": 2, "augment": "crop_scale"}
    make, config = {"dm": (dm_steps, DMConfig(**fields)), "dc": (dc_steps, DCConfig(**fields)),
                    "dd": (dd_steps, DDConfig(**fields)), "noise": (dm_steps, DMConfig(**fields, init="noise")),
                    }[method]
    ours, theirs = (make(data, config=config, generator=seeded()) for data in reversed(both))
    ours.load_state_dict({**theirs.state_dict(), "real": ours.fingerprint})  # of the same data
    assert torch.equal(ours.finish().images, theirs.finish().images)


def test_training_and_scores_are_the_same_to_the_bit(both):
    memory, _ = both
    recipe = Recipe(steps=3, width=4, depth=2, batch_size=8)
    images = memory.images[:5]
    networks = [train_network(data, recipe=recipe, generator=seeded()) for data in both]
    assert torch.equal(networks[0](images), networks[1](images))
    sets = random_subset(memory, 3, generator=seeded())
    marks = [evaluate(sets, test, networks=2, recipe=recipe, generator=seeded()).correct for test in both]
    assert torch.equal(*marks)


def test_mean_and_deviation_are_exact():
    x, _ = arrays("NCHW")
    mean, std = mean_and_std(x)
    values = x.astype(np.float64) / 255
    np.testing.assert_allclose(mean, values.mean((0, 2, 3)), rtol=1e-7)
    np.testing.assert_allclose(std, values.std((0, 2, 3)), rtol=1e-7)
    assert mean_and_std(np.full((2, 1, 3, 3), 7, np.uint8))[1] == 1


# Folders -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    x, y = arrays("NHWC")
    for i, (pixels, label) in enumerate(zip(x, y, strict=True)):
        path = tmp_path / "images" / f"class {label}"
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path / f"{i:02}.png")
    return tmp_path / "images"


def test_a_large_folder_is_decoded_once(folder, tmp_path, monkeypatch, capsys):
    memory = load(folder)
    monkeypatch.setattr(folders, "IN_MEMORY", 0)
    disk = load(folder, root=tmp_path)
    assert "decoding into" in capsys.readouterr().err
    for ours, theirs in zip(disk, memory, strict=True):
        assert isinstance(ours.images, MappedImages)
        assert torch.equal(ours.images[:], theirs.images) and torch.equal(ours.labels, theirs.labels)
        assert ours.classes == theirs.classes and ours.meta == theirs.meta
    made = sorted((tmp_path / "folders").iterdir())
    assert [f.suffix for f in made] == [".json", ".npy"] * 2
    times = [f.stat().st_mtime_ns for f in made]
    assert torch.equal(load(folder, root=tmp_path)[0].images[:], memory[0].images)
    assert "decoding" not in capsys.readouterr().err and [f.stat().st_mtime_ns for f in made] == times


def test_a_folder_that_changed_is_decoded_anew(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "IN_MEMORY", 0)
    load(folder, root=tmp_path)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(next((folder / "class 0").iterdir()))
    parts = load(folder, root=tmp_path)
    assert sum(float(part.pixels.flatten(1).abs().amax(1).min()) < 1e-6 for part in parts) == 1
    assert len(list((tmp_path / "folders").glob("*.npy"))) == 3
    assert load(folder, root=tmp_path, size=4)[0].images.shape[2:] == (4, 4)


def test_a_decoding_that_was_stopped_leaves_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "IN_MEMORY", 0)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(folders, "mean_and_std", lambda _: (_ for _ in ()).throw(KeyboardInterrupt()))
        load(folder, root=tmp_path)
    assert not list((tmp_path / "folders").iterdir())
    assert len(load(folder, root=tmp_path)[0]) == 47


def test_broken_files_are_left_out_on_disk_as_in_memory(folder, tmp_path, monkeypatch, capsys):
    for name in ("class 0/00.png", "class 1/13.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-40])
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 60).save(folder / "class 2" / "02.png")
    options = {"skip_broken": True, "size": 6, "resize": "pad"}
    with pytest.warns(UserWarning, match="give white=4095"), pytest.warns(UserWarning, match="2 of 60 images"):
        memory = load(folder, **options)
    monkeypatch.setattr(folders, "IN_MEMORY", 0)
    for decoded in (True, False):
        with pytest.warns(UserWarning):
            disk = load(folder, root=tmp_path, **options)
        assert ("decoding" in capsys.readouterr().err) == decoded
        for ours, theirs in zip(disk, memory, strict=True):
            assert torch.equal(ours.images[:], theirs.images) and torch.equal(ours.labels, theirs.labels)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"2 of 60 .*00\.png.*13\.png.*--skip-broken"):
        load(folder, root=tmp_path, size=6, resize="pad")
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"0 GB and .* has 0 left: give a smaller size"):
        load(folder, root=tmp_path, **{**options, "size": 7})


MEMORY = """
import sys; sys.path.insert(0, 'benchmarks')
import numpy as np, torch
from store import peak_above, start_peak
from dmtutor import DMConfig, LabeledImages, dm_steps
from dmtutor.mapped import MappedImages
torch.set_num_threads(1)
pixels = np.load(sys.argv[1], mmap_mode='r')
images = MappedImages(pixels, torch.full((3,), 0.5), torch.ones(3))
labels = torch.arange(len(images)) % 100
real = LabeledImages(images=images, labels=labels, classes=tuple(map(str, range(100))), mean=images.mean,
                     std=images.std)
before = start_peak()
steps = dm_steps(real, config=DMConfig(ipc=1, batch_real=2, width=8), generator=torch.Generator().manual_seed(0))
next(steps)
print(peak_above(before))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_step_reads_what_it_needs(tmp_path):
    """Of 1.2 GB, a hundred classes' batches."""
    shape, path = (100_000, 3, 64, 64), tmp_path / "x.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)[:1000] = 1  # the rest takes no room on disk
    done = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300


def test_a_damaged_decoding_is_made_anew_with_a_word(folder, tmp_path, monkeypatch):
    memory = load(folder)
    monkeypatch.setattr(folders, "IN_MEMORY", 0)
    load(folder, root=tmp_path)
    made = sorted((tmp_path / "folders").iterdir())
    whole = [file.read_bytes() for file in made]
    damages = [lambda f: f.write_bytes(f.read_bytes()[:-50]), lambda f: f.write_bytes(b""), lambda f: f.unlink(),
               lambda f: f.write_bytes(b"{}")]
    for file in made:
        for damage in damages:
            damage(file)
            with pytest.warns(UserWarning, match=rf"decoded anew: '.*{file.stem}\.npy' was damaged or not whole"):
                ours = load(folder, root=tmp_path)
            assert all(torch.equal(one.images[:], two.images) for one, two in zip(ours, memory, strict=True))
            assert [f.read_bytes() for f in made] == whole


def test_other_contents_of_the_same_size_and_time_are_decoded_anew(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "IN_MEMORY", 0)
    for file in folder.rglob("*.png"):
        Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(file.with_suffix(".bmp"))
        file.unlink()
    load(folder, root=tmp_path)
    file = next((folder / "class 0").iterdir())
    before = file.stat()
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size and file.stat().st_mtime_ns == before.st_mtime_ns
    assert max(float(part.pixels.max()) for part in load(folder, root=tmp_path)) > 8.5 / 255


def test_the_fingerprint_of_images_on_disk(both):
    _, disk = both
    assert disk.images.digest and disk.fingerprint == disk.to(torch.device("cpu")).fingerprint
    rows = torch.arange(len(disk))
    for other in (rows[:4], rows.flip(0)):
        assert disk.images.select(other).fingerprint != disk.images.fingerprint
    assert both[0].meta["fingerprint"] == disk.meta["fingerprint"]
