"""Classes divided among processes: first their arithmetic in one process, then real processes of `torchrun`."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

import dmtutor.__main__ as shell
from dmtutor import DMConfig, LabeledImages, condense, dm_steps, files, from_arrays, load, sharding

pytestmark = pytest.mark.slow

TINY = {"ipc": 2, "iterations": 5, "batch_real": 5, "width": 4, "depth": 2, "block": 3}
FLAGS = [part for name, value in TINY.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def real_images(classes=5, seed=0):
    pixels = torch.rand(classes * 8, 8, 8, generator=torch.Generator().manual_seed(seed))
    return from_arrays(pixels, torch.arange(classes * 8) % classes)


def make(classes=None, real=None, **fields):
    config = DMConfig(**{**TINY, **fields})
    return dm_steps(real or real_images(), config=config, generator=torch.Generator().manual_seed(0), classes=classes)


def finish(steps):
    losses = [step.loss for step in steps]
    return steps.synthetic, torch.stack(losses)


# Some of the classes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"init": "noise"}, {"average": 0.8}, {"ipc": 1, "augment": "none"}])
@pytest.mark.parametrize("parts", [[[0, 1], [2, 3, 4]], [[0], [1], [2], [3], [4]], [[1, 4], [0, 2, 3]]])
def test_parts_put_together_are_the_whole_run_to_the_bit(parts, fields):
    whole, losses = finish(make(**fields))
    runs = [finish(make(classes, **fields)) for classes in parts]
    for classes, (part, _) in zip(parts, runs, strict=True):
        assert part.labels.unique().tolist() == classes
        for c in classes:
            assert torch.equal(part.of_class(c), whole.of_class(c))
    torch.testing.assert_close(sum(part_losses for _, part_losses in runs), losses)


@pytest.mark.parametrize("classes", [[], [5], [-1], [1, 1], [2, 1], [0.5], ["a"]])
def test_classes_that_are_no_part_are_refused(classes):
    with pytest.raises(ValueError, match=r"classes must be ascending numbers of classes in 0 … 4; got \["):
        make(classes)


def test_classes_that_share_a_forward_pass_cannot_be_divided():
    for fields in ({"block": "all"}, {"block": "all", "norm": "batch"}):
        with pytest.raises(ValueError, match="block must not be 'all' where classes, or processes, share the work"):
            make([0, 1], **fields)
        assert len(make([0, 1, 2, 3, 4], **fields).synthetic) == 10


# Who has which -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10])
@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_every_class_has_one_process(monkeypatch, n, processes):
    monkeypatch.setattr(sharding, "processes", lambda: processes)
    if processes > n:
        with pytest.raises(ValueError, match=f"number of processes must be at most {n}, .*; got {processes}"):
            sharding.share(n)
        return
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(sharding, "rank", lambda rank=rank: rank)
        shares.append(sharding.share(n))
    assert [c for share in shares for c in share] == list(range(n))
    sizes = {len(share) for share in shares}
    assert max(sizes) - min(sizes) <= 1


def test_alone_it_needs_no_group():
    assert (sharding.processes(), sharding.rank()) == (1, 0)
    part = torch.arange(3)
    assert torch.equal(sharding.gather(part), part)


def test_every_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch):
    used = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    monkeypatch.setattr(sharding.distributed, "init_process_group", lambda backend: None)
    monkeypatch.setenv("WORLD_SIZE", "6")
    for local in ("0", "1", "2"):
        monkeypatch.setenv("LOCAL_RANK", local)
        sharding.join()
    assert used == [0, 1, 0]


def pretend(monkeypatch, processes, rank=0):
    monkeypatch.setattr(sharding, "processes", lambda: processes)
    monkeypatch.setattr(sharding, "rank", lambda: rank)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "number of processes must be at most 5, the number of classes; got 6"),
        ({"block": "all", "norm": "batch"}, "block must not be 'all' where classes, or processes, share the work"),
        ({"method": "dd"}, "method must be idm or dm, or a class derived from DMSteps, where .*; got 'dd'"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_any_step(monkeypatch, arguments, message):
    monkeypatch.setattr("dmtutor.steps.Steps.__next__", lambda _: pytest.fail("work has started"))
    pretend(monkeypatch, 2 if arguments else 6)
    with pytest.raises(ValueError, match=message):
        condense(real_images(), progress=False, **(arguments if "method" in arguments else {**TINY, **arguments}))


def test_of_many_processes_one_complains(monkeypatch, capsys):
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
        for command in (["condense", "--output", "missing/S.pt"], ["condense"]):
            with pytest.raises(SystemExit):
                shell.main(command)
    assert len(capsys.readouterr().err.splitlines()) == 2


# Processes -----------------------------------------------------------------------------------------------------------


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def environment(threads=None):
    """Of a process with so many threads; torchrun gives each of its own one thread, a plain run has all cores."""
    own = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    own |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
    return {**own, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}


def write_digits(path, per_class):
    """Noise of the size of digits, in five classes."""
    pixels = torch.randint(256, (5 * per_class, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(len(pixels)) % 5
    np.savez(path, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder in which one, two and three processes have made a set; three went on from what one had begun.

    As a user would start them, and one with two threads, on images that torch divides among threads.
    """
    folder = tmp_path_factory.mktemp("made")
    write_digits(folder / "data.npz", 8)
    train, _ = load(str(folder / "data.npz"))
    begun = make(real=train)
    next(begun), next(begun)
    files.write(begun.state_dict(), folder / "run.pt")

    running = []
    for n, start, threads, extra in (
        (1, [], None, []),
        (2, [*TORCHRUN, "2"], None, []),
        (3, [*TORCHRUN, "3"], 2, ["--checkpoint", "run.pt"]),
    ):
        command = [sys.executable, *start, "-m", "dmtutor", "condense", "--dataset", "data.npz", "--no-evaluate",
                   "--output", f"{n}.pt", *FLAGS, *extra]
        running.append(subprocess.Popen(command, cwd=folder, env=environment(threads), text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    try:
        said = {n: (*process.communicate(timeout=300), process.returncode) for n, process in enumerate(running, 1)}
    finally:
        for process in running:
            process.kill()
            process.communicate()
    assert [code for _, _, code in said.values()] == [0, 0, 0], said
    return folder, said, train


def test_any_number_of_processes_writes_the_same_file(made):
    folder, _, _ = made
    one, two, three = ((folder / f"{n}.pt").read_bytes() for n in (1, 2, 3))
    assert one == two
    assert one == three  # also from where another number of processes had stopped
    assert sorted(os.listdir(folder)) == ["1.pt", "2.pt", "3.pt", "data.npz", "run.pt"]


def test_it_is_the_run_of_this_process(made):
    folder, _, train = made
    assert torch.equal(LabeledImages.load(folder / "2.pt").images, finish(make(real=train))[0].images)


def test_a_shared_checkpoint_is_that_of_one_process(made):
    folder, _, train = made
    steps = make(real=train)
    finish(steps)
    state, shared = steps.state_dict(), files.read(folder / "run.pt", keys=steps.state_dict())
    for name in steps.variables:
        assert torch.equal(shared.pop(name), state.pop(name))
    assert shared == state


def test_the_first_process_alone_speaks(made):
    _, said, _ = made
    for n, (out, err, _) in said.items():
        assert out == f"{n}.pt: 10 images, 2 per class of data.npz\n"
        assert err.count("?step/s") == 1, err  # one bar begins


def test_ctrl_c_leaves_the_state_of_one_step_behind(made, tmp_path):
    """The terminal interrupts torchrun and both processes at some moment; the file is that of one process then."""
    folder, _, train = made
    command = [sys.executable, *TORCHRUN, "2", "-m", "dmtutor", "condense", "--dataset", str(folder / "data.npz"),
               "--output", "S.pt", "--checkpoint", "run.pt", "--history", "run.csv",
               *FLAGS, "--iterations", "1000000"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, start_new_session=True)
    said = b""
    try:
        while b"loss" not in said and process.poll() is None:
            said += process.stderr.read1()
        os.killpg(process.pid, signal.SIGINT)
        said += process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert b"the same command goes on from run.pt" in said, said
    steps = make(real=train, iterations=1_000_000)
    state = files.read(tmp_path / "run.pt", keys=steps.state_dict())
    assert state["iteration"] > 0
    while steps.iteration < state["iteration"]:
        loss = next(steps).loss
        if steps.iteration == 10:
            tenth = float(loss)
    assert torch.equal(state["images"], steps.images)
    assert torch.equal(state["momentum"], steps.momentum)
    head, first, *_ = (tmp_path / "run.csv").read_text().splitlines()
    assert head == "iteration,loss,seconds"
    assert float(first.split(",")[1]) == pytest.approx(tenth, rel=1e-4)
    assert not (tmp_path / "S.pt").exists()


EVERY_IPC = """
import sys
import torch
from dmtutor import condense, load, sharding
sharding.join()
train, _ = load("data.npz")
few = {"iterations": 2, "width": 8, "progress": False}
for threads in (1, 2, 4):
    torch.set_num_threads(threads)
    sets = [condense(train, ipc=ipc, **few) for ipc in (1, 3, 10)]
    sets.append(condense(train, "idm", ipc=2, pool=3, pool_steps=3, **few))
    if sharding.rank() == 0:
        for s in sets:
            s.save(f"{sys.argv[1]}x{threads}-{len(s)}.pt")
sharding.finish()
"""


@pytest.mark.skipif(not os.environ.get("CI"), reason="takes half a minute; .ci/run has it")
def test_processes_and_threads_change_no_bit(tmp_path):
    """1, 2 and 3 processes of 1, 2 and 4 threads, at 1, 3 and 10 images per class, and the improved form at 2."""
    write_digits(tmp_path / "data.npz", 12)
    (tmp_path / "every_ipc.py").write_text(EVERY_IPC)
    for n in (1, 2, 3):
        start = [] if n == 1 else [*TORCHRUN, str(n)]
        done = subprocess.run([sys.executable, *start, "every_ipc.py", str(n)], cwd=tmp_path, text=True,
                              env=environment(), capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr
    for images in (5, 10, 15, 50):
        files = [path.read_bytes() for path in tmp_path.glob(f"?x?-{images}.pt")]
        assert len(files) == 9 and len(set(files)) == 1
