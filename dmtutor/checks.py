"""Checks of parameters that many functions share, made before any work starts."""

from dataclasses import fields
from numbers import Integral, Real

import torch


def check_positive(name, value):
    """Raise a ValueError if ``value`` is not an integer from 1 on, below 2³¹."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be a positive integer; got {value!r}")
    if value >= 2**31:
        raise ValueError(f"{name} must be less than 2³¹; got {value!r}")


def check_ipc_field(ipc):
    """The least, the mean and the most of images per class, a positive integer or one for each class.

    Raises a ValueError for anything else.
    """
    each = ipc if isinstance(ipc, tuple) else (ipc,)
    if not each or any(isinstance(n, bool) or not isinstance(n, Integral) or n < 1 for n in each):
        many = ", or a tuple of them, one for each class" if isinstance(ipc, tuple | list | dict) else ""
        raise ValueError(f"ipc must be a positive integer{many}; got {ipc!r}")
    check_positive("ipc", max(each))
    return (min(each), sum(each) / len(each), max(each)) if isinstance(ipc, tuple) else (ipc, ipc, ipc)


def check_number(name, value):
    """Raise a ValueError if ``value`` is not a real number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name} must be a number; got {value!r}")


def check_not_negative(name, value):
    """Raise a ValueError if ``value`` is not a finite number from 0 on."""
    check_number(name, value)
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must not be negative; got {value!r}")


def check_flag(name, value):
    """Raise a ValueError if ``value`` is not a bool."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False; got {value!r}")


def check_positive_number(name, value):
    """Raise a ValueError if ``value`` is not a positive, finite number."""
    check_number(name, value)
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive and finite; got {value!r}")


def check_fraction(name, value, *, closed=False):
    """Raise a ValueError if ``value`` is not a number in [0, 1), or where it is ``closed`` in [0, 1]."""
    check_number(name, value)
    if not 0 <= value <= 1 or (value == 1 and not closed):
        raise ValueError(f"{name} must be in [0, 1{']' if closed else ')'}; got {value!r}")


def make_plain(config):
    """Turn the NumPy numbers among the fields of a frozen dataclass into Python's, which files can hold."""

    def plain(value):
        return tuple(map(plain, value)) if isinstance(value, tuple) else getattr(value, "item", lambda: value)()

    for f in fields(config):
        object.__setattr__(config, f.name, plain(getattr(config, f.name)))


def fill(config, **defaults):
    """Give fields of a frozen dataclass that are None their defaults."""
    for name, default in defaults.items():
        if getattr(config, name) is None:
            object.__setattr__(config, name, default)


def check_device(device, name="device"):
    """Raise a ValueError for a device that this machine does not have, with those that it has."""
    try:
        torch.empty(0, device=device)
        if torch.device(device).type == "meta":
            raise RuntimeError("a device without numbers")
    except (RuntimeError, AssertionError, TypeError) as error:
        known = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        known += ["mps"] if torch.backends.mps.is_available() else []
        raise ValueError(f"{name} must be one that this machine has, {', '.join(known)}; got {device!r}") from error


def check_one_of(name, value, known):
    """Raise a ValueError if ``value`` is not one of the names ``known``."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")


def check_seed(seed, name="seed"):
    """Raise a ValueError for a seed that a generator would cut off: on a CPU it uses 32 bits."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**32:
        raise ValueError(f"{name} must be an integer in 0 … 2³² − 1; got {seed!r}")


def check_generator(generator):
    """Raise a TypeError for what is no generator: torch would use its global one instead of None."""
    if not isinstance(generator, torch.Generator):
        raise TypeError("generator must be a torch.Generator, e.g. torch.Generator().manual_seed(0); got "
                        f"{generator!r}")
