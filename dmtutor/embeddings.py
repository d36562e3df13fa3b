"""Random embeddings: features drawn at random, whose inner product is a kernel on average.

Sets of points are tensors (…, n, d), as in `dmtutor.mmd`. Images enter flattened, ``images.flatten(-3)``.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from .checks import check_generator, check_positive, check_positive_number
from .mmd import BLOCK, check_points
from .networks import ConvNet
from .randomness import keyed_generator, root_seed

IMAGES = 16  # go through a network at once: their feature maps stay in a processor's cache


class RandomFourierFeatures:
    r"""D random features whose inner product is the Gaussian kernel on average.

    .. math:: \varphi(x) = \sqrt{\tfrac{2}{D}}\, \bigl(\cos\langle\xi_i, x\rangle, \sin\langle\xi_i, x\rangle
        \bigr)_{i = 1 \dots D/2}, \qquad \xi_i \sim \mathcal{N}(0, I / h^2)

    Then :math:`\mathbb{E}_\xi\langle\varphi(x), \varphi(y)\rangle = k(x, y) = \exp(-\|x - y\|^2 / 2h^2)`, with
    standard deviation :math:`(1 - k^2) / \sqrt{D}`, and :math:`\|\varphi(x)\| = 1`. So MMD² under the Gaussian
    kernel is the squared distance of mean features, about, at a cost that grows with points and not with pairs.

    Parameters
    ----------
    dim : int
        Dimension d of the points, positive.
    features : int
        D, positive and even: every frequency ξ gives a cosine and a sine.
    bandwidth : float
        h > 0 and finite, as in `dmtutor.mmd.Gaussian`. A ValueError if one of these is not so.
    generator : torch.Generator, on the CPU
        Draws the frequencies; a TypeError for anything else.

    Attributes
    ----------
    frequencies : Tensor (D/2, d)
        The ξ, in float64.

    References
    ----------
    Rahimi & Recht, *Random Features for Large-Scale Kernel Machines*, NIPS 2007. Sutherland & Schneider, *On the
    Error of Random Fourier Features*, UAI 2015, for the pairs of cosine and sine and their error.

    Examples
    --------
    >>> phi = RandomFourierFeatures(2, 1000, bandwidth=1.0, generator=torch.Generator().manual_seed(0))
    >>> x, y = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    >>> phi(x).shape
    torch.Size([1, 1000])
    >>> abs(float(phi(x) @ phi(y).T) - 0.6065) < 0.1           # exp(−1/2) = 0.6065
    True
    """

    def __init__(self, dim, features, *, bandwidth, generator):
        check_positive("dim", dim)
        check_positive("features", features)
        check_generator(generator)
        if features % 2:
            raise ValueError(f"features must be even, a cosine and a sine for every frequency; got {features}")
        check_positive_number("bandwidth", bandwidth)
        self.frequencies = torch.randn(features // 2, dim, generator=generator, dtype=torch.float64) / bandwidth

    def __call__(self, x):
        """φ(x), (…, n, D), of points (…, n, d): all cosines, then all sines. In x's dtype, on its device."""
        check_points(x=x)
        check_dimension("x", x, self.frequencies.shape[1])
        angles = x @ self.frequencies.to(x).T
        return torch.cat([angles.cos(), angles.sin()], -1) / len(self.frequencies) ** 0.5


class RandomConvNets:
    r"""R random ConvNets as one embedding: each is a feature map, and together they make a kernel.

    .. math:: k_\psi(x, y) = \frac{1}{R} \sum_r \langle\psi_{\vartheta_r}(x), \psi_{\vartheta_r}(y)\rangle
        \;\approx\; \mathbb{E}_\vartheta \langle\psi_\vartheta(x), \psi_\vartheta(y)\rangle

    Under this kernel MMD² is the mean over the networks of ‖Δ‖², the squared distance of mean embeddings: for one
    class, and without augmentation, the loss of distribution matching. ``nets[r]`` is the r-th network, a
    `dmtutor.ConvNet`, made anew and the same each time: without gradients R networks take no more memory than one.

    Parameters
    ----------
    image_shape : tuple of int
        (C, H, W); points have d = C · H · W coordinates, finite ones, else a method raises a ValueError.
    networks : int
        R.
    generator : torch.Generator
        Gives the root of the weights, once, else a TypeError. More networks of the same seed are these and others.
    width, depth, norm, activation, pooling
        See `dmtutor.ConvNet`, and its ValueErrors. ``norm="batch"`` is refused: an embedding would depend on its batch.

    Examples
    --------
    >>> nets = RandomConvNets((1, 8, 8), networks=3, width=4, generator=torch.Generator().manual_seed(0))
    >>> x, y = torch.rand(2, 5, 64, generator=torch.Generator().manual_seed(1))
    >>> nets.kernel(x, y).shape, nets.mean_embeddings(x).shape, nets.distances(x, y).shape
    (torch.Size([5, 5]), torch.Size([3, 4]), torch.Size([3]))
    >>> from dmtutor.mmd import mmd2
    >>> torch.allclose(mmd2(x, y, kernel=nets.kernel), nets.distances(x, y).mean(), rtol=1e-3)
    True
    """

    def __init__(self, image_shape, *, networks, generator, width=32, depth=3, norm="instance", activation="relu",
                 pooling="avg"):
        check_positive("networks", networks)
        if not isinstance(image_shape, tuple | list) or len(image_shape) != 3:
            raise ValueError(f"image_shape must be (C, H, W); got {image_shape!r}")
        for size in image_shape:
            check_positive("each of image_shape", size)
        if norm == "batch":
            raise ValueError("norm must not be 'batch': an embedding would depend on the other images of its batch")
        self.image_shape, self.networks = tuple(image_shape), networks
        self._architecture = dict(width=width, depth=depth, norm=norm, activation=activation, pooling=pooling)
        self._root = root_seed(generator)
        self.embedding_dim = self[0].embedding_dim  # and an architecture that does not fit is an error now

    def __len__(self):
        return self.networks

    def __getitem__(self, r):
        """The r-th network, with frozen weights."""
        draw = keyed_generator(self._root, "network", range(len(self))[r])
        channels, *side = self.image_shape
        net = ConvNet(channels=channels, image_size=side, generator=draw, **self._architecture)
        return net.requires_grad_(False)

    def kernel(self, x, y):
        """The kernel: values (…, n, m) of x (…, n, d) and y (…, m, d). For `mmd2` and `witness`.

        Differentiable. Images go through the networks in blocks, whose feature maps are not kept for backward.
        """
        self._check(x=x, y=y)
        total = 0
        for net in self:
            psi_x = self._embed(net, x)
            psi_y = psi_x if y is x else self._embed(net, y)
            total = total + psi_x @ psi_y.mT
        return total / len(self)

    def mean_embeddings(self, x):
        """The mean embedding of x (…, n, d) under each network, (R, …, d'). Differentiable, in blocks."""
        self._check(x=x)
        blocks = x.split(BLOCK, dim=-2)
        return torch.stack([sum(self._embed(net, b).sum(-2) for b in blocks) / x.shape[-2] for net in self])

    def distances(self, x, y):
        """‖Δ‖² of x (…, n, d) and y (…, m, d) under each network, (R, …). Their mean estimates E‖Δ‖²."""
        self._check(x=x, y=y)
        return (self.mean_embeddings(x) - self.mean_embeddings(y)).square().sum(-1)

    def _check(self, **points):
        check_points(**points)
        d = self.image_shape[0] * self.image_shape[1] * self.image_shape[2]
        for name, x in points.items():
            check_dimension(name, x, d, f", images of {'×'.join(map(str, self.image_shape))} flattened")

    def _embed(self, net, x):
        """ψ(x), (…, n, d'), in blocks."""
        net.to(x, memory_format=torch.channels_last)
        embed = net.embed
        if torch.is_grad_enabled() and x.requires_grad:
            embed = partial(checkpoint, embed, use_reentrant=False, preserve_rng_state=False)
        images = x.reshape(-1, *self.image_shape)
        return torch.cat([embed(block) for block in images.split(IMAGES)]).view(*x.shape[:-1], -1)


@torch.no_grad()
def class_separability(x, labels, test_x, test_labels, *, kernel):
    r"""How linear functions of a kernel's features tell classes apart: the test accuracy of ridge regression, a float.

    .. math:: f(z) = \bar y + \sum_i \alpha_i\, k(z, x_i), \qquad \alpha = (k(x, x) + \lambda I)^{-1} (Y - \bar y)

    Y holds the labels as one-hot rows, :math:`\bar y` is their mean, and k is centred, which amounts to an intercept;
    the largest entry of f is the answer. λ is the one, of seven from 10⁻⁶ to 1 in units of the mean of k(x, x)'s
    diagonal, with the least squared error when each point is left out in its turn, which has a closed form. So nothing
    is chosen on the test points, nor by the user. A ValueError if shapes or dtypes do not fit, or points aren't finite.

    Parameters
    ----------
    x, test_x : Tensor (n, d) and (m, d)
    labels, test_labels : Tensor (n,) and (m,), int64, in 0 … K−1
    kernel : callable
        As in `dmtutor.mmd`: (n, d), (m, d) → (n, m). Of features ψ, ``lambda a, b: psi(a) @ psi(b).T``.

    Examples
    --------
    >>> from dmtutor.mmd import Gaussian, Linear
    >>> x = torch.tensor([[-2.0], [-1.0], [0.0], [1.0], [2.0]])
    >>> y = torch.tensor([0, 0, 1, 0, 0])                    # no line parts the middle from both sides
    >>> [class_separability(x, y, x, y, kernel=kernel) for kernel in (Linear(), Gaussian(0.5))]
    [0.8, 1.0]
    """
    check_points(x=x, test_x=test_x)
    for name, values, of, points in (("labels", labels, "x", x), ("test_labels", test_labels, "test_x", test_x)):
        if points.ndim != 2:
            raise ValueError(f"{of} must be (n, d); got {tuple(points.shape)}")
        if values.shape != points.shape[:1] or values.dtype != torch.int64:
            want, got = f"{len(points)} labels in int64, as {of} has points", f"{tuple(values.shape)} {values.dtype}"
            raise ValueError(f"{name} must be {want}; got {got}")
    targets = F.one_hot(labels).double()  # (n, K)
    k, k_test = kernel(x, x).double(), kernel(test_x, x).double()
    center = k.mean(0)  # features less their mean over x: that is what the intercept does
    k_test = k_test - center - k_test.mean(1, keepdim=True) + center.mean()
    k = k - center - center[:, None] + center.mean()
    values, vectors = torch.linalg.eigh(k)
    rotated = vectors.T @ (targets - targets.mean(0))
    best = torch.inf
    for ridge in torch.logspace(-6, 0, 7, dtype=k.dtype, device=k.device) * values.mean():
        inverse = 1 / (values.clamp(min=0) + ridge)
        alpha = vectors @ (inverse[:, None] * rotated)  # (n, K)
        leverage = ridge * (vectors.square() @ inverse) - 1 / len(x)  # 1 less that of each point
        error = float((ridge * alpha / leverage[:, None]).square().sum())
        if error < best:
            best, answers = error, (targets.mean(0) + k_test @ alpha).argmax(1)
    return float((answers == test_labels).double().mean())


def check_dimension(name, x, d, why=""):
    """Raise a ValueError if the points x (…, n, d) are not of d dimensions."""
    if x.shape[-1] != d:
        raise ValueError(f"{name} must have {d} dimensions{why}; got {x.shape[-1]}")
