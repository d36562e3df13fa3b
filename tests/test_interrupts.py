"""Signals, sent to this process: heard at once, between two steps, or after what must not be left half done."""

import signal
import threading

import pytest

from dmtutor import interrupts, sharding


@pytest.fixture
def interruptible():
    """Ctrl-C as Python has it; a shell's background jobs inherit that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_alone_an_interrupt_is_not_deferred(interruptible):
    with pytest.raises(KeyboardInterrupt), interrupts.deferred() as seen:
        signal.raise_signal(signal.SIGINT)
    assert seen == []
    assert sharding.any_of(True, False) == [True, False]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_alone_what_a_cluster_sends_is_as_ctrl_c(number):
    before = signal.signal(number, signal.SIG_DFL)  # whoever runs the tests may ignore SIGHUP, as nohup does
    try:
        with pytest.raises(KeyboardInterrupt), interrupts.deferred():
            signal.raise_signal(number)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_after_nohup_a_closed_terminal_stays_unheard():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.deferred():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_must_not_be_left_half_done_is_done_first(interruptible):
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.undisturbed():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.raise_signal(number)
        done.append(1)
    assert done == [1]


def test_in_another_thread_signals_are_left_alone():
    seen = []

    def work():
        with interrupts.undisturbed(), interrupts.deferred():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_processes_that_share_note_interrupts_and_give_the_handlers_back(monkeypatch, interruptible):
    monkeypatch.setattr(sharding, "processes", lambda: 2)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interrupts.deferred() as seen:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert seen == [signal.SIGTERM, signal.SIGINT]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
