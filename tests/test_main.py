import argparse
import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dmtutor.__main__ as shell
from dmtutor import DMConfig, LabeledImages, load, load_exported

QUICK = ["--ipc", "2", "--iterations", "2", "--width", "4"]
JUDGE = ["--networks", "1", "--random-sets", "3"]


@pytest.fixture(autouse=True)
def quick_recipe(monkeypatch):
    monkeypatch.setitem(shell.RECIPES, "quick", lambda: shell.Recipe(epochs=2, width=4))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in, with small real data beside: data.npz, two classes of 16×16."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 16, 16), dtype=np.uint8), np.arange(40) % 2
    x[y == 1, :8] //= 4
    np.savez(tmp_path / "data.npz", x_train=x[:30], y_train=y[:30], x_test=x[30:], y_test=y[30:])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command):
    """Exit code of a command, 0 where it just returns."""
    try:
        shell.main(command.split() if isinstance(command, str) else command)
    except SystemExit as stopped:
        return stopped.code
    return 0


def fails(capsys, command, *words):
    """Exit code 2, one line on stderr with these words, nothing on stdout."""
    capsys.readouterr()
    assert run(command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert err.startswith("python -m dmtutor")
    assert "Traceback" not in err
    for word in words:
        assert word in err


# What works ----------------------------------------------------------------------------------------------------------


def test_condense_then_evaluate(folder, capsys):
    assert run(["condense", "--dataset", "data.npz", "--output", "S.pt", *QUICK, *JUDGE]) == 0
    out, err = capsys.readouterr()
    first, condensed, random = out.splitlines()
    assert first == "S.pt: 4 images, 2 per class of data.npz"
    assert condensed.split()[0] == "condensed:"
    assert random.split()[0] == "random:"
    assert "3 sets" in random
    assert "%" in condensed
    assert "2/2" in err  # a progress bar

    synthetic = LabeledImages.load("S.pt")
    assert synthetic.images.shape == (4, 1, 16, 16)
    assert synthetic.meta["seed"] == 0
    assert synthetic.meta["config"]["iterations"] == 2
    assert synthetic.meta["config"]["width"] == 4

    assert run(["evaluate", "S.pt", "--dataset", "data.npz", *JUDGE]) == 0
    assert capsys.readouterr().out.splitlines() == [condensed, random]  # the same networks, the same random sets
    assert sorted(os.listdir()) == ["S.pt", "data.npz"]


def test_evaluate_knows_a_named_data_set(folder, capsys):
    assert run(["condense", "--output", "S.pt", "--no-evaluate", *QUICK]) == 0
    out = capsys.readouterr().out
    assert out == "S.pt: 20 images, 2 per class of mnist5k\n"
    assert "flip" not in LabeledImages.load("S.pt").meta["config"]["augment"]
    assert run(["evaluate", "S.pt", *JUDGE]) == 0
    assert capsys.readouterr().out.count("%") == 2


def test_evaluate_normalises_as_the_set_is(folder, monkeypatch):
    """The same pixels under another mean and std: the real images follow."""
    run(["condense", "--dataset", "data.npz", "--output", "S.pt", *QUICK, "--no-evaluate"])
    synthetic = LabeledImages.load("S.pt")
    other = dataclasses.replace(synthetic, mean=torch.tensor([0.1]), std=torch.tensor([2.0]))
    synthetic.normalized_like(other).save("T.pt")
    seen = []
    real_evaluate = shell.evaluate
    monkeypatch.setattr(shell, "evaluate", lambda sets, test, **k: seen.append(test) or real_evaluate(sets, test, **k))
    assert run(["evaluate", "T.pt", "--dataset", "data.npz", *JUDGE]) == 0
    _, test = load("data.npz")
    torch.testing.assert_close(seen[0].images, (test.pixels - 0.1) / 2)


def test_same_seed_same_bytes_under_two_names(folder, capsys):
    command = ["condense", "--dataset", "data.npz", *QUICK, "--no-evaluate"]
    for name, seed in (("S.pt", "3"), ("another_name.bin", "3"), ("other_seed.pt", "4")):
        assert run([*command, "--output", name, "--seed", seed]) == 0
    one, same, other = ((folder / name).read_bytes() for name in ("S.pt", "another_name.bin", "other_seed.pt"))
    assert one == same
    assert one != other
    assert b"another_name" not in same


def test_every_field_of_the_configuration_is_a_flag(folder, monkeypatch):
    values = {"ipc": 3, "iterations": 7, "batch_real": 9, "lr_img": 0.25, "schedule": "constant", "momentum": 0.75,
              "init": "noise",
              "augment": "crop_rotate", "width": 12, "depth": 2, "norm": "batch", "activation": "swish",
              "pooling": "max", "block": "all", "average": 0.5, "compile": False}  # fmt: skip
    assert set(values) == {f.name for f in dataclasses.fields(DMConfig)}
    taken = {}

    def condense(train, method, **arguments):
        taken.update(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(shell, "condense", condense)
    flags = [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    assert run(["condense", "--dataset", "data.npz", "--output", "S.pt", "--seed", "5", *flags]) == 130
    assert {name: taken[name] for name in values} == values
    assert taken["seed"] == 5


def test_the_published_setting_with_a_field_changed(folder, monkeypatch):
    taken = {}

    def condense(train, method, **arguments):
        taken.update(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(shell, "condense", condense)
    run(["condense", "--dataset", "data.npz", "--output", "S.pt", "--setting", "reference", "--iterations", "7"])
    expected = dataclasses.asdict(DMConfig.reference(iterations=7))
    assert {name: taken[name] for name in expected} == expected


def test_help_names_every_command_and_default(capsys):
    for command in ("", "condense ", "evaluate ", "export "):
        assert run(f"{command}--help") == 0
    out = capsys.readouterr().out
    assert "mnist5k" in out
    assert "--lr-img" in out
    assert re.search(r"--width X +32$", out, re.M) and re.search(r"--block X +(dm: )?by the data$", out, re.M)


def test_interrupted_it_says_how_to_go_on(folder, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(shell, "condense", interrupt)
    assert run("condense --dataset data.npz --output S.pt --checkpoint run.pt") == 130
    assert "the same command goes on from run.pt" in capsys.readouterr().err
    assert run("condense --dataset data.npz --output S.pt") == 130
    assert capsys.readouterr().err.strip() == "stopped"


def test_a_checkpoint_is_gone_on_from(folder, capsys):
    command = ["condense", "--dataset", "data.npz", *QUICK, "--no-evaluate"]
    assert run([*command, "--output", "whole.pt"]) == 0
    assert run([*command, "--output", "S.pt", "--checkpoint", "run.pt"]) == 0
    assert run([*command, "--output", "again.pt", "--checkpoint", "run.pt"]) == 0
    assert (folder / "again.pt").read_bytes() == (folder / "S.pt").read_bytes() == (folder / "whole.pt").read_bytes()
    fails(capsys, [*command, "--output", "S.pt", "--checkpoint", "run.pt", "--seed", "1"], "seed")


@pytest.mark.parametrize("output", ["out", "out.npz", "out.pt"])
def test_export_says_what_it_costs_and_judges_before_and_after(folder, capsys, output):
    run(["condense", "--dataset", "data.npz", "--output", "S.pt", *QUICK, "--no-evaluate"])
    capsys.readouterr()
    assert run(f"export S.pt {output}") == 0
    out, err = capsys.readouterr()
    told = r"normalisation by mean 0\.\d{4} and std 0\.\d{4}; \d+\.\d% of the pixels lie outside .* at most"
    assert re.fullmatch(rf"{output}: 4 images, {told}\n", out)
    assert err == ""
    again, synthetic = load_exported(output), LabeledImages.load("S.pt")
    assert torch.equal(again.labels, synthetic.labels) and again.classes == synthetic.classes
    assert (out.count("by 0 ") == 2) == (output != "out")

    (folder / output).rename("elsewhere")
    assert run(f"export S.pt {output} --dataset data.npz --networks 2") == 0
    first, before, after, change = capsys.readouterr().out.splitlines()
    assert f"{first}\n" == out
    assert before.split()[0] == "before:" and after.split()[0] == "after:" and "2 networks of one set" in after
    assert change.split()[0] == "change:"
    if output != "out":  # to the bit the same images: the same networks
        assert before.replace("before", " after") == after and change.split()[1] == "+0.0"
    expected = shell.evaluate(synthetic, load("data.npz")[1].normalized_like(synthetic), networks=2,
                              recipe=shell.RECIPES["quick"](), generator=torch.Generator().manual_seed(0))  # fmt: skip
    assert before.strip() == f"before: {expected}"


def test_as_a_program(folder):
    """In a process of its own: bars on stderr, words on stdout; bad input takes one line and leaves no traceback."""

    def program(*flags):
        command = [sys.executable, "-m", "dmtutor", "condense", "--dataset", "data.npz", "--output", "S.pt", *flags]
        library = str(Path(shell.__file__).parents[1])
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": library})

    made = program(*QUICK, "--no-evaluate")
    assert made.returncode == 0, made.stderr
    assert made.stdout == "S.pt: 4 images, 2 per class of data.npz\n"
    before = (folder / "S.pt").read_bytes()
    wrong = program("--ipc", "0")
    assert wrong.returncode == 2
    assert wrong.stdout == ""
    assert wrong.stderr == "python -m dmtutor condense: error: ipc must be a positive integer; got 0\n"
    assert (folder / "S.pt").read_bytes() == before


# Bad input -----------------------------------------------------------------------------------------------------------

BAD_FLAGS = [
    ("--ipc 0", "ipc must be a positive integer; got 0"),
    ("--ipc -3", "ipc must be a positive integer; got -3"),
    ("--ipc 16", "ipc must be at most 15, the images of class '0'; got 16"),
    ("--ipc 16 --init noise", "ipc must be at most 15"),  # as many random images are compared with
    ("--ipc two", "--ipc"),
    ("--dataset mnit5k", "must be one of mnist5k, mnist, fashion-mnist, svhn, cifar10, cifar100"),
    ("--dataset missing.npz", "missing.npz"),
    ("--method dmm", "--method"),
    ("--method dc --block 4", "--block is not a field of dc; it has --ipc, --iterations"),
    ("--method dd --inner-steps 0", "inner_steps must be a positive integer; got 0"),
    ("--method dsa --lr-net 0", "lr_net must be positive; got 0.0"),
    ("--method dc --distance l1", "distance must be 'cosine' or 'squared'; got 'l1'"),
    ("--method dc --norm batch", "norm must"),
    ("--compile yes", "--compile"),
    ("--augment colour_crop", "augment must be 'none', or different operations of color, crop, cutout"),
    ("--augment crop_crop", "augment must be"),
    ("--norm instnce", "norm must be one of instance"),
    ("--norm batch --block 16", "block must be 'all'"),
    ("--activation tanh", "activation must be one of relu"),
    ("--pooling sum", "pooling must be one of avg"),
    ("--init images", "init must be 'real' or 'noise'"),
    ("--depth 5", "depth must be at most 4 for images of 16×16"),
    ("--width 0", "width must be a positive integer"),
    ("--lr-img 0", "lr_img must be positive"),
    ("--lr-img nan", "lr_img must be positive"),
    ("--momentum 1", "momentum must be in [0, 1)"),
    ("--iterations 0", "iterations must be a positive integer"),
    ("--batch-real 0", "batch_real must be a positive integer"),
    ("--block 0", "block must be a positive integer, 'class' or 'all'"),
    ("--seed -1", "seed"),
    ("--seed 4294967296", "seed"),
    ("--networks 0", "--networks must be a positive integer"),
    ("--random-sets 0", "--random-sets must be a positive integer"),
    ("--device tpu", "--device must be one that this machine has; got 'tpu'"),
    ("--recipe slow", "--recipe"),
    ("--learning-rate 3", "--learning-rate"),
    ("--output missing/S.pt", "--output must lie in a folder that exists; create 'missing' first"),
    ("--output .", "--output must be a file, not a folder"),
    ("--checkpoint missing/run.pt", "checkpoint must lie in a folder that exists"),
]


@pytest.mark.parametrize(("flags", "message"), BAD_FLAGS, ids=[flags for flags, _ in BAD_FLAGS])
def test_condense_refuses(folder, capsys, monkeypatch, flags, message):
    (folder / "S.pt").write_bytes(b"precious")
    monkeypatch.setattr("dmtutor.steps.Steps.__next__", lambda _: pytest.fail("work has started"))
    fails(capsys, f"condense --dataset data.npz --output S.pt --width 4 {flags}", message)
    assert (folder / "S.pt").read_bytes() == b"precious"
    assert sorted(os.listdir()) == ["S.pt", "data.npz"]


@pytest.mark.parametrize("flags", ["--ipc 0", "--seed -1", "--augment colour", "--output missing/S.pt"])
def test_what_needs_no_data_is_refused_before_the_data_are_read(folder, capsys, monkeypatch, flags):
    monkeypatch.setattr(shell, "load", lambda *_, **__: pytest.fail("data were read"))
    fails(capsys, f"condense --dataset cifar10 --output S.pt {flags}")


def test_an_output_is_required(folder, capsys):
    fails(capsys, "condense", "--output")
    fails(capsys, "", "command")


def test_images_too_small_for_the_evaluation_are_refused_before_the_work(folder, capsys, monkeypatch):
    monkeypatch.setattr(shell, "condense", lambda *_, **__: pytest.fail("work has started"))
    x, y = np.zeros((20, 4, 4), dtype=np.uint8), np.arange(20) % 2
    np.savez("small.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    fails(capsys, "condense --dataset small.npz --ipc 1 --depth 1 --output S.pt", "depth must be at most 2")


def archive(**changes):
    x, y = np.random.default_rng(0).random((10, 8, 8)), np.arange(10) % 2
    arrays = {"x_train": x, "y_train": y, "x_test": x, "y_test": y, **changes}
    np.savez("bad.npz", **{k: v for k, v in arrays.items() if v is not None})


X, Y = np.full((10, 8, 8), 0.5), np.arange(10) % 2
NAN = np.where(np.arange(640).reshape(10, 8, 8) == 77, np.nan, X)
BAD_ARRAYS = {
    "a key is missing": ({"y_test": None}, "y_test"),
    "labels too few": ({"y_train": Y[:9]}, "must hold one integer per image"),
    "labels negative": ({"y_train": Y - 1}, "must lie in 0 … "),
    "labels beyond the names": ({"y_train": Y + 1, "classes": np.array(["a", "b"])}, "must lie in 0 … 1"),
    "labels of text": ({"y_train": np.array(list("ab" * 5))}, "y must be integers"),
    "labels with fractions": ({"y_train": Y / 2}, "y must be integers"),
    "NaN pixels": ({"x_train": NAN}, "x must hold no NaN or infinite pixels"),
    "infinite pixels": ({"x_train": np.full_like(X, np.inf)}, "NaN or infinite"),
    "floats above 1": ({"x_train": X * 255}, "x must be uint8, or floating in [0, 1]"),
    "floats below 0": ({"x_train": -X}, "x must be uint8, or floating in [0, 1]"),
    "integers that are not bytes": ({"x_train": (X * 255).astype(np.int64)}, "x must be uint8"),
    "flat images": ({"x_train": X.reshape(10, 64)}, "x must be images"),
    "another test shape": ({"x_test": X[:, :4]}, "x must be images of (1, 8, 8)"),
    "NaN in the test part": ({"x_test": NAN}, "NaN or infinite"),
    "objects": ({"x_train": np.array([{}] * 10)}, "bad.npz"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_arrays_that_do_not_fit(folder, capsys, case):
    changes, message = BAD_ARRAYS[case]
    archive(**changes)
    fails(capsys, "condense --dataset bad.npz --ipc 1 --width 4 --output S.pt", message)
    assert not (folder / "S.pt").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 and then nothing", "truncated"])
def test_a_corrupt_archive(folder, capsys, content):
    if content == "truncated":
        content = (folder / "data.npz").read_bytes()[:-200]
    (folder / "bad.npz").write_bytes(content)
    fails(capsys, "condense --dataset bad.npz --output S.pt", "bad.npz", "must be an .npz file with arrays x_train")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04N.", "truncated", "no set"])
def test_evaluate_refuses_an_unreadable_file(folder, capsys, content):
    path = folder / "S.pt"
    if content == "truncated":
        run(["condense", "--dataset", "data.npz", "--output", "S.pt", *QUICK, "--no-evaluate"])
        content = path.read_bytes()[:-100]
    if content == "no set":
        torch.save({"images": torch.zeros(3)}, path)
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    fails(capsys, "evaluate S.pt", "S.pt")
    assert path.read_bytes() == before


def test_evaluate_refuses_what_does_not_fit(folder, capsys):
    run(["condense", "--dataset", "data.npz", "--output", "S.pt", *QUICK, "--no-evaluate"])
    fails(capsys, "evaluate missing.pt --dataset data.npz", "no such file: 'missing.pt'")
    fails(capsys, "evaluate S.pt", "--dataset is required")
    fails(capsys, "evaluate S.pt --dataset mnist5k", "--dataset must")
    fails(capsys, "evaluate S.pt --dataset cifar1", "must be one of mnist5k")
    fails(capsys, "evaluate S.pt --dataset data.npz --networks 0", "--networks must be a positive integer")
    fails(capsys, "evaluate S.pt --dataset data.npz --seed -1", "--seed")
    fails(capsys, "evaluate S.pt --dataset data.npz --device tpu", "--device")


def test_export_refuses_before_it_writes(folder, capsys):
    run(["condense", "--dataset", "data.npz", "--output", "S.pt", *QUICK, "--no-evaluate"])
    there = sorted(os.listdir())
    fails(capsys, "export S.pt out.jpg", "output must be a new folder, without a dot, or end in .npz, .safetensors or")
    fails(capsys, "export S.pt missing/out", "output must lie in a folder that exists; create 'missing' first")
    fails(capsys, "export S.pt .", "output must be a new folder; '.' is there")
    fails(capsys, "export missing.pt out", "no such file: 'missing.pt'")
    fails(capsys, "export data.npz out", "data.npz")
    fails(capsys, "export S.pt", "required")
    fails(capsys, "export S.pt out --dataset mnist5k", "--dataset must have the classes and the size of the set")
    fails(capsys, "export S.pt out --dataset data.npz --networks 0", "--networks must be a positive integer")
    fails(capsys, "export S.pt out --dataset nothing", "must be one of mnist5k")
    fails(capsys, "export S.pt out --device tpu", "--device")
    assert sorted(os.listdir()) == there


def test_export_needs_a_package_for_safetensors(folder, capsys, monkeypatch):
    run(["condense", "--dataset", "data.npz", "--output", "S.pt", *QUICK, "--no-evaluate"])
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    fails(capsys, "export S.pt out.safetensors", "pip install safetensors")


def test_errors_of_the_flags_themselves_take_one_line(folder, capsys):
    for command in ("condense --output", "evaluate", "distill", "condense --output S.pt --size big"):
        fails(capsys, command)
    assert issubclass(shell.Parser, argparse.ArgumentParser)
