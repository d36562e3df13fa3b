"""Beyond distribution matching: more images in the same pixels, networks that know the task, classes kept apart."""

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from . import threads
from .checks import check_ipc_field, check_not_negative, check_positive, fill
from .decoding import check_factor, enlarge, random_tiles
from .distribution_matching import DMConfig, DMSteps
from .evaluation import Recipe, train_network
from .randomness import keyed_generator
from .steps import start


@dataclass(frozen=True, kw_only=True)
class IDMConfig(DMConfig):
    """All that changes the result of :func:`~dmtutor.idm_steps`, besides the data and the seed.

    With ``factor=1, pool=0, alpha=0`` it is distribution matching, bit for bit.

    Parameters
    ----------
    factor : int
        Every stored image holds factor × factor, each a part of it that is enlarged before it is augmented.
    pool : int
        Networks to draw from: number k of them is trained on the real images for k / (pool − 1) of ``pool_steps``, so
        that the first is a random one. If 0, a new random network is drawn in every step.
    pool_steps : int
        Steps of the longest training, of 64 images each and step size 0.01, see :class:`~dmtutor.Recipe`.
    alpha : float
        Weight of the cross-entropy of the network's answers to the synthetic images, in units of d' / 512. If None,
        10 / ipc, or 0 without a pool: one trial each on CIFAR-10 found 10 the best of 0, 1 and 10 at one image per
        class, and 1 with twice the step size better than 10 at ten.
    iterations, batch_real
        As of :class:`~dmtutor.DMConfig`; where they are None, for factor² as many images.

    Examples
    --------
    >>> IDMConfig(alpha=1.0, pool=0)
    Traceback (most recent call last):
    ValueError: alpha must be 0 for pool=0: random networks tell no classes apart; got 1.0
    """

    factor: int = 2
    pool: int = 10
    pool_steps: int = 600
    alpha: float | None = None

    def __post_init__(self):
        check_positive("factor", self.factor)
        ipc = check_ipc_field(self.ipc)[1]
        fill(self, iterations=max(1, round(1000 / (ipc**0.5 * self.factor))),
             batch_real=max(1, round(4 * ipc**0.5 * self.factor)), alpha=10 / ipc if self.pool else 0)
        super().__post_init__()
        if self.pool != 0 or isinstance(self.pool, bool):
            check_positive("pool", self.pool)
        if self.pool == 1:
            raise ValueError("pool must be 0, for new networks in every step, or at least 2; got 1")
        check_positive("pool_steps", self.pool_steps)
        check_not_negative("alpha", self.alpha)
        if self.alpha and not self.pool:
            raise ValueError(f"alpha must be 0 for pool=0: random networks tell no classes apart; got {self.alpha!r}")

    @classmethod
    def reference(cls, **changes):
        """A ValueError: there is none, for the published networks are trained further as the run goes on."""
        raise ValueError("setting must be quick for idm: published, its networks are trained further in every step")


def idm_steps(real, *, config, generator, classes=None):
    r"""Distribution matching with the three ideas of its improved form, one step at a time: `IDMSteps`.

    .. math:: \min_S \; \mathbb{E}_{\vartheta, \omega} \sum_c \Bigl\| \frac{1}{|T_c|} \sum_{x \in T_c}
        \psi_\vartheta(A(x, \omega)) - \frac{1}{r^2 |S_c|} \sum_{s \in f(S_c)} \psi_\vartheta(A(s, \omega)) \Bigr\|^2
        - \frac{\alpha d'}{512} \frac{1}{r^2 |S_c|} \sum_{s \in f(S_c)} \log p_\vartheta(c \mid A(s, \omega))

    *Decoding* f shows :math:`r^2` enlarged parts of every stored image (:func:`~dmtutor.decoding.enlarge`); the
    *networks* are drawn from a pool that was trained for a while on the real images; the *cross-entropy* of the same
    network keeps a class apart from the others. As published the networks wait in a queue that is trained on as the
    run goes on; here the pool is made before the first step from the root of the run, so that a run can be resumed,
    shared and repeated. The published weight of the cross-entropy grows with the network's accuracy. The sets are
    stored ones: :func:`~dmtutor.decode` shows them as networks see them.

    Parameters
    ----------
    real, config, generator, classes
        As of :func:`~dmtutor.dm_steps`, ``config`` an :class:`IDMConfig`; and so are what is returned and the errors.

    References
    ----------
    Zhao et al., *Improved Distribution Matching for Dataset Condensation*, CVPR 2023.

    Examples
    --------
    >>> from dmtutor import decode, load
    >>> train, test = load("mnist5k")
    >>> config = IDMConfig(ipc=1, iterations=2, pool=2, pool_steps=1)
    >>> steps = idm_steps(train, config=config, generator=torch.Generator().manual_seed(0))
    >>> decode(steps.finish())
    LabeledImages(40 images of 1×28×28, 10 classes)
    """
    return start(IDMSteps, IDMConfig, real, config, generator, classes=classes)


class IDMSteps(DMSteps):
    """The iterator that :func:`~dmtutor.idm_steps` returns. Its state holds the pool, too."""

    method = "idm"
    config_type = IDMConfig

    def __init__(self, real, config, root, classes=None):
        check_factor(config.factor, real.images.shape[2:])
        super().__init__(real, config, root, classes)

    def first_images(self, generator):
        """Real images, shrunk into tiles; those of distribution matching for factor 1."""
        return random_tiles(self.real, self.config.ipc, factor=self.config.factor, generator=generator)

    def decode(self, images):
        """Every tile in the size of an image."""
        return enlarge(images, self.config.factor) if self.config.factor > 1 else images

    def draw_weights(self, iteration):
        """Those of a network of the pool, or of a new one."""
        if not self.config.pool:
            return super().draw_weights(iteration)
        drawn = torch.randint(self.config.pool, (), generator=keyed_generator(self.root, "network", iteration))
        return self.pool[drawn]

    def distance(self, real, syn, labels):
        """That of the means, and the cross-entropy of what the network says of the synthetic images."""
        distance = super().distance(real, syn, labels)
        return distance + self.cross_entropy(syn, labels) if self.config.alpha else distance

    def cross_entropy(self, syn, labels):
        """α d' / 512 times the mean cross-entropy of each class: (k, M, d'), (k,) → (k,)."""
        logits = self.network.classifier(syn).flatten(0, 1)  # (k M, K)
        entropy = F.cross_entropy(logits, labels.repeat_interleave(syn.shape[1]), reduction="none")
        return self.config.alpha * syn.shape[2] / 512 * entropy.view(syn.shape[:2]).mean(1)

    @functools.cached_property
    def pool(self):
        """Weights of networks, from a random one to one that was trained for ``pool_steps`` steps; on the CPU."""
        with tqdm(total=self.config.pool, desc="pool", unit="network", disable=not self.progress) as bar:
            networks, device = range(self.config.pool), self.real.images.device
            return threads.parallel_map(self._trained, networks, device, done=bar.update)

    def _trained(self, k):
        draws = keyed_generator(self.root, "train", k)
        steps = round(self.config.pool_steps * k / (self.config.pool - 1))
        if not steps:
            return self.network.draw_parameters(generator=draws)
        network = train_network(self.real, recipe=self._recipe(steps), generator=draws)
        return [p.detach().cpu() for p in network.parameters()]

    def _recipe(self, steps):
        return Recipe(steps=steps, lr=0.01, batch_size=64, augment=self.config.augment, **self.config.architecture)

    @property
    def training(self):
        """The networks of the pool that are trained, and the middle one's recipe; None where none is left to train."""
        if not self.config.pool or "pool" in vars(self):
            return None
        return self.config.pool - 1, self._recipe(max(1, self.config.pool_steps // 2))

    def trial(self):
        """A copy to measure a few steps on: its pool is not trained."""
        trial = super().trial()
        trial.pool = [self.network.draw_parameters(generator=keyed_generator(self.root, "train", 0))] * self.config.pool
        return trial

    @property
    def synthetic(self):
        """The stored images as they are now; their ``meta`` says how many each holds."""
        synthetic = super().synthetic
        if self.config.factor > 1:
            synthetic.meta["factor"] = self.config.factor
        return synthetic

    def state_dict(self):
        """The state of distribution matching, and the pool: to train it again would take a while."""
        return {**super().state_dict(), "pool": vars(self).get("pool", [])}

    def load_state_dict(self, state):
        """As :meth:`DMSteps.load_state_dict`."""
        super().load_state_dict(state)
        if state.get("pool"):
            self.pool = state["pool"]
