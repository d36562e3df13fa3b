"""Real images chosen as a small training set: what learned images are measured against.

`random_subset`, `herding` and `k_center` choose images of a labelled set, class by class. The last two are rules
for points, `herding_order` and `k_center_order`, applied to the pixels or to an embedding of them.
"""

import torch

from .checks import check_generator, check_positive
from .data import check_ipc, check_set
from .mmd import check_points

BLOCK = 100  # images that are embedded at once


def random_subset(real, ipc, *, generator):
    """Draw ``ipc`` images of every class, uniformly and without replacement: `LabeledImages`, sorted by class.

    The usual baseline, and where DM starts. A ValueError if ``ipc`` is no positive integer, or more than a class has.

    Parameters
    ----------
    real : LabeledImages
    ipc : int or tuple of int
        Images per class, K · ipc in all, or of each class, Σ ipc.
    generator : torch.Generator, on the CPU

    Examples
    --------
    >>> from dmtutor import load
    >>> train, _ = load("mnist5k")
    >>> subset = random_subset(train, 2, generator=torch.Generator().manual_seed(0))
    >>> subset.labels[:6].tolist()
    [0, 0, 1, 1, 2, 2]
    """
    wanted = check_ipc(real, ipc)
    check_generator(generator)
    parts = zip(real.rows_of_class, wanted, strict=True)
    chosen = [rows[torch.randperm(len(rows), generator=generator)[:n].to(rows.device)] for rows, n in parts]
    return real.select(torch.cat(chosen))


def herding(real, ipc, *, embed=None):
    """Choose ``ipc`` images of every class whose mean stays near the mean of the class: see `herding_order`.

    `LabeledImages`, sorted by class, those of a class in the order of choice: the first ones of each class are what a
    smaller ``ipc`` would choose. Memory holds one class's embeddings, (n_c, d'), in float64; time is n_c · d' for each
    chosen image. A ValueError if ``ipc`` is not positive integers or exceeds what a class has, ``real`` is stored as
    tiles, pixels or embeddings are NaN or infinite, or ``embed`` does not return (n, d'); a TypeError if it is not
    callable.

    Parameters
    ----------
    real : LabeledImages
    ipc : int or tuple of int
        Images per class, or of each class.
    embed : callable, optional
        (n, C, H, W) → (n, d'), the space in which means are compared, say ``network.embed`` of a network in evaluation
        mode, called on blocks of images of one class, without gradients. The normalised pixels if left out.

    Examples
    --------
    >>> from dmtutor import load
    >>> train, _ = load("mnist5k")
    >>> herding(train, 2).labels[:6].tolist()
    [0, 0, 1, 1, 2, 2]
    """
    return choose(real, ipc, herding_order, embed)


def k_center(real, ipc, *, embed=None):
    """Choose ``ipc`` images of every class, each the one farthest from those chosen before: see `k_center_order`.

    Parameters
    ----------
    real, ipc, embed
        As of `herding`, and so are what is returned and the errors.

    Examples
    --------
    >>> from dmtutor import load
    >>> train, _ = load("mnist5k")
    >>> k_center(train, 2).labels[:6].tolist()
    [0, 0, 1, 1, 2, 2]
    """
    return choose(real, ipc, k_center_order, embed)


def herding_order(points, m):
    r"""The first m points that herding chooses: their rows in the order of choice, (m,), int64, on their device.

    One by one, without replacement, each time the point that brings the mean of those chosen nearest to that of all:

    .. math:: i_{k+1} = \operatorname*{arg\,min}_i \Bigl\| \bar x - \frac{1}{k+1}
        \Bigl( x_i + \sum_{j=1}^{k} x_{i_j} \Bigr) \Bigr\|

    Each choice is the greedy one for MMD² under the linear kernel, which may rise all the same. Of equal points the
    first is taken. With points about their mean and s the sum of those chosen, the next one has the least
    ‖x‖² + 2⟨s, x⟩: one product of a matrix with a vector. All of it is in float64, so the choice does not hang on
    float32's rounding; values that differ by less than 1e-12 of the largest ‖x‖² are equal.

    Parameters
    ----------
    points : Tensor (n, d)
        Floating point and finite, else a ValueError; a TypeError for what is no tensor.
    m : int
        1 … n, else a ValueError.

    References
    ----------
    Welling, *Herding Dynamical Weights to Learn*, ICML 2009. Rebuffi et al., *iCaRL: Incremental Classifier and
    Representation Learning*, CVPR 2017, algorithm 4.

    Examples
    --------
    >>> herding_order(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), 3)      # the mean is 3
    tensor([2, 1, 3])
    """
    x = centered(points, m)
    squares = x.square().sum(1)  # (n,)
    total, left, chosen = torch.zeros_like(x[0]), torch.zeros_like(squares), []
    for _ in range(m):
        i = first_smallest(squares + x @ (2 * total) + left, squares)
        chosen.append(i)
        total = total + x[i]
        left[i] = torch.inf
    return torch.stack(chosen)


def k_center_order(points, m):
    r"""The first m points that farthest-first traversal chooses, the greedy solution of the k-center problem.

    It starts with the point nearest to the mean; then comes, each time, the point farthest from all chosen ones:

    .. math:: i_{k+1} = \operatorname*{arg\,max}_i \min_{j \le k} \| x_i - x_{i_j} \|

    The largest distance of a point to its nearest chosen one is then at most twice the smallest possible with m of the
    points. Of equal distances the first is taken. Each choice computes the distances to the newest center alone, by one
    product of a matrix with a vector, in float64; squares that differ by < 1e-12 of the largest ‖x − x̄‖² are equal.

    Parameters
    ----------
    points, m
        As of `herding_order`, and so are what is returned and the errors.

    References
    ----------
    Gonzalez, *Clustering to Minimize the Maximum Intercluster Distance*, Theoretical Computer Science 1985. Sener &
    Savarese, *Active Learning for Convolutional Neural Networks: A Core-Set Approach*, ICLR 2018, algorithm 1.

    Examples
    --------
    >>> k_center_order(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), 3)
    tensor([2, 3, 0])
    """
    x = centered(points, m)
    squares = x.square().sum(1)
    chosen = [first_smallest(squares, squares)]
    nearest = torch.full_like(squares, torch.inf)  # squared distance to the nearest chosen point
    for _ in range(m - 1):
        i = chosen[-1]
        nearest = torch.minimum(nearest, squares + squares[i] - x @ (2 * x[i]))
        nearest[i] = -torch.inf  # never again, though others may be as near as 0
        chosen.append(first_smallest(-nearest, squares))
    return torch.stack(chosen)


def first_smallest(values, squares):
    """Index of the first value that is the smallest up to rounding: a tie that rounding broke is a tie."""
    return (values <= values.min() + 1e-12 * squares.max()).int().argmax()


def centered(points, m):
    """Checked points about their mean, (n, d), in float64."""
    check_points(points=points)
    check_positive("m", m)
    if points.ndim != 2:
        raise ValueError(f"points must be (n, d); got {tuple(points.shape)}")
    if m > len(points):
        raise ValueError(f"m must be at most {len(points)}, the number of points; got {m}")
    x = points.detach().double()
    return x - x.mean(0)


def choose(real, ipc, order, embed):
    """The images that a rule for points, (n, d), m → (m,), chooses of every class."""
    check_set(real, "real", whole=True)
    wanted = check_ipc(real, ipc)
    if embed is not None and not callable(embed):
        raise TypeError(f"embed must be callable, (n, C, H, W) → (n, d'); got {embed!r}")
    parts = zip(real.rows_of_class, wanted, strict=True)
    chosen = [rows[order(embedded(real.images[rows], embed), n)] for rows, n in parts]
    return real.select(torch.cat(chosen))


@torch.no_grad()
def embedded(images, embed):
    """Images as points, (n, d'), block by block."""
    if not images.isfinite().all():
        raise ValueError(f"real must be finite; got {int((~images.isfinite()).sum())} pixels NaN or infinite")
    if embed is None:
        return images.flatten(1)
    blocks = []
    for block in images.split(BLOCK):
        points = embed(block)
        if not isinstance(points, torch.Tensor) or points.ndim != 2 or len(points) != len(block):
            got = tuple(points.shape) if isinstance(points, torch.Tensor) else type(points).__name__
            raise ValueError(f"embed must return (n, d') for n = {len(block)} images; got {got}")
        if not points.isfinite().all():
            raise ValueError("embed must return finite numbers; got NaN or infinite ones")
        blocks.append(points)
    return torch.cat(blocks)
