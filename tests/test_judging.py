"""Sets of several kinds on the shell, side by side: a line each, never a mean of unlike ones, and the differences."""
# ruff: noqa: F401, F811

import math
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_main import JUDGE, QUICK, fails, folder, quick_recipe, run

import dmtutor.__main__ as shell
from dmtutor import Accuracies, LabeledImages, from_arrays, judging, load, random_subset

DATA = ["--dataset", "data.npz"]


def make(*flags):
    assert run(["condense", *DATA, *QUICK, "--no-evaluate", *flags]) == 0


def lines(capsys, *command):
    capsys.readouterr()
    assert run([*command, *DATA]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_unlike_sets_have_a_line_each_and_differences(folder, capsys):
    make("--output", "A.pt", "--seeds", "2")
    make("--output", "B.pt", "--seeds", "2", "--lr-img", "3")
    make("--output", "C.pt", "--ipc", "4")
    alone = [lines(capsys, "evaluate", f"{name}.pt", *JUDGE)[0].split(": ")[1] for name in ("A_0", "C")]
    out = lines(capsys, "evaluate", "A_1.pt", "C.pt", "B_0.pt", "A_0.pt", "B_1.pt", *JUDGE)
    assert [line.split(":")[0] for line in out] == [
        "A_1.pt (ipc=2, lr_img=64)", "C.pt (ipc=4, lr_img=128)", "B_0.pt (ipc=2, lr_img=3)",
        "A_0.pt (ipc=2, lr_img=64)", "B_1.pt (ipc=2, lr_img=3)", "A_0.pt and 1 more", "B_0.pt and 1 more",
        "random, 4 images, 2 per class", "random, 8 images, 4 per class", "A_0.pt and 1 more − C.pt",
        "A_0.pt and 1 more − B_0.pt and 1 more", "C.pt − B_0.pt and 1 more"]
    assert [out[3].split(": ")[1], out[1].split(": ")[1]] == alone  # whatever else is judged
    mean = sum(float(re.search(r": ([\d.]+) %", out[i])[1]) for i in (0, 3)) / 2
    assert f"{mean:.1f} % (2 sets" in out[5] and "3 sets" in out[7] and "3 sets" in out[8]
    assert "points [" in out[10] and out[10].endswith("(2 pairs of sets)")
    assert out[9].endswith(out[11][-40:]) and "over test images only, of one set" in out[9]


def test_sets_that_differ_in_their_seed_alone_are_one(folder, capsys):
    make("--output", "A.pt", "--seeds", "3")
    out = lines(capsys, "evaluate", "A_0.pt", "A_1.pt", "A_2.pt", *JUDGE)
    assert [line.split(":")[0].strip() for line in out] == ["A_0.pt", "A_1.pt", "A_2.pt", "condensed", "random"]
    fails(capsys, "evaluate A_0.pt ./A_0.pt --dataset data.npz", "must be different files; 'A_0.pt' is there twice")


@pytest.mark.slow
@pytest.mark.parametrize("export", ["B.npz", "B.pt", "B"])
def test_what_export_wrote_is_read_back(folder, capsys, export):
    make("--output", "A.pt")
    assert run(f"export A.pt {export}") == 0
    out = lines(capsys, "evaluate", "A.pt", export, "--networks", "3", "--random-sets", "0")
    assert [line.split(":")[0].strip() for line in out] == ["A.pt", export, f"A.pt − {export}"]
    assert "over 3 networks of one set each only" in out[2]
    if export != "B":
        assert out[0].split(": ")[1] == out[1].split(": ")[1] and "+0.0 points [+0.0, +0.0]" in out[2]
    assert run(f"export {export} again.npz") == 0
    assert run(f"info {export}") == 0
    told = capsys.readouterr().out
    assert "method: dm, seed 0\n" in told and "data: data, a file or folder, fingerprint " in told
    assert run(f"show {export} --output sheet.png") == 0
    fails(capsys, f"export {export} {export}", "")
    (folder / "empty").mkdir()
    fails(capsys, "info empty", "'empty' was not written by export, or it is damaged: it lacks dataset.json")
    fails(capsys, "evaluate data.npz --dataset data.npz", "'data.npz' was not written by export")


def test_pairs_are_sets_that_grew_from_the_same_images():
    data = from_arrays(torch.rand(4, 8, 8), [0, 0, 1, 1])

    def sets(seeds=(0, 1), rows=(0, 1, 2, 3), method="dm", init="real", mark="f", **config):
        told = {"method": method, "name": "x", "fingerprint": mark, "config": {"init": init, **config}}
        return [replace(data.select(torch.tensor(rows)), meta={**told, "seed": seed}) for seed in seeds]

    assert judging.same_start(sets(), sets(method="dsa", lr_img=3))
    for other in (sets((0, 2)), sets(method="idm"), sets(method="mine"), sets(init="noise"), sets(mark="g"),
                  sets(rows=(0, 1, 2))):
        assert not judging.same_start(sets(), other)
    assert not judging.same_start([data], [data])


def test_a_difference_says_what_its_interval_is_over():
    def right(sets, networks):
        return Accuracies(torch.rand(sets, networks, 50, generator=torch.Generator().manual_seed(sets)) < 0.7)

    a, b = right(3, 2), right(4, 2)
    assert judging.difference(a, b, False) == f"{a.difference(b, paired=False)!s} (Welch)"
    assert judging.difference(a, a, True).startswith("+0.0 points [+0.0, +0.0] (3 pairs")
    for one in (judging.difference(right(1, 2), b, False), judging.difference(right(1, 2), right(1, 2), True)):
        assert one.endswith("(over test images only, of one set)") and "nan" not in one
    assert judging.difference(right(1, 3), right(1, 4), False).endswith("(over 3 networks of one set each only)")


def test_sets_without_a_seed_are_never_averaged(folder, capsys):
    train, _ = load("data.npz")
    for i in range(2):
        random_subset(train, 2, generator=torch.Generator().manual_seed(i)).save(f"{i}.pt")
    out = lines(capsys, "evaluate", "0.pt", "1.pt", *JUDGE)
    assert [line.split(":")[0].strip() for line in out] == ["0.pt", "1.pt", "random", "0.pt − 1.pt"]
    assert run("info 0.pt") == 0 and "method: unknown, seed unknown" in capsys.readouterr().out


def test_info_tells_what_differs_from_the_defaults_and_all_the_rest(folder, capsys):
    make("--output", "A.pt", "--momentum", "0.25", "--seed", "7")
    S = LabeledImages.load("A.pt")
    replace(S, meta={**S.meta, "scores": "81 %"}).save("B.pt")
    assert run("info B.pt") == 0
    out = capsys.readouterr().out
    assert "method: dm, seed 7\n" in out and "fields: ipc=2, iterations=2, lr_img=64, momentum=0.25, width=4\n" in out
    assert "images: 4 images, 2 per class (0, 1), 16×16 grey\n" in out and "scores: 81 %\n" in out
    assert re.search(r"versions: dmtutor=\S+, torch=\S+\n", out) and S.meta["fingerprint"] in out
    fails(capsys, "info missing.pt", "no such file: 'missing.pt'")


def test_show_draws_a_sheet_and_replaces_its_own_alone(folder, capsys):
    make("--output", "A.pt", "--ipc", "0=1,1=3")
    assert LabeledImages.load("A.pt").counts.tolist() == [1, 3]
    capsys.readouterr()
    for _ in range(2):
        assert run("show A.pt") == 0
    assert re.match(r"A.pt.png: up to 3 images of a class, \d+.\d% of the pixels lie outside", capsys.readouterr().out)
    with Image.open("A.pt.png") as picture:
        assert min(picture.size) > 100
    (folder / "A.pt.png").write_bytes(b"mine")
    fails(capsys, "show A.pt", "--output must be a new file; 'A.pt.png' is there")
    fails(capsys, "show A.pt --output A.jpg", "--output must end in .png")
    fails(capsys, "show A.pt --output no/A.png", "create 'no' first")
    assert run("show A.pt --overwrite") == 0


def test_sheets_of_names_that_are_no_text(folder, capsys):
    train, _ = load("data.npz")
    names = "a$b$^_{", "\x1b[1m\n猫"
    replace(random_subset(train, 1, generator=torch.Generator().manual_seed(0)), classes=names).save("x$y^_$.pt")
    assert run(["show", "x$y^_$.pt"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("step", "chosen"), [(4.0, (3, 3)), (2.0, (2, 3)), (0.1, (1, 1))])
def test_judging_costs_no_more_than_condensing_if_no_flag_says_so(folder, capsys, monkeypatch, step, chosen):
    """Two steps of so many seconds, half a second for each network."""
    monkeypatch.setattr(shell.planning, "step_seconds", lambda _: step)
    monkeypatch.setattr(shell.planning, "judge_seconds", lambda *_: 0.5)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    command = ["condense", *DATA, *QUICK, "--output", "S.pt", "--dry-run"]
    assert run(command) == 0
    told, (networks, randoms) = capsys.readouterr().out, chosen
    assert f": {networks} on the set, about" in told and f", {networks * randoms} on random images, about" in told
    assert ("fewer, to take no longer than condensing" in told) == (chosen != (3, 3))
    if chosen != (1, 1):
        assert networks * (1 + randoms) * 0.5 <= 2 * step
    assert run([*command, "--networks", "9", "--random-sets", "5"]) == 0
    told = capsys.readouterr().out
    assert ": 9 on the set" in told and ", 45 on random images" in told and "fewer" not in told
    assert run([*command, "--random-sets", "0", "--networks", "2"]) == 0
    assert "random images" not in capsys.readouterr().out


def test_without_random_sets_there_is_no_comparison(folder, capsys):
    assert run(["condense", *DATA, *QUICK, "--output", "S.pt", "--networks", "1", "--random-sets", "0"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2 and out[1].startswith("condensed: ")


def test_real_images_are_read_as_a_set_was_made(folder):
    x, y = np.random.default_rng(0).integers(0, 256, (40, 12, 9), dtype=np.uint8), np.arange(40) % 2
    np.savez("wide.npz", x_train=x, y_train=y, x_test=x[:8] + 1, y_test=y[:8])
    train, test = load("wide.npz", size=8, resize="pad")
    S = random_subset(train, 2, generator=torch.Generator().manual_seed(0))
    other = replace(S, mean=S.mean + 0.25)
    again, tested = load("wide.npz", like=other)
    torch.testing.assert_close(tested.images, test.normalized_like(other).images)
    assert torch.equal(again.mean, other.mean)
    with pytest.raises(ValueError, match="size must be a positive integer; got 0"):
        load("wide.npz", like=S, size=0)
    with pytest.raises(ValueError, match="the data set must have the classes and the size of like"):
        load("mnist5k", like=S)
    np.savez("wide.npz", x_train=x + 1, y_train=y, x_test=x[:8], y_test=y[:8])
    with pytest.warns(UserWarning, match="like was not made of these images"):
        load("wide.npz", like=S)


def test_the_readmes_lines_for_your_own_images(folder, monkeypatch, capsys):
    """As they stand, but for the folder's name and a small budget."""
    for name in ("cat", "dog"):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{i}.png")
    assert run(["condense", "--dataset", "images", "--size", "16", "--output", "S.pt", *QUICK, "--no-evaluate"]) == 0
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S)
    [block] = [part for part in blocks if "LabeledImages.load" in part]
    for name, small in (("mnist5k", "images"), ("range(100)", "range(2)")):
        assert block.count(name) == 1
        block = block.replace(name, small)
    capsys.readouterr()
    with torch.random.fork_rng():
        exec(block, {})
    assert re.fullmatch(r"\d+\.\d% of \d real images\n", capsys.readouterr().out)
    assert not math.isnan(float(LabeledImages.load("S.pt").mean[0])) and "S.pt" in os.listdir()


ODD = {  # of sets that were changed by hand, or cut: what info, show and evaluate say; None where all is well
    "no image": (lambda S: S.select(torch.arange(0)), *["a set must hold images; 'odd.pt' has none"] * 3),
    "a class without": (lambda S: S.select(torch.arange(2)), None, None, "images of every class; odd.pt has none"),
    "versions in words": (lambda S: meta(S, versions="of old"), None, None, None),
    "no configuration": (lambda S: meta(S, config=None), None, None, None),
    "another configuration": (lambda S: meta(S, config={"ipc": "many"}), None, None, None),
    "a seed that is a list": (lambda S: meta(S, seed=[1]), None, None, None),
    "a method of nobody": (lambda S: meta(S, method=3), None, None, None),
    "tiles that do not fit": (lambda S: meta(S, factor=3), None, *["factor must divide the images' sides"] * 2),
    "no tiles": (lambda S: meta(S, factor=0), None, *["factor must be a positive integer; got 0"] * 2),
    "64 bits": (lambda S: S.to(dtype=torch.float64), None, None, None),
    "16 bits": (lambda S: S.to(dtype=torch.float16), None, None, None),
    "not square": (lambda S: replace(S, images=S.images[..., :9]), None, None, "the classes and the size"),
}


def meta(S, **changes):
    return replace(S, meta={**S.meta, **changes})


@pytest.mark.slow
@pytest.mark.parametrize("case", ODD)
def test_odd_sets(folder, capsys, case):
    make("--output", "A.pt")
    change, *messages = ODD[case]
    change(LabeledImages.load("A.pt")).save("odd.pt")
    judge = "--dataset data.npz --networks 1 --random-sets 0"
    commands = ("info odd.pt", "show odd.pt", f"evaluate odd.pt {judge}")
    if case != "not square":
        commands += (f"evaluate A.pt odd.pt {judge}",)
    for command, message in zip(commands, [*messages, messages[-1]], strict=False):
        if message:
            fails(capsys, command, message)
        else:
            assert run(command) == 0


def test_the_nearest_flag_is_named(folder, capsys):
    for wrong, right in (("--dry", "--dry-run"), ("-dataset x", "--dataset"), ("--lr_img=3", "--lr-img")):
        fails(capsys, f"condense --output S.pt {wrong}", f"unrecognized arguments: {wrong}; is it {right}?")
    fails(capsys, "show A.pt --out x.png", "is it --output?")
    fails(capsys, "info A.pt B.pt", "unrecognized arguments: B.pt (")
