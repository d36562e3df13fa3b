"""The classes of one run, divided among the processes that ``torchrun`` starts.

No class's gradient depends on another class, so the processes have nothing to tell each other while they work. They
talk to show a loss, to save, and to put the result together.
"""

import os
import signal
import threading
from contextlib import contextmanager

import torch
from torch import distributed


def join():
    """Join the processes that ``torchrun`` started, if it did."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if torch.cuda.is_available():  # "cuda" is another device in each process of a machine
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        distributed.init_process_group("gloo")


def leave():
    """Part from them: what follows is the first process's work alone."""
    global parted
    if processes() > 1:
        distributed.barrier()
        parted = True  # the group ends with its processes: to destroy it, torch 2.6 and 2.7 may wait for ever


parted = False


def processes():
    """How many processes share the work: 1 outside ``torchrun``, and after :func:`leave`."""
    together = distributed.is_available() and distributed.is_initialized() and not parted
    return distributed.get_world_size() if together else 1


def rank():
    """Which of them this one is, from 0."""
    return distributed.get_rank() if processes() > 1 else 0


def share(n):
    """The part of 0 … n − 1 that is this process's: numbers in a row, as many as another's or one more.

    Raises
    ------
    ValueError
        If there are more processes than numbers.

    Examples
    --------
    >>> share(10)
    range(0, 10)
    """
    if processes() > n:
        raise ValueError(f"the number of processes must be at most {n}, the number of classes; got {processes()}")
    return range(n * rank() // processes(), n * (rank() + 1) // processes())


def gather(part):
    """The parts (n_p, …) of all processes one after the other, on the CPU: in every process the same (Σ n_p, …)."""
    if processes() == 1:
        return part.cpu()
    parts = [None] * processes()
    distributed.all_gather_object(parts, part.cpu())
    return torch.cat(parts)


def agree(value):
    """What the first process says, in every process."""
    values = [value]
    if processes() > 1:
        distributed.broadcast_object_list(values)
    return values[0]


def any_of(*flags):
    """Of each of these flags, whether any process has set it: the same list in every process."""
    flags = torch.tensor(flags, dtype=torch.uint8)
    if processes() > 1:
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
    return flags.bool().tolist()


ALL = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def answered(answer, signals=ALL):
    """Call ``answer(number, frame)`` on these signals inside: in the main thread, where Python hears them.

    SIGHUP stays ignored where it is, as after ``nohup``.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in signals}
        before = {number: handler for number, handler in before.items()
                  if number in (signal.SIGINT, signal.SIGTERM) or handler is not signal.SIG_IGN}  # fmt: skip
    for number in before:
        signal.signal(number, answer)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextmanager
def interrupts_deferred(wanted=True):
    """Where processes share the work, note SIGINT, SIGTERM and SIGHUP in a list instead of ending at once.

    A step is done when all processes have done it, so they must stop after the same one to leave a state behind. A
    process alone is interrupted at once, by all three as by Ctrl-C.
    """
    seen = []
    if not wanted:
        yield seen
    elif processes() == 1:
        with answered(interrupt, [number for number in ALL if number != signal.SIGINT]):
            yield seen
    else:
        with answered(lambda number, frame: seen.append(number)):
            yield seen


def interrupt(number, frame):
    """What Ctrl-C does."""
    raise KeyboardInterrupt


@contextmanager
def undisturbed():
    """Hear signals only afterwards: for what must not be left half done."""
    seen = []
    with answered(lambda number, frame: seen.append(number)):
        yield
    if seen:
        raise KeyboardInterrupt
