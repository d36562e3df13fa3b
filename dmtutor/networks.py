"""The convolutional network of the condensation papers, with weights that are redrawn in place."""

import math

import torch
from torch import nn

from .checks import check_generator, check_positive

ACTIVATIONS = {"relu": nn.ReLU, "leakyrelu": nn.LeakyReLU, "sigmoid": nn.Sigmoid, "swish": nn.SiLU}
POOLINGS = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d, "none": None}
NORMS = {
    "instance": lambda channels, side: nn.GroupNorm(channels, channels),
    "group": lambda channels, side: nn.GroupNorm(4, channels),
    "layer": lambda channels, side: nn.LayerNorm((channels, *side)),
    "batch": lambda channels, side: nn.BatchNorm2d(channels),
    "none": None,
}


class ConvNet(nn.Module):
    r"""``depth`` blocks of [3×3 convolution, norm, activation, 2×2 pooling], then one linear layer.

    .. math:: \psi_\vartheta : \mathbb{R}^{C \times H \times W} \to \mathbb{R}^{d'}, \qquad
        f_\vartheta(x) = W \psi_\vartheta(x) + b

    At its defaults it is the network of the dataset condensation papers: three blocks of width 128,
    "instance norm" (a ``GroupNorm`` with one channel per group, affine), ReLU, average pooling, and PyTorch's
    default initialisation. Images of 28×28 are padded to 32×32 by the first convolution, as there.

    Parameters
    ----------
    channels : int
        Channels of the images, C.
    image_size : int or tuple of int
        Height and width of the images.
    classes : int
        Number of outputs, K.
    width, depth : int
        Channels of every block and number of blocks.
    norm : {"instance", "batch", "layer", "group", "none"}
    activation : {"relu", "leakyrelu", "sigmoid", "swish"}
    pooling : {"avg", "max", "none"}
    generator : torch.Generator
        On the CPU; draws the weights. The global generator is neither read nor advanced.

    Attributes
    ----------
    embedding_dim : int
        :math:`d'`, 2,048 at the defaults on 28×28 and 32×32 images: not small beside 784 or 3,072 pixels.

    Raises
    ------
    ValueError
        If a name is unknown, a size is not positive, or the images are too small for ``depth`` poolings.

    References
    ----------
    Zhao, Mopuri & Bilen, *Dataset Condensation with Gradient Matching*, ICLR 2021, section 4.

    Examples
    --------
    >>> net = ConvNet(channels=1, image_size=28, width=8, generator=torch.Generator().manual_seed(0))
    >>> x = torch.zeros(5, 1, 28, 28)
    >>> net.embed(x).shape, net(x).shape
    (torch.Size([5, 128]), torch.Size([5, 10]))
    """

    def __init__(self, *, channels, image_size, classes=10, width=128, depth=3, norm="instance",
                 activation="relu", pooling="avg", generator):  # fmt: skip
        super().__init__()
        side = tuple(image_size) if isinstance(image_size, tuple | list) else (image_size, image_size)
        for name, value in (("channels", channels), ("classes", classes), *(("image_size", s) for s in side)):
            check_positive(name, value)
        check_architecture(side, width=width, depth=depth, norm=norm, activation=activation, pooling=pooling)
        padded = side == (28, 28)
        side = (32, 32) if padded else side
        layers, fan_in = [], channels
        for block in range(depth):
            padding = 3 if padded and block == 0 else 1
            layers.append(nn.utils.skip_init(nn.Conv2d, fan_in, width, kernel_size=3, padding=padding))
            if NORMS[norm]:
                layers.append(NORMS[norm](width, side))
            layers.append(ACTIVATIONS[activation]())
            if POOLINGS[pooling]:
                layers.append(POOLINGS[pooling](2))
                side = tuple(s // 2 for s in side)
            fan_in = width
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.embedding_dim = width * side[0] * side[1]
        self.classifier = nn.utils.skip_init(nn.Linear, self.embedding_dim, classes)
        self.reset_parameters(generator=generator)

    def embed(self, x):
        """The last feature map, flattened: (n, C, H, W) → (n, d')."""
        return self.features(x)

    def forward(self, x):
        """Logits: (n, C, H, W) → (n, K)."""
        return self.classifier(self.embed(x))

    @torch.no_grad()
    def reset_parameters(self, *, generator):
        """Redraw all weights in place, from PyTorch's default distribution.

        Weights and biases of a layer with ``fan_in`` inputs are uniform in ±1/√fan_in, norms start as the
        identity, running statistics from scratch. Draws are made in contiguous CPU tensors and copied, so
        they depend neither on the memory format nor on the device of the network.

        Parameters
        ----------
        generator : torch.Generator
            On the CPU.
        """
        check_generator(generator)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                bound = 1 / math.sqrt(layer.weight[0].numel())
                for p in (layer.weight, layer.bias):
                    p.copy_(torch.empty(p.shape).uniform_(-bound, bound, generator=generator))
            elif hasattr(layer, "reset_parameters") and layer is not self:
                layer.reset_parameters()  # norms: ones, zeros and fresh running statistics


def check_architecture(image_size, *, width, depth, norm, activation, pooling):
    """Raise a ValueError for a network that cannot be built: called before any work starts."""
    for name, value, known in (("norm", norm, NORMS), ("activation", activation, ACTIVATIONS),
                               ("pooling", pooling, POOLINGS)):  # fmt: skip
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
    for name, value in (("width", width), ("depth", depth)):
        check_positive(name, value)
    if norm == "group" and width % 4:
        raise ValueError(f"width must be a multiple of 4 for norm='group'; got {width}")
    if pooling != "none" and min(image_size) >> depth < 1:
        raise ValueError(
            f"depth must be at most {int(math.log2(min(image_size)))} for images of "
            f"{image_size[0]}×{image_size[1]}: every block halves them; got {depth}"
        )
