"""Instance norm, ReLU and 2×2 average pooling as one operation, on a CPU: computed by Numba in one pass over a map.

Layer by layer, a ConvNet's feature maps are read and written some ten times between two convolutions, and more often
on the way back, which takes as long as the convolutions themselves. Here the map of an image is read twice on the way
there, while it lies in the processor's cache, and twice on the way back; nothing is kept but the map itself. The first
call translates the loops, a second or two; the translation is kept on disk.
"""

import numba
import numpy as np
import torch
from torch.func import vjp
from torch.nn.functional import avg_pool2d, group_norm, relu

compiled = numba.njit(nogil=True, cache=True, error_model="numpy")


def norm_relu_pool(x, weight, bias, eps):
    r"""Average pooling of ReLU of instance norm.

    .. math:: y_{ncij} = \frac14 \sum_{a, b \in \{0, 1\}} \max\Bigl(0, \; w_c \,
        \frac{x_{nc,2i+a,2j+b} - \mu_{nc}}{\sqrt{\sigma^2_{nc} + \epsilon}} + b_c \Bigr)

    with mean and variance of each channel of each image: Tensor, (N, C, H/2, W/2), channels last. Differentiable as
    often as wanted: the first derivative takes one pass, too, higher ones torch's own layers. An image has one thread.

    Parameters
    ----------
    x : Tensor, (N, C, H, W), float32, on the CPU, laid out channels last; H and W even
    weight, bias : Tensor, (C,)
    eps : float
        ε > 0.

    Examples
    --------
    >>> x = torch.arange(8.0).view(1, 2, 2, 2).contiguous(memory_format=torch.channels_last)
    >>> norm_relu_pool(x, torch.ones(2), torch.zeros(2), 1e-5).flatten()  # of −1.3, −0.4, 0.4, 1.3
    tensor([0.4472, 0.4472])
    """
    return NormReLUPool.apply(x, weight, bias, eps)[0]


def layer_by_layer(x, weight, bias, eps):
    """The same by torch's layers."""
    return avg_pool2d(relu(group_norm(x, len(weight), weight, bias, eps)), 2)


class NormReLUPool(torch.autograd.Function):
    @staticmethod
    def forward(x, weight, bias, eps):
        n, c, h, w = x.shape
        y = torch.empty((n, c, h // 2, w // 2), memory_format=torch.channels_last)
        mean, scale = torch.empty(2, n, c)
        forth(pixels(x), weight.numpy(), bias.numpy(), np.float32(eps), pixels(y), mean.numpy(), scale.numpy())
        return y, mean, scale

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, bias, ctx.eps = inputs
        _, mean, scale = output
        ctx.mark_non_differentiable(mean, scale)
        ctx.save_for_backward(x, weight, bias, mean, scale)

    @staticmethod
    def backward(ctx, by_y, *_):
        x, weight, bias, mean, scale = ctx.saved_tensors
        return *Gradient.apply(x, weight, bias, by_y, mean, scale, ctx.eps), None


class Gradient(torch.autograd.Function):
    """The vector-Jacobian product of :class:`NormReLUPool`, differentiable itself."""

    @staticmethod
    def forward(x, weight, bias, by_y, mean, scale, eps):
        by_x, by_weight, by_bias = torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(bias)
        by_y = by_y.contiguous(memory_format=torch.channels_last)
        back(pixels(x), weight.numpy(), bias.numpy(), pixels(by_y), mean.numpy(), scale.numpy(),
             pixels(by_x), by_weight.numpy(), by_bias.numpy())
        return by_x, by_weight, by_bias

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, _, _, ctx.eps = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *cotangents):
        def gradient(x, weight, bias, by_y):
            return vjp(lambda *inputs: layer_by_layer(*inputs, ctx.eps), x, weight, bias)[1](by_y)

        return *vjp(gradient, *ctx.saved_tensors)[1](cotangents), None, None, None


def pixels(x):
    """A tensor (N, C, H, W) as an array (N, H, W, C) of the same memory."""
    return x.detach().permute(0, 2, 3, 1).numpy()


@compiled
def forth(x, weight, bias, eps, y, mean, scale):
    """y, (N, H/2, W/2, C), and each image's means and inverse deviations, (N, C), of x, (N, H, W, C).

    NaN stays NaN.
    """
    images, height, width, channels = x.shape
    one, zero, quarter, area = np.float32(1), np.float32(0), np.float32(0.25), np.float32(height * width)
    slope, shift = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for n in range(images):
        mu, inverse = mean[n], scale[n]
        mu[:] = zero
        inverse[:] = zero
        for i in range(height):
            for j in range(width):
                here = x[n, i, j]
                for c in range(channels):
                    mu[c] += here[c]
        mu /= area
        for i in range(height):
            for j in range(width):
                here = x[n, i, j]
                for c in range(channels):
                    inverse[c] += (here[c] - mu[c]) * (here[c] - mu[c])
        for c in range(channels):
            inverse[c] = one / np.sqrt(inverse[c] / area + eps)
            slope[c] = inverse[c] * weight[c]
            shift[c] = bias[c] - mu[c] * slope[c]
        for i in range(height // 2):
            for j in range(width // 2):
                here = y[n, i, j]
                here[:] = zero
                for a in range(2):
                    for b in range(2):
                        above = x[n, 2 * i + a, 2 * j + b]
                        for c in range(channels):
                            value = slope[c] * above[c] + shift[c]
                            here[c] += zero if value < zero else value * quarter


@compiled
def back(x, weight, bias, by_y, mean, scale, by_x, by_weight, by_bias):
    """The gradient by x, and what is added to those by weight and bias, of the gradient by y."""
    images, height, width, channels = x.shape
    zero, quarter, area = np.float32(0), np.float32(0.25), np.float32(height * width)
    slope, shift = np.empty(channels, np.float32), np.empty(channels, np.float32)
    total, along = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for n in range(images):
        mu, inverse = mean[n], scale[n]
        total[:] = zero
        along[:] = zero
        for c in range(channels):
            slope[c] = inverse[c] * weight[c]
            shift[c] = bias[c] - mu[c] * slope[c]
        for i in range(height):
            for j in range(width):
                here, below = x[n, i, j], by_y[n, i // 2, j // 2]
                for c in range(channels):
                    passed = zero if slope[c] * here[c] + shift[c] <= zero else below[c] * quarter
                    total[c] += passed
                    along[c] += passed * (here[c] - mu[c])
        for c in range(channels):
            along[c] *= inverse[c]
            by_weight[c] += along[c]
            by_bias[c] += total[c]
            along[c] *= slope[c] * inverse[c] / area
            total[c] = mu[c] * along[c] - slope[c] * total[c] / area
        for i in range(height):
            for j in range(width):
                here, below, out = x[n, i, j], by_y[n, i // 2, j // 2], by_x[n, i, j]
                for c in range(channels):
                    passed = zero if slope[c] * here[c] + shift[c] <= zero else below[c] * quarter
                    out[c] = slope[c] * passed + total[c] - here[c] * along[c]
