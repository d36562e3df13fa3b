import argparse
import dataclasses
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dmtutor.__main__ as shell
import dmtutor.steps as steps_module
from dmtutor import DMConfig, LabeledImages, Recipe, flags, load, load_exported
from dmtutor.condensation import METHODS

QUICK = ["--ipc", "2", "--iterations", "2", "--width", "4"]
JUDGE = ["--networks", "1", "--random-sets", "3"]


@pytest.fixture(autouse=True)
def quick_recipe(monkeypatch):
    monkeypatch.setitem(shell.RECIPES, "quick", lambda **fields: Recipe(epochs=2, width=4, **fields))


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


@pytest.mark.slow
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
    for name, seed in (("S.pt", "3"), ("another_name.pth", "3"), ("other_seed.pt", "4")):
        assert run([*command, "--output", name, "--seed", seed]) == 0
    one, same, other = ((folder / name).read_bytes() for name in ("S.pt", "another_name.pth", "other_seed.pt"))
    assert one == same
    assert one != other
    assert b"another_name" not in same


def test_every_field_of_the_configuration_is_a_flag(folder, monkeypatch):
    values = {"ipc": 3, "iterations": 7, "batch_real": 9, "lr_img": 0.25, "schedule": "constant", "momentum": 0.75,
              "init": "noise",
              "augment": "crop_rotate", "width": 12, "depth": 2, "norm": "batch", "activation": "swish",
              "pooling": "max", "block": "all", "average": 0.5, "compile": False, "amp": True}
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
    run(["condense", "--dataset", "data.npz", "--output", "S.pt", "--setting", "published", "--iterations", "7"])
    expected = dataclasses.asdict(DMConfig.reference(iterations=7))
    assert {name: taken[name] for name in expected} == expected


def test_help_names_every_command_and_default(capsys):
    for command in ("", "condense ", "evaluate ", "export "):
        assert run(f"{command}--help") == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "mnist5k" in words and "--method NAME --help lists them" in words
    assert "--lr-img" not in words and "--width" not in words
    assert "bit for bit, on a CPU (default: 0)" in words and "give an interval (default: 1)" in words  # 0 is no False
    assert words.count("the real images: --dataset") == words.count("networks that judge a set: --recipe") == 3


@pytest.mark.parametrize("method", METHODS)
def test_the_help_of_a_method_has_its_fields_alone(capsys, method):
    assert run(f"condense --method {method} --help") == 0
    out = capsys.readouterr().out
    shown = set(re.findall(r"^  --([\w-]+) X\s", out, re.M))
    assert shown == {f.name.replace("_", "-") for f in dataclasses.fields(METHODS[method].config_type)}
    words = " ".join(out.split())
    assert "--width X Channels of each block of the network, see ConvNet [32]" in words
    assert f"--lr-img X {'Step size of Adam on' if method == 'dd' else 'Step size on the pixels ['}" in words


@pytest.mark.parametrize("method", METHODS)
def test_every_field_has_a_line_of_help_from_its_docstring(method):
    for name, (_, meaning) in flags.field_flags(METHODS[method].config_type).items():
        words = meaning.partition(" [")[0]
        assert len(words) > 10 and "`" not in words and ":class" not in words, name
        assert not words.startswith(("Its ", "Of ")), name  # a line that needs the one before


def test_interrupted_it_says_how_to_go_on(folder, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(shell, "condense", interrupt)
    assert run("condense --dataset data.npz --output S.pt --checkpoint run.pt") == 130
    assert "the same command goes on from run.pt" in capsys.readouterr().err
    assert run("condense --dataset data.npz --output S.pt") == 130
    assert capsys.readouterr().err.endswith("stopped; the same command goes on from S.pt.run\n")
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(shell, "evaluate", interrupt)
    assert run(["condense", "--dataset", "data.npz", "--output", "S.pt", *QUICK]) == 130
    assert capsys.readouterr().err.endswith("stopped; the sets are written: evaluate S.pt judges them\n")
    assert run(["condense", "--dataset", "data.npz", "--output", "missing/S.pt"]) == 2


def test_by_default_a_run_is_saved_until_its_file_is_written(folder, capsys, monkeypatch):
    command = ["condense", "--dataset", "data.npz", *QUICK, "--no-evaluate", "--output"]
    assert run([*command, "whole.pt"]) == 0
    assert sorted(os.listdir()) == ["data.npz", "whole.pt"]
    advance = steps_module.Steps.__next__

    def stops(self):
        if self.iteration == 1:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(shell.planning, "step_seconds", lambda _: 1.0)
    with monkeypatch.context() as patched:
        patched.setattr(steps_module.Steps, "__next__", stops)
        assert run([*command, "S.pt"]) == 130
    assert sorted(os.listdir()) == ["S.pt.run", "data.npz", "whole.pt"]
    capsys.readouterr()
    other = "'S.pt.run' does not hold this run"
    fails(capsys, [*command, "S.pt", "--seed", "1"], "with the same seed", other, "delete it to start anew")
    fails(capsys, [*command, "S.pt", "--method", "dd"], "method='dm' there, 'dd' here", other)
    assert run([*command, "S.pt"]) == 0
    assert "2 steps, 1 of them done" in capsys.readouterr().err
    assert sorted(os.listdir()) == ["S.pt", "data.npz", "whole.pt"]
    assert (folder / "S.pt").read_bytes() == (folder / "whole.pt").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("lr", ["1e20", "1e4"])
@pytest.mark.parametrize("method", ["dm", "dsa"])
def test_steps_that_are_too_large_end_in_advice(folder, capsys, method, lr):
    command = ["condense", "--dataset", "data.npz", "--output", "S.pt", "--method", method, *QUICK, "--lr-img", lr]
    assert run(command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "is too large; give a tenth of it, or leave it out" in err.splitlines()[-1]
    assert f"lr_img={float(lr):g}" in err and "Traceback" not in err
    assert os.listdir() == ["data.npz"]


@pytest.mark.slow
def test_a_finished_run_goes_on_where_the_step_does_not_fall(folder, capsys):
    command = ["condense", "--dataset", "data.npz", "--no-evaluate", "--width", "4", "--ipc", "2", "--checkpoint",
               "run.pt"]
    constant = ["--schedule", "constant", "--output", "S.pt"]
    for iterations in ("3", "7"):
        assert run([*command, *constant, "--iterations", iterations]) == 0
    assert run([*command[:-2], *constant[:-1], "whole.pt", "--iterations", "7"]) == 0
    assert (folder / "S.pt").read_bytes() == (folder / "whole.pt").read_bytes()
    fails(capsys, [*command, *constant, "--iterations", "6"], "iterations=7 there, 6 here")
    (folder / "run.pt").unlink()
    other = [*command, "--output", "S.pt", "--iterations", "3"]
    fails(capsys, other, "--output must be a new file; 'S.pt' is there and holds something else", "--overwrite")
    (folder / "run.pt").unlink(missing_ok=True)
    assert run([*other, "--overwrite"]) == 0
    fails(capsys, [*command, "--output", "S.pt", "--iterations", "7"], "iterations=3 there, 7 here")


def test_a_checkpoint_is_gone_on_from(folder, capsys):
    command = ["condense", "--dataset", "data.npz", *QUICK, "--no-evaluate"]
    assert run([*command, "--output", "whole.pt"]) == 0
    assert run([*command, "--output", "S.pt", "--checkpoint", "run.pt"]) == 0
    assert run([*command, "--output", "again.pt", "--checkpoint", "run.pt"]) == 0
    assert (folder / "again.pt").read_bytes() == (folder / "S.pt").read_bytes() == (folder / "whole.pt").read_bytes()
    fails(capsys, [*command, "--output", "S.pt", "--checkpoint", "run.pt", "--seed", "1"], "seed")


@pytest.mark.slow
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
                              recipe=shell.RECIPES["quick"](), generator=torch.Generator().manual_seed(0))
    assert before.strip() == f"before: {expected}"


@pytest.mark.slow
def test_one_line_tells_what_will_be_done(folder, capsys, monkeypatch):
    command = ["condense", "--dataset", "data.npz", "--output", "S.pt", *QUICK, *JUDGE]
    expected = (
        "read 30 training and 10 test images, 2 classes of 15 (0, 1), 16×16 grey; dm, 4 images, 2 per class: 2 steps, "
        "augmentation color_crop_cutout_flip_scale_rotate, network of depth 3 and width 4, about 1 s; then networks of "
        "depth 3 to judge, augmentation color_crop_cutout_flip_scale_rotate: 1 on the set, about 1 s, 3 on random "
        "images, about 1 s\n"
    )
    assert run([*command, "--dry-run"]) == 0
    assert capsys.readouterr() == (expected + "S.pt.png: as they are read, 6 images of a class\n", "")
    assert sorted(os.listdir()) == ["S.pt.png", "data.npz"]
    assert run(command) == 0
    assert capsys.readouterr().err.startswith(expected)
    assert run([*command, "--dry-run", "--no-evaluate", "--size", "64", "--resize", "pad", "--overwrite"]) == 0
    told = capsys.readouterr().out
    assert "64×64 grey (others between bars); dm" in told and "depth 4" in told and "judge" not in told
    Path("S.pt.png").write_bytes(b"a picture of mine")
    monkeypatch.setattr(shell, "load", lambda *_, **__: pytest.fail("data were read"))
    fails(capsys, [*command, "--dry-run"], "the drawing of a dry run must be a new file; 'S.pt.png' is there")


@pytest.mark.slow
def test_the_judges_operations_are_a_flag(folder, capsys, monkeypatch):
    """All sets that are compared are trained on with them, and the line says so; a set of its own is as it was."""
    recipes = []
    real_evaluate = shell.evaluate
    monkeypatch.setattr(shell, "evaluate", lambda *a, recipe, **k: recipes.append(recipe) or
                        real_evaluate(*a, recipe=recipe, **k))
    command = ["condense", "--dataset", "data.npz", "--output", "S.pt", *QUICK, *JUDGE, "--augment", "crop_rotate"]
    everything = "color_crop_cutout_flip_scale_rotate"
    assert run(command) == 0
    err = capsys.readouterr().err
    assert "augmentation crop_rotate, network" in err and f"to judge, augmentation {everything}: 1 on" in err
    whole = (folder / "S.pt").read_bytes()
    meta = LabeledImages.load("S.pt").meta
    assert (meta["augment"], meta["config"]["augment"]) == (everything, "crop_rotate")
    assert [recipe.augment for recipe in recipes] == [None, None]

    judge = ["--judge-augment", "crop_rotate"]
    recipes.clear()
    assert run([*command, *judge, "--whole"]) == 0
    out, err = capsys.readouterr()
    assert "to judge, augmentation crop_rotate: 1 on" in err and everything not in err
    assert (folder / "S.pt").read_bytes() == whole
    scores = out.splitlines()[1:]
    assert len(scores) == 3
    assert run(["evaluate", "S.pt", "--dataset", "data.npz", *JUDGE, *judge, "--whole"]) == 0
    again, err = capsys.readouterr()
    assert again.splitlines() == scores
    assert "to judge, augmentation crop_rotate: 1 on" in err and everything not in err
    assert run(["export", "S.pt", "out.npz", "--dataset", "data.npz", "--networks", "1", *judge]) == 0
    assert [recipe.augment for recipe in recipes] == ["crop_rotate"] * 8
    capsys.readouterr()

    other = LabeledImages.load("S.pt")
    dataclasses.replace(other, meta={**other.meta, "augment": "flip"}).save("T.pt")
    assert run(["evaluate", "T.pt", "--dataset", "data.npz", *JUDGE]) == 0
    assert f"to judge, augmentation {everything} or flip: 1 on" in capsys.readouterr().err


def test_a_judge_that_cannot_be_is_refused_before_any_work(folder, capsys, monkeypatch):
    run(["condense", "--dataset", "data.npz", "--output", "S.pt", *QUICK, "--no-evaluate"])
    monkeypatch.setattr(shell, "load", lambda *_, **__: pytest.fail("data were read"))
    there = sorted(os.listdir())
    for command in ("condense --output T.pt", "evaluate S.pt", "export S.pt out"):
        for wrong in ("mirror", "crop_crop", "crop-rotate"):
            fails(capsys, f"{command} --dataset data.npz --judge-augment {wrong}", f"got {wrong!r}",
                  "--judge-augment must be 'none', or different operations of color, crop, cutout")
    assert sorted(os.listdir()) == there


def test_a_dry_run_finds_what_is_wrong(folder, capsys):
    fails(capsys, "condense --dataset data.npz --output S.pt --dry-run --ipc 16", "ipc must be at most 15")
    run(["condense", "--dataset", "data.npz", "--output", "S.pt", *QUICK, "--no-evaluate", "--checkpoint", "run.pt"])
    fails(capsys, ["condense", "--dataset", "data.npz", "--output", "S.pt", *QUICK, "--dry-run", "--seed", "1",
                   "--checkpoint", "run.pt"], "seed")


def test_warnings_take_one_line_and_come_once(folder, capsys):
    x, y = np.random.default_rng(0).integers(0, 256, (8, 16, 16), np.uint8), np.arange(8) % 2
    np.savez("more.npz", x_train=x, y_train=y, notes=y)
    assert run("condense --dataset more.npz --output S.pt --ipc 1 --dry-run --no-evaluate --width 4") == 0
    out, err = capsys.readouterr()
    assert err == "note: in 'more.npz' left out: notes\n" and out.count("\n") == 2


@pytest.mark.slow
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


def test_several_seeds_make_several_sets_and_an_interval(folder, capsys):
    command = ["condense", "--dataset", "data.npz", *QUICK, *JUDGE]
    assert run([*command, "--output", "S.pt", "--seeds", "3", "--seed", "4"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[:3] == [f"S_{i}.pt: 4 images, 2 per class of data.npz" for i in (4, 5, 6)]
    assert [line.split(":")[0] for line in out.splitlines()[3:6]] == ["   S_4.pt", "   S_5.pt", "   S_6.pt"]
    assert "3 sets, one network each" in out.splitlines()[6]
    assert "dm, 3 sets of 4 images, 2 per class: 2 steps each" in err and ": 3 on 3 sets, about" in err
    assert sorted(os.listdir()) == ["S_4.pt", "S_5.pt", "S_6.pt", "data.npz"]
    assert run([*command, "--no-evaluate", "--output", "one.pt", "--seed", "5"]) == 0
    assert (folder / "one.pt").read_bytes() == (folder / "S_5.pt").read_bytes()
    capsys.readouterr()
    assert run(["evaluate", "S_4.pt", "S_5.pt", "S_6.pt", "--dataset", "data.npz", *JUDGE, "--seed", "4"]) == 0
    assert capsys.readouterr().out.splitlines() == out.splitlines()[3:]


def test_several_seeds_go_on_where_they_were_stopped(folder, monkeypatch):
    command = ["condense", "--dataset", "data.npz", *QUICK, "--no-evaluate", "--seeds", "3", "--output"]
    assert run([*command, "whole.pt"]) == 0
    calls, condense = [], shell.condense

    def stops(*arguments, seed, **keywords):
        calls.append(seed)
        if seed == 2:
            raise KeyboardInterrupt
        return condense(*arguments, seed=seed, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(shell, "condense", stops)
        assert run([*command, "S.pt"]) == 130
    assert {"S_0.pt", "S_0.pt.run", "S_1.pt", "S_1.pt.run"} <= set(os.listdir())
    monkeypatch.setattr(shell.planning, "step_seconds", lambda _: 1.0)
    taken, advance = [], steps_module.Steps.__next__
    monkeypatch.setattr(steps_module.Steps, "__next__", lambda self: taken.append(1) or advance(self))
    assert run([*command, "S.pt"]) == 0
    assert len(taken) == 2 + 3  # of the last run alone; each learns at the end that no step is left
    for i in range(3):
        assert (folder / f"S_{i}.pt").read_bytes() == (folder / f"whole_{i}.pt").read_bytes()
    assert not [name for name in os.listdir() if name.endswith(".run")]


def test_another_network_and_the_whole_set_can_judge(folder, capsys):
    judge = [*JUDGE, "--model", "mlp", "--whole"]
    assert run(["condense", "--dataset", "data.npz", "--output", "S.pt", *QUICK, *judge]) == 0
    out, err = capsys.readouterr()
    assert [line.split(":")[0].strip() for line in out.splitlines()[1:]] == ["condensed", "random", "whole set"]
    assert "then mlp networks to judge" in err and ", 1 on all images, about" in err
    assert run(["evaluate", "S.pt", "--dataset", "data.npz", *judge]) == 0
    again, err = capsys.readouterr()
    assert again.splitlines() == out.splitlines()[1:]
    assert "10 test images, 2 classes of 15 (0, 1), 16×16 grey (others cut to fit); mlp networks to judge, augm" in err


def test_the_set_knows_the_size_of_its_images(folder, capsys):
    flags = ["--size", "8", "--resize", "pad", "--depth", "2"]
    x, y = np.random.default_rng(0).integers(0, 256, (40, 16, 12), dtype=np.uint8), np.arange(40) % 2
    np.savez("wide.npz", x_train=x[:30], y_train=y[:30], x_test=x[30:], y_test=y[30:])
    assert run(["condense", "--dataset", "wide.npz", "--output", "S.pt", *flags, *QUICK[:4], *JUDGE]) == 0
    judged = capsys.readouterr().out.splitlines()[1:]
    assert run(["evaluate", "S.pt", "--dataset", "wide.npz", *JUDGE]) == 0
    assert capsys.readouterr().out.splitlines() == judged


def test_uneven_classes_are_told_and_judged_class_by_class(folder, capsys):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 16, 16), dtype=np.uint8)
    test = np.r_[0:5, 25:27, 37]
    train, y = np.setdiff1d(np.arange(40), test), np.repeat(["cat", "dog", "owl"], [25, 12, 3])
    np.savez("uneven.npz", x_train=x[train], y_train=y[train], x_test=x[test], y_test=y[test])
    assert run(["condense", "--dataset", "uneven.npz", "--output", "S.pt", *QUICK, *JUDGE, "--ipc", "5"]) == 0
    out, err = capsys.readouterr()
    assert "note: ipc=5 is more than some classes have to start from: 'owl' 2\n" in err and err.count("note:") == 1
    assert "3 classes (cat 20, dog 10, owl 2)" in err and "2 to 5 per class (cat 5, dog 5, owl 2): 2 steps" in err
    first, condensed, random = out.splitlines()
    assert first == "S.pt: 12 images, 2 to 5 per class of uneven.npz"
    assert re.search(r"; balanced \d+\.\d %, least \d+\.\d % \((cat|dog|owl)\)$", condensed)
    assert run(["evaluate", "S.pt", "--dataset", "uneven.npz", *JUDGE]) == 0
    assert capsys.readouterr().out.splitlines() == [condensed, random]


def test_from_noise_a_class_may_have_more_than_it_had(folder, capsys):
    command = ["condense", "--dataset", "data.npz", "--output", "S.pt", *QUICK, *JUDGE, "--ipc", "20"]
    assert run([*command, "--init", "noise"]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("S.pt: 40 images, 20 per class")
    assert run(["evaluate", "S.pt", "--dataset", "data.npz", *JUDGE]) == 0  # beside the 15 that there are
    assert capsys.readouterr().out.splitlines() == out.splitlines()[1:]


@pytest.mark.slow
def test_without_memory_it_says_so(folder, capsys, monkeypatch):
    for error in (MemoryError("Unable to allocate memory"), torch.OutOfMemoryError("CUDA out of memory."),
                  RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        monkeypatch.setattr(shell, "condense", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        assert run(["condense", "--dataset", "data.npz", "--output", "S.pt", *QUICK]) == 2
        assert "memory" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.setattr(shell, "condense", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("a defect")))
    with pytest.raises(RuntimeError, match="a defect"):
        run(["condense", "--dataset", "data.npz", "--output", "S.pt", *QUICK])


@pytest.mark.slow
def test_stopped_at_some_moment_the_same_command_ends_in_the_same_file(folder):
    """By defaults: no flag speaks of a checkpoint."""
    library = str(Path(shell.__file__).parents[1])
    flags = ["--dataset", "data.npz", "--no-evaluate", "--ipc", "3,2", "--iterations", "400", "--width", "8"]

    def start(output):
        command = [sys.executable, "-m", "dmtutor", "condense", *flags, "--output", output]
        env = {**os.environ, "PYTHONPATH": library}
        return subprocess.Popen(command, env=env, stderr=subprocess.PIPE)

    def ends(output):
        process = start(output)
        assert process.communicate(timeout=300) and process.returncode == 0
        return Path(output).read_bytes()

    whole = ends("whole.pt")
    for number in (signal.SIGKILL, signal.SIGTERM):  # what others do is in test_sharding.py
        process, told = start(f"{number.name}.pt"), b""
        while b"loss" not in told and process.poll() is None:
            told += process.stderr.read1()
        process.send_signal(number)
        told += process.communicate(timeout=60)[1]
        assert not Path(f"{number.name}.pt").exists(), f"{number.name}: it ended before it could be stopped"
        run = f"{number.name}.pt.run"
        if number != signal.SIGKILL:
            assert process.returncode == 130 and f"stopped; the same command goes on from {run}".encode() in told
            assert 0 < torch.load(run, weights_only=True)["iteration"] < 400
        assert ends(f"{number.name}.pt") == whole
    assert sorted(os.listdir()) == ["SIGKILL.pt", "SIGTERM.pt", "data.npz", "whole.pt"]


# Bad input -----------------------------------------------------------------------------------------------------------

BAD_FLAGS = [
    ("--ipc 0", "ipc must be a positive integer; got 0"),
    ("--ipc -3", "ipc must be a positive integer; got -3"),
    ("--ipc 16", "ipc must be at most 15, the images of class '0'; got 16"),
    ("--ipc 3,16", "ipc must be at most 15, the images of class '1'; got 16"),
    ("--ipc 3,3,3", "ipc must hold one number for each of the 2 classes; got 3"),
    ("--ipc 3,0", "ipc must be a positive integer, or a tuple of them, one for each class; got (3, 0)"),
    ("--ipc 3,", "argument --ipc"),
    ("--ipc two", "--ipc"),
    ("--dataset mnit5k", "must be one of mnist5k, mnist, fashion-mnist, svhn, cifar10, cifar100"),
    ("--dataset missing.npz", "missing.npz"),
    ("--method dmm", "--method"),
    ("--method dc --block 4", "unrecognized arguments: --block 4"),
    ("--method dd --inner-steps 0", "inner_steps must be a positive integer; got 0"),
    ("--method dsa --lr-net 0", "lr_net must be positive and finite; got 0.0"),
    ("--method dc --distance l1", "distance must be one of cosine, squared; got 'l1'"),
    ("--method dc --norm batch", "norm must"),
    ("--compile yes", "--compile"),
    ("--augment colour_crop", "augment must be 'none', or different operations of color, crop, cutout"),
    ("--augment crop_crop", "augment must be"),
    ("--norm instnce", "norm must be one of instance"),
    ("--norm batch --block 16", "block must be 'all'"),
    ("--activation tanh", "activation must be one of relu"),
    ("--pooling sum", "pooling must be one of avg"),
    ("--init images", "init must be one of real, noise"),
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
    ("--random-sets -1", "--random-sets, if not 0, must be a positive integer; got -1"),
    ("--setting reference", "--setting"),
    ("--ipc cat=3,dog=2", "ipc must name each class once; 'cat' is none of them: 0, 1"),
    ("--ipc 0=3", "ipc must name each class once; it lacks '1': 0, 1"),
    ("--ipc 0=3,0=2", "cat=10,dog=3, of each once; got '0=3,0=2'"),
    ("--ipc 0=3,1", "10,10,3 or cat=10,dog=3, of each once; got '0=3,1'"),
    ("--ipc 0=3,1=0", "ipc must be a positive integer"),
    ("--net 3", "unrecognized arguments: --net 3; is it --networks?"),
    ("--iteration 3", "unrecognized arguments: --iteration 3; is it --iterations?"),
    ("--batchreal=3", "unrecognized arguments: --batchreal=3; is it --batch-real?"),
    ("--device tpu", "--device must be one that this machine has, cpu"),
    ("--device meta", "--device must be one that this machine has, cpu"),
    ("--seeds 0", "--seeds must be a positive integer"),
    ("--seeds 2 --seed 4294967295", "the last of --seeds must be"),
    ("--seeds 2 --checkpoint run.pt", "--checkpoint must be left out with --seeds"),
    ("--seeds 2 --history run.csv", "--history must be left out with --seeds"),
    ("--output out.png", "--output must end in .pt, the format that is written; got 'out.png'"),
    ("--output out.npz", "--output must end in .pt"),
    ("--output out", "--output must end in .pt"),
    ("--model transformer", "--model"),
    ("--model vgg11", "image_size must be larger for VGG11; got 16×16"),
    ("--resize stretch", "--resize"),
    ("--size 0", "size must be a positive integer"),
    ("--size 4", "depth must be at most 2 for images of 4×4"),
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
    fails(capsys, "", "COMMAND")


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
    "labels of text on one side": ({"y_train": np.array(list("ab" * 5))}, "numbers in both parts, or names in both"),
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
    fails(capsys, "evaluate S.pt --dataset mnist5k", "the data set must have the classes and the size of S.pt")
    fails(capsys, "evaluate S.pt --dataset cifar1", "must be one of mnist5k")
    fails(capsys, "evaluate S.pt --dataset data.npz --networks 0", "--networks must be a positive integer")
    fails(capsys, "evaluate S.pt --dataset data.npz --seed -1", "--seed")
    fails(capsys, "evaluate S.pt --dataset data.npz --device tpu", "--device")
    fails(capsys, "evaluate S.pt missing.pt --dataset data.npz", "no such file: 'missing.pt'")
    run(["condense", "--dataset", "data.npz", "--output", "T.pt", *QUICK, "--no-evaluate", "--size", "8"])
    fails(capsys, "evaluate S.pt T.pt --dataset data.npz", "the sets must have the same classes and size", "in T.pt")
    fails(capsys, "evaluate S.pt --dataset data.npz --model vgg11", "image_size must be larger for VGG11")


def test_export_refuses_before_it_writes(folder, capsys):
    run(["condense", "--dataset", "data.npz", "--output", "S.pt", *QUICK, "--no-evaluate"])
    there = sorted(os.listdir())
    fails(capsys, "export S.pt out.jpg", "output must be a new folder, without a dot, or end in .npz, .safetensors or")
    fails(capsys, "export S.pt missing/out", "output must lie in a folder that exists; create 'missing' first")
    fails(capsys, "export S.pt .", "output must be a new folder; '.' is there")
    fails(capsys, "export missing.pt out", "no such file: 'missing.pt'")
    fails(capsys, "export data.npz out", "data.npz")
    fails(capsys, "export S.pt", "required")
    fails(capsys, "export S.pt out --dataset mnist5k", "the data set must have the classes and the size of S.pt")
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
    assert issubclass(flags.Parser, argparse.ArgumentParser)


def test_sets_with_several_images_in_one_are_made_judged_and_exported(folder, capsys):
    fields = "--ipc 1 --iterations 2 --batch-real 4 --width 4 --depth 2 --pool 2 --pool-steps 2 --networks 1"
    assert run(f"condense --dataset data.npz --method idm {fields} --random-sets 1 --output S.pt") == 0
    out = capsys.readouterr()
    assert "idm, " in out.err and "tiles: " in out.out and "condensed: " in out.out
    assert run("evaluate S.pt --dataset data.npz --networks 1 --random-sets 1") == 0
    assert "tiles: " in capsys.readouterr().out
    assert run("export S.pt out.npz") == 0
    k = len(LabeledImages.load("S.pt").classes)
    assert f"{4 * k} images" in capsys.readouterr().out
    assert run("condense --dataset data.npz --method idm --setting published --output S.pt") == 2
    assert "setting must be quick for idm" in capsys.readouterr().err
