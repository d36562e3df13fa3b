import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

import dmtutor.condensation as condensation
from dmtutor import DMConfig, LabeledImages, condense, dm_steps, files, from_arrays, steps

TINY = {"ipc": 2, "iterations": 4, "batch_real": 4, "width": 4, "depth": 2, "progress": False}


POOL = {"idm": {"pool": 2, "pool_steps": 2, "batch_real": 2}}  # what a method is given besides


def real_images(seed=0):
    pixels = torch.rand(20, 8, 8, generator=torch.Generator().manual_seed(seed))
    return from_arrays(pixels, torch.arange(20) % 2, classes=["even", "odd"])


def test_it_is_dm_steps_to_the_end():
    real = real_images()
    synthetic = condense(real, seed=3, **TINY)
    fields = {k: v for k, v in TINY.items() if k != "progress"}
    run = dm_steps(real, config=DMConfig(**fields), generator=torch.Generator().manual_seed(3))
    for _ in run:
        pass
    assert torch.equal(synthetic.images, run.synthetic.images)
    assert synthetic.labels.tolist() == [0, 0, 1, 1]
    assert synthetic.classes == ("even", "odd")
    assert synthetic.meta == {**run.synthetic.meta, "seed": 3}
    assert synthetic.meta["config"] == asdict(run.config)
    assert synthetic.meta["iteration"] == 4


@pytest.mark.parametrize("method", condensation.METHODS)
def test_every_method_goes_on_from_its_checkpoint(method, tmp_path, monkeypatch):
    real, fields = real_images(), {**TINY, "ipc": 1, **POOL.get(method, {})}
    whole = condense(real, method, **fields)
    assert whole.meta["method"] == method
    made, advance = [], steps.Steps.__next__

    def stops(self):
        made.append(1)
        if len(made) == 3:
            raise KeyboardInterrupt
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(steps.Steps, "__next__", stops)
        with pytest.raises(KeyboardInterrupt):
            condense(real, method, checkpoint=tmp_path / "run.pt", **fields)
    assert torch.equal(condense(real, method, checkpoint=tmp_path / "run.pt", **fields).images, whole.images)
    other = next(m for m in condensation.METHODS if m != method)
    with pytest.raises(ValueError):
        condense(real, other, checkpoint=tmp_path / "run.pt", **{**TINY, "ipc": 1})


def test_seeds_to_the_bit():
    real = real_images()
    images = [condense(real, seed=seed, **TINY).images for seed in (0, 0, 1)]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_same_seed_same_file_under_two_names(tmp_path):
    for name in ("a.pt", "quite_another_name"):
        condense(real_images(), **TINY).save(tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "quite_another_name").read_bytes()


def test_the_progress_bar_is_an_option(capsys):
    condense(real_images(), **{**TINY, "iterations": 10, "progress": True})
    assert "10/10" in capsys.readouterr().err
    condense(real_images(), **TINY)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "meta", 99])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(device):
    for use in (lambda: condense(real_images(), device=device, **TINY), lambda: real_images().to(device)):
        with pytest.raises(ValueError, match=rf"device must be one that this machine has, cpu.*; got '?{device}"):
            use()


def test_an_unknown_field_lists_the_valid_ones():
    with pytest.raises(TypeError, match="unknown field lr, foo of DMConfig; it has ipc, iterations, batch_real"):
        condense(real_images(), **TINY, lr=1.0, foo=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "dmm"}, "method must be one of dd, dc, dsa, idm, dm, or a class derived from Steps; got 'dmm'"),
        ({"ipc": 0}, "ipc must be a positive integer; got 0"),
        ({"ipc": 11}, "ipc must be at most 10, the images of class 'even'; got 11"),
        ({"seed": -1}, "seed must"),
        ({"seed": 2**32}, "seed must"),  # a generator would take it for 0
        ({"seed": 1.5}, "seed must"),
        ({"seed": True}, "seed must"),
        ({"augment": "colour"}, "augment must"),
        ({"norm": "instnce"}, "norm must"),
        ({"history": "missing/run.csv"}, "history must lie in a folder that exists"),
        ({"checkpoint": "missing/run.pt"}, "checkpoint must lie in a folder that exists"),
    ],
)
def test_bad_input_is_refused_before_any_step(monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dmtutor.steps.Steps.__next__", lambda _: pytest.fail("work has started"))
    with pytest.raises(ValueError, match=message):
        condense(real_images(), **{**TINY, **arguments})


# Checkpoints ---------------------------------------------------------------------------------------------------------


def interrupt_after(monkeypatch, count):
    """A Ctrl-C before step number count + 1."""
    advance, done = steps.Steps.__next__, []

    def stops(self):
        if len(done) == count:
            raise KeyboardInterrupt
        done.append(1)
        return advance(self)

    monkeypatch.setattr(steps.Steps, "__next__", stops)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_interrupted_and_gone_on_it_equals_the_uninterrupted_run(tmp_path, count):
    whole = condense(real_images(), **TINY)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, count)
        with pytest.raises(KeyboardInterrupt):
            condense(real_images(), **TINY, checkpoint=tmp_path / "run.pt")
    assert files.read(tmp_path / "run.pt", keys=["iteration"])["iteration"] == count
    resumed = condense(real_images(), **TINY, checkpoint=tmp_path / "run.pt")
    assert torch.equal(resumed.images, whole.images)
    assert resumed.meta == whole.meta
    assert os.listdir(tmp_path) == ["run.pt"]


def test_a_finished_checkpoint_needs_no_more_work(tmp_path, monkeypatch):
    whole = condense(real_images(), **TINY, checkpoint=tmp_path / "run.pt")
    monkeypatch.setattr("dmtutor.distribution_matching.DMSteps.loss_and_gradient", lambda _: pytest.fail("a step"))
    assert torch.equal(condense(real_images(), **TINY, checkpoint=tmp_path / "run.pt").images, whole.images)


def test_written_once_a_minute(tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 25))
    monkeypatch.setattr(condensation.time, "monotonic", lambda: next(clock))
    written = []
    monkeypatch.setattr(condensation.files, "write", lambda state, path: written.append(state["iteration"]))
    condense(real_images(), **{**TINY, "iterations": 9}, checkpoint=tmp_path / "run.pt")
    assert written[-1] == 9
    assert 2 <= len(written) <= 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"seed": 1}, "seed"), ({"lr_img": 2.0}, "configuration.*lr_img"), ({"ipc": 3}, "configuration.*ipc")],
)
def test_a_checkpoint_of_another_run_is_refused_and_left_whole(tmp_path, changes, message):
    condense(real_images(), **TINY, checkpoint=tmp_path / "run.pt")
    before = (tmp_path / "run.pt").read_bytes()
    with pytest.raises(ValueError, match=message):
        condense(real_images(), **{**TINY, **changes}, checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match="data"):
        condense(real_images(seed=1), **TINY, checkpoint=tmp_path / "run.pt")
    assert (tmp_path / "run.pt").read_bytes() == before


@pytest.mark.parametrize("content", ["text", "a set"])
def test_a_file_that_is_no_checkpoint_is_refused_and_left_whole(tmp_path, content):
    path = tmp_path / "run.pt"
    real_images().save(path) if content == "a set" else path.write_bytes(b"precious")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"run\.pt"):
        condense(real_images(), **TINY, checkpoint=path)
    assert path.read_bytes() == before


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_history_has_the_loss_of_every_tenth_step(tmp_path):
    fields = {**TINY, "iterations": 35}
    condense(real_images(), **fields, history=tmp_path / "run.csv")
    run = dm_steps(real_images(), config=DMConfig(**{k: v for k, v in fields.items() if k != "progress"}),
                   generator=torch.Generator().manual_seed(0))
    losses = {step.iteration: float(step.loss) for step in run}
    rows = rows_of(tmp_path / "run.csv")
    assert [int(row["iteration"]) for row in rows] == [10, 20, 30]
    assert all(float(row["loss"]) == pytest.approx(losses[int(row["iteration"])], rel=1e-5) for row in rows)
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds) and seconds[0] >= 0


def test_a_run_that_goes_on_goes_on_with_its_history(tmp_path):
    """What the table tells of steps after the checkpoint, and a line that a kill cut short, are dropped."""
    fields, path = {**TINY, "iterations": 35}, tmp_path / "run.csv"
    condense(real_images(), **fields, history=path)
    whole = rows_of(path)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 15)
        with pytest.raises(KeyboardInterrupt):
            condense(real_images(), **fields, checkpoint=tmp_path / "run.pt", history=path)
    assert len(rows_of(path)) == 1
    path.write_text(path.read_text() + "20,123.4,1000.0\n30,5")
    condense(real_images(), **fields, checkpoint=tmp_path / "run.pt", history=path)
    assert [(row["iteration"], row["loss"]) for row in rows_of(path)] == [(r["iteration"], r["loss"]) for r in whole]


@pytest.mark.parametrize("content", ["", "precious\n", "a,b\n1,2\n", "\x00\n"])
def test_another_file_is_no_history_and_is_left_whole(tmp_path, monkeypatch, content):
    monkeypatch.setattr("dmtutor.steps.Steps.__next__", lambda _: pytest.fail("work has started"))
    (tmp_path / "notes.csv").write_text(content)
    with pytest.raises(ValueError, match="history must not be another file"):
        condense(real_images(), **TINY, history=tmp_path / "notes.csv")
    assert (tmp_path / "notes.csv").read_text() == content


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"average": 0.5}, {"method": "dc"}, {"method": "dd"}])
def test_more_iterations_of_a_constant_step_are_one_longer_run(tmp_path, fields):
    fields = {**TINY, "schedule": "constant", **fields}
    for iterations in (3, 7):
        longer = condense(real_images(), **{**fields, "iterations": iterations}, checkpoint=tmp_path / "run.pt")
    whole = condense(real_images(), **{**fields, "iterations": 7})
    assert torch.equal(longer.images, whole.images) and longer.meta == whole.meta


def test_a_state_that_does_not_fit_names_its_file_and_a_way_out(tmp_path):
    condense(real_images(), **TINY, checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match="iterations=4 there, 9 here") as failure:
        condense(real_images(), **{**TINY, "iterations": 9}, checkpoint=tmp_path / "run.pt")
    (note,) = failure.value.__notes__
    assert "run.pt' does not hold this run" in note and "delete it to start anew" in note


@pytest.mark.parametrize("method", condensation.METHODS)
@pytest.mark.parametrize("lr_img", [1e30, 1e4])
def test_pixels_that_leave_all_bounds_end_the_run_and_are_not_saved(tmp_path, monkeypatch, method, lr_img):
    clock = iter(range(0, 10_000, 61))
    monkeypatch.setattr(condensation.time, "monotonic", lambda: next(clock))  # a checkpoint at every step
    fields = {**TINY, "ipc": 1, **POOL.get(method, {}), "iterations": 30, "momentum": 0.0}
    with pytest.raises(FloatingPointError, match=r"the pixels have grown to .* lr_img=1.* is too large"):
        condense(real_images(), method, **{**fields, "lr_img": lr_img}, checkpoint=tmp_path / "run.pt")
    if (tmp_path / "run.pt").exists():
        state = files.read(tmp_path / "run.pt", keys=["images"])
        assert state["images"].isfinite().all() and state["images"].abs().max() < 100


def test_a_diverged_last_step_is_not_returned(monkeypatch):
    with pytest.raises(FloatingPointError, match="after 3 steps"):
        condense(real_images(), **{**TINY, "iterations": 3, "lr_img": 1e30})


def test_a_second_signal_does_not_spoil_the_state(tmp_path, monkeypatch):
    """A cluster that is tired of waiting sends its signal again while the state is written."""
    write = files.write

    def disturbed(state, path):
        signal.raise_signal(signal.SIGTERM)
        write(state, path)

    def stops(self):
        if self.iteration == 2:
            signal.raise_signal(signal.SIGTERM)
        return advance(self)

    advance = steps.Steps.__next__
    whole = condense(real_images(), **TINY)
    with monkeypatch.context() as patched:
        patched.setattr(condensation.files, "write", disturbed)
        patched.setattr(steps.Steps, "__next__", stops)
        with pytest.raises(KeyboardInterrupt):
            condense(real_images(), **TINY, checkpoint=tmp_path / "run.pt")
    assert files.read(tmp_path / "run.pt", keys=["iteration"])["iteration"] == 2
    assert torch.equal(condense(real_images(), **TINY, checkpoint=tmp_path / "run.pt").images, whole.images)


KILLED = """
import itertools, sys
sys.path[:0] = sys.argv[2:]
import dmtutor.condensation as condensation
from test_condensation import LONG, condense, real_images
clock = itertools.count(step=61)
condensation.time.monotonic = lambda: next(clock)  # a checkpoint at every step
condense(real_images(), **LONG, checkpoint=sys.argv[1])
"""
LONG = {**TINY, "iterations": 200}


@pytest.mark.slow
def test_killed_at_some_moment_it_goes_on_to_the_same_bits(tmp_path):
    """A real `kill -9` of a process that writes its checkpoint all the time."""
    path = tmp_path / "run.pt"
    here = Path(__file__).parent
    library = Path(condensation.__file__).parents[1]
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path), str(here), str(library)])
    try:
        deadline = time.monotonic() + 60
        while not path.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(0.1)
        assert process.poll() is None, "it ended before it could be killed"
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    done = files.read(path, keys=["iteration"])["iteration"]
    assert 0 < done < LONG["iterations"]
    resumed = condense(real_images(), **LONG, checkpoint=path)
    assert isinstance(resumed, LabeledImages)
    assert torch.equal(resumed.images, condense(real_images(), **LONG).images)


@pytest.mark.parametrize("method", ["dm", "dsa", "dd"])
def test_a_state_of_wrong_shapes_is_refused(tmp_path, method):
    fields = {**TINY, "method": method, "checkpoint": tmp_path / "run.pt", "ipc": 1}
    condense(real_images(), **fields)
    state = torch.load(tmp_path / "run.pt", weights_only=True)
    for name in ("images", "momentum"):
        for changed in (state[name][:1], state[name].flatten(), None, 3):
            files.write({**state, name: changed}, tmp_path / "run.pt")
            with pytest.raises(ValueError, match=rf"state must (hold {name} of|be of images)"):
                condense(real_images(), **fields)


def test_a_change_of_any_image_ends_a_resumption(tmp_path):
    fields = {**TINY, "checkpoint": tmp_path / "run.pt"}
    real = real_images()
    condense(real, **fields)
    order = torch.arange(20)
    order[[4, 6]] = order[[6, 4]]  # of one class, neither first nor last
    for changed in (real.select(order), real.select(order[:-2]), real.select(torch.cat([order, order[-2:]]))):
        with pytest.raises(ValueError, match="state must be of a run on the same data; since then images were added"):
            condense(changed, **fields)


def test_numbers_of_numpy_are_numbers(tmp_path):
    plain = condense(real_images(), **{**TINY, "seed": 3, "lr_img": 0.5})
    ours = condense(real_images(), **{**TINY, "ipc": np.int64(2), "width": np.int32(4), "iterations": np.uint8(4),
                                      "seed": np.int64(3), "lr_img": np.float32(0.5)})
    assert torch.equal(ours.images, plain.images) and ours.meta == plain.meta
    ours.save(tmp_path / "S.pt")
    assert LabeledImages.load(tmp_path / "S.pt").meta == plain.meta
    uneven = condense(real_images(), **{**TINY, "ipc": tuple(np.array([1, 2]))})
    assert uneven.meta["config"]["ipc"] == (1, 2) and type(uneven.meta["config"]["ipc"][0]) is int


def test_checkpoint_and_history_are_two_files(tmp_path):
    with pytest.raises(ValueError, match="history must be another file than checkpoint"):
        condense(real_images(), **TINY, checkpoint=tmp_path / "a", history=tmp_path / "a")


def test_a_full_disk_does_not_take_a_finished_set(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match=r"the state was not saved: '.*run\.pt' could not be written: No space left"):
        made = condense(real_images(), **TINY, checkpoint=tmp_path / "run.pt")
    assert torch.equal(made.images, condense(real_images(), **TINY).images)
