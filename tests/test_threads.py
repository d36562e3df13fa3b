"""The same bits for every number of threads: torch's layers add partial sums per thread, the library does not."""

import os
import subprocess
import sys
import threading
import time

import pytest
import torch
from runs import seeded

from dmtutor import (
    DCConfig,
    DDConfig,
    DMConfig,
    DSAConfig,
    IDMConfig,
    Recipe,
    dc_steps,
    dd_steps,
    dm_steps,
    evaluate,
    from_arrays,
    idm_steps,
    threads,
    train_network,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# The pool ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_part_is_computed_by_one_thread_in_order(number):
    torch.set_num_threads(number)
    seen, told = set(), []

    def function(part):
        seen.add((threading.current_thread().name, torch.get_num_threads()))
        time.sleep(0.01 * (part == 0))
        return part**2

    assert threads.parallel_map(function, range(6), CPU, done=lambda: told.append(1)) == [0, 1, 4, 9, 16, 25]
    assert {n for _, n in seen} == {1} and len(seen) <= number
    assert torch.get_num_threads() == number and len(told) == 6
    assert threads.parallel_map(function, [], CPU) == []


def test_a_thread_born_later_may_use_as_many_as_before():
    torch.set_num_threads(2)
    threads.pool.cache_clear()
    threads.parallel_map(abs, range(3), CPU)
    found = []
    other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert found == [2]


def test_the_caller_s_grad_mode_holds():
    torch.set_num_threads(2)
    for mode in (True, False):
        with torch.set_grad_enabled(mode):
            assert threads.parallel_map(lambda _: torch.is_grad_enabled(), range(3), CPU) == [mode] * 3


def test_another_device_s_parts_are_computed_where_the_caller_is():
    torch.set_num_threads(2)
    here = threading.current_thread()
    assert threads.parallel_map(lambda _: threading.current_thread(), range(2), torch.device("meta")) == [here, here]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_nothing_goes_on_working(error):
    torch.set_num_threads(2)
    ended = []

    def function(part):
        if part == 0:
            raise error
        time.sleep(0.05)
        ended.append(part)

    with pytest.raises(error):
        threads.parallel_map(function, range(8), CPU)
    count = len(ended)
    time.sleep(0.15)
    assert len(ended) == count < 7 and torch.get_num_threads() == 2


FORKED = """
import os, signal, torch
from dmtutor import threads
torch.set_num_threads(2)
cpu, parts = torch.device("cpu"), range(4)
before = threads.parallel_map(lambda n: n + 1, parts, cpu)
child = os.fork()
if child == 0:
    signal.alarm(30)
    os._exit(threads.parallel_map(lambda n: n + 1, parts, cpu) != before)
assert os.waitpid(child, 0)[1] == 0 and threads.parallel_map(lambda n: n + 1, parts, cpu) == before
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_threads_of_its_own():
    """As in a data loader's worker: the parent's threads are not there, and work given to them would wait for ever."""
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# The bits ------------------------------------------------------------------------------------------------------------


def digits(count=40):
    """Three classes of 28×28, which GroupNorm divides among threads."""
    pixels = torch.rand(3 * count, 28, 28, generator=seeded(5))
    labels = torch.arange(3 * count) % 3
    return from_arrays(pixels * (0.4 + 0.3 * labels.view(-1, 1, 1)), labels)


REAL = digits()
SMALL = {"width": 8, "iterations": 2, "augment": "color_crop_cutout_flip_scale_rotate"}
RUNS = {
    "dm": lambda ipc: dm_steps(REAL, config=DMConfig(ipc=ipc, batch_real=13, **SMALL), generator=seeded()),
    "dm, group norm": lambda ipc: dm_steps(
        REAL, config=DMConfig(ipc=ipc, batch_real=13, norm="group", **SMALL), generator=seeded()),
    "dm, all classes at once": lambda ipc: dm_steps(
        REAL, config=DMConfig(ipc=ipc, block="all", norm="batch", **SMALL), generator=seeded()),
    "dm, in 16 bits": lambda ipc: dm_steps(REAL, config=DMConfig(ipc=ipc, amp=True, **SMALL), generator=seeded()),
    "idm": lambda ipc: idm_steps(
        REAL, config=IDMConfig(ipc=ipc, batch_real=13, pool=3, pool_steps=3, **SMALL), generator=seeded()),
    "dc": lambda ipc: dc_steps(
        REAL, config=DCConfig(ipc=ipc, batch_real=13, steps_per_network=2, **SMALL), generator=seeded()),
    "dsa": lambda ipc: dc_steps(REAL, config=DSAConfig(ipc=ipc, batch_real=7, **SMALL), generator=seeded()),
    "dd": lambda ipc: dd_steps(
        REAL, config=DDConfig(ipc=ipc, batch_real=5, **SMALL), generator=seeded()),
}


def with_threads(number, function):
    torch.set_num_threads(number)
    return function()


@pytest.mark.slow
@pytest.mark.parametrize("ipc", [1, 3, 10])
@pytest.mark.parametrize("method", RUNS)
def test_a_run_is_the_same_to_the_bit(method, ipc):
    def run():
        steps = RUNS[method](ipc)
        losses = [step.loss for step in steps]
        return torch.stack(losses), steps.synthetic.images

    losses, images = with_threads(1, run)
    for number in (2, 3, 4):
        again = with_threads(number, run)
        assert torch.equal(again[0], losses) and torch.equal(again[1], images)


def test_this_would_be_seen_without_the_pool(monkeypatch):
    """The images are large enough that torch's own threads change the bits."""
    monkeypatch.setattr(threads, "parallel_map", lambda function, parts, device, done=None: list(map(function, parts)))
    def run():
        steps = RUNS["dm, group norm"](1)
        list(steps)
        return steps.synthetic.images

    runs = [with_threads(n, run) for n in (1, 2, 3, 4)]
    assert not all(torch.equal(run, runs[0]) for run in runs)


def test_training_and_evaluation_are_the_same_to_the_bit():
    recipe = Recipe(steps=3, width=8)
    sets = [RUNS["dm"](ipc).synthetic for ipc in (1, 3)]

    def weights():
        return torch.cat([p.flatten() for p in train_network(sets[1], recipe=recipe, generator=seeded()).parameters()])

    first = with_threads(1, weights)
    assert all(torch.equal(with_threads(n, weights), first) for n in (2, 3, 4))
    marks = [with_threads(n, lambda: evaluate(sets, REAL, networks=2, recipe=recipe, generator=seeded()).correct)
             for n in (1, 2, 3)]
    assert all(torch.equal(m, marks[0]) for m in marks)
