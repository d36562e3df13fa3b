"""Several images in the place of one: a set stores few pixels and is seen as more images."""

import functools
from dataclasses import replace

import torch
import torch.nn.functional as F

from .checks import check_positive
from .coresets import random_subset
from .data import check_set


def enlarge(images, factor):
    r"""Cut each image into ``factor`` × ``factor`` tiles and enlarge every tile to the size of the image.

    .. math:: f(s)_{ij} = U s_{ij} U^\top, \qquad U \in \mathbb{R}^{H \times H/r}

    for the tile :math:`s_{ij}` in row i and column j. The rows of U hold the weights of bilinear interpolation and sum
    to 1. The map is linear, so the gradient by a tile is :math:`U^\top G U` for the gradient G by what is seen. It
    returns the tiles of an image in a row, from left to right and from top to bottom: (n r², C, H, W).

    Parameters
    ----------
    images : Tensor, (n, C, H, W)
    factor : int
        r, which divides H and W, else a ValueError.

    References
    ----------
    Kim et al., *Dataset Condensation via Efficient Synthetic-Data Parameterization*, ICML 2022, section 4.

    Examples
    --------
    >>> enlarge(torch.tensor([[[[0.0, 4.0], [8.0, 8.0]]]]), 2)[:, 0, 0]
    tensor([[0., 0.],
            [4., 4.],
            [8., 8.],
            [8., 8.]])
    """
    if images.ndim != 4:
        raise ValueError(f"images must be of shape (n, C, H, W); got {tuple(images.shape)}")
    check_factor(factor, images.shape[2:])
    up, across = (interpolation(side // factor, side, images.dtype, images.device) for side in images.shape[2:])
    return up @ tiles(images, factor) @ across.T


def tiles(images, factor):
    """The parts of each image: (n, C, H, W) → (n r², C, H/r, W/r)."""
    parts = images.unflatten(3, (factor, -1)).unflatten(2, (factor, -1))  # (n, C, r, H/r, r, W/r)
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def shrink(images, factor):
    """Put factor² images in the place of one, each pixel a mean of factor² pixels: (n r², C, H, W) → (n, C, H, W).

    Examples
    --------
    >>> shrink(torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 2, 2), 2)[0, 0]
    tensor([[0., 1.],
            [2., 3.]])
    """
    parts = F.avg_pool2d(images, factor).unflatten(0, (-1, factor, factor))  # (n, r, r, C, H/r, W/r)
    return parts.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def decode(data):
    """The set as a network sees it, `LabeledImages`: what ``meta["factor"]`` says is undone.

    `train_network`, `evaluate` and `export` do this themselves.

    Parameters
    ----------
    data : LabeledImages
        Whose images hold factor² tiles each, or ordinary ones, which are returned as they are.

    Examples
    --------
    >>> from dmtutor import load
    >>> train, _ = load("mnist5k")
    >>> stored = random_tiles(train, 1, generator=torch.Generator().manual_seed(0))
    >>> stored, decode(stored)
    (LabeledImages(10 images of 1×28×28, 10 classes), LabeledImages(40 images of 1×28×28, 10 classes))
    """
    check_set(data, "data")
    factor = data.meta.get("factor", 1)
    if factor == 1:
        return data
    meta = {name: value for name, value in data.meta.items() if name != "factor"}
    labels = data.labels.repeat_interleave(factor**2)
    return replace(data, images=enlarge(data.images[:], factor), labels=labels, meta=meta)


def random_tiles(real, ipc, *, factor=2, generator):
    """Draw factor² · ``ipc`` images of every class and store them in the pixels of ``ipc``: `LabeledImages`.

    They are sorted by class, and `decode` shows them. A ValueError if a class has fewer images.

    Parameters
    ----------
    real : LabeledImages
    ipc : int or tuple of int
        Stored images per class, or of each class.
    factor : int
        An image holds so many in a row and in a column. It divides the sides, else a ValueError.
    generator : torch.Generator, on the CPU

    Examples
    --------
    >>> from dmtutor import load
    >>> train, _ = load("mnist5k")
    >>> random_tiles(train, 2, generator=torch.Generator().manual_seed(0))
    LabeledImages(20 images of 1×28×28, 10 classes)
    """
    check_set(real, "real")
    check_factor(factor, real.images.shape[2:])
    many = tuple(n * factor**2 for n in ipc) if isinstance(ipc, tuple) else ipc * factor**2
    return as_tiles(random_subset(real, many, generator=generator), factor=factor)


def as_tiles(data, *, factor=2):
    """Store images that were chosen, each factor² of them in the pixels of one: `LabeledImages`; `decode` shows them.

    Parameters
    ----------
    data : LabeledImages
        Whose images are of one class in each factor² that follow one another, as those of `random_subset`, `herding`
        and `k_center` are for a multiple of factor² of each class. A ValueError if an image would hold two classes,
        or if these are tiles already.
    factor : int
        As of `random_tiles`.

    Examples
    --------
    >>> from dmtutor import herding, load
    >>> train, _ = load("mnist5k")
    >>> as_tiles(herding(train, 8))
    LabeledImages(20 images of 1×28×28, 10 classes)
    """
    check_set(data, "data", whole=True)
    check_factor(factor, data.images.shape[2:])
    if len(data) % factor**2 or data.labels.view(-1, factor**2).diff().any():
        raise ValueError(f"data must hold a multiple of factor² = {factor**2} images of each class, one class after "
                         f"the other; got {data.labels.bincount().tolist()}")
    meta = {**data.meta, **({"factor": factor} if factor > 1 else {})}
    return replace(data, images=shrink(data.images[:], factor), labels=data.labels[:: factor**2], meta=meta)


def pyramid(levels):
    r"""Images as a sum of fine and coarse ones, each enlarged to the size of the first: Tensor, (n, C, H, W).

    .. math:: x = \sum_k U_k \, \ell_k \, V_k^\top

    with the weights U, V of bilinear interpolation. A step on the levels moves whole regions of an image at once, where
    a step on its pixels moves each by itself.

    Parameters
    ----------
    levels : sequence of Tensor, (n, C, h, w)
        The finest first.

    References
    ----------
    Cazenavette, Torralba & Sitzmann, *Dataset Distillation for Pre-Trained Self-Supervised Vision Models*, NeurIPS
    2025.

    Examples
    --------
    >>> pyramid([torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 1, 1)])
    tensor([[[[1., 1.],
              [1., 1.]]]])
    """
    size = levels[0].shape[2:]

    def up(level, axis):
        return interpolation(level.shape[axis + 2], size[axis], level.dtype, level.device)

    return sum(up(level, 0) @ level @ up(level, 1).T for level in levels)


def check_factor(factor, sides):
    """Raise a ValueError if images with these sides cannot be cut into so many tiles."""
    check_positive("factor", factor)
    if any(side % factor for side in sides):
        raise ValueError(f"factor must divide the images' sides, {sides[0]} × {sides[1]}; got {factor}")


@functools.cache  # one copy to a device, not one in every step
def interpolation(small, large, dtype, device):
    """U: the weights of linear interpolation, (large, small)."""
    weights = F.interpolate(torch.eye(small, dtype=torch.float64)[None], size=large, mode="linear")[0].T
    return weights.to(device, dtype)
