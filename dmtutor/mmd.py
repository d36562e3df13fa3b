"""Maximum mean discrepancy: how far apart two distributions are, seen through a kernel.

Sets of points are tensors (…, n, d): n points in d dimensions, with any leading dimensions, which broadcast.
A kernel is any symmetric function of two such sets that returns the matrix of its values, (…, n, m):
`Linear`, `Gaussian`, or your own, say ``lambda x, y: embed(x) @ embed(y).mT``.

The statistics, the test and the median heuristic are those of Gretton et al., *A Kernel Two-Sample Test*, JMLR 2012.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from .checks import check_positive_number

BLOCK = 512  # a tile of BLOCK² kernel values stays in a processor's cache


@dataclass(frozen=True)
class Linear:
    """The kernel k(x, y) = ⟨x, y⟩, which sees nothing but means: MMD² = ‖E x − E y‖².

    Examples
    --------
    >>> Linear()(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor([[11.,  2.]])
    """

    def __call__(self, x, y):
        """Kernel values, (…, n, m), of x (…, n, d) and y (…, m, d)."""
        check_shapes(x=x, y=y)
        return x @ y.mT


@dataclass(frozen=True)
class Gaussian:
    """The kernel k(x, y) = exp(−‖x − y‖² / 2h²), or the mean of several with different bandwidths h.

    It is characteristic: the MMD of two distributions is zero only if they are equal. scikit-learn's ``gamma`` is
    1 / 2h². Squared distances come from a matrix product, about the mean of ``x``. Rounding makes an error of about
    ε ‖x − x̄‖² / h² in k, with ε the dtype's precision: take float64 where h is a tiny part of the points' spread.

    Parameters
    ----------
    bandwidth : float, or tuple of float
        h > 0 and finite, else a ValueError, in the units of the points. The median heuristic, a scale at which near is
        told from far, is ``torch.pdist(torch.cat([x, y])).median()``.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> Gaussian(1.0)(x, x)
    tensor([[1.0000, 0.6065],
            [0.6065, 1.0000]])
    >>> Gaussian((0.5, 1.0, 2.0))(x, x).shape
    torch.Size([2, 2])
    """

    bandwidth: float | tuple[float, ...]

    def __post_init__(self):
        if not self.bandwidths:
            raise ValueError("bandwidth must be at least one number; got none")
        for h in self.bandwidths:
            check_positive_number("bandwidth", h)

    @property
    def bandwidths(self):
        """The bandwidths as a tuple, also where there is but one."""
        return self.bandwidth if isinstance(self.bandwidth, tuple) else (self.bandwidth,)

    def __call__(self, x, y):
        """Kernel values in (0, 1], (…, n, m), of x (…, n, d) and y (…, m, d)."""
        distances = squared_distances(x, y)
        return sum(torch.exp(distances / (-2 * h**2)) for h in self.bandwidths) / len(self.bandwidths)


def squared_distances(x, y):
    """All ‖x_i − y_j‖², (…, n, m), of x (…, n, d) and y (…, m, d), without a tensor (…, n, m, d).

    Examples
    --------
    >>> squared_distances(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0]]))
    tensor([[9.],
            [4.]])
    """
    check_shapes(x=x, y=y)
    center = x.detach().mean(-2, keepdim=True)  # far from the origin, ‖x‖² + ‖y‖² − 2⟨x, y⟩ would lose all digits
    x, y = x - center, y - center
    squares = x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :]
    return (squares - 2 * x @ y.mT).clamp(min=0)


def mmd2(x, y, *, kernel, unbiased=False):
    """Squared maximum mean discrepancy of two sets of points, (…), in x's dtype; sums are held in float64.

    ``MMD²(P, Q) = E k(x, x′) − 2 E k(x, y) + E k(y, y′)``, the squared distance of the mean embeddings of P and
    Q. The *V-statistic* (the default) takes each mean over all pairs, points with themselves included: it is
    the exact MMD² of the two sets as they are, and never negative. The *U-statistic* (``unbiased=True``; lemma 6 of
    Gretton et al.) leaves out the pairs i = i: it is right on average for the distributions that the sets were drawn
    from, and may be negative. Either is differentiable in x, in y and in the kernel's parameters, and computed in
    tiles, forwards and backwards, so that memory does not grow with n · m.

    Parameters
    ----------
    x, y : Tensor (…, n, d) and (…, m, d)
        Floating point, of one dtype and device, finite, and at least one point each, two where ``unbiased``: else a
        ValueError, and a TypeError for what is no tensor. Leading dimensions broadcast.
    kernel : callable
        A symmetric kernel, (…, n, d), (…, m, d) → (…, n, m).
    unbiased : bool
        The U-statistic in place of the V-statistic.

    Examples
    --------
    >>> x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]])
    >>> mmd2(x, y, kernel=Linear())                      # (1 − 3)²
    tensor(4.)
    >>> mmd2(x, y, kernel=Linear(), unbiased=True)       # 0·2 − 2·1·3 + 1·5
    tensor(-1.)
    """
    check_points(x=x, y=y)
    for name, points in (("x", x), ("y", y)):
        if unbiased and points.shape[-2] < 2:
            raise ValueError(f"{name} must hold at least two points for an unbiased estimate; got {points.shape[-2]}")
    xx = _mean_embedding(x, x, kernel, skip_self=unbiased).mean(-1)
    xy = _mean_embedding(x, y, kernel).mean(-1)
    yy = _mean_embedding(y, y, kernel, skip_self=unbiased).mean(-1)
    return (xx - 2 * xy + yy).to(x.dtype)


def witness(points, x, y, *, kernel):
    """The function that shows the difference of two sets, (…, p): of x and y smoothed by the kernel, x less y.

    ``f(z) = mean_i k(z, x_i) − mean_j k(z, y_j)``. Divided by MMD it has norm 1, and no function of norm 1 has a
    larger difference of means. ``f(x).mean() − f(y).mean() = MMD²`` (the V-statistic).

    Parameters
    ----------
    points : Tensor (…, p, d)
        Where f is evaluated.
    x, y, kernel
        As of `mmd2`, whose errors are raised, too.

    Examples
    --------
    >>> x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]])
    >>> witness(torch.tensor([[0.0], [1.0], [5.0]]), x, y, kernel=Gaussian(0.5)).sign()
    tensor([ 1., -1., -1.])
    """
    check_points(points=points, x=x, y=y)
    return (_mean_embedding(points, x, kernel) - _mean_embedding(points, y, kernel)).to(points.dtype)


def check_shapes(**points):
    """Raise an error if these are not sets of points, (…, n, d), of one dimension, dtype and device."""
    (first, reference), *_ = points.items()
    for name, x in points.items():
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{name} must be a tensor; got {type(x).__name__}")
        if x.ndim < 2 or 0 in x.shape or not x.is_floating_point():
            got = f"{tuple(x.shape)} of {x.dtype}"
            raise ValueError(f"{name} must be points (…, n, d) with n, d ≥ 1, of floating point; got {got}")
        if x.shape[-1] != reference.shape[-1]:
            raise ValueError(f"{name} must have {first}'s {reference.shape[-1]} dimensions; got {x.shape[-1]}")
        if (x.dtype, x.device) != (reference.dtype, reference.device):
            want, got = f"{reference.dtype} on {reference.device}", f"{x.dtype} on {x.device}"
            raise ValueError(f"{name} must be {want} like {first}; got {got}")


def check_points(**points):
    """As `check_shapes`; besides, all coordinates must be finite."""
    check_shapes(**points)
    for name, x in points.items():
        if not x.isfinite().all():
            raise ValueError(f"{name} must be finite; got {int((~x.isfinite()).sum())} coordinates NaN or infinite")


def _mean_embedding(points, x, kernel, skip_self=False):
    """The mean embedding of x at each point z, mean_i k(z, x_i), (…, p), in float64.

    With ``skip_self`` the points are those of x, and each is left out of its own mean.
    """

    def tile(a, b, same):
        k = kernel(a, b)
        total = k.sum(-1, dtype=torch.float64)
        return total - k.diagonal(dim1=-2, dim2=-1) if same else total

    rows, columns = points.split(BLOCK, dim=-2), x.split(BLOCK, dim=-2)
    if len(rows) * len(columns) > 1 and torch.is_grad_enabled():
        tile = partial(checkpoint, tile, use_reentrant=False, preserve_rng_state=False)  # keep no tile for backward
    sums = [sum(tile(a, b, skip_self and i == j) for j, b in enumerate(columns)) for i, a in enumerate(rows)]
    return torch.cat(sums, -1) / (x.shape[-2] - skip_self)
