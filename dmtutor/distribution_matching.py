"""Distribution matching: bring the mean embeddings of a small set near to those of the real images.

After Zhao & Bilen, *Dataset Condensation with Distribution Matching*, WACV 2023.
"""

from dataclasses import dataclass, replace
from types import FunctionType

import torch

from . import threads
from .checks import check_flag, check_fraction, check_ipc_field, fill
from .randomness import keyed_generator
from .steps import Config, Steps, start


@dataclass(frozen=True, kw_only=True)
class DMConfig(Config):
    """All that changes the result of distribution matching, besides the data and the seed.

    The defaults are quick: minutes on a laptop. :meth:`reference` gives the published setting. Beside the fields of
    :class:`~dmtutor.steps.Config` there are these; where they follow from ``ipc`` it is its mean.

    Parameters
    ----------
    iterations : int, optional
        Steps; each draws a new network. If None, 1000 / √ipc: a step on more images costs more.
    batch_real : int, optional
        Real images of each class in a step. The gradient is unbiased at every size. If None, 4 √ipc: the size of
        least variance for the time grows with the root of what the synthetic images cost.
    lr_img : float, optional
        Step size on the pixels. If None, 512 · ipc / d' for embeddings of d' dimensions: the loss sums over d'
        features and each image carries 1/ipc of a mean, and this takes both factors out. Where classes differ in size
        it is that of the mean size, and in proportion to a class's.
    block : int or {"class", "all"}, optional
        What goes through the network at once: at most so many images of one class, all images of one class, or all of
        all classes, as ``norm="batch"`` needs. It bounds memory; the result is the same up to rounding. If None, 16 on
        a CPU, whose caches hold a layer's output then; elsewhere "all", where that takes at most 2 GB, or "class".
    average : float
        If not 0, the result is a running average of the images after each step, those of i steps ago weighted by the
        i-th power of this number in [0, 1): less of the noise of single steps. Not in the published algorithm.
    compile : bool
        Translate the network with ``torch.compile``: some 15 seconds at first. For the default network on a CPU, whose
        norm, ReLU and pooling are one operation already, it is faster with ``amp`` alone. The same up to rounding.
    amp : bool
        Let the network convolve in 16 bits, ``torch.bfloat16``; images, loss and steps keep 32. On a processor that
        multiplies such numbers (Intel's AMX) a step takes half the time, with ``compile`` less. What it adds to a
        gradient is a small part of what another draw changes.

    Examples
    --------
    >>> DMConfig(ipc=0)
    Traceback (most recent call last):
    ValueError: ipc must be a positive integer; got 0
    """

    iterations: int | None = None
    batch_real: int | None = None
    lr_img: float | None = None
    schedule: str = "linear"
    block: int | str | None = None
    average: float = 0.0
    compile: bool = False
    amp: bool = False

    def __post_init__(self):
        root = check_ipc_field(self.ipc)[1] ** 0.5
        fill(self, iterations=max(1, round(1000 / root)), batch_real=max(1, round(4 * root)))
        super().__post_init__()
        if self.block not in (None, "class", "all") and (type(self.block) is not int or self.block < 1):
            raise ValueError(f"block must be a positive integer, 'class' or 'all'; got {self.block!r}")
        check_fraction("average", self.average)
        for name in ("compile", "amp"):
            check_flag(name, getattr(self, name))
        if self.norm == "batch":
            fill(self, block="all")
            if self.block != "all":
                raise ValueError("block must be 'all' for norm='batch': its statistics couple all classes' images")

    @classmethod
    def reference(cls, *, ipc=10, **changes):
        """The published setting: ConvNet-3/128, 256 real images, 20,000 iterations, step 1 (CIFAR-10: 10 from IPC 100).

        Zhao & Bilen, section 4.1, and their code.

        Examples
        --------
        >>> DMConfig.reference(ipc=100).lr_img
        10.0
        """
        lr_img = 10.0 if check_ipc_field(ipc)[1] >= 100 else 1.0
        published = dict(iterations=20_000, batch_real=256, lr_img=lr_img, schedule="constant", width=128, depth=3)
        return cls(ipc=ipc, **{**published, **changes})


def mean_distance(real, syn):
    r"""The loss of a class, (...): squared distance between mean embeddings, equation 4 of Zhao & Bilen.

    .. math:: \Bigl\| \frac{1}{B} \sum_{i=1}^{B} \psi_\vartheta(x_i)
        - \frac{1}{M} \sum_{j=1}^{M} \psi_\vartheta(s_j) \Bigr\|^2

    Parameters
    ----------
    real, syn : Tensor, (..., B, d') and (..., M, d')
        Embeddings of real and of synthetic images.

    Examples
    --------
    >>> mean_distance(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[1.0, 3.0]]))
    tensor(9.)
    """
    return (real.mean(-2) - syn.mean(-2)).square().sum(-1)


def dm_steps(real, *, config, generator, classes=None):
    r"""Distribution matching, one step at a time: `DMSteps`, algorithm 1 of Zhao & Bilen.

    .. math:: \min_S \; \mathbb{E}_{\vartheta, \omega} \sum_c \Bigl\| \frac{1}{|T_c|} \sum_{x \in T_c}
        \psi_\vartheta(A(x, \omega)) - \frac{1}{|S_c|} \sum_{s \in S_c} \psi_\vartheta(A(s, \omega)) \Bigr\|^2

    Every step draws a network :math:`\vartheta`, and for every class a batch of real images and an augmentation
    :math:`\omega` that both sides share; then it takes one SGD step on the pixels of S. It returns an iterator of
    :class:`~dmtutor.steps.Step`, ``iterations`` of them. A ValueError, before any work, if ``config`` does not fit.

    Parameters
    ----------
    real : LabeledImages
        T. The run is on its device and in its dtype.
    config : DMConfig
    generator : torch.Generator
        Gives the root of the run, once.
    classes : sequence of int, optional
        Condense these classes alone, ascending; all if None. Neither a draw nor a gradient of a class depends on the
        others, so runs on parts of the classes, put together, are the run on all of them, bit for bit on a CPU. If
        they start from noise, ``real`` may hold the images of these classes alone.

    Examples
    --------
    >>> from dmtutor import load
    >>> train, test = load("mnist5k")
    >>> steps = dm_steps(train, config=DMConfig(ipc=1, iterations=2), generator=torch.Generator().manual_seed(0))
    >>> losses = [float(step.loss) for step in steps]
    >>> steps.synthetic
    LabeledImages(10 images of 1×28×28, 10 classes)
    """
    return start(DMSteps, DMConfig, real, config, generator, classes=classes)


def check_classes(classes, real, config):
    """Raise a ValueError if these classes cannot be condensed alone."""
    classes, known = list(classes), range(len(real.classes))
    if not classes or classes != [c for c in known if c in classes]:
        raise ValueError(f"classes must be ascending numbers of classes in 0 … {known[-1]}; got {classes}")
    together = config.block == "all" and (config.norm == "batch" or real.images.device.type == "cpu")
    if len(classes) < len(known) and together:
        raise ValueError("block must not be 'all' where classes, or processes, share the work")


def default_block(config, real):
    """The block for this device and these images."""
    if real.images.device.type == "cpu":
        return 16
    images = len(real.classes) * max(config.batch_real, check_ipc_field(config.ipc)[2])
    height, width = real.images.shape[2:]
    bytes_of_one = config.width * height * width * real.images.dtype.itemsize  # the output of the first layer
    return "all" if images * bytes_of_one <= 2**31 else "class"


def in_16_bits(embed):
    """The same function, computed in bfloat16 where torch thinks it right: float32 in, float32 out."""

    def cast(images):
        with torch.autocast(images.device.type, torch.bfloat16):
            return embed(images).to(images.dtype)

    return cast


def with_code_of_its_own(embed):
    """The same function: torch keeps few translations of one piece of code, and no run takes another's place so."""

    def call(images):
        return embed(images)

    return FunctionType(call.__code__.replace(), call.__globals__, closure=call.__closure__)


class DMSteps(Steps):
    """The iterator that :func:`~dmtutor.dm_steps` returns. Its state holds the running average, too, if there is one.

    Another method of the family replaces one of six short members: :meth:`first_images`, :meth:`draw_weights`,
    :meth:`draws`, :meth:`decode`, :meth:`view`, :meth:`distance`. Blocks, parts of the classes, threads and processes,
    resuming and equal bits are the engine's. ``self.drawn`` is what :meth:`draws` drew for this step, on the device.
    """

    method = "dm"
    config_type = DMConfig

    def __init__(self, real, config, root, classes=None):
        if classes is not None:
            check_classes(classes, real, config)
        super().__init__(real, config, root)
        if config.lr_img is None:
            config = replace(config, lr_img=512 * check_ipc_field(config.ipc)[1] / self.network.embedding_dim)
        self.config = config
        self.block = config.block or default_block(config, real)  # a device's own is no part of the configuration
        self.classes = list(self.classes if classes is None else classes)
        self.numbers = torch.tensor(self.classes).to(self.labels)
        own = torch.isin(self.labels, self.numbers)
        self.images, self.labels, self.momentum = self.images[own], self.labels[own], self.momentum[own]
        self._scale = 1
        if len(set(self.ipc)) > 1:
            mean = sum(self.ipc) / len(self.ipc)
            self._scale = self.images.new_tensor([n / mean for n in self.ipc])[self.labels].view(-1, 1, 1, 1)
        if config.average:
            self.variables, self.average = (*self.variables, "average"), self.images.clone()
        if config.amp and self.images.dtype != torch.float32:
            raise ValueError(f"amp must be False where images are not torch.float32; got {self.images.dtype}")
        self.embed = in_16_bits(self.network.embed) if config.amp else self.network.embed
        if config.compile:
            self.embed = self._compiled()

    def draw_weights(self, iteration):
        """The network of an iteration: values for ``self.network.parameters()``, in their order, on the CPU."""
        return self.network.draw_parameters(generator=keyed_generator(self.root, "network", iteration))

    def decode(self, images):
        """The images that the network sees for those that are kept: (m, C, H, W) → (r m, C, H, W), r in a row for each.

        Differentiable.
        """
        return images

    def view(self, images):
        """What is compared, of augmented images: (m, C, H, W) → (m, d')."""
        return self.embed(images)

    def distance(self, real, syn, labels):
        """The loss of k classes, whose numbers are ``labels``: (k, B, d'), (k, M, d'), (k,) → (k,)."""
        return mean_distance(real, syn)

    def _compiled(self):
        """ψ, translated for blocks of the sizes that every class has, else as it is: nothing is translated twice."""
        batch, block = self.config.batch_real, self.block
        parts = {*(n * len(self.decode(self.images[:1])) for n in self.ipc), batch}
        block = {"class": max(parts), "all": None}.get(block, block)
        sizes = {min(n, block) for n in parts} | {n % block for n in parts} if block else None
        plain, translated = self.embed, torch.compile(with_code_of_its_own(self.embed), dynamic=False)
        try:
            with torch.no_grad(), threads.single_threaded():
                translated(self.real.images[: min(batch, block or batch)])
        except Exception as error:  # of whatever is missing
            reason = f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0]
            raise ValueError("compile must be False where torch.compile does not work, which needs a compiler (g++ "
                             f"for a CPU); got True, and {reason}") from error

        def embed(images):
            if sizes and len(images) not in sizes:
                return plain(images)
            # Always laid out alike, or it is translated once for every layout.
            return translated(images.new_empty(images.shape).copy_(images))

        return embed

    @property
    def step_size(self):
        """η of the coming step; where classes differ in size, of each image."""
        return super().step_size * self._scale

    def advance(self):
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
        self.network.load_parameters(self.sent.weights)
        self.drawn = self.sent.drawn
        k = len(self.classes) if self.block == "all" else 1
        classes = [self.classes[i : i + k] for i in range(0, len(self.classes), k)]
        images = self.images.split([sum(self.ipc[c] for c in part) for part in classes])
        parts = zip(classes, self.numbers.split(k), images, strict=True)
        matched = threads.parallel_map(self._match, parts, self.images.device)
        losses, gradients = zip(*matched, strict=True)
        return torch.stack(losses).sum(), torch.cat(gradients)

    def _match(self, part):
        """Loss and gradient of some classes and their images, with at most a block in the network at a time.

        The loss needs the views of all images, and its gradient by one of them depends on the others. So if the
        images are more than a block, their views are computed without a graph; from these the loss and its gradient by
        the views; then each block once more, and the vector-Jacobian product of its views.
        """
        classes, labels, images = part
        batch, omega = self.draw(*classes)
        sizes = [self.batch_size(c) for c in classes]
        with torch.no_grad():
            real = torch.cat(list(map(self.view, self._blocks(self._augmented(batch, sizes, omega)))))
        images = images.clone().requires_grad_()
        decoded = self.decode(images)
        syn_sizes = [self.ipc[c] * len(decoded) // len(images) for c in classes]
        seen = self._augmented(decoded, syn_sizes, omega)
        blocks = [x.detach().requires_grad_() for x in self._blocks(seen)]
        with torch.set_grad_enabled(len(blocks) == 1):
            views = list(map(self.view, blocks))
        syn = torch.cat(views).detach().requires_grad_()
        loss = self._loss(real, sizes, syn, syn_sizes, labels)
        (by_views,) = torch.autograd.grad(loss, syn)
        by_seen = []
        for x, by_view in zip(blocks, self._blocks(by_views), strict=True):
            view = views.pop() if len(blocks) == 1 else self.view(x)
            by_seen += torch.autograd.grad(view, x, by_view)
        (gradient,) = torch.autograd.grad(seen, images, torch.cat(by_seen))
        return loss.detach(), gradient

    def _blocks(self, images):
        """What goes through the network one after the other."""
        return images.split(self.block) if isinstance(self.block, int) else [images]

    def _augmented(self, images, sizes, omega):
        """A(x, ω) of so many images of each class, one after the other."""
        if len(set(sizes)) == 1:
            return self.augment.apply(images, omega)
        return torch.cat(list(map(self.augment.apply, images.split(sizes), omega.split())))

    def _loss(self, real, sizes, syn, syn_sizes, labels):
        """The sum of the classes' losses: all at once where they have as many images."""
        k = len(sizes)
        if len(set(sizes)) == len(set(syn_sizes)) == 1:
            return self.distance(real.unflatten(0, (k, -1)), syn.unflatten(0, (k, -1)), labels).sum()
        one_by_one = zip(real.split(sizes), syn.split(syn_sizes), labels.split(1), strict=True)
        return sum(self.distance(r[None], s[None], c).sum() for r, s, c in one_by_one)
