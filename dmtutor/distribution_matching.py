"""Distribution matching: learn a small set whose mean embeddings agree with those of the real images."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from .checks import check_positive
from .randomness import keyed_generator
from .steps import Config, Steps, start


@dataclass(frozen=True, kw_only=True)
class DMConfig(Config):
    """All that changes the result of distribution matching, besides the data and the seed.

    The defaults are quick: minutes on a laptop. :meth:`reference` gives the published setting.

    Parameters
    ----------
    ipc : int
        Synthetic images per class.
    iterations : int, optional
        Steps; each draws a new network. If None, 1000 / √ipc: a step on more images costs more.
    batch_real : int, optional
        Real images of each class in a step. The gradient is unbiased at every size. If None, 4 √ipc: the size of
        least variance for the time grows with the root of what the synthetic images cost.
    lr_img : float, optional
        Step size on the pixels. If None, 512 · ipc / d' for embeddings of d' dimensions: the loss sums over d'
        features and each image carries 1/ipc of a mean, so this keeps the step when width or ipc change.
    schedule : {"linear", "constant"}
        Whether the step falls linearly to zero over the iterations, or stays as published: a constant step never
        settles.
    momentum : float
        Of the steps, in [0, 1).
    init : {"real", "noise"}
        Start from random real images or from Gaussian noise.
    augment : str, optional
        Strategy of :class:`~dmtutor.SiameseAugment`; the data set's own if None.
    width, depth, norm, activation, pooling
        The random network, see :class:`~dmtutor.ConvNet`.
    block : int, optional
        Images of one class that go through the network at once, at most. It bounds memory, small blocks stay in
        the cache, and the result is the same up to rounding. None puts all classes through at once, as
        ``norm="batch"`` needs.

    Raises
    ------
    ValueError
        If a field is out of range.

    Examples
    --------
    >>> DMConfig(ipc=0)
    Traceback (most recent call last):
    ValueError: ipc must be a positive integer; got 0
    """

    method: ClassVar[str] = "dm"

    iterations: int | None = None
    batch_real: int | None = None
    lr_img: float | None = None
    schedule: str = "linear"
    block: int | None = 16

    def __post_init__(self):
        check_positive("ipc", self.ipc)
        for name, default in (("iterations", 1000 / self.ipc**0.5), ("batch_real", 4 * self.ipc**0.5)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, max(1, round(default)))  # the class is frozen
        super().__post_init__()
        if self.block is not None:
            check_positive("block", self.block)
        if self.norm == "batch" and self.block is not None:
            raise ValueError("block must be None for norm='batch': its statistics couple the images of all classes")

    @classmethod
    def reference(cls, *, ipc=10, **changes):
        """The published setting: ConvNet-3/128, 256 real images, 20,000 iterations, step size 1 (10 from IPC 100).

        References
        ----------
        Zhao & Bilen, *Dataset Condensation with Distribution Matching*, WACV 2023, section 4.1, and its code.

        Examples
        --------
        >>> DMConfig.reference(ipc=100).lr_img
        10.0
        """
        lr_img = 10.0 if ipc >= 100 else 1.0
        published = dict(iterations=20_000, batch_real=256, lr_img=lr_img, schedule="constant", width=128, depth=3)
        return cls(ipc=ipc, **{**published, **changes})


def mean_distance(real, syn):
    r"""The loss of one class: squared distance between mean embeddings.

    .. math:: \Bigl\| \frac{1}{B} \sum_{i=1}^{B} \psi_\vartheta(x_i)
        - \frac{1}{M} \sum_{j=1}^{M} \psi_\vartheta(s_j) \Bigr\|^2

    Parameters
    ----------
    real : Tensor, (B, d')
        Embeddings of real images.
    syn : Tensor, (M, d')
        Embeddings of synthetic images.

    Returns
    -------
    Tensor, ()

    References
    ----------
    Zhao & Bilen, *Dataset Condensation with Distribution Matching*, WACV 2023, equation 4.

    Examples
    --------
    >>> mean_distance(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[1.0, 3.0]]))
    tensor(9.)
    """
    return (real.mean(0) - syn.mean(0)).square().sum()


def dm_steps(real, *, config, generator):
    r"""Distribution matching, one step at a time.

    .. math:: \min_S \; \mathbb{E}_{\vartheta, \omega} \sum_c \Bigl\| \frac{1}{|T_c|} \sum_{x \in T_c}
        \psi_\vartheta(A(x, \omega)) - \frac{1}{|S_c|} \sum_{s \in S_c} \psi_\vartheta(A(s, \omega)) \Bigr\|^2

    Every step draws a network :math:`\vartheta`, and for every class a batch of real images and an augmentation
    :math:`\omega` that both sides share; then it takes one SGD step on the pixels of S.

    Parameters
    ----------
    real : LabeledImages
        T. The run is on its device and in its dtype.
    config : DMConfig
    generator : torch.Generator
        Gives the root of the run, once.

    Returns
    -------
    DMSteps
        An iterator of :class:`~dmtutor.steps.Step`. ``len(steps)`` is the number of iterations.

    Raises
    ------
    ValueError
        Before any work, if the configuration does not fit the data.

    References
    ----------
    Zhao & Bilen, *Dataset Condensation with Distribution Matching*, WACV 2023, algorithm 1.

    Examples
    --------
    >>> from dmtutor import load
    >>> train, test = load("mnist5k")
    >>> steps = dm_steps(train, config=DMConfig(ipc=1, iterations=2), generator=torch.Generator().manual_seed(0))
    >>> losses = [float(step.loss) for step in steps]
    >>> steps.synthetic
    LabeledImages(10 images of 1×28×28, 10 classes)
    """
    return start(DMSteps, DMConfig, real, config, generator)


class DMSteps(Steps):
    """The iterator that :func:`dm_steps` returns. Its state is (configuration, root, iteration, pixels, momentum)."""

    def __init__(self, real, config, root):
        super().__init__(real, config, root)
        if config.lr_img is None:
            self.config = replace(config, lr_img=512 * config.ipc / self.network.embedding_dim)

    def loss_and_gradient(self):
        """The objective under this iteration's draws, at the images as they are.

        Returns
        -------
        loss : Tensor, ()
        gradient : Tensor, (n, C, H, W)
        """
        self.network.reset_parameters(generator=keyed_generator(self.root, "network", self.iteration))
        classes = range(len(self.real.classes))
        if self.config.block is None:
            return self._match(list(classes))
        losses, gradients = zip(*(self._match_in_blocks(c) for c in classes), strict=True)
        return torch.stack(losses).sum(), torch.cat(gradients)

    def _match(self, classes):
        """Loss and gradient of these classes, in one forward pass of each side."""
        syn = self.images[torch.isin(self.labels, torch.tensor(classes).to(self.labels))].requires_grad_()
        reals, syns = [], []
        for c, s in zip(classes, syn.split(self.config.ipc), strict=True):
            batch, omega = self.draw(c)
            reals.append(self.augment.apply(batch, omega))
            syns.append(self.augment.apply(s, omega))
        with torch.no_grad():
            real_embeddings = self.network.embed(torch.cat(reals)).split([len(r) for r in reals])
        syn_embeddings = self.network.embed(torch.cat(syns)).split(self.config.ipc)
        loss = sum(map(mean_distance, real_embeddings, syn_embeddings))
        (gradient,) = torch.autograd.grad(loss, syn)
        return loss.detach(), gradient

    def _match_in_blocks(self, c):
        """Loss and gradient of one class, with at most ``block`` images in the network at a time.

        The gradient of ‖Δ‖² in the images of a block needs Δ of all images: first Δ without a graph, then the
        vector-Jacobian product of each block with 2Δ/M.
        """
        ipc, block = self.config.ipc, self.config.block
        batch, omega = self.draw(c)
        syn = self.images[c * ipc : (c + 1) * ipc]
        with torch.no_grad():
            delta = -self._mean_embedding(batch, omega)
            if ipc > block:
                delta += self._mean_embedding(syn, omega)
        gradients = []
        for part in syn.split(block):
            part = part.clone().requires_grad_()
            embeddings = self.network.embed(self.augment.apply(part, omega))
            if ipc <= block:
                delta += embeddings.detach().mean(0)
            gradients += torch.autograd.grad(embeddings, part, (2 / ipc * delta).expand_as(embeddings))
        return delta.square().sum(), torch.cat(gradients)

    def _mean_embedding(self, images, omega):
        """Mean of ψ(A(x, ω)) over the images, (d',), block by block."""
        blocks = images.split(self.config.block)
        return sum(self.network.embed(self.augment.apply(b, omega)).sum(0) for b in blocks) / len(images)
