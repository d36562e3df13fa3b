"""Dataset distillation: learn a small set by differentiating through the training of a network on it.

After Wang, Zhu, Torralba & Efros, *Dataset Distillation*, 2018.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch.func import functional_call

from . import threads
from .checks import check_ipc_field, check_not_negative, check_positive, check_positive_number, fill
from .randomness import keyed_generator
from .steps import Config, Steps, start


@dataclass(frozen=True, kw_only=True)
class DDConfig(Config):
    """All that changes the result of dataset distillation, besides the data and the seed.

    The defaults are quick: a minute at one image per class. :meth:`reference` gives the published setting. Beside the
    fields of :class:`~dmtutor.steps.Config` there are these; ``norm="batch"`` is refused.

    Parameters
    ----------
    iterations : int
        Steps on pixels and step sizes; each draws new networks.
    batch_real : int
        Real images of each class on which the trained networks are judged.
    lr_img : float
        Step size of Adam on the pixels, of unit variance: it does not follow the gradients' length through a training.
    momentum : float
        Decay β₁ of Adam's mean gradient, in [0, 1).
    augment : str, optional
        Strategy of :class:`~dmtutor.SiameseAugment`, drawn once for each class and iteration and applied to real and
        synthetic images alike; the data set's own if None.
    inner_steps : int, optional
        τ, the unrolled training steps on the synthetic images. If None, 10, or as many as give every image its turn.
    batch_syn : int
        Synthetic images of each class in a training step, taken in turn.
    lr_net : float
        Step size of every training step at the start; they are learned, see ``lr_lr``.
    lr_lr : float
        Step size of Adam on the logarithms of the training step sizes; 0 keeps them.

    Examples
    --------
    >>> DDConfig(inner_steps=0)
    Traceback (most recent call last):
    ValueError: inner_steps must be a positive integer; got 0
    """

    iterations: int = 200
    batch_real: int = 8
    lr_img: float = 0.1
    schedule: str = "linear"
    augment: str | None = "none"
    inner_steps: int | None = None
    batch_syn: int = 1
    lr_net: float = 0.02
    lr_lr: float = 0.02

    def __post_init__(self):
        super().__post_init__()
        check_positive("batch_syn", self.batch_syn)
        least, _, most = check_ipc_field(self.ipc)
        if self.batch_syn > least:
            raise ValueError(f"batch_syn must be at most ipc={least}; got {self.batch_syn}")
        turns = -(-most // self.batch_syn)  # rounded up
        fill(self, inner_steps=max(10, turns))
        check_positive("inner_steps", self.inner_steps)
        if self.inner_steps < turns:
            raise ValueError(f"inner_steps must be at least {turns}, for every image to have its turn; got "
                             f"{self.inner_steps}")
        check_positive_number("lr_net", self.lr_net)
        check_not_negative("lr_lr", self.lr_lr)
        if self.norm == "batch":
            raise ValueError("norm must keep no statistics of its own beside the weights; got 'batch'")

    @classmethod
    def reference(cls, *, ipc=10, **changes):
        """The setting of Wang et al.'s code for MNIST with unknown initialisations, in the network of this book.

        Every training step sees one image of each class, and all of S three times: ``inner_steps`` is 3 ipc, 30 at the
        published IPC of 10. The code has no setting of its own for other IPC. It starts from noise, judges one network
        in a step on 1,024 real images (about: here 102 of each class), and takes Adam steps of 0.01 with β₁ = 0.5 on
        the pixels for 400 passes over 60,000 images, about 23,600 steps. The training step sizes start at 0.02.

        Not reproduced: LeNet with Xavier initialisation; Adam's step, which the code halves every 40 passes and the
        linear schedule lets fall to zero; step sizes behind a softplus instead of an exponential.

        Examples
        --------
        >>> DDConfig.reference().inner_steps
        30
        """
        most = check_ipc_field(ipc)[2]
        published = dict(iterations=23_600, batch_real=102, lr_img=0.01, init="noise", inner_steps=3 * most,
                         batch_syn=1, lr_net=0.02, lr_lr=0.01, width=128, depth=3)
        return cls(ipc=ipc, **{**published, **changes})


def unroll(network, params, images, labels, step_sizes, *, rows=None):
    r"""Train a network by τ steps of gradient descent, as a function that can be differentiated.

    .. math:: \theta_{t+1} = \theta_t - \eta_t \, \nabla_\theta \ell(\theta_t; S), \qquad t = 0, \dots, \tau - 1

    where :math:`\ell` is the mean cross-entropy (Wang et al., section 3). It returns :math:`\theta_\tau`, a dict like
    ``params``; gradients flow back into ``params``, ``images`` and ``step_sizes``. A ValueError if ``step_sizes`` is
    not one-dimensional, or ``rows`` are not as many.

    Parameters
    ----------
    network : torch.nn.Module
        Its own weights are neither used nor changed.
    params : dict of str to Tensor
        :math:`\theta_0`, as ``dict(network.named_parameters())`` gives them.
    images, labels : Tensor, (n, C, H, W) and (n,)
    step_sizes : Tensor, (τ,)
        :math:`\eta_t`.
    rows : Tensor, (τ, b), optional
        Which images each step sees; all of them if left out.

    Examples
    --------
    One step of logistic regression from zero: the classes' gradients are ∓x/2, averaged over two images.

    >>> network = torch.nn.Linear(1, 2, bias=False)
    >>> images = torch.tensor([[1.0], [-1.0]])
    >>> unroll(network, {"weight": torch.zeros(2, 1)}, images, torch.tensor([0, 1]), torch.ones(1))["weight"]
    tensor([[ 0.5000],
            [-0.5000]], grad_fn=<SubBackward0>)
    """
    if step_sizes.ndim != 1:
        raise ValueError(f"step_sizes must be of one dimension; got shape {tuple(step_sizes.shape)}")
    if rows is not None and len(rows) != len(step_sizes):
        raise ValueError(f"rows must be as many as step_sizes, {len(step_sizes)}; got {len(rows)}")
    differentiable = torch.is_grad_enabled()
    for t, eta in enumerate(step_sizes):
        x, y = (images, labels) if rows is None else (images[rows[t]], labels[rows[t]])
        with torch.enable_grad():
            params = {name: p if p.requires_grad else p.detach().requires_grad_() for name, p in params.items()}
            loss = F.cross_entropy(functional_call(network, params, x), y)
            gradients = torch.autograd.grad(loss, list(params.values()), create_graph=differentiable)
        params = {name: p - eta * g for (name, p), g in zip(params.items(), gradients, strict=True)}
    return params


def turns(labels, batch_syn, inner_steps):
    """Which images each training step sees, ``batch_syn`` of every class in turn: (n,) → (τ, K · batch_syn)."""
    places = torch.arange(inner_steps * batch_syn, device=labels.device).view(inner_steps, batch_syn)
    of_class = [(labels == c).nonzero()[:, 0] for c in labels.unique()]
    return torch.cat([rows[places % len(rows)] for rows in of_class], dim=1)


@torch.no_grad()
def train_as_learned(network, synthetic):
    """The training that a set was distilled for: τ steps, with the step sizes that were learned beside the images.

    Parameters
    ----------
    network : torch.nn.Module
        Changed in place, and returned.
    synthetic : LabeledImages
        Of :func:`~dmtutor.dd_steps`; a ValueError if it has no step sizes of its own.

    Examples
    --------
    >>> from dmtutor import from_arrays
    >>> train_as_learned(torch.nn.Identity(), from_arrays(torch.rand(2, 8, 8), [0, 1]))
    Traceback (most recent call last):
    ValueError: synthetic must bring step sizes, as the sets of dd_steps do; its meta has augment, fingerprint
    """
    if "step_sizes" not in synthetic.meta:
        raise ValueError("synthetic must bring step sizes, as the sets of dd_steps do; its meta has "
                         f"{', '.join(synthetic.meta)}")
    step_sizes = synthetic.images.new_tensor(synthetic.meta["step_sizes"])
    rows = turns(synthetic.labels, synthetic.meta["config"]["batch_syn"], len(step_sizes))
    params = dict(network.named_parameters())
    trained = unroll(network, params, synthetic.images, synthetic.labels, step_sizes, rows=rows)
    for name, p in params.items():
        p.copy_(trained[name])
    return network


def dd_steps(real, *, config, generator):
    r"""Dataset distillation, one step at a time: `DDSteps`, algorithm 1 of Wang et al.

    .. math:: \min_{S, \eta} \; \mathbb{E}_{\theta_0} \, \ell(\theta_\tau; T), \qquad
        \theta_{t+1} = \theta_t - \eta_t \, \nabla_\theta \ell(\theta_t; S)

    Every step draws initial weights, trains from them on S by :func:`~dmtutor.unrolling.unroll`, judges the trained
    network by its cross-entropy on real images, and differentiates through the whole training: by the pixels of S,
    and by the logarithms of the training's step sizes. Both then take a step of Adam.

    Parameters
    ----------
    real, config, generator
        As of :func:`~dmtutor.dm_steps`, ``config`` a :class:`DDConfig`; and so are what is returned and the errors.
        ``synthetic.meta["step_sizes"]`` holds the learned step sizes.

    Examples
    --------
    >>> from dmtutor import load
    >>> train, test = load("mnist5k")
    >>> config = DDConfig(ipc=1, iterations=2, inner_steps=3, batch_real=1, width=8)
    >>> steps = dd_steps(train, config=config, generator=torch.Generator().manual_seed(0))
    >>> losses = [float(step.loss) for step in steps]
    >>> steps.synthetic, len(steps.synthetic.meta["step_sizes"])
    (LabeledImages(10 images of 1×28×28, 10 classes), 3)
    """
    return start(DDSteps, DDConfig, real, config, generator)


class DDSteps(Steps):
    """The iterator that :func:`~dmtutor.dd_steps` returns. Its state holds step sizes and Adam's moments, too."""

    method = "dd"
    config_type = DDConfig
    variables = ("images", "momentum", "square", "log_step_sizes", "log_momentum", "log_square")

    def __init__(self, real, config, root):
        super().__init__(real, config, root)
        self.network.to(memory_format=torch.contiguous_format)  # second derivatives are faster so
        self.square = torch.zeros_like(self.images)
        self.log_step_sizes = self.images.new_full((config.inner_steps,), config.lr_net).log()
        self.log_momentum, self.log_square = torch.zeros(2, config.inner_steps).to(self.images)
        self.rows = turns(self.labels, config.batch_syn, config.inner_steps)

    @property
    def synthetic(self):
        """The images as they are now, a copy, with the step sizes that go with them in ``meta``."""
        copy = super().synthetic
        return replace(copy, meta={**copy.meta, "step_sizes": self.log_step_sizes.exp().tolist()})

    def advance(self):
        """The loss, and the variables after one step of Adam on pixels and step sizes."""
        loss, by_images, by_logs = self.loss_and_gradients()
        settings = self.config.momentum, self.iteration + 1
        step, momentum, square = adam(by_images, self.momentum, self.square, *settings)
        log_step, log_momentum, log_square = adam(by_logs, self.log_momentum, self.log_square, *settings)
        lr_log = self.config.lr_lr * self.step_size / self.config.lr_img  # one schedule for both
        return loss, {"images": self.images - self.step_size * step, "momentum": momentum, "square": square,
                      "log_step_sizes": self.log_step_sizes - lr_log * log_step, "log_momentum": log_momentum,
                      "log_square": log_square}

    @threads.single_threaded()
    def loss_and_gradients(self):
        """The objective under this iteration's draws, and its gradients by pixels, (n, C, H, W), and log η, (τ,)."""
        images, logs = (values.clone().requires_grad_() for values in (self.images, self.log_step_sizes))
        reals, syns = [], []
        for c, s in enumerate(images.split(self.ipc)):
            batch, omega = self.draw(c)
            reals.append(self.augment.apply(batch, omega))
            syns.append(self.augment.apply(s, omega))
        real_labels = torch.cat([self.labels.new_full((len(batch),), c) for c, batch in enumerate(reals)])
        self.network.reset_parameters(generator=keyed_generator(self.root, "network", self.iteration, 0))
        params = dict(self.network.named_parameters())
        params = unroll(self.network, params, torch.cat(syns), self.labels, logs.exp(), rows=self.rows)
        loss = F.cross_entropy(functional_call(self.network, params, torch.cat(reals)), real_labels)
        return loss.detach(), *torch.autograd.grad(loss, (images, logs))


def adam(gradient, momentum, square, beta, k, *, beta_2=0.999, eps=1e-8):
    """The k-th step of Adam, for a step size of 1, and its two moments."""
    momentum = beta * momentum + (1 - beta) * gradient
    square = beta_2 * square + (1 - beta_2) * gradient.square()
    return momentum / (1 - beta**k) / ((square / (1 - beta_2**k)).sqrt() + eps), momentum, square
