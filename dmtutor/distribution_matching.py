"""Distribution matching: bring the mean embeddings of a small set near to those of the real images."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from . import threads
from .checks import check_number, check_positive
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
        features and each image carries 1/ipc of a mean, and this takes both factors out.
    schedule : {"linear", "constant"}
        Whether the step size falls linearly to zero over the iterations, or stays as published.
    momentum : float
        Of the steps, in [0, 1).
    init : {"real", "noise"}
        Start from random real images or from Gaussian noise.
    augment : str, optional
        Strategy of :class:`~dmtutor.SiameseAugment`; the data set's own if None.
    width, depth, norm, activation, pooling
        The random network, see :class:`~dmtutor.ConvNet`.
    block : int, optional
        Images of one class that go through the network at once, at most. It bounds memory, and the result is the
        same up to rounding. None puts all classes through at once, as ``norm="batch"`` needs.
    average : float
        In [0, 1). If not 0, the result is a running average of the images after each step, those of i steps ago
        weighted by its i-th power: less of the noise of single steps. Not in the published algorithm.
    compile : bool
        Translate the network with ``torch.compile``: some 15 seconds at first, then faster. Results are the same
        up to rounding.

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
    average: float = 0.0
    compile: bool = False

    def __post_init__(self):
        check_positive("ipc", self.ipc)
        for name, default in (("iterations", 1000 / self.ipc**0.5), ("batch_real", 4 * self.ipc**0.5)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, max(1, round(default)))  # the class is frozen
        super().__post_init__()
        if self.block is not None:
            check_positive("block", self.block)
        check_number("average", self.average)
        if not 0 <= self.average < 1:
            raise ValueError(f"average must be in [0, 1); got {self.average!r}")
        if not isinstance(self.compile, bool):
            raise ValueError(f"compile must be True or False; got {self.compile!r}")
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


def dm_steps(real, *, config, generator, classes=None):
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
    classes : sequence of int, optional
        Condense these classes alone, ascending; all if None. Neither a draw nor a gradient of a class depends on the
        others, so runs on parts of the classes, put together, are the run on all of them, bit for bit on a CPU.

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
    if classes is not None:
        check_classes(classes, real, config)
    return start(DMSteps, DMConfig, real, config, generator, classes=classes)


def check_classes(classes, real, config):
    """Raise a ValueError if these classes cannot be condensed alone."""
    classes, known = list(classes), range(len(real.classes))
    if not classes or classes != [c for c in known if c in classes]:
        raise ValueError(f"classes must be ascending numbers of classes in 0 … {known[-1]}; got {classes}")
    if len(classes) < len(known) and config.block is None:
        raise ValueError("block must not be None where classes, or processes, share the work; got None")


class DMSteps(Steps):
    """The iterator that :func:`dm_steps` returns. Its state is (configuration, root, iteration, pixels, momentum),
    and the running average if there is one."""

    def __init__(self, real, config, root, classes=None):
        super().__init__(real, config, root)
        if config.lr_img is None:
            self.config = replace(config, lr_img=512 * config.ipc / self.network.embedding_dim)
        self.classes = list(range(len(real.classes)) if classes is None else classes)
        own = torch.isin(self.labels, torch.tensor(self.classes).to(self.labels))
        self.images, self.labels, self.momentum = self.images[own], self.labels[own], self.momentum[own]
        if config.average:
            self.variables, self.average = (*self.variables, "average"), self.images.clone()
        self.embed = self._compiled() if config.compile else self.network.embed

    def _compiled(self):
        """ψ for blocks of the sizes that every class has, translated; for others as it is, so nothing is translated
        twice."""
        ipc, batch, block = self.config.ipc, self.config.batch_real, self.config.block
        sizes = {min(n, block) for n in (ipc, batch)} | {n % block for n in (ipc, batch)} if block else None
        torch.compiler.reset()  # torch keeps few translations of a function: make room
        translated = torch.compile(self.network.embed, dynamic=False)
        try:
            with torch.no_grad(), threads.one():
                translated(self.real.images[: min(batch, block or batch)])
        except Exception as error:  # of whatever is missing
            reason = f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0]
            raise ValueError(
                "compile must be False where torch.compile does not work, which needs a compiler (g++ for a CPU); "
                f"got True, and {reason}"
            ) from error

        def embed(images):
            if sizes and len(images) not in sizes:
                return self.network.embed(images)
            # Always laid out alike, or it is translated once for every layout.
            return translated(images.new_empty(images.shape).copy_(images))

        return embed

    def advance(self):
        """The loss, and the variables after one step of SGD on the pixels: a dict."""
        loss, changes = super().advance()
        if self.config.average:
            # Σ aⁱ S_{t−i} / Σ aⁱ over i = 0 … t−1, one step at a time; the images it began with do not count.
            a, t = self.config.average, self.iteration + 1
            changes["average"] = self.average.lerp(changes["images"], (1 - a) / (1 - a**t))
        return loss, changes

    @property
    def synthetic(self):
        """The images as they are now, or their running average: a copy."""
        synthetic = super().synthetic
        return replace(synthetic, images=self.average.clone()) if self.config.average else synthetic

    def loss_and_gradient(self):
        """The objective under this iteration's draws, at the images as they are.

        Returns
        -------
        loss : Tensor, ()
        gradient : Tensor, (n, C, H, W)
        """
        self.network.reset_parameters(generator=keyed_generator(self.root, "network", self.iteration))
        if self.config.block is None:
            return self._match()
        parts = zip(self.classes, self.images.split(self.config.ipc), strict=True)
        losses, gradients = zip(*threads.each(self._match_in_blocks, parts, self.images.device), strict=True)
        return torch.stack(losses).sum(), torch.cat(gradients)

    @threads.one()
    def _match(self):
        """Loss and gradient of all classes, in one forward pass of each side."""
        syn = self.images.clone().requires_grad_()
        reals, syns = [], []
        for c, s in zip(self.classes, syn.split(self.config.ipc), strict=True):
            batch, omega = self.draw(c)
            reals.append(self.augment.apply(batch, omega))
            syns.append(self.augment.apply(s, omega))
        with torch.no_grad():
            real_embeddings = self.embed(torch.cat(reals)).split([len(r) for r in reals])
        syn_embeddings = self.embed(torch.cat(syns)).split(self.config.ipc)
        loss = sum(map(mean_distance, real_embeddings, syn_embeddings))
        (gradient,) = torch.autograd.grad(loss, syn)
        return loss.detach(), gradient

    def _match_in_blocks(self, part):
        """Loss and gradient of one class and its images, with at most ``block`` images in the network at a time.

        The gradient of ‖Δ‖² in the images of a block needs Δ of all images: first Δ without a graph, then the
        vector-Jacobian product of each block with 2Δ/M.
        """
        (c, syn), ipc, block = part, self.config.ipc, self.config.block
        batch, omega = self.draw(c)
        with torch.no_grad():
            delta = -self._mean_embedding(batch, omega)
            if ipc > block:
                delta += self._mean_embedding(syn, omega)
        gradients = []
        for part in syn.split(block):
            part = part.clone().requires_grad_()
            embeddings = self.embed(self.augment.apply(part, omega))
            if ipc <= block:
                delta += embeddings.detach().mean(0)
            gradients += torch.autograd.grad(embeddings, part, (2 / ipc * delta).expand_as(embeddings))
        return delta.square().sum(), torch.cat(gradients)

    def _mean_embedding(self, images, omega):
        """Mean of ψ(A(x, ω)) over the images, (d',), block by block."""
        blocks = images.split(self.config.block)
        return sum(self.embed(self.augment.apply(b, omega)).sum(0) for b in blocks) / len(images)
