"""Malformed and odd inputs, given to the real command: each is right, is told in a line, or is refused in one."""

import json
import os
import re
import shutil
import struct
import sys
import zipfile
import zlib

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import dmtutor.__main__ as shell
from dmtutor import LabeledImages, files, load

RNG = np.random.default_rng(0)
SIDE = 8


def picture(value=None, mode="L", size=(SIDE, SIDE)):
    pixels = RNG.integers(0, 256, size[::-1], dtype=np.uint8) if value is None else np.full(size[::-1], value, np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Ten pictures of cats and ten of dogs in ``data``."""
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(10):
            picture().save(tmp_path / "data" / name / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shell.planning, "step_seconds", lambda _: 1.0)
    monkeypatch.setattr(shell.planning, "judge_seconds", lambda *_: 1.0)
    return tmp_path / "data"


def plan(capsys, *flags, dataset="data"):
    """Exit code, standard output and error of a dry run."""
    capsys.readouterr()
    try:
        shell.main(["condense", "--dataset", str(dataset), "--output", "S.pt", "--ipc", "1", "--dry-run", *flags])
        code = 0
    except SystemExit as stopped:
        code = stopped.code
    return code, *capsys.readouterr()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def bomb(path):
    """A PNG whose head speaks of 40,000 × 40,000 pixels."""
    content = bytearray((path.parent / "0.png").read_bytes())
    content[16:24] = struct.pack(">II", 40_000, 40_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)


def frames(path, **options):
    picture(0).save(path, save_all=True, append_images=[picture(255)], **options)


def archive(path, **arrays):
    np.savez(path, **arrays)


X, Y = RNG.integers(0, 256, (12, SIDE, SIDE), dtype=np.uint8), np.arange(12) % 2

REFUSED = {
    "a TIFF of two pages": (lambda d: frames(d / "cat/a.tif"), "cat/a.tif (it holds 2 pictures, not one); mend"),
    "an animated PNG": (lambda d: frames(d / "cat/a.png"), "cat/a.png (it holds 2 pictures"),
    "an animated WebP": (lambda d: frames(d / "cat/a.webp"), "cat/a.webp (it holds 2 pictures"),
    "floating pixels": (lambda d: Image.new("F", (SIDE, SIDE)).save(d / "cat/a.tif"), "(its pixels are floating"),
    "negative pixels": (lambda d: Image.new("I", (SIDE, SIDE), -3).save(d / "cat/a.tif"), "reach down to -3"),
    "a bomb": (lambda d: bomb(d / "cat/a.png"), "cat/a.png (Image size (1600000000 pixels) exceeds limit"),
    "no bytes": (lambda d: write(d / "cat/a.png", b""), "cat/a.png (cannot identify image file"),
    "a page instead of an image": (lambda d: write(d / "dog/a.jpg", b"<html>404</html>"), "dog/a.jpg (cannot identify"),
    "half a JPEG": (lambda d: (picture(size=(64, 64)).save(d / "x.jpg"), (d / "dog/a.jpg").write_bytes(
        (d / "x.jpg").read_bytes()[:900]), (d / "x.jpg").unlink()), "size is required"),
    "a link to nowhere": (lambda d: (d / "cat/a.png").symlink_to("nowhere"), "cat/a.png ("),
    "another shape, without a size": (lambda d: picture(size=(9, 8)).save(d / "cat/a.png"), "size is required"),
    "no folder of a class": (lambda d: [f.rename(d / f"{f.parent.name}{f.name}") for f in d.glob("*/*")],
                             "20 images lie in it without one"),
    "nothing": (lambda d: shutil.rmtree(d / "cat") or shutil.rmtree(d / "dog"), "was found"),
    "one class": (lambda d: shutil.rmtree(d / "dog"), "two classes or more"),
    "one class and an empty one": (lambda d: [f.unlink() for f in d.glob("dog/*")], "two classes or more"),
    "an album in a class": (lambda d: write(d / "cat/holiday/a.png", b"x"), "lies deeper: name 'data/cat'"),
    "train alone": (lambda d: (d / "cat").rename(d / "Train"), "'data/Train' must hold a folder of"),
    "test alone": (lambda d: (d / "cat").rename(d / "TEST"), "rename it if it is a class"),
    "one image a class": (lambda d: [f.unlink() for f in d.glob("*/[1-9].png")], "every class has but one image"),
    "a class of broken files": (lambda d: [f.write_bytes(b"") for f in d.glob("dog/*")], "10 of 20 images"),
    "a name that cannot be printed": (lambda d: (d / "cat").rename(d / "c\na\tt"), r"got 'c\na\tt'"),
    "a name of no encoding": (lambda d: (d / "cat").rename(os.fsdecode(os.fsencode(d) + b"/c\xff")), r"got 'c\udcff'"),
    "images of one pixel": (lambda d: [Image.new("L", (1, 1), 9).save(f) for f in d.glob("*/*")], "depth must be at"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(folder, capsys, case):
    spoil, message = REFUSED[case]
    spoil(folder)
    code, out, err = plan(capsys)
    assert code == 2 and out == ""
    *notes, error = err.splitlines()
    assert all(note.startswith("note: ") for note in notes)
    assert error.startswith("python -m dmtutor condense: error: ")
    assert message in error


TOLD = {
    "pictures of no known kind": (lambda d: [write(d / f"cat/{i}.heic", b"") for i in range(3)], "3 × .heic"),
    "pictures beside the classes": (lambda d: picture().save(d / "cover.png"), "cover.png"),
    "an empty class": (lambda d: (d / "owl").mkdir(), "no images in the class folders 'owl'"),
    "a class of one": (lambda d: (write(d / "owl/a.png", b""), picture().save(d / "owl/a.png")), "no test image of 1"),
    "upper and lower case": (lambda d: (d / "dog").rename(d / "CAT"), "differ in upper and lower case"),
    "twelve bits in sixteen": (lambda d: [Image.fromarray(np.uint16(np.arange(64).reshape(SIDE, SIDE) * 60)).save(f)
                                          for f in d.glob("*/*")], "if 4095 is theirs, give white=4095 (--white"),
    "more wanted than there are": (lambda d: [f.unlink() for f in d.glob("dog/[5-9].png")], "'dog' 4"),
}


@pytest.mark.parametrize("case", TOLD)
def test_told_in_one_line(folder, capsys, case):
    spoil, message = TOLD[case]
    spoil(folder)
    code, out, err = plan(capsys, "--ipc", "6" if case.startswith("more") else "1")
    assert code == 0 and out.startswith("read ")
    assert err.startswith("note: ") and err.count("\n") == 1 and message in err


RIGHT = {
    "hidden files and folders": lambda d: (write(d / "cat/._0.png", b"x"), write(d / ".thumbs/a.png", b"x"),
                                           write(d / "__MACOSX/cat/a.png", b"x"), write(d / "cat/.cache/a.png", b"x")),
    "endings in upper case": lambda d: [f.rename(f.with_suffix(".PNG")) for f in d.glob("cat/*")],
    "a JPEG called PNG": lambda d: picture().save(d / "cat/0.png", "JPEG", quality=95),
    "parts in capitals": lambda d: [(picture().save(_made(d / part / c / f"{i}.png")))
                                    for part in ("TRAIN", "Test") for c in ("cat", "dog") for i in range(8)]
                         and [shutil.rmtree(d / c) for c in ("cat", "dog")],
    "a class that is a link": lambda d: (shutil.copytree(d / "cat", d.parent / "elsewhere"), shutil.rmtree(d / "cat"),
                                         (d / "cat").symlink_to(d.parent / "elsewhere")),
    "blanks and letters of everywhere": lambda d: (d / "cat").rename(d / "猫 é x"),
    "a palette": lambda d: picture().convert("P").save(d / "cat/0.png"),
    "a printer's colours": lambda d: Image.new("CMYK", (SIDE, SIDE), (0, 99, 0, 0)).save(d / "cat/0.jpg"),
}


def _made(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("case", RIGHT)
def test_right_without_a_word(folder, capsys, case):
    RIGHT[case](folder)
    code, out, err = plan(capsys)
    assert (code, err) == (0, "")
    assert re.search("read (12 training and 8|1[35] training and [58]|16 training and 16) test images, 2 classes", out)


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)


ARCHIVES = {
    "no test part": ({"x_train": X, "y_train": Y}, 0, "10 training and 2 test"),
    "labels in a column": ({"x_train": X, "y_train": Y[:, None]}, 0, "10 training and 2 test"),
    "labels as names": ({"x_train": X, "y_train": np.array(["a", "b"])[Y]}, 0, "2 classes of 5 (a, b)"),
    "a scalar for labels": ({"x_train": X, "y_train": np.array(3)}, 2, "its labels must be one for each image"),
    "labels too few": ({"x_train": X, "y_train": Y[:9]}, 2, "the shapes are (12, 8, 8) and (9,)"),
    "labels too many": ({"x_train": X[:9], "y_train": Y}, 2, "its labels must be one for each image"),
    "labels from one": ({"x_train": X, "y_train": Y + 1}, 2, "'0': do labels count from 1? subtract 1"),
    "labels that are numbers of a register": ({"x_train": X, "y_train": Y * 9000 + 7}, 2, "number the classes anew"),
    "labels of dates": ({"x_train": X, "y_train": np.array([1, 2], dtype="M8[D]")[Y]}, 2, "y must be integers"),
    "labels with a hole": ({"x_train": X, "y_train": Y * 2}, 2, "1 of 3 have none, '1'"),
    "scores for labels": ({"x_train": X, "y_train": np.eye(2)[Y]}, 2, "y.argmax(1)"),
    "labels that are times": ({"x_train": X, "y_train": Y + 1_700_000_000}, 2, "got up to 1700000001: names, y ="),
    "labels beyond all numbers": ({"x_train": X, "y_train": Y.astype(np.uint64) + 2**63}, 2, "numpy.unique"),
    "names twice": ({"x_train": X, "y_train": Y, "classes": np.array(["a", "a"])}, 2, "different names"),
    "too few names": ({"x_train": X, "y_train": Y, "classes": np.array(["a"])}, 2, "y must lie in 0 … 0"),
    "grey and colour": ({"x_train": X.repeat(3, 0).reshape(12, 3, SIDE, SIDE), "y_train": Y, "x_test": X, "y_test": Y},
                        2, "as in like"),
    "no images": ({"x_train": X[:0], "y_train": Y[:0]}, 2, "n ≥ 1"),
    "images without pixels": ({"x_train": X[:, :0], "y_train": Y}, 2, "n ≥ 1"),
    "16 bits": ({"x_train": X.astype(np.uint16) * 200, "y_train": Y}, 2, "x / 65535"),
    "four channels": ({"x_train": X[..., None].repeat(4, -1), "y_train": Y}, 2, "of red, green, blue and alpha"),
    "complex": ({"x_train": X.astype(complex), "y_train": Y}, 2, "x must be uint8"),
    "video": ({"x_train": X[:, None, None], "y_train": Y}, 2, "x must be images"),
    "NaN": ({"x_train": np.full(X.shape, np.nan), "y_train": Y}, 2, "NaN"),
    "nothing": ({}, 2, "it holds nothing"),
    "only labels": ({"y_train": Y}, 2, "it lacks x_train; it holds y_train"),
    "three parts": ({"x_train": X, "y_train": Y, "x_test": X[:2], "y_test": Y[:2], "x_val": X, "y_val": Y}, 0, "x_val"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives(folder, capsys, case):
    arrays, expected, message = ARCHIVES[case]
    archive("own.npz", **arrays)
    code, out, err = plan(capsys, dataset="own.npz")
    assert code == expected, err
    assert message in (out + err) and (out + err).count("\n") <= 3
    assert out == "" if expected else out.startswith("read ")


@pytest.mark.parametrize(
    "content", [{"x.npy": b"no array", "y.npy": b""}, {"x": "text", "y": "text"}, {"notes.txt": "x"}]
)
def test_archives_of_something_else(folder, capsys, content):
    zipped("own.npz", **content)
    code, out, err = plan(capsys, dataset="own.npz")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "own.npz" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ipc", "ten"], "must be a number, or one for each class, 10,10,3 or cat=10,dog=3; got 'ten'"),
        (["--ipc", "1,"], "must be a number, or one for each class"),
        (["--ipc", "1e3"], "must be a number"),
        (["--ipc", "99999999999999999999", "--init", "noise"], "ipc must be less than 2³¹"),
        (["--iterations", "99999999999999999999"], "iterations must be less than 2³¹"),
        (["--lr-img", "1e999"], "lr_img must be positive"),
        (["--size", "-4"], "size must be a positive integer"),
        (["--dataset", ""], "must be one of mnist5k"),
        (["--dataset", "data/cat/0.png"], "got 'data/cat/0.png'"),
        (["--dataset", "S.pt"], "must be one of mnist5k"),
        (["--output", ""], "--output must"),
        (["--output", ".pt"], "--output must end in .pt"),
        (["--output", "data"], "--output must be a file, not a folder"),
        (["--output", "S.PNG"], "--output must end in .pt"),
        (["--root", "data/cat/0.png", "--dataset", "cifar10"], ""),
        (["--device", "cuda:7"], "must be one that this machine has"),
        (["--device", "0"], "must be one that this machine has"),
        (["--history", "data"], "history must be a file"),
        (["--seeds", "-1"], "--seeds must be a positive integer"),
        (["--augment", ""], "augment must be"),
        (["--unknown"], "unrecognized arguments"),
    ],
)
def test_flags(folder, capsys, monkeypatch, flags, message):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", _no_network)
    code, out, err = plan(capsys, *flags)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and message in err


def _no_network(*_, **__):
    raise RuntimeError("not found")


def test_files_where_a_run_would_be_saved(folder, capsys):
    (folder.parent / "S.pt.run").mkdir()
    assert "checkpoint must be a file, not a folder; got 'S.pt.run'" in plan(capsys)[2]
    (folder.parent / "S.pt.run").rmdir()
    for content in (b"", b"precious", b"PK\x03\x04"):
        (folder.parent / "S.pt.run").write_bytes(content)
        code, _, err = plan(capsys)
        assert code == 2 and err.count("\n") == 1 and "'S.pt.run' does not hold this run" in err
        assert (folder.parent / "S.pt.run").read_bytes() == content


def judge(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        shell.main(["evaluate", *arguments])
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == "" and err.count("\n") == 1
    return err


def test_sets_that_are_none(folder, capsys):
    train, _ = load("data")
    train.save("T.pt")
    content = torch.load("T.pt", weights_only=True)
    cases = {
        "of other classes": ({"classes": ["cat", "eel"]}, "class 'dog' for 'eel'"),
        "without a class": ({"classes": ["cat"]}, "is not a set of labelled images"),
        "of an unknown augmentation": ({"meta": {"augment": "blur"}}, "augment must be"),
        "of an unknown resizing": ({"meta": {"resize": "stretch"}}, "resize must be one of fit, pad"),
        "of three channels": ({"images": content["images"].repeat(1, 3, 1, 1), "mean": torch.zeros(3),
                               "std": torch.ones(3)}, "the data set must have the classes and the size"),
        "of NaN": ({"images": content["images"] * torch.nan}, "NaN or infinite"),
        "of no image": ({"images": content["images"][:0], "labels": content["labels"][:0]}, ""),
    }
    for changes, message in cases.values():
        torch.save({**content, **changes}, "U.pt")
        assert message in judge(capsys, "U.pt", "--dataset", "data", "--networks", "1", "--random-sets", "1")
    torch.save({"images": 1, "iteration": 3}, "run.pt")
    assert "lacks labels, classes" in judge(capsys, "run.pt", "--dataset", "data")
    (folder.parent / "V.pt").write_text(json.dumps({"images": []}))
    assert "'V.pt' is not a file of dmtutor" in judge(capsys, "V.pt", "--dataset", "data")
    assert "--dataset is required" in judge(capsys, "T.pt")
    assert LabeledImages.load("T.pt").classes == ("cat", "dog")


# Data that change, and files that are there --------------------------------------------------------------------------

QUICK = ["--ipc", "1", "--iterations", "2", "--batch-real", "4", "--width", "4", "--depth", "2", "--no-evaluate"]
JUDGE = ["--networks", "1", "--random-sets", "1"]


def shell_says(capsys, *arguments):
    """Exit code, standard output and error of a command."""
    capsys.readouterr()
    try:
        shell.main(list(arguments))
        code = 0
    except SystemExit as stopped:
        code = stopped.code
    return code, *capsys.readouterr()


def swap(d):
    (d / "cat/1.png").rename(d / "x")
    (d / "cat/2.png").rename(d / "cat/1.png")
    (d / "x").rename(d / "cat/2.png")


CHANGES = {
    "two swapped": swap,
    "one turned": lambda d: Image.open(d / "dog/3.png").rotate(180).save(d / "dog/3.png"),
    "one added": lambda d: picture().save(d / "dog/more.png"),
    "one taken away": lambda d: (d / "cat/4.png").unlink(),
    "one in the other class": lambda d: (d / "cat/4.png").rename(d / "dog/x.png"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_images_that_changed_are_told(folder, capsys, monkeypatch, case):
    monkeypatch.setattr(shell, "_compare", lambda *_: None)
    run = ["condense", "--dataset", "data", "--output", "S.pt", *QUICK, "--checkpoint", "run.pt"]
    assert shell_says(capsys, *run)[0] == 0
    for command in (["evaluate", "S.pt", "--dataset", "data", *JUDGE], run):
        code, _, err = shell_says(capsys, *command)
        assert code == 0 and "note" not in err
    CHANGES[case](folder)
    code, _, err = shell_says(capsys, "evaluate", "S.pt", "--dataset", "data", *JUDGE)
    assert code == 0 and "note: S.pt was not made of these images: some were added, taken away, swapped" in err
    code, _, err = shell_says(capsys, *run)
    assert code == 2 and "state must be of a run on the same data" in err


def test_a_folder_with_the_name_of_a_built_in_set_is_not_judged_on_it(folder, capsys):
    folder.rename("mnist5k")
    assert shell_says(capsys, "condense", "--dataset", "./mnist5k", "--output", "S.pt", *QUICK)[0] == 0
    assert LabeledImages.load("S.pt").meta["built_in"] is False
    code, _, err = shell_says(capsys, "evaluate", "S.pt", *JUDGE)
    assert code == 2 and "--dataset is required" in err


def test_white_is_kept_with_the_set_and_told(folder, capsys, monkeypatch):
    monkeypatch.setattr(shell, "_compare", lambda *_: None)
    for file in folder.glob("*/*"):
        Image.fromarray(RNG.integers(0, 4096, (SIDE, SIDE)).astype(np.uint16)).save(file)
    code, _, err = shell_says(capsys, "condense", "--dataset", "data", "--output", "S.pt", "--white", "4095", *QUICK)
    assert code == 0 and "8×8 grey, white 4095; dm" in err and "note" not in err
    assert LabeledImages.load("S.pt").meta["white"] == 4095
    code, _, err = shell_says(capsys, "evaluate", "S.pt", "--dataset", "data", *JUDGE)
    assert code == 0 and "white 4095" in err and "note" not in err
    code, _, err = shell_says(capsys, "evaluate", "S.pt", "--dataset", "data", "--white", "65535", *JUDGE)
    assert code == 0 and "note: S.pt was not made of these images" in err


def test_a_state_for_images_of_another_size(folder, capsys):
    run = ["condense", "--dataset", "data", "--output", "S.pt", *QUICK, "--checkpoint", "run.pt"]
    assert shell_says(capsys, *run)[0] == 0
    code, _, err = shell_says(capsys, *run, "--size", "16")
    assert code == 2 and "images of the same size, (1, 16, 16); got (1, 8, 8): another --size?" in err


def test_nothing_of_others_is_replaced(folder, capsys, monkeypatch):
    run = ["condense", "--dataset", "data", *QUICK, "--output"]
    assert shell_says(capsys, *run, "S.pt")[0] == 0
    made = (folder.parent / "S.pt").read_bytes()
    assert shell_says(capsys, *run, "S.pt")[0] == 0  # its own
    with monkeypatch.context() as patched:
        patched.setattr("dmtutor.steps.Steps.__next__", lambda _: pytest.fail("the work has started"))
        patched.setattr(shell.planning, "step_seconds", lambda _: pytest.fail("the work has started"))
        for flags in (["--seed", "1"], ["--lr-img", "3"], ["--method", "dc"]):
            code, _, err = shell_says(capsys, *run, "S.pt", *flags)
            assert code == 2 and "--output must be a new file; 'S.pt' is there and holds something else" in err
        (folder.parent / "link.pt").symlink_to("S.pt")
        assert "not a link" in shell_says(capsys, *run, "link.pt", "--overwrite")[2]
        (folder.parent / "other.pt").write_bytes(b"precious")
        assert "other.pt' is there" in shell_says(capsys, *run, "other.pt")[2]
        (folder.parent / "S.pt").chmod(0o444)
        assert "is protected" in shell_says(capsys, *run, "S.pt", "--overwrite")[2]
        (folder.parent / "S.pt").chmod(0o644)
    np.savez("own.npz", x=X)
    own = (folder.parent / "own.npz").read_bytes()
    for output, said in (("S.pt", "output must be another file than file; got 'S.pt' for both"),
                         ("link.pt", "output must be another file"), ("own.npz", "'own.npz' is there")):
        code, _, err = shell_says(capsys, "export", "S.pt", output)
        assert code == 2 and said in err
    assert (folder.parent / "S.pt").read_bytes() == made and (folder.parent / "own.npz").read_bytes() == own
    assert (folder.parent / "other.pt").read_bytes() == b"precious"
    assert shell_says(capsys, "export", "S.pt", "own.npz", "--overwrite")[0] == 0
    assert shell_says(capsys, *run, "other.pt", "--overwrite", "--seed", "3")[0] == 0
    assert LabeledImages.load("other.pt").meta["seed"] == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--checkpoint S.pt", "checkpoint must be another file than output; got 'S.pt' for both"),
        ("--history ./S.pt", "history must be another file than output"),
        ("--history S.pt.run", "history must be another file than checkpoint"),
        ("--history a.csv --checkpoint a.csv", "history must be another file than checkpoint"),
    ],
)
def test_each_file_has_one_use(folder, capsys, monkeypatch, flags, message):
    monkeypatch.setattr(shell, "load", lambda *_, **__: pytest.fail("data were read"))
    code, _, err = shell_says(capsys, "condense", "--dataset", "data", "--output", "S.pt", *QUICK, *flags.split())
    assert code == 2 and message in err and os.listdir() == ["data"]


def test_two_runs_do_not_write_one_file(folder, capsys):
    run = ["condense", "--dataset", "data", *QUICK]
    with files.locked("S.pt"), files.locked("run.pt"):
        for flags in (["--output", "S.pt"], ["--output", "T.pt", "--checkpoint", "run.pt"]):
            code, _, err = shell_says(capsys, *run, *flags)
            assert code == 2 and "must be one run's alone; another one is writing" in err
    assert shell_says(capsys, *run, "--output", "S.pt")[0] == 0
    assert sorted(os.listdir()) == ["S.pt", "data"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_finished_set_is_not_lost_on_a_full_disk(folder, capsys, monkeypatch, tmp_path):
    run = ["condense", "--dataset", "data", "--output", "S.pt", *QUICK]
    assert shell_says(capsys, *run)[0] == 0
    expected = (folder.parent / "S.pt").read_bytes()
    (folder.parent / "S.pt").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(shell.tempfile, "gettempdir", lambda: str(tmp_path / "elsewhere"))
    sync = os.fsync

    def full(number):
        if "elsewhere" not in os.readlink(f"/proc/self/fd/{number}"):
            raise OSError(28, "No space left on device")
        sync(number)

    monkeypatch.setattr(os, "fsync", full)
    code, out, err = shell_says(capsys, *run)
    [saved] = (tmp_path / "elsewhere").glob("*.pt")
    assert code == 2 and out == "" and "note: the state was not saved: 'S.pt.run' could not be written: No space" in err
    assert "'S.pt' could not be written: No space left on device; the set is finished, and lies in" in err
    assert saved.name in err and saved.read_bytes() == expected


def test_errors_are_printed_where_a_scheduler_numbers_its_jobs(folder, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    code, _, err = shell_says(capsys, "condense", "--dataset", "nowhere", "--output", "S.pt")
    assert code == 2 and "must be one of mnist5k" in err
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert shell_says(capsys, "condense", "--dataset", "nowhere", "--output", "S.pt") == (2, "", "")


def test_classes_that_are_numbers_are_counted_in_their_order(folder, capsys):
    folder.joinpath("cat").rename(folder / "10")
    folder.joinpath("dog").rename(folder / "9")
    assert shell_says(capsys, "condense", "--dataset", "data", "--output", "S.pt", *QUICK, "--ipc", "2,1")[0] == 0
    made = LabeledImages.load("S.pt")
    assert made.classes == ("9", "10") and made.counts.tolist() == [2, 1]
