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
    heard = signals if threading.current_thread() is threading.main_thread() else []
    always = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handler) for number in heard
              if number in always or signal.getsignal(number) is not signal.SIG_IGN}
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
    seen, alone = [], sharding.processes() == 1
    handler = signal.default_int_handler if alone else lambda number, frame: seen.append(number)
    with handled(handler, [number for number in ALL if not (alone and number == signal.SIGINT)]):
        yield seen


@contextmanager
def undisturbed():
    """Hear signals only afterwards: for what must not be left half done."""
    seen = []
    with handled(lambda number, frame: seen.append(number)):
        yield
    if seen:
        raise KeyboardInterrupt
