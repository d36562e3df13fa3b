"""What all methods have in common: the fields of their configurations, and steps that can be interrupted."""

import warnings
from copy import copy
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import NamedTuple

import torch

from ._version import __version__
from .augmentation import Draws, SiameseAugment
from .checks import check_fraction, check_ipc_field, check_one_of, check_positive, check_positive_number, make_plain
from .coresets import random_subset
from .data import check_every_class, check_ipc, check_set, check_varied, ipc_by_class
from .memory import keep_freed_memory
from .networks import ConvNet, check_architecture, default_depth
from .randomness import keyed_generator, root_seed


@dataclass(frozen=True, kw_only=True)
class Config:
    """The fields of every method; a ValueError if one is out of range.

    Parameters
    ----------
    ipc : int or tuple of int
        Synthetic images per class, or of each class in order. Where they start as real ones, an integer is at most what
        a class has.
    iterations : int
        Steps on the synthetic images.
    batch_real : int
        Real images of each class in a step.
    lr_img : float
        Step size on the pixels.
    schedule : {"linear", "constant"}
        Whether the step falls linearly to zero over the iterations, or stays as published.
    momentum : float
        Momentum of the steps, in [0, 1).
    init : {"real", "noise"}
        Start from random real images or from Gaussian noise.
    augment : str, optional
        Strategy of :class:`~dmtutor.SiameseAugment`; the data set's own if None.
    width : int
        Channels of each block of the network, see :class:`~dmtutor.ConvNet`.
    depth : int, optional
        Blocks of the network; by the images' side if None: 3, and from 64 pixels on one more for each doubling.
    norm : {"instance", "batch", "layer", "group", "none"}
        Norm after each of its convolutions.
    activation : {"relu", "leakyrelu", "sigmoid", "swish"}
        Activation after each norm.
    pooling : {"avg", "max", "none"}
        Pooling at the end of each block.
    """

    ipc: int | tuple[int, ...] = 10
    iterations: int
    batch_real: int = 16
    lr_img: float
    schedule: str
    momentum: float = 0.5
    init: str = "real"
    augment: str | None = None
    width: int = 32
    depth: int | None = None
    norm: str = "instance"
    activation: str = "relu"
    pooling: str = "avg"

    def __post_init__(self):
        make_plain(self)
        check_ipc_field(self.ipc)
        if self.depth is not None:
            check_positive("depth", self.depth)
        for name in ("iterations", "batch_real", "width"):
            check_positive(name, getattr(self, name))
        if self.lr_img is not None:
            check_positive_number("lr_img", self.lr_img)
        check_fraction("momentum", self.momentum)
        check_one_of("schedule", self.schedule, ("linear", "constant"))
        check_one_of("init", self.init, ("real", "noise"))
        if self.augment is not None:
            SiameseAugment(self.augment)

    @classmethod
    def reference(cls, **changes):
        """The published setting; a ValueError where none is written."""
        raise ValueError(f"setting must be quick for {cls.__name__}, which has no published one")

    @property
    def architecture(self):
        """The network's fields, as keywords of :class:`~dmtutor.ConvNet`."""
        return {name: getattr(self, name) for name in ("width", "depth", "norm", "activation", "pooling")}


def start(steps_type, config_type, real, config, generator, **options):
    """Check all that can be checked before any work, then make the steps of a run."""
    if not isinstance(config, config_type):
        raise TypeError(f"config must be a {config_type.__name__}; got {config!r}")
    check_set(real, "real", whole=True)
    check_every_class(real, options.get("classes"))
    check_varied(real)
    if config.init == "real" and not real.counts.all():
        raise ValueError("init must be 'noise' where real holds some classes only: a start from real images is drawn "
                         "for all of them; got 'real'")
    config = replace(config, ipc=resolve_ipc(real, config))
    if config.depth is None:
        config = replace(config, depth=default_depth(real.images.shape[2:]))
    check_architecture(real.images.shape[2:], **config.architecture)
    if config.augment is None:
        config = replace(config, augment=real.meta.get("augment", "none"))
    if real.images.device.type == "cpu":
        keep_freed_memory()
    return steps_type(real, config, root_seed(generator), **options)


def resolve_ipc(real, config):
    """Images per class, an integer if all are alike, no more than there are to start from."""
    each, counts = ipc_by_class(config.ipc, real.classes), real.counts.tolist()
    if config.init == "real" and len(set(each)) > 1:
        check_ipc(real, config.ipc)
    elif config.init == "real":
        ipc, most = each[0], max(counts)
        if ipc > most:
            raise ValueError(f"ipc must be at most {most}, the images of class {real.classes[counts.index(most)]!r}; "
                             f"got {ipc}")
        few = [f"{name!r} {n}" for name, n in zip(real.classes, counts, strict=True) if n < ipc]
        if few:
            listed = ", ".join(few[:8]) + (f" and {len(few) - 8} more" if len(few) > 8 else "")
            warnings.warn(f"ipc={ipc} is more than some classes have to start from: {listed}", stacklevel=4)
        each = [min(ipc, n) for n in counts]
    return each[0] if len(set(each)) == 1 else tuple(each)


class Sent(NamedTuple):
    """What an iteration draws, on the device: {class: (rows, ω)}, weights, and what the method draws besides."""

    iteration: int | None
    draws: dict
    weights: list
    drawn: list


def send(tensors, device):
    """Bring tensors of any shapes and types from the CPU to a device, in one copy that the CPU does not wait for.

    A list of the same values there, parts of one buffer. On a CPU the tensors themselves.

    Examples
    --------
    >>> numbers, rows = send([torch.ones(2, 3), torch.arange(2)], torch.device("meta"))
    >>> numbers.shape, rows.dtype, rows.device
    (torch.Size([2, 3]), torch.int64, device(type='meta'))
    """
    if device.type == "cpu":
        return list(tensors)
    # Every type begins at a multiple of 8 bytes.
    sizes = [size for t in tensors for size in (t.nbytes, -t.nbytes % 8)]
    buffer = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=device.type == "cuda")
    for place, t in zip(buffer.split(sizes)[::2], tensors, strict=True):
        place.view(t.dtype).view(t.shape).copy_(t)
    parts = buffer.to(device, non_blocking=True).split(sizes)[::2]
    return [part.view(t.dtype).view(t.shape) for part, t in zip(parts, tensors, strict=True)]


class Step:
    """What one iteration leaves behind.

    Attributes
    ----------
    iteration : int
        From 1 on.
    loss : Tensor, ()
        Of the images before the step; detached.
    synthetic : LabeledImages
        The images after this step: a copy, made when it is read.
    """

    def __init__(self, steps, loss):
        # A step makes new tensors and changes none, so the names as they stand now are a snapshot.
        self.iteration, self.loss, self._steps = steps.iteration, loss, copy(steps)

    @property
    def synthetic(self):
        return self._steps.synthetic


class Steps:
    """An iterator of :class:`Step`, one for each iteration. A method says what the loss is, and its gradient.

    The state of a run is (configuration, root, iteration, and the tensors that ``variables`` names). A method's
    ``config_type`` is a dataclass derived from :class:`Config`, whose docstring says what each field is; ``method`` is
    the name under which sets and states are saved, the class's own if it gives no other.
    """

    config_type = Config
    variables = ("images", "momentum")

    def __init_subclass__(cls):
        super().__init_subclass__()
        cls.method = vars(cls).get("method", cls.__name__)

    def __init__(self, real, config, root):
        self.config, self.root, self.iteration, self.real = config, root, 0, real
        self.rows_of_class = [rows.cpu() for rows in real.rows_of_class]  # they are drawn on the CPU
        self.classes = range(len(real.classes))
        self.ipc = ipc_by_class(config.ipc, real.classes)  # of each class, also of those that are others' work
        self._sent = Sent(None, {}, [], [])
        self.augment = SiameseAugment(config.augment)
        self.network = self.new_network().requires_grad_(False)
        self.network.to(real.images[:0], memory_format=torch.channels_last)
        draw = keyed_generator(root, "init")
        if config.init == "real":
            chosen = self.first_images(draw)
            self.images, self.labels = chosen.images.clone(), chosen.labels
        else:
            self.images = torch.randn(sum(self.ipc), *real.images.shape[1:], generator=draw).to(real.images[:0])
            self.labels = torch.arange(len(real.classes)).repeat_interleave(torch.tensor(self.ipc)).to(real.labels)
        self.momentum = torch.zeros_like(self.images)

    def new_network(self):
        """The network that the images are seen through, whose weights a method draws: a module on the CPU."""
        return ConvNet(
            channels=self.real.images.shape[1], image_size=self.real.images.shape[2:], classes=len(self.real.classes),
            **self.config.architecture, generator=keyed_generator(self.root, "network", 0),
        )

    def __len__(self):
        return self.config.iterations

    def __iter__(self):
        return self

    def __next__(self):
        if self.iteration == len(self):
            raise StopIteration
        loss, changes = self.advance()
        if self.images.device.type != "cpu":
            self.send(self.iteration + 1)
        # At once, so that an interruption leaves a state from before the step or from after it.
        vars(self).update(changes, iteration=self.iteration + 1)
        return Step(self, loss)

    @property
    def network_summary(self):
        """What the images are seen through, for a line that says what a run will do."""
        return f"network of depth {self.config.depth} and width {self.config.width}"

    progress = False  # whether a bar is shown for what a run does before its first step
    training = None  # how many networks a run trains before its first step, and by which recipe, on average

    def trial(self):
        """A copy to measure a few steps on, without what a run does before its first one."""
        return copy(self)  # a step makes new tensors and changes none

    def advance(self):
        """The loss, and the variables after one step of SGD on the pixels: a dict."""
        loss, gradient = self.loss_and_gradient()
        momentum = self.config.momentum * self.momentum + gradient
        return loss, {"images": self.images - self.step_size * momentum, "momentum": momentum}

    def loss_and_gradient(self):
        """The objective under this iteration's draws at the images as they are, (), and its gradient, (n, C, H, W)."""
        raise NotImplementedError

    def first_images(self, generator):
        """The real images that a run starts from: LabeledImages."""
        return random_subset(self.real, self.config.ipc, generator=generator)

    def draw(self, *classes):
        """This iteration's real batches of these classes in a row, (Σ B, C, H, W), and an augmentation ω for each."""
        rows, omegas = zip(*(self.sent.draws[c] for c in classes), strict=True)
        return self.real.images[torch.cat(rows)], Draws.join(omegas)

    def batch_size(self, c):
        """Real images of class c in a step."""
        return min(self.config.batch_real, len(self.rows_of_class[c]))

    def _sample(self, c, iteration):
        """The rows of class c that an iteration sees, (B,), and the augmentation, on the CPU."""
        rows = self.rows_of_class[c]
        order = torch.randperm(len(rows), generator=keyed_generator(self.root, "batch", iteration, c))
        omega = self.augment.sample(1, generator=keyed_generator(self.root, "augment", iteration, c))
        return rows[order[: self.config.batch_real]], omega

    @property
    def sent(self):
        """What this iteration draws."""
        if self._sent.iteration != self.iteration:
            self.send(self.iteration)
        return self._sent

    def send(self, iteration):
        """Draw all that an iteration draws and send it to the device, which may still be at work on the one before."""
        rows, omegas = zip(*(self._sample(c, iteration) for c in self.classes), strict=True)
        omega, weights = Draws.join(omegas), self.draw_weights(iteration)
        everything = torch.cat(rows), omega.u.to(self.images.dtype), torch.cat([w.flatten() for w in weights])
        own = [t.to(self.images.dtype) if t.is_floating_point() else t for t in self.draws(iteration)]
        all_rows, u, flat, *drawn = send([*everything, *own], self.images.device)
        if isinstance(self.real.images, torch.Tensor):  # what is on disk is read with the rows of the CPU
            rows = all_rows.split([len(r) for r in rows])
        parts = zip(rows, replace(omega, u=u).split(), strict=True)
        flat = flat.split([w.numel() for w in weights])
        weights = [part.view(w.shape) for part, w in zip(flat, weights, strict=True)]
        self._sent = Sent(iteration, dict(zip(self.classes, parts, strict=True)), weights, drawn)

    def draw_weights(self, iteration):
        """Weights that an iteration draws for all classes, on the CPU: none here."""
        return [torch.empty(0)]

    def draws(self, iteration):
        """What else a method draws in an iteration for all classes, tensors on the CPU: none here.

        From ``keyed_generator(self.root, "method", iteration)``, so that every process and a resumed run draw the same.
        """
        return ()

    @property
    def step_size(self):
        """η of the coming step."""
        falls = self.config.schedule == "linear"
        return self.config.lr_img * (1 - self.iteration / len(self) if falls else 1)

    @property
    def synthetic(self):
        """The images as they are now: a copy."""
        meta = {"method": self.method, "name": self.real.meta.get("name", ""),
                "augment": self.real.meta.get("augment", "none"), "config": asdict(self.config),
                "iteration": self.iteration, "versions": {"dmtutor": __version__, "torch": str(torch.__version__)}}
        of_real = ("built_in", "fingerprint", "resize", "white")  # the real images that it is judged by must be so
        meta.update({name: self.real.meta[name] for name in of_real if name in self.real.meta})
        return replace(self.real, images=self.images.clone(), labels=self.labels.clone(), meta=meta)

    @cached_property
    def fingerprint(self):
        """Of the real images and labels: with another one a state does not go on."""
        return self.real.fingerprint

    def state_dict(self):
        """What it takes to go on later: plain types and tensors. Networks and batches follow from the root."""
        return {"method": self.method, "config": asdict(self.config), "root": self.root, "real": self.fingerprint,
                "iteration": self.iteration, **{name: getattr(self, name).cpu().clone() for name in self.variables}}

    def finish(self):
        """Take the steps that are left: the images afterwards."""
        for _ in self:
            pass
        return self.synthetic

    def load_state_dict(self, state):
        """Go on from a state of a run with the same configuration, generator and data.

        A ValueError if one of them differs, by as little as one pixel; but with a constant schedule the number of
        iterations may be another one. A field that an older state does not know has its default there.
        """
        there, here = (tuple(getattr(images, "shape", ()))[1:] for images in (state["images"], self.images))
        if there != here:
            raise ValueError(f"state must be of images of the same size, {here}; got {there}: another --size?")
        ours, theirs = {"method": self.method}, {"method": state.get("method")}
        if theirs == ours:
            known = {f.name for f in fields(self.config)} & state["config"].keys()
            there = type(self.config)(**{name: state["config"][name] for name in known})
            ours, theirs = asdict(self.config), asdict(there)
        different = [k for k in ours if theirs[k] != ours[k]]
        if different == ["iterations"] and self.config.schedule == "constant" and state["iteration"] <= len(self):
            different = []  # where the step size does not fall, a longer run begins as a shorter one
        if different:
            changes = ", ".join(f"{k}={theirs[k]!r} there, {ours[k]!r} here" for k in different)
            raise ValueError(f"state must be of a run with the same configuration; got {changes}")
        if state["root"] != self.root:
            raise ValueError("state must be of a run with the same seed; this one had another")
        if state["real"] != self.fingerprint:
            raise ValueError("state must be of a run on the same data; since then images were added, taken away, "
                             "swapped or changed")
        for name in self.variables:
            shape, found = getattr(self, name).shape, getattr(state.get(name), "shape", None)
            if found != shape:
                raise ValueError(f"state must hold {name} of {tuple(shape)}; got {found and tuple(found)}")
        tensors = {name: state[name].to(getattr(self, name)) for name in self.variables}
        vars(self).update(tensors, iteration=state["iteration"])
