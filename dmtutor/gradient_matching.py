"""Gradient matching: learn a small set on which a network's weights get the gradients that real images give (DC).

After Zhao, Mopuri & Bilen, *Dataset Condensation with Gradient Matching*, ICLR 2021; DSA with Siamese augmentation.
"""

from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch.nn.utils import parameters_to_vector

from . import threads
from .checks import check_ipc_field, check_one_of, check_positive, check_positive_number, fill
from .data import batches
from .randomness import keyed_generator
from .steps import Config, Steps, start

DISTANCES = ("cosine", "squared")
LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}  # as published, by ipc


@dataclass(frozen=True, kw_only=True)
class DCConfig(Config):
    """All that changes the result of gradient matching, besides the data and the seed.

    Three loops are nested. The outer one draws networks, the middle one takes ``steps_per_network`` steps on the
    pixels with each, and before each of them but the first the inner one trains the network on the synthetic
    images, ``training_epochs`` times over. ``iterations`` counts the steps on the pixels.

    The defaults take minutes on a laptop; :meth:`reference` gives the published setting. Beside the fields of
    :class:`~dmtutor.steps.Config` there are these; where they follow from ``ipc`` it is its mean. ``norm="batch"`` is
    refused.

    Parameters
    ----------
    iterations : int, optional
        Steps on the pixels. If None, 400 / √ipc: a step on more images costs more.
    batch_real : int
        Real images of each class in a step. Unlike a squared distance of means, the cosine is biased by a small batch.
    lr_img : float, optional
        Step size on the pixels. If None, 64 √ipc / width: the cosine distance sums over rows, whose number grows with
        the width; the root was chosen on validation images, at 1 and 10 per class.
    steps_per_network : int, optional
        Steps on the pixels before the weights are redrawn. If None, 1 at one image per class and 10 above.
    training_epochs : int
        Passes over the synthetic images between two of these steps.
    lr_net : float
        Step size of the training between two of these steps, on the weights.
    batch_train : int
        Images in a step of the training between.
    distance : {"cosine", "squared"}
        How gradients are compared, see :func:`~dmtutor.gradient_matching.gradient_distance`.

    Examples
    --------
    >>> DCConfig(training_epochs=0)
    Traceback (most recent call last):
    ValueError: training_epochs must be a positive integer; got 0
    """

    iterations: int | None = None
    lr_img: float | None = None
    schedule: str = "linear"
    augment: str | None = "none"
    steps_per_network: int | None = None
    training_epochs: int = 5
    lr_net: float = 0.01
    batch_train: int = 256
    distance: str = "cosine"

    def __post_init__(self):
        _, ipc, _ = check_ipc_field(self.ipc)
        check_positive("width", self.width)
        fill(self, iterations=max(1, round(400 / ipc**0.5)), lr_img=64 * ipc**0.5 / self.width,
             steps_per_network=1 if ipc == 1 else 10)
        super().__post_init__()
        for name in ("steps_per_network", "training_epochs", "batch_train"):
            check_positive(name, getattr(self, name))
        check_positive_number("lr_net", self.lr_net)
        check_one_of("distance", self.distance, DISTANCES)
        if self.norm == "batch":
            raise ValueError("norm must be 'instance', 'group', 'layer' or 'none': a batch of one class has no "
                             "statistics of use; got 'batch'")

    @classmethod
    def reference(cls, *, ipc=10, **changes):
        """The published setting: 1,000 networks of width 128, 256 real images, step 0.1 (Zhao et al., 4.1, and code).

        The loops, (steps per network, epochs of training), are (1, 1) at one image per class, (10, 50) at 10,
        (50, 10) at 50, and (20, 25), (30, 20), (40, 15) between. For another ``ipc`` none are published: a ValueError,
        unless they are given. DC starts from noise, DSA from real images.

        Examples
        --------
        >>> config = DCConfig.reference(ipc=10)
        >>> config.steps_per_network, config.training_epochs, config.iterations
        (10, 50, 10000)
        """
        loops = dict(zip(("steps_per_network", "training_epochs"), LOOPS.get(ipc, ()), strict=False))
        loops.update((name, changes[name]) for name in ("steps_per_network", "training_epochs") if name in changes)
        if len(loops) < 2:
            raise ValueError(f"ipc must be one of {', '.join(map(str, LOOPS))} unless steps_per_network and "
                             f"training_epochs are given; got {ipc!r}")
        init = "real" if issubclass(cls, DSAConfig) else "noise"
        published = dict(batch_real=256, lr_img=0.1, schedule="constant", width=128, depth=3, init=init)
        check_positive("steps_per_network", loops["steps_per_network"])
        return cls(ipc=ipc, **{**published, "iterations": 1000 * loops["steps_per_network"], **loops, **changes})


@dataclass(frozen=True, kw_only=True)
class DSAConfig(DCConfig):
    """Gradient matching with Siamese augmentation: the fields of :class:`DCConfig`, and the data set's augmentation.

    References
    ----------
    Zhao & Bilen, *Dataset Condensation with Differentiable Siamese Augmentation*, ICML 2021, section 3.2.

    Examples
    --------
    >>> DSAConfig.reference(ipc=1).init, DCConfig.reference(ipc=1).init
    ('real', 'noise')
    """

    augment: str | None = None


def gradient_distance(real, syn, *, distance="cosine"):
    r"""How far apart two gradients of a network are, layer by layer: a number, (), differentiable in both.

    The cosine distance takes each layer's gradient as a matrix, a row for each output, and sums over rows and layers

    .. math:: D(A, B) = \sum_{\text{layers}} \sum_i \left( 1 -
        \frac{\langle A_{i\cdot}, B_{i\cdot} \rangle}{\|A_{i\cdot}\| \, \|B_{i\cdot}\| + 10^{-6}} \right)

    (Zhao et al., section 3; the term in the denominator is that of their code). A gradient of one dimension, such as
    that of biases, contributes nothing, as in that code. The squared distance is :math:`\sum \|A - B\|^2` over all
    gradients, of one dimension too. A ValueError if the two differ in length or shapes, or hold nothing to compare.

    Parameters
    ----------
    real, syn : sequence of Tensor
        One gradient for each parameter, of the same shapes: (out, in), (out, in, kH, kW), …
    distance : {"cosine", "squared"}

    Examples
    --------
    >>> a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[5.0, 0.0], [0.0, -1.0]])
    >>> gradient_distance([a], [b])                       # 0 for the first row, 2 for the second
    tensor(2.0000)
    """
    check_one_of("distance", distance, DISTANCES)
    shapes = [[tuple(g.shape) for g in gradients] for gradients in (real, syn)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"syn must hold gradients of the shapes in real, {shapes[0]}; got {shapes[1]}")
    pairs = [(a, b) for a, b in zip(real, syn, strict=True) if distance == "squared" or a.ndim > 1]
    if not pairs:
        raise ValueError(f"real must hold gradients to compare by {distance!r}; got shapes {shapes[0]}")
    if distance == "squared":
        return sum((a - b).square().sum() for a, b in pairs)
    rows = ((a.flatten(1), b.flatten(1)) for a, b in pairs)
    return sum((1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum() for a, b in rows)


def dc_steps(real, *, config, generator):
    r"""Gradient matching, one step on the pixels at a time: `DCSteps`, algorithm 1 of Zhao et al.

    .. math:: \min_S \; \mathbb{E}_{\theta_0, \omega} \sum_t \sum_c D\bigl(
        \nabla_\theta \ell(A(T_c, \omega), \theta_t),\; \nabla_\theta \ell(A(S_c, \omega), \theta_t) \bigr)

    with :math:`\ell` the mean cross-entropy and :math:`\theta_t` the network after t trainings on S, through which no
    gradient passes. A step draws a network or trains the one it has; for every class it draws a batch of real images
    and an augmentation that both sides share; the gradient of the distance by the pixels is that of one SGD step.

    Parameters
    ----------
    real, config, generator
        As of :func:`~dmtutor.dm_steps`, ``config`` a :class:`DCConfig`, or for DSA a :class:`DSAConfig`; and so are
        what is returned and the errors.

    Examples
    --------
    >>> from dmtutor import load
    >>> train, test = load("mnist5k")
    >>> config = DCConfig(ipc=1, iterations=2, width=8)
    >>> steps = dc_steps(train, config=config, generator=torch.Generator().manual_seed(0))
    >>> steps.finish()
    LabeledImages(10 images of 1×28×28, 10 classes)
    """
    return start(DSASteps if isinstance(config, DSAConfig) else DCSteps, DCConfig, real, config, generator)


class DCSteps(Steps):
    """The iterator that :func:`dc_steps` returns. Its state holds the weights of the last step, (p,), too."""

    method = "dc"
    config_type = DCConfig
    variables = (*Steps.variables, "weights")

    def __init__(self, real, config, root):
        super().__init__(real, config, root)
        self.network.to(memory_format=torch.contiguous_format)  # second derivatives are faster so
        self.parameters = list(self.network.requires_grad_().parameters())
        # A bias has no part in the cosine: its gradient need not be computed.
        self.matched = [p for p in self.parameters if config.distance == "squared" or p.ndim > 1]
        self.weights = parameters_to_vector(self.parameters).detach()

    def advance(self):
        loss, changes = super().advance()
        return loss, {**changes, "weights": parameters_to_vector(self.parameters).detach()}

    def loss_and_gradient(self):
        if self.iteration % self.config.steps_per_network == 0:
            self.network.reset_parameters(generator=keyed_generator(self.root, "network", self.iteration))
        else:
            self.load_weights()
            self.train()
        parts = zip(self.sent.draws, self.images.split(self.ipc), strict=True)  # drawn before the threads begin
        matched = threads.parallel_map(self._match, parts, self.images.device)
        losses, gradients = zip(*matched, strict=True)
        return torch.stack(losses).sum(), torch.cat(gradients)

    @threads.single_threaded()
    def train(self):
        """The inner loop: train the network on the synthetic images, ``training_epochs`` times over."""
        draw_order, draw_omega = (keyed_generator(self.root, name, self.iteration) for name in ("train", "augment"))
        sgd = torch.optim.SGD(self.parameters, lr=self.config.lr_net)
        passes = -(-len(self.images) // self.config.batch_train)  # batches in an epoch, rounded up
        rows_of_batches = batches(len(self.images), self.config.batch_train, draw_order)
        for rows in islice(rows_of_batches, self.config.training_epochs * passes):
            rows = rows.to(self.labels.device)
            omega = self.augment.sample(len(rows), generator=draw_omega, same_operation=True)
            loss = F.cross_entropy(self.network(self.augment.apply(self.images[rows], omega)), self.labels[rows])
            sgd.zero_grad()
            loss.backward()
            sgd.step()

    def _match(self, part):
        """Distance of the two gradients of a class, and its gradient in the synthetic images of the class."""
        c, syn = part
        batch, omega = self.draw(c)
        syn = syn.clone().requires_grad_()
        real_gradients = self.weight_gradients(self.augment.apply(batch, omega), c)
        syn_gradients = self.weight_gradients(self.augment.apply(syn, omega), c, create_graph=True)
        loss = gradient_distance(real_gradients, syn_gradients, distance=self.config.distance)
        (gradient,) = torch.autograd.grad(loss, syn)
        return loss.detach(), gradient

    def weight_gradients(self, images, c, *, create_graph=False):
        """∇_θ of the mean cross-entropy of images (n, C, H, W) that all are of class c."""
        logits = self.network(images)
        loss = F.cross_entropy(logits, torch.full((len(images),), c, device=images.device))
        return torch.autograd.grad(loss, self.matched, create_graph=create_graph)

    def load_weights(self):
        values = self.weights.split([p.numel() for p in self.parameters])
        self.network.load_parameters([v.view_as(p) for v, p in zip(values, self.parameters, strict=True)])


class DSASteps(DCSteps):
    """Those of Siamese augmentation."""

    method = "dsa"
    config_type = DSAConfig
