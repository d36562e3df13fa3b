import math

import pytest
import torch
import torchvision
from runs import seeded
from torch import nn

from dmtutor import ConvNet
from dmtutor.networks import MLP, MODELS, VGG11, AlexNet, LeNet, ResNet18


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
    ]
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


# The other networks --------------------------------------------------------------------------------------------------

JUDGES = [LeNet, MLP, AlexNet, VGG11, ResNet18]
WITH_NORM = [(judge, norm) for judge in JUDGES for norm in judge.norms]


def judge_of(kind, seed=0, **changes):
    return kind(**{"channels": 1, "image_size": 28, "width": 8, "generator": seeded(seed), **changes})


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
@pytest.mark.parametrize(("kind", "norm"), WITH_NORM)
def test_shapes_forward_and_backward(kind, norm, channels, size):
    network = judge_of(kind, channels=channels, image_size=size, norm=norm, classes=7)
    x = torch.randn(4, channels, size, size, generator=seeded()).requires_grad_()
    embedding, logits = network.embed(x), network(x)
    assert embedding.shape == (4, network.embedding_dim)
    assert logits.shape == (4, 7)
    torch.testing.assert_close(network.eval()(x), network.classifier(network.embed(x)))
    logits.square().sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().max() > 0
    assert all(p.device.type == "cpu" and p.isfinite().all() for p in network.state_dict().values())


@pytest.mark.parametrize(
    ("kind", "count"),
    [(MLP, 784 * 128 + 128 + 128 * 128 + 128 + 1290), (LeNet, 61_706), (AlexNet, 1_865_802),
     (VGG11, 9_229_962), (ResNet18, 11_172_810)],
)
def test_sizes_as_published(kind, count):
    """LeNet-5's 61,706 weights are a known number; torchvision's own networks give the last two, see below."""
    assert sum(p.numel() for p in judge_of(kind, width=None).parameters()) == count


def test_the_resnet_is_torchvisions():
    ours = judge_of(ResNet18, channels=3, image_size=32, width=None, norm="batch").eval()
    theirs = torchvision.models.resnet18(num_classes=10).eval()
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.copy_(b)
    x = torch.randn(2, 3, 32, 32, generator=seeded())
    torch.testing.assert_close(ours(x), theirs(x))


def test_the_vgg_is_torchvisions_features():
    ours = judge_of(VGG11, channels=3, image_size=32, width=None, norm="batch").eval()
    theirs = torchvision.models.vgg11_bn().features.eval()
    with torch.no_grad():
        for a, b in zip(ours.features.parameters(), theirs.parameters(), strict=True):
            a.copy_(b)
    x = torch.randn(2, 3, 32, 32, generator=seeded())
    torch.testing.assert_close(ours.embed(x), theirs(x).flatten(1))


@pytest.mark.parametrize(("kind", "norm"), WITH_NORM)
def test_weights_come_from_the_generator_alone(kind, norm):
    before = torch.get_rng_state()
    network = judge_of(kind, 3, norm=norm)
    assert torch.equal(parameters(network), parameters(judge_of(kind, 3, norm=norm)))
    assert not torch.equal(parameters(network), parameters(judge_of(kind, 4, norm=norm)))
    network.train()(torch.randn(4, 1, 28, 28, generator=seeded()))
    network.reset_parameters(generator=seeded(5))
    fresh = judge_of(kind, 5, norm=norm)
    for (name, a), b in zip(network.state_dict().items(), fresh.state_dict().values(), strict=True):
        assert torch.equal(a, b), name  # running statistics, too
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", [VGG11, ResNet18])
def test_batch_statistics_couple_images_and_instance_statistics_do_not(kind):
    x = torch.randn(4, 1, 28, 28, generator=seeded())
    alone = {norm: judge_of(kind, norm=norm).train()(x[:2]) for norm in ("instance", "batch")}
    together = {norm: judge_of(kind, norm=norm).train()(x)[:2] for norm in ("instance", "batch")}
    torch.testing.assert_close(alone["instance"], together["instance"], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(alone["batch"], together["batch"], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", JUDGES)
def test_redrawing_without_a_generator_is_refused(kind):
    with pytest.raises(TypeError):
        judge_of(kind).reset_parameters()
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator"):
        judge_of(kind).reset_parameters(generator=None)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (LeNet, {"norm": "batch"}, "norm must be none for LeNet; got 'batch'"),
        (VGG11, {"norm": "layer"}, "norm must be instance or batch or none for VGG11; got 'layer'"),
        (ResNet18, {"norm": "none"}, "norm must be instance or batch for ResNet18; got 'none'"),
        (LeNet, {"image_size": 10}, "image_size must be larger for LeNet; got 10×10"),
        (VGG11, {"image_size": 16}, "image_size must be larger for VGG11; got 16×16"),
        (AlexNet, {"image_size": (32, 4)}, "image_size must be larger for AlexNet; got 32×4"),
        (MLP, {"width": -1}, "width must be a positive integer; got -1"),
        (MLP, {"channels": 0}, "channels must be a positive integer; got 0"),
        (MLP, {"classes": 0}, "classes must be a positive integer; got 0"),
        (MLP, {"image_size": 0}, "image_size must be a positive integer; got 0"),
    ],
)
def test_judges_that_cannot_be_built_are_refused(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        judge_of(kind, **changes)


def test_every_model_has_a_name():
    assert list(MODELS) == ["convnet", "lenet", "mlp", "alexnet", "vgg11", "resnet18"]
    assert set(MODELS.values()) == {ConvNet, *JUDGES}
