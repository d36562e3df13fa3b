"""Distribution matching: learn a small set whose mean embeddings agree with those of the real images."""

import zlib
from dataclasses import asdict, dataclass, replace

import torch

from . import __version__
from .augmentation import SiameseAugment
from .checks import check_number, check_positive
from .coresets import check_ipc, random_subset
from .networks import ConvNet, check_architecture
from .randomness import keyed_generator, root_seed


@dataclass(frozen=True, kw_only=True)
class DMConfig:
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

    ipc: int = 10
    iterations: int | None = None
    batch_real: int | None = None
    lr_img: float | None = None
    schedule: str = "linear"
    momentum: float = 0.5
    init: str = "real"
    augment: str | None = None
    width: int = 32
    depth: int = 3
    norm: str = "instance"
    activation: str = "relu"
    pooling: str = "avg"
    block: int | None = 16

    def __post_init__(self):
        check_positive("ipc", self.ipc)
        for name, default in (("iterations", 1000 / self.ipc**0.5), ("batch_real", 4 * self.ipc**0.5)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, max(1, round(default)))  # the class is frozen
            check_positive(name, getattr(self, name))
        if self.block is not None:
            check_positive("block", self.block)
        if self.lr_img is not None:
            check_number("lr_img", self.lr_img)
            if not 0 < self.lr_img < float("inf"):
                raise ValueError(f"lr_img must be positive; got {self.lr_img!r}")
        check_number("momentum", self.momentum)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1); got {self.momentum!r}")
        if self.norm == "batch" and self.block is not None:
            raise ValueError("block must be None for norm='batch': its statistics couple the images of all classes")
        if self.schedule not in ("linear", "constant"):
            raise ValueError(f"schedule must be 'linear' or 'constant'; got {self.schedule!r}")
        if self.init not in ("real", "noise"):
            raise ValueError(f"init must be 'real' or 'noise'; got {self.init!r}")
        if self.augment is not None:
            SiameseAugment(self.augment)

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
        An iterator of :class:`.Step`. ``len(steps)`` is the number of iterations.

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
    if not isinstance(config, DMConfig):
        raise TypeError(f"config must be a DMConfig; got {config!r}")
    if not real.counts.all():
        raise ValueError("real must hold images of every class")
    if config.init == "real":
        check_ipc(real, config.ipc)
    architecture = {k: getattr(config, k) for k in ("width", "depth", "norm", "activation", "pooling")}
    check_architecture(real.images.shape[2:], **architecture)
    if config.augment is None:
        config = replace(config, augment=real.meta.get("augment", "none"))
    return DMSteps(real, config, root_seed(generator))


class Step:
    """What one iteration leaves behind.

    Attributes
    ----------
    iteration : int
        From 1 on.
    loss : Tensor, ()
        Summed over classes, of the images before the step; detached.
    synthetic : LabeledImages
        A snapshot of the images, made when it is read.
    """

    def __init__(self, steps, loss):
        self.iteration, self.loss, self._steps = steps.iteration, loss, steps

    @property
    def synthetic(self):
        return self._steps.synthetic


class DMSteps:
    """The iterator that :func:`dm_steps` returns. Its state is (configuration, root, iteration, pixels, momentum)."""

    def __init__(self, real, config, root):
        self.config, self.root, self.iteration = config, root, 0
        self.real, self.real_of_class = real, [real.of_class(c) for c in range(len(real.classes))]
        self.augment = SiameseAugment(config.augment)
        self.network = ConvNet(
            channels=real.images.shape[1], image_size=real.images.shape[2:], classes=len(real.classes),
            width=config.width, depth=config.depth, norm=config.norm, activation=config.activation,
            pooling=config.pooling, generator=keyed_generator(root, "network", 0),
        ).requires_grad_(False)  # fmt: skip
        self.network.to(real.images, memory_format=torch.channels_last)
        if config.lr_img is None:
            self.config = replace(config, lr_img=512 * config.ipc / self.network.embedding_dim)
        draw = keyed_generator(root, "init")
        if config.init == "real":
            start = random_subset(real, config.ipc, generator=draw)
            self.images, self.labels = start.images.clone(), start.labels
        else:
            shape = (len(real.classes) * config.ipc, *real.images.shape[1:])
            self.images = torch.randn(shape, generator=draw).to(real.images)
            self.labels = torch.arange(len(real.classes), device=self.images.device).repeat_interleave(config.ipc)
        self.momentum = torch.zeros_like(self.images)

    def __len__(self):
        return self.config.iterations

    def __iter__(self):
        return self

    def __next__(self):
        if self.iteration == len(self):
            raise StopIteration
        loss, gradient = self.loss_and_gradient()
        momentum = self.config.momentum * self.momentum + gradient
        images = self.images - self.step_size * momentum
        # In one statement, so that an interruption leaves a state from before the step or from after it.
        self.images, self.momentum, self.iteration = images, momentum, self.iteration + 1
        return Step(self, loss)

    @property
    def step_size(self):
        """η of the coming step."""
        falls = self.config.schedule == "linear"
        return self.config.lr_img * (1 - self.iteration / len(self) if falls else 1)

    @property
    def synthetic(self):
        """The images as they are now: a copy."""
        meta = {
            "method": "dm",
            "name": self.real.meta.get("name", ""),
            "augment": self.real.meta.get("augment", "none"),
            "config": asdict(self.config),
            "iteration": self.iteration,
            "versions": {"dmtutor": __version__, "torch": str(torch.__version__)},
        }
        return replace(self.real, images=self.images.clone(), labels=self.labels.clone(), meta=meta)

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

    def _draw(self, c):
        """This iteration's real batch of class c, (B, C, H, W), and its augmentation ω."""
        pool = self.real_of_class[c]
        order = torch.randperm(len(pool), generator=keyed_generator(self.root, "batch", self.iteration, c))
        batch = pool[order[: self.config.batch_real].to(pool.device)]
        return batch, self.augment.sample(1, generator=keyed_generator(self.root, "augment", self.iteration, c))

    def _match(self, classes):
        """Loss and gradient of these classes, in one forward pass of each side."""
        syn = self.images[torch.isin(self.labels, torch.tensor(classes).to(self.labels))].requires_grad_()
        reals, syns = [], []
        for c, s in zip(classes, syn.split(self.config.ipc), strict=True):
            batch, omega = self._draw(c)
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
        batch, omega = self._draw(c)
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

    @property
    def fingerprint(self):
        """A checksum of labels, first and last image, which keeps a state from going on with other data."""
        some = (self.real.labels, self.real.images[0], self.real.images[-1])
        return zlib.crc32(b"".join(t.cpu().contiguous().numpy().tobytes() for t in some))

    def state_dict(self):
        """What it takes to go on later: plain types and tensors. Networks and batches follow from the root."""
        return {
            "config": asdict(self.config),
            "root": self.root,
            "real": self.fingerprint,
            "iteration": self.iteration,
            "images": self.images.cpu().clone(),
            "momentum": self.momentum.cpu().clone(),
        }

    def load_state_dict(self, state):
        """Go on from a state of a run with the same configuration, generator and data.

        Raises
        ------
        ValueError
            If one of them differs.
        """
        ours = asdict(self.config)
        different = [k for k in ours if state["config"].get(k) != ours[k]]
        if different:
            changes = ", ".join(f"{k}={state['config'].get(k)!r} there, {ours[k]!r} here" for k in different)
            raise ValueError(f"state must be of a run with the same configuration; got {changes}")
        if state["root"] != self.root:
            raise ValueError("state must be of a run with the same seed; this one had another")
        if state["real"] != self.fingerprint:
            raise ValueError("state must be of a run on the same data; this one had other images")
        self.iteration = state["iteration"]
        self.images, self.momentum = (state[k].to(self.images) for k in ("images", "momentum"))
