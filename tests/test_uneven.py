"""Classes of different sizes: an integer is capped, a tuple is taken at its word, and all promises of a run hold."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import real_images, seeded
from test_seam import plain_loop
from test_sharding import TORCHRUN, environment

from dmtutor import (
    DCConfig,
    DDConfig,
    DMConfig,
    DSAConfig,
    LabeledImages,
    condense,
    dc_steps,
    dd_steps,
    dm_steps,
    herding,
    k_center,
    random_subset,
)

COUNTS = (6, 3, 9)
IPC = (4, 2, 5)
TINY = {"batch_real": 4, "iterations": 4, "width": 4, "depth": 2}
METHODS = {"dm": (dm_steps, DMConfig), "dc": (dc_steps, DCConfig), "dsa": (dc_steps, DSAConfig),
           "dd": (dd_steps, DDConfig)}


def make(method="dm", ipc=IPC, real=None, dtype=torch.float32, classes=None, **fields):
    steps, config = METHODS[method]
    options = {} if classes is None else {"classes": classes}
    real = real if real is not None else real_images(COUNTS, dtype=dtype)
    return steps(real, config=config(ipc=ipc, **{**TINY, **fields}), generator=seeded(), **options)


@pytest.mark.parametrize("init", ["real", "noise"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_a_number_for_each_class(method, init):
    steps = make(method, init=init)
    before = steps.synthetic
    after = steps.finish()
    assert after.counts.tolist() == list(IPC) and after.labels.tolist() == sorted(after.labels.tolist())
    assert after.meta["config"]["ipc"] == IPC
    assert all(not torch.equal(after.of_class(c), before.of_class(c)) for c in range(3))


@pytest.mark.parametrize("method", METHODS)
def test_a_run_goes_on_to_the_same_bits(method):
    whole, begun, resumed = make(method), make(method), make(method)
    [next(begun) for _ in range(3)]
    resumed.load_state_dict(begun.state_dict())
    assert torch.equal(resumed.finish().images, whole.finish().images)


@pytest.mark.parametrize("block", [1, 3, "class", "all"])
@pytest.mark.parametrize("augment", ["none", "crop_scale_rotate"])
def test_it_is_the_plain_loop(block, augment):
    steps = make(dtype=torch.float64, block=block, augment=augment, batch_real=8)
    for steps.iteration in range(2):
        loss, gradient = steps.loss_and_gradient()
        expected, expected_gradient = plain_loop(steps)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("average", [0.0, 0.5])
@pytest.mark.parametrize("parts", [[[0], [1, 2]], [[1], [0, 2]]])
def test_parts_of_the_classes_are_the_whole_to_the_bit(parts, average):
    whole = make(average=average).finish()
    for classes in parts:
        part = make(classes=classes, average=average).finish()
        for c in classes:
            assert torch.equal(part.of_class(c), whole.of_class(c))


@pytest.mark.parametrize("method", METHODS)
def test_threads_change_no_bit(method):
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            made.append(make(method).finish().images)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*made)


def test_an_image_moves_as_far_whatever_the_size_of_its_class():
    """Each class of an uneven run is that class of an even one of its size, whose step is in proportion to it."""
    lr, mean = 20.0, sum(IPC) / 3
    real = real_images((9, 9, 9), dtype=torch.float64)
    uneven = make(real=real, lr_img=lr).finish()
    for c, m in enumerate(IPC):
        even = make(real=real, ipc=m, lr_img=lr * m / mean).finish()
        torch.testing.assert_close(uneven.of_class(c), even.of_class(c), rtol=1e-9, atol=1e-10)
    default = make(real=real)
    assert default.config.lr_img == pytest.approx(512 * mean / default.network.embedding_dim)


def test_defaults_follow_the_mean():
    for config in (DMConfig, DCConfig):
        even, uneven = config(ipc=4), config(ipc=(1, 3, 8))
        assert replace(uneven, ipc=4) == even
    assert DDConfig(ipc=(3, 30)).inner_steps == 30
    assert DMConfig.reference(ipc=(150, 100)).lr_img == 10 and DDConfig.reference(ipc=(2, 5)).inner_steps == 15


def test_numbers_that_are_all_alike_are_one_number():
    one, same = make(ipc=2), make(ipc=(2, 2, 2))
    assert same.config == one.config and same.config.ipc == 2
    assert torch.equal(same.finish().images, one.finish().images)


# An integer ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_an_integer_is_capped_where_it_must_be_with_a_word(method):
    with pytest.warns(UserWarning, match="ipc=4 is more than some classes have to start from: '1' 3$"):
        steps = make(method, ipc=4)
    assert steps.config.ipc == (4, 3, 4) and steps.finish().counts.tolist() == [4, 3, 4]
    assert make(method, ipc=4, init="noise").config.ipc == 4
    assert make(method, ipc=2).config.ipc == 2


def test_what_follows_from_an_integer_is_not_changed_by_the_cap():
    fields = {"iterations": None, "batch_real": None}
    with pytest.warns(UserWarning):
        steps = make(ipc=4, **fields)
    assert (steps.config.iterations, steps.config.batch_real) == (500, 8)


@pytest.mark.parametrize(
    ("ipc", "message"),
    [
        (10, "ipc must be at most 9, the images of class '2'; got 10"),
        ((4, 4, 5), "ipc must be at most 3, the images of class '1'; got 4"),
        ((1, 2), r"ipc must hold one number for each of the 3 classes; got 2: \(1, 2\)"),
        ((1, 0, 1), r"ipc must be a positive integer, or a tuple of them, one for each class; got \(1, 0, 1\)"),
        ((1, 2.0, 1), "ipc must be a positive integer, or a tuple"),
        ((), "ipc must be a positive integer, or a tuple"),
        ([1, 2, 1], "ipc must be a positive integer, or a tuple"),
        ({"0": 1}, "ipc must be a positive integer, or a tuple"),
        ("3", "ipc must be a positive integer; got '3'"),
        (True, "ipc must be a positive integer; got True"),
        (None, "ipc must be a positive integer; got None"),
    ],
)
def test_what_is_no_ipc_is_refused_before_any_step(ipc, message):
    for method in METHODS:
        with pytest.raises(ValueError, match=message):
            make(method, ipc=ipc)


def test_dd_needs_as_many_of_each_class_as_it_takes_at_once():
    with pytest.raises(ValueError, match="batch_syn must be at most ipc=2; got 3"):
        make("dd", batch_syn=3)


@pytest.mark.parametrize("choose", [lambda r, n: random_subset(r, n, generator=seeded()), herding, k_center])
def test_coresets_of_different_sizes(choose):
    real = real_images(COUNTS)
    some, two = choose(real, IPC), choose(real, 2)
    assert some.counts.tolist() == list(IPC)
    for c in range(3):
        assert torch.equal(some.of_class(c)[:2], two.of_class(c))
    with pytest.raises(ValueError, match="ipc must be at most 3, the images of class '1'; got 4"):
        choose(real, (1, 4, 1))


# From a file to a file -----------------------------------------------------------------------------------------------


def test_a_checkpoint_and_a_file_keep_the_numbers(tmp_path):
    fields = {**TINY, "progress": False}
    whole = condense(real_images(COUNTS), ipc=IPC, **fields)
    condense(real_images(COUNTS), ipc=IPC, **fields, checkpoint=tmp_path / "run.pt")
    again = condense(real_images(COUNTS), ipc=IPC, **fields, checkpoint=tmp_path / "run.pt")
    assert torch.equal(again.images, whole.images) and again.meta == whole.meta
    whole.save(tmp_path / "S.pt")
    assert LabeledImages.load(tmp_path / "S.pt").meta["config"]["ipc"] == IPC
    with pytest.raises(ValueError, match=r"ipc=\(4, 2, 5\) there, \(4, 2, 4\) here"):
        condense(real_images(COUNTS), ipc=(4, 2, 4), **fields, checkpoint=tmp_path / "run.pt")


@pytest.mark.slow
def test_processes_share_classes_of_different_sizes_to_the_bit(tmp_path):
    """Of a state that one process left, two make the file that one makes of all."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), COUNTS)
    np.savez(tmp_path / "data.npz", x_train=rng.integers(0, 256, (18, 16, 16), dtype=np.uint8), y_train=labels)
    made = {}
    for name, start in (("one", []), ("two", [*TORCHRUN, "2"])):
        command = [sys.executable, *start, "-m", "dmtutor", "condense", "--dataset", "data.npz", "--no-evaluate",
                   "--output", f"{name}.pt", "--ipc", "4,1,5", "--iterations", "5", "--width", "4", "--average", "0.5",
                   "--checkpoint", f"{name}.run"]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        made[name] = (tmp_path / f"{name}.pt").read_bytes(), (tmp_path / f"{name}.run").read_bytes()
    assert made["one"] == made["two"]
    assert LabeledImages.load(tmp_path / "one.pt").counts.tolist() == [4, 1, 5]
