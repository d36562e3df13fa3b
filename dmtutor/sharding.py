"""The classes of one run, divided among the processes that ``torchrun`` starts.

No class's gradient depends on another class, so the processes tell each other no number that a step needs. They talk to
stop after the same step, to show a loss, to save, and to put the result together.
"""

import os

import torch
from torch import distributed


def join():
    """Join the processes that ``torchrun`` started, if it did."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if torch.cuda.is_available():  # "cuda" is another device in each process of a machine
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        distributed.init_process_group("gloo")


def wait():
    """Go on when all processes have come here."""
    if processes() > 1:
        distributed.barrier()


def finish():
    """Share no more work: what follows is the first process's alone."""
    global finished
    if processes() > 1:
        wait()
        finished = True
        if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 8):
            distributed.destroy_process_group()  # else its threads may end a process that is ending


finished = False


def processes():
    """How many processes share the work: 1 outside ``torchrun``, and after :func:`finish`."""
    together = distributed.is_available() and distributed.is_initialized() and not finished
    return distributed.get_world_size() if together else 1


def rank():
    """Which of them this one is, from 0."""
    return distributed.get_rank() if processes() > 1 else 0


def share(n):
    """The part of 0 … n − 1 that is this process's: numbers in a row, as many as another's or one more.

    A ValueError if there are more processes than numbers.

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


def any_of(*flags):
    """Of each of these flags, whether any process has set it: the same list in every process."""
    flags = torch.tensor(flags, dtype=torch.uint8)
    if processes() > 1:
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
    return flags.bool().tolist()
