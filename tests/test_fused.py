"""Instance norm, ReLU and pooling at once: the same as layer by layer, derivatives included."""

import pytest
import torch
from torch import nn
from torch.func import grad

from dmtutor import ConvNet, networks
from dmtutor.fused import layer_by_layer, norm_relu_pool
from dmtutor.networks import Blocks


def inputs(n=3, c=5, side=(6, 4), seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(n, c, *side, generator=draw) + 1
    weight, bias = torch.randn(2, c, generator=draw)
    return [t.requires_grad_() for t in (x.contiguous(memory_format=torch.channels_last), weight.clone(), bias.clone())]


@pytest.mark.parametrize("shape", [(3, 5, (6, 4)), (1, 1, (2, 2)), (2, 33, (32, 32)), (17, 128, (8, 8))])
def test_as_layer_by_layer_with_both_derivatives(shape):
    ours, theirs = inputs(*shape), inputs(*shape)
    values = []
    for function, (x, weight, bias) in ((norm_relu_pool, ours), (layer_by_layer, theirs)):
        y = function(x, weight, bias, 1e-5)
        draw = torch.Generator().manual_seed(1)
        by = torch.autograd.grad(y, (x, weight, bias), torch.randn(y.shape, generator=draw), create_graph=True)
        again = sum((g * torch.randn(g.shape, generator=draw)).sum() for g in by)
        values.append([y, *by, *torch.autograd.grad(again, (x, weight))])
    for got, expected in zip(*values, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * (1 + float(expected.detach().abs().max())))


def test_under_transforms_of_functions():
    x, weight, bias = (t.detach() for t in inputs())
    ours, theirs = (grad(lambda w, f=f: f(x, w, bias, 1e-5).square().sum()) for f in (norm_relu_pool, layer_by_layer))
    torch.testing.assert_close(ours(weight), theirs(weight), rtol=1e-4, atol=1e-4)


def test_nan_stays_nan():
    x, weight, bias = inputs()
    with torch.no_grad():
        x[1, 2, 3, 0] = torch.nan
    y = norm_relu_pool(x, weight, bias, 1e-5)
    (by_x,) = torch.autograd.grad(y.sum(), x)
    for value in (y, by_x):
        assert value[1, 2].isnan().all() and int(value.isnan().any((2, 3)).sum()) == 1


def test_an_image_is_computed_by_itself():
    x, weight, bias = (t.detach() for t in inputs(n=8))
    together = norm_relu_pool(x, weight, bias, 1e-5)
    apart = torch.cat([norm_relu_pool(part, weight, bias, 1e-5) for part in x.split(3)])
    assert torch.equal(together, apart)


@pytest.fixture
def calls(monkeypatch):
    """How often the fused operation is called."""
    counted = []
    monkeypatch.setattr(networks.fused(), "norm_relu_pool", lambda *args: counted.append(1) or norm_relu_pool(*args))
    return counted


def channels_last(network):
    return network.to(memory_format=torch.channels_last)


def convnet(**fields):
    return channels_last(ConvNet(channels=1, image_size=28, width=8, generator=torch.Generator(), **fields))


def test_a_convnet_uses_it_and_gives_the_same(calls, monkeypatch):
    network, x = convnet(), torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    found = network(x)
    assert len(calls) == 3
    monkeypatch.setattr(networks, "fused", lambda: None)  # as without Numba
    torch.testing.assert_close(found, network(x), rtol=1e-4, atol=1e-5)
    assert len(calls) == 3


def block(pooling):
    return Blocks(nn.Conv2d(3, 4, 3), nn.GroupNorm(4, 4), nn.ReLU(), nn.AvgPool2d(pooling))


@pytest.mark.parametrize("layers, x", [
    (convnet().features, torch.rand(2, 1, 28, 28).double()),
    (convnet(norm="group").features, torch.rand(2, 1, 28, 28)),
    (convnet(activation="swish").features, torch.rand(2, 1, 28, 28)),
    (convnet(pooling="max").features, torch.rand(2, 1, 28, 28)),
    (channels_last(block(2)), torch.rand(2, 3, 9, 9)),
    (channels_last(block(4)), torch.rand(2, 3, 10, 10)),
    (block(2), torch.rand(2, 3, 10, 10)),
], ids=["float64", "groups", "swish", "maximum", "odd", "pooling by 4", "channels first"])
def test_other_chains_go_layer_by_layer(layers, x, calls):
    layers = layers.to(x.dtype)
    assert torch.equal(layers(x), nn.Sequential(*layers)(x)) and not calls


def test_in_16_bits_the_convolutions_alone_are_rounded(calls):
    network, x = convnet(), torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network.embed(x)
    assert len(calls) == 3 and rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, network.embed(x), rtol=0.1, atol=0.1)
