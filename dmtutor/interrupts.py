"""Signals that end a run: heard between two steps, or after what must not be left half done."""

import signal
import threading
from contextlib import contextmanager

from . import sharding

ALL = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def handled(handler, signals=ALL):
    """Call ``handler(number, frame)`` on these signals inside: in the main thread, where Python hears them.

    SIGHUP stays ignored where it is, as after ``nohup``.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in signals}
        always = (signal.SIGINT, signal.SIGTERM)
        before = {number: old for number, old in before.items() if number in always or old is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old or signal.SIG_DFL)


@contextmanager
def deferred():
    """Where processes share the work, note SIGINT, SIGTERM and SIGHUP in a list instead of ending at once.

    A step is done when all processes have done it, so they must stop after the same one to leave a state behind. A
    process alone is interrupted at once, by all three as by Ctrl-C.
    """
    seen = []
    if sharding.processes() == 1:
        with handled(signal.default_int_handler, [number for number in ALL if number != signal.SIGINT]):
            yield seen
    else:
        with handled(lambda number, frame: seen.append(number)):
            yield seen


@contextmanager
def undisturbed():
    """Hear signals only afterwards: for what must not be left half done."""
    seen = []
    with handled(lambda number, frame: seen.append(number)):
        yield
    if seen:
        raise KeyboardInterrupt
