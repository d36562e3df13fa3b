"""Real images chosen as a small training set: what learned images are measured against."""

import torch

from .checks import check_generator, check_positive


def random_subset(real, ipc, *, generator):
    """Draw ``ipc`` images of every class, uniformly and without replacement.

    The baseline of every comparison, and where distribution matching starts.

    Parameters
    ----------
    real : LabeledImages
    ipc : int
        Images per class.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    LabeledImages
        Sorted by class, K · ipc images.

    Raises
    ------
    ValueError
        If ``ipc`` is not a positive integer, or exceeds what a class has.

    Examples
    --------
    >>> from dmtutor import load
    >>> train, _ = load("mnist5k")
    >>> subset = random_subset(train, 2, generator=torch.Generator().manual_seed(0))
    >>> subset.labels[:6].tolist()
    [0, 0, 1, 1, 2, 2]
    """
    check_ipc(real, ipc)
    check_generator(generator)
    chosen = []
    for c, count in enumerate(real.counts.tolist()):
        order = torch.randperm(count, generator=generator)[:ipc]
        chosen.append((real.labels == c).nonzero()[:, 0][order.to(real.labels.device)])
    return real.select(torch.cat(chosen))


def check_ipc(real, ipc):
    """Raise a ValueError if ``ipc`` images can't be had of every class."""
    check_positive("ipc", ipc)
    fewest, c = real.counts.min(0)
    if ipc > fewest:
        raise ValueError(f"ipc must be at most {fewest}, the images of class {real.classes[c]!r}; got {ipc}")
