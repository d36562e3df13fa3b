"""Keyed randomness: every draw of a run has its own generator, found by name instead of by turn.

A run keeps one integer, its *root*. ``keyed_generator(root, "batch", 7, 3)`` draws the batch of class 3 at iteration 7,
whatever was drawn before it. So a resumed run needs no generator state, a process that owns some of the classes draws
just theirs, and switching augmentation off leaves networks and batches as they were.
"""

import numpy as np
import torch

from .checks import check_generator, check_one_of

STREAMS = ("init", "network", "batch", "augment", "train", "method")  # a place in this row is for good


def root_seed(generator):
    """Draw the root of a run from the caller's generator, once: an integer in ``[0, 2**63 - 1)``.

    Parameters
    ----------
    generator : torch.Generator
        On any device; it advances by one draw. A TypeError for anything else: the global generator is never used.

    Examples
    --------
    >>> a, b = (torch.Generator().manual_seed(0) for _ in range(2))
    >>> root_seed(a) == root_seed(b)
    True
    """
    check_generator(generator)
    return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))


def keyed_generator(root, stream, *key):
    """The CPU generator of one draw: ``SeedSequence(root, spawn_key=(stream, *key))``, a `torch.Generator`.

    Draws are made on the CPU for every device, so a run draws the same numbers everywhere. A CPU generator
    uses the low 32 bits of its seed, hence one 32-bit word of the sequence.

    Parameters
    ----------
    root : int
        The root of the run, see :func:`root_seed`.
    stream : {"init", "network", "batch", "augment", "train", "method"}
        What is drawn, else a ValueError; ``"method"`` is for what a method draws besides.
    *key : int
        Which of them: usually the iteration, then the class.

    Examples
    --------
    >>> one, two, other = (torch.rand(2, generator=keyed_generator(0, "batch", 7, c)) for c in (3, 3, 4))
    >>> torch.equal(one, two), torch.equal(one, other)
    (True, False)
    """
    check_one_of("stream", stream, STREAMS)
    sequence = np.random.SeedSequence(root, spawn_key=(STREAMS.index(stream), *key))
    return torch.Generator().manual_seed(int(sequence.generate_state(1)[0]))
