import math

import pytest
import torch
from torch import nn

from dmtutor import ConvNet


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def build(seed=0, **changes):
    return ConvNet(**{"channels": 1, "image_size": 28, "generator": seeded(seed), **changes})


def parameters(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def published(channels, size):
    """The reference's network at its defaults."""
    blocks = []
    for inputs, padding in ((channels, 3 if size == 28 else 1), (128, 1), (128, 1)):
        convolution = nn.Conv2d(inputs, 128, kernel_size=3, padding=padding)
        blocks += [convolution, nn.GroupNorm(128, 128, affine=True), nn.ReLU(), nn.AvgPool2d(2, 2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(2048, 10))


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
def test_the_published_architecture_at_the_defaults(channels, size):
    network, plain = build(channels=channels, image_size=size), published(channels, size)
    shapes = [tuple(p.shape) for p in network.parameters()]
    assert shapes == [tuple(p.shape) for p in plain.parameters()]
    assert sum(p.numel() for p in network.parameters()) == {1: 317_706, 3: 320_010}[channels]
    assert network.embedding_dim == 2048
    with torch.no_grad():
        for theirs, ours in zip(plain.parameters(), network.parameters(), strict=True):
            theirs.copy_(ours)
    x = torch.randn(4, channels, size, size, generator=seeded())
    torch.testing.assert_close(network(x), plain(x))
    torch.testing.assert_close(network.embed(x), plain[:-1](x))
    torch.testing.assert_close(network(x), network.classifier(network.embed(x)))


def test_names_of_the_parameters():
    names = list(build(width=4).state_dict())
    assert [n for n in names if n.startswith("classifier")] == ["classifier.weight", "classifier.bias"]
    assert all(n.startswith(("features.", "classifier.")) for n in names)
    assert len(names) == 14


@pytest.mark.parametrize("norm", ["instance", "batch", "layer", "group", "none"])
@pytest.mark.parametrize("pooling", ["avg", "max", "none"])
@pytest.mark.parametrize("activation", ["relu", "leakyrelu", "sigmoid", "swish"])
def test_every_combination_runs_forward_and_backward(norm, pooling, activation):
    network = build(image_size=8, width=4, depth=2, norm=norm, pooling=pooling, activation=activation, classes=3)
    x = torch.randn(2, 1, 8, 8, generator=seeded()).requires_grad_()
    embedding = network.embed(x)
    assert embedding.shape == (2, network.embedding_dim)
    assert network.embedding_dim == 4 * (64 if pooling == "none" else 4)
    logits = network(x)
    assert logits.shape == (2, 3)
    logits.square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().max() > 0


def layers(network, kind):
    return [m for m in network.modules() if type(m) is kind]


def test_the_options_are_what_they_say():
    assert [m.num_groups for m in layers(build(width=8), nn.GroupNorm)] == [8, 8, 8]
    assert [m.num_groups for m in layers(build(width=8, norm="group"), nn.GroupNorm)] == [4, 4, 4]
    assert [m.normalized_shape for m in layers(build(width=8, norm="layer"), nn.LayerNorm)] == [
        (8, 32, 32), (8, 16, 16), (8, 8, 8),
    ]  # fmt: skip
    assert len(layers(build(width=8, norm="batch"), nn.BatchNorm2d)) == 3
    assert len(layers(build(width=8, pooling="max"), nn.MaxPool2d)) == 3
    assert len(layers(build(width=8, activation="swish"), nn.SiLU)) == 3
    assert len(layers(build(width=8, depth=2), nn.Conv2d)) == 2


@pytest.mark.parametrize(
    ("size", "depth", "positions"), [(32, 3, 16), (64, 4, 16), ((16, 24), 3, 6), (30, 2, 49), (28, 4, 4)]
)
def test_the_embedding_of_other_sizes(size, depth, positions):
    network = build(image_size=size, width=4, depth=depth)
    side = (size, size) if isinstance(size, int) else size
    assert network.embedding_dim == 4 * positions
    assert network.embed(torch.zeros(1, 1, *side)).shape == (1, 4 * positions)


# Weights -------------------------------------------------------------------------------------------------------------


def test_seeds_to_the_bit():
    assert torch.equal(parameters(build(3)), parameters(build(3)))
    assert not torch.equal(parameters(build(3)), parameters(build(4)))


@pytest.mark.parametrize("norm", ["instance", "batch", "layer", "group", "none"])
def test_redrawn_in_place_like_a_new_network(norm):
    network = build(0, width=8, norm=norm)
    addresses = [p.data_ptr() for p in network.parameters()]
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(9.0)
    network.reset_parameters(generator=seeded(5))
    assert [p.data_ptr() for p in network.parameters()] == addresses
    assert torch.equal(parameters(network), parameters(build(5, width=8, norm=norm)))
    assert all(p.requires_grad for p in network.parameters())


def test_the_memory_format_does_not_change_the_draws():
    network = build(0, width=8).to(memory_format=torch.channels_last)
    network.reset_parameters(generator=seeded(5))
    assert layers(network, nn.Conv2d)[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(parameters(network.to(memory_format=torch.contiguous_format)), parameters(build(5, width=8)))


def test_the_dtype_does_not_change_the_draws():
    network = build(0, width=8).double()
    network.reset_parameters(generator=seeded(5))
    assert parameters(network).dtype == torch.float64
    assert torch.equal(parameters(network).float(), parameters(build(5, width=8)))


def test_running_statistics_start_from_scratch():
    network = build(width=4, norm="batch")
    network(torch.randn(6, 1, 28, 28, generator=seeded()) + 3)
    norm = layers(network, nn.BatchNorm2d)[0]
    assert norm.running_mean.abs().max() > 0
    assert norm.num_batches_tracked == 1
    network.reset_parameters(generator=seeded())
    for norm in layers(network, nn.BatchNorm2d):
        assert torch.equal(norm.running_mean, torch.zeros(4))
        assert torch.equal(norm.running_var, torch.ones(4))
        assert norm.num_batches_tracked == 0


def test_the_default_distribution_of_pytorch():
    """Uniform in ±1/√fan_in, as PyTorch's own layers are; norms are the identity."""
    network, plain = build(channels=3, image_size=32), published(3, 32)
    for kind in (nn.Conv2d, nn.Linear):
        for ours, theirs in zip(layers(network, kind), layers(plain, kind), strict=True):
            bound = 1 / math.sqrt(theirs.weight[0].numel())
            for a, b in ((ours.weight.detach(), theirs.weight), (ours.bias.detach(), theirs.bias)):
                assert a.abs().max() <= bound
                assert b.abs().max() <= bound
                if a.numel() > 1000:
                    assert a.abs().max() > 0.99 * bound
                    assert float(a.std() / (bound / math.sqrt(3))) == pytest.approx(1, abs=0.03)
                    assert abs(float(a.mean())) < 0.1 * bound
                else:
                    assert a.std() > 0.1 * bound
    for norm in layers(network, nn.GroupNorm):
        assert torch.equal(norm.weight, torch.ones(128))
        assert torch.equal(norm.bias, torch.zeros(128))


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "instnce"}, "norm must be one of instance.*; got 'instnce'"),
        ({"activation": "tanh"}, "activation must be one of relu, leakyrelu, sigmoid, swish; got 'tanh'"),
        ({"pooling": "sum"}, "pooling must be one of avg, max, none; got 'sum'"),
        ({"width": 0}, "width must be a positive integer; got 0"),
        ({"width": 2.5}, "width must be a positive integer; got 2.5"),
        ({"width": True}, "width must be a positive integer; got True"),
        ({"depth": 0}, "depth must be a positive integer; got 0"),
        ({"depth": 6}, "depth must be at most [45] for images of 28×28"),
        ({"image_size": 7, "depth": 3}, "depth must be at most 2 for images of 7×7"),
        ({"image_size": (64, 3), "depth": 2}, "depth must be at most 1 for images of 64×3"),
        ({"width": 6, "norm": "group"}, "width must be a multiple of 4"),
        ({"channels": 0}, "channels must be a positive integer; got 0"),
        ({"classes": 0}, "classes must be a positive integer; got 0"),
        ({"classes": -1}, "classes must be a positive integer; got -1"),
        ({"image_size": 28.0}, "image_size must"),
        ({"image_size": (28, 0)}, "image_size must"),
    ],
)
def test_what_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_any_depth_without_pooling():
    assert build(image_size=4, width=2, depth=5, pooling="none").embed(torch.zeros(1, 1, 4, 4)).shape == (1, 32)
