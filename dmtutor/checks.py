"""Checks of parameters that many functions share, made before any work starts."""

import torch


def check_positive(name, value):
    """Raise a ValueError if ``value`` is not an integer from 1 on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer; got {value!r}")


def check_number(name, value):
    """Raise a ValueError if ``value`` is not a real number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number; got {value!r}")


def check_step_size(name, value):
    """Raise a ValueError if ``value`` is not a positive, finite number."""
    check_number(name, value)
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive; got {value!r}")


def check_fraction(name, value):
    """Raise a ValueError if ``value`` is not a number in [0, 1)."""
    check_number(name, value)
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1); got {value!r}")


def fill(config, **defaults):
    """Give fields of a frozen dataclass that are None their defaults."""
    for name, default in defaults.items():
        if getattr(config, name) is None:
            object.__setattr__(config, name, default)


def check_one_of(name, value, known):
    """Raise a ValueError if ``value`` is not one of the names ``known``."""
    if value not in known:
        raise ValueError(f"{name} must be {' or '.join(map(repr, known))}; got {value!r}")


def check_seed(seed, name="seed"):
    """Raise a ValueError for a seed that a generator would cut off: on a CPU it uses 32 bits."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"{name} must be an integer in 0 … 2³² − 1; got {seed!r}")


def check_generator(generator):
    """Raise a TypeError for what is no generator: torch would use its global one instead of None."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator, e.g. torch.Generator().manual_seed(0); got {generator!r}"
        )
