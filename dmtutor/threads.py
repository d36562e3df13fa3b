"""Work in threads whose result does not depend on how many there are.

A layer that torch computes with several threads may add partial sums of each, so its last bits change with their
number. Here every part of the work, a class or a network, is computed by one thread alone, and several parts at once:
the result is that of one thread, to the bit, and two free cores are still twice as fast.
"""

import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager

import torch


@contextmanager
def single_threaded():
    """Compute with one of torch's threads inside, and as before afterwards."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def parallel_map(function, parts, device, *, done=None):
    """What ``function`` returns for each of the parts, a list in their order, computed by one thread each.

    As many parts are computed at once as torch may use threads (``OMP_NUM_THREADS``, ``torch.set_num_threads``). With
    one thread or one part, or not on a CPU, they are computed one by one where the caller is: torch's modes see them.

    Parameters
    ----------
    function : callable
        Is called with a part. It must not change what another call reads.
    parts : iterable
    device : torch.device
        Of the tensors.
    done : callable, optional
        Called without arguments after each part, in the caller's thread.

    Examples
    --------
    >>> parallel_map(lambda n: torch.ones(n).sum(), [1, 2, 3], torch.device("cpu"))
    [tensor(1.), tensor(2.), tensor(3.)]
    """
    parts, done = list(parts), done or (lambda: None)
    workers = min(torch.get_num_threads(), len(parts)) if device.type == "cpu" else 1
    results = []
    if workers < 2:
        with single_threaded():
            for part in parts:
                results.append(function(part))
                done()
        return results
    grad = torch.is_grad_enabled()  # a mode of the caller's thread

    def compute(part):
        with torch.set_grad_enabled(grad):
            return function(part)

    futures = [pool(workers).submit(compute, part) for part in parts]
    try:
        for future in futures:
            results.append(future.result())
            done()
        return results
    finally:  # after an error or Ctrl-C, too: nothing goes on working behind the caller's back
        for future in futures:
            future.cancel()
        wait(futures)


@functools.cache
def pool(workers):
    """So many threads that wait for work, with one of torch's threads each."""
    before, born = torch.get_num_threads(), threading.Barrier(workers + 1)

    def settle():
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread takes the number of that moment once, when it first asks

    executor = ThreadPoolExecutor(workers, "dmtutor", initializer=settle)
    for _ in range(workers):
        executor.submit(born.wait)
    born.wait()
    torch.set_num_threads(before)  # a thread's number is also that of all threads born later
    return executor


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pool.cache_clear)  # a forked process has none of its parent's threads
