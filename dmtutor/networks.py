"""The convolutional network of the condensation papers, and others to judge by; weights are redrawn in place."""

import functools
import math
from typing import ClassVar

import torch
from torch import nn

from .checks import check_generator, check_one_of, check_positive

ACTIVATIONS = {"relu": nn.ReLU, "leakyrelu": nn.LeakyReLU, "sigmoid": nn.Sigmoid, "swish": nn.SiLU}
POOLINGS = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d, "none": None}
NORMS = {
    "instance": lambda channels, side: nn.GroupNorm(channels, channels),
    "group": lambda channels, side: nn.GroupNorm(4, channels),
    "layer": lambda channels, side: nn.LayerNorm((channels, *side)),
    "batch": lambda channels, side: nn.BatchNorm2d(channels),
    "none": None,
}


class Network(nn.Module):
    """Features and one linear layer on them, ψ and W ψ + b: what all networks here have in common.

    Attributes
    ----------
    embedding_dim : int
        d', the number of features.
    """

    def embed(self, x):
        """The features before the last linear layer, flattened: (n, C, H, W) → (n, d')."""
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
        generator : torch.Generator, on the CPU
        """
        self.load_parameters(self.draw_parameters(generator=generator))

    def draw_parameters(self, *, generator):
        """New values for all :meth:`parameters`, in their order: a list of float32 tensors on the CPU."""
        check_generator(generator)
        drawn = []
        for layer in self.modules():
            for name, p in layer.named_parameters(recurse=False):
                value = torch.empty(p.shape)
                if isinstance(layer, NORM_LAYERS):
                    value.fill_(name == "weight")
                else:
                    bound = 1 / math.sqrt(layer.weight.shape[1:].numel())
                    value.uniform_(-bound, bound, generator=generator)
                drawn.append(value)
        return drawn

    @torch.no_grad()
    def load_parameters(self, values):
        """Take values as :meth:`draw_parameters` gives them, on the network's device or on the CPU."""
        torch._foreach_copy_(list(self.parameters()), values)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()


NORM_LAYERS = (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)


class Blocks(nn.Sequential):
    """Layers in their order. Where instance norm, ReLU and 2×2 average pooling follow each other, on a CPU with maps in
    channels-last layout, they are computed as one in float32, three to ten times as fast: :mod:`dmtutor.fused`."""

    def forward(self, x):
        layers = list(self)
        while layers:
            chain = layers[:3]
            if can_fuse(chain, x):
                x = fused().norm_relu_pool(x.float(), chain[0].weight, chain[0].bias, chain[0].eps)
                layers = layers[3:]
            else:
                x = layers.pop(0)(x)
        return x


def can_fuse(layers, x):
    """Whether the layers are instance norm, ReLU and average pooling, for maps that can be computed at once."""
    if tuple(map(type, layers)) != (nn.GroupNorm, nn.ReLU, nn.AvgPool2d):
        return False
    norm, _, pooling = layers
    return (
        norm.num_groups == x.shape[1] and pooling.kernel_size == 2 and x.shape[2] % 2 == x.shape[3] % 2 == 0
        and x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)
        and norm.weight.dtype == torch.float32 and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.compiler.is_compiling() and fused() is not None
    )


@functools.cache
def fused():
    """The module, or None where Numba is missing or does not fit the NumPy that is there: it takes longer then."""
    try:
        from . import fused
    except ImportError:
        return None
    return fused


class ConvNet(Network):
    r"""``depth`` blocks of [3×3 convolution, norm, activation, 2×2 pooling], then one linear layer.

    .. math:: \psi_\vartheta : \mathbb{R}^{C \times H \times W} \to \mathbb{R}^{d'}, \qquad
        f_\vartheta(x) = W \psi_\vartheta(x) + b

    At its defaults it is the network of the dataset condensation papers: three blocks of width 128, "instance norm" (a
    ``GroupNorm`` with one channel per group, affine), ReLU, average pooling, and PyTorch's default initialisation. On
    images of 28×28 the first convolution pads by three, as there: its maps are 32×32. A ValueError if a name is
    unknown, a size is not positive, or the images are too small for ``depth`` poolings.

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
    generator : torch.Generator, on the CPU
        Draws the weights. The global generator is neither read nor advanced.

    Attributes
    ----------
    embedding_dim : int
        :math:`d'`, 2,048 at the defaults on 28×28 and 32×32 images: not small beside 784 or 3,072 pixels.

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
                 activation="relu", pooling="avg", generator):
        super().__init__()
        side = checked_sides(image_size, channels=channels, classes=classes)
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
        self.features = Blocks(*layers, nn.Flatten())
        self.embedding_dim = width * side[0] * side[1]
        self.classifier = nn.utils.skip_init(nn.Linear, self.embedding_dim, classes)
        self.reset_parameters(generator=generator)


class Judge(Network):
    """A network that trains on a set to say what it is worth: ``layers`` makes its features, of any image size.

    A ValueError if a size is not positive, the norm is not one of the network's, or the images are too small.

    Parameters
    ----------
    channels, image_size, classes, generator
        As for :class:`~dmtutor.ConvNet`.
    width : int, optional
        Scales the channels of all layers; as published if None.
    norm : str, optional
        One of ``norms``; the first if None.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> {kind: MODELS[kind](channels=1, image_size=32, width=8, generator=draw).embedding_dim for kind in MODELS}
    {'convnet': 128, 'lenet': 112, 'mlp': 8, 'alexnet': 192, 'vgg11': 64, 'resnet18': 64}
    """

    width: ClassVar[int]
    norms: ClassVar[tuple[str, ...]] = ("none",)

    def __init__(self, *, channels, image_size, classes=10, width=None, norm=None, generator):
        super().__init__()
        width, norm, name = width or self.width, norm or self.norms[0], type(self).__name__
        side = checked_sides(image_size, channels=channels, classes=classes, width=width)
        if norm not in self.norms:
            raise ValueError(f"norm must be {' or '.join(self.norms)} for {name}; got {norm!r}")
        with torch.device("meta"):  # shapes without numbers: nothing is drawn here
            layers = self.layers(channels, width, NORMS[norm], extra=2 if side == (28, 28) else 0)
            self.features = nn.Sequential(*filter(None, layers), nn.Flatten())
            try:
                self.embedding_dim = self.features.eval()(torch.empty(1, channels, *side)).shape[1]
            except (RuntimeError, ValueError) as error:
                raise ValueError(f"image_size must be larger for {name}; got {side[0]}×{side[1]}") from error
            self.classifier = nn.Linear(self.embedding_dim, classes)
        self.to_empty(device="cpu").train()
        self.reset_parameters(generator=generator)

    def layers(self, channels, width, norm, extra):
        """The layers in order, None for those to leave out; the first pads by ``extra`` more: 28×28 becomes 32×32."""
        raise NotImplementedError


def conv(inputs, outputs, kernel_size, *, norm=None, padding=0):
    """A convolution, its norm if there is one, and ReLU."""
    return [nn.Conv2d(inputs, outputs, kernel_size, padding=padding), norm and norm(outputs, None), nn.ReLU()]


class MLP(Judge):
    """Two hidden layers of ``width`` units with ReLU, on the pixels: a network that knows nothing of neighbours.

    Examples
    --------
    >>> MLP(channels=1, image_size=28, generator=torch.Generator().manual_seed(0)).embedding_dim
    128
    """

    width = 128

    def layers(self, channels, width, norm, extra):
        return [nn.Flatten(), nn.LazyLinear(width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]


class LeNet(Judge):
    """LeNet-5 with ReLU and max pooling: 5×5 convolutions of ``width`` and 8/3 as many channels, layers of 120 and 84.

    LeCun et al., *Gradient-Based Learning Applied to Document Recognition*, Proceedings of the IEEE 1998.
    """

    width = 6

    def layers(self, channels, width, norm, extra):
        wide = width * 8 // 3
        return [*conv(channels, width, 5, padding=extra), nn.MaxPool2d(2), *conv(width, wide, 5), nn.MaxPool2d(2),
                nn.Flatten(), nn.LazyLinear(width * 20), nn.ReLU(), nn.Linear(width * 20, width * 14), nn.ReLU()]


class AlexNet(Judge):
    """AlexNet for small images: five convolutions, three poolings, one linear layer, no dropout and no norm.

    The channels are ``width`` times 1, 3/2, 2, 3/2, 3/2; the kernels 5×5 in the first two, then 3×3. Krizhevsky,
    Sutskever & Hinton, *ImageNet Classification with Deep Convolutional Neural Networks*, NeurIPS 2012.
    """

    width = 128

    def layers(self, channels, width, norm, extra):
        w, more = width, width * 3 // 2
        return [*conv(channels, w, 5, padding=2 + extra), nn.MaxPool2d(2), *conv(w, more, 5, padding=2),
                nn.MaxPool2d(2), *conv(more, 2 * w, 3, padding=1), *conv(2 * w, more, 3, padding=1),
                *conv(more, more, 3, padding=1), nn.MaxPool2d(2)]


class VGG11(Judge):
    """VGG-11 for small images: eight 3×3 convolutions with norm, five poolings, one linear layer.

    The channels are ``width`` times 1, 2, 4, 4, 8, 8, 8, 8. Simonyan & Zisserman, *Very Deep Convolutional Networks for
    Large-Scale Image Recognition*, ICLR 2015, table 1, A.
    """

    width = 64
    norms = ("instance", "batch", "none")

    def layers(self, channels, width, norm, extra):
        layers, inputs = [], channels
        for factor, pool in ((1, True), (2, True), (4, False), (4, True), (8, False), (8, True), (8, False), (8, True)):
            layers += conv(inputs, factor * width, 3, norm=norm, padding=1 if layers else 1 + extra)
            layers.append(nn.MaxPool2d(2) if pool else None)
            inputs = factor * width
        return layers


class ResNet18(Judge):
    """torchvision's ResNet-18 for small images: a 3×3 convolution of step 1 at the start, and no pooling after it.

    Four stages of two of torchvision's basic blocks, with ``width`` times 1, 2, 4, 8 channels. He et al., *Deep
    Residual Learning for Image Recognition*, CVPR 2016.
    """

    width = 64
    norms = ("instance", "batch")

    def layers(self, channels, width, norm, extra):
        from torchvision.models.resnet import BasicBlock  # a second to import, for this network alone

        norm = functools.partial(norm, side=None)
        layers = [nn.Conv2d(channels, width, 3, padding=1 + extra, bias=False), norm(width), nn.ReLU()]
        layers += [BasicBlock(width, width, norm_layer=norm) for _ in range(2)]
        for inputs in (width, 2 * width, 4 * width):
            outputs = 2 * inputs
            shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), norm(outputs))
            layers += [BasicBlock(inputs, outputs, 2, shortcut, norm_layer=norm),
                       BasicBlock(outputs, outputs, norm_layer=norm)]
        return [*layers, nn.AdaptiveAvgPool2d(1)]


MODELS = {"convnet": ConvNet, "lenet": LeNet, "mlp": MLP, "alexnet": AlexNet, "vgg11": VGG11, "resnet18": ResNet18}


def default_depth(image_size):
    """Blocks of a ConvNet for images of this size: 3, and from 64 pixels on one more for each doubling.

    So the last maps are of 4×4 to 7×7, as published for images of 32, 64 and 128 pixels.

    Examples
    --------
    >>> [default_depth((side, side)) for side in (8, 28, 32, 63, 64, 96, 128, 224)]
    [3, 3, 3, 3, 4, 4, 5, 5]
    """
    return max(3, min(image_size).bit_length() - 3)


def checked_sides(image_size, **sizes):
    """Height and width by an integer or a pair; a ValueError if they, or other sizes, are no positive integers."""
    sides = tuple(image_size) if isinstance(image_size, tuple | list) else (image_size, image_size)
    for name, value in (*sizes.items(), *(("image_size", side) for side in sides)):
        check_positive(name, value)
    return sides


def check_architecture(image_size, *, width, depth, norm, activation, pooling):
    """Raise a ValueError for a network that cannot be built: called before any work starts."""
    check_one_of("norm", norm, NORMS)
    check_one_of("activation", activation, ACTIVATIONS)
    check_one_of("pooling", pooling, POOLINGS)
    check_positive("width", width)
    check_positive("depth", depth)
    if norm == "group" and width % 4:
        raise ValueError(f"width must be a multiple of 4 for norm='group'; got {width}")
    if pooling != "none" and min(image_size) >> depth < 1:
        raise ValueError(f"depth must be at most {int(math.log2(min(image_size)))} for images of "
                         f"{image_size[0]}×{image_size[1]}: every block halves them; got {depth}")
