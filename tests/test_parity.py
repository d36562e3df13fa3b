"""Distribution matching against its published formula, computed here with torch alone.

`dmtutor` gives the draws: network weights, real batches, augmentation parameters. All that is computed from them is
written out a second time below, plainly, without the library: network, augmentation, loss.
"""

import math

import pytest
import torch
from torch import nn

from dmtutor import DMConfig, dm_steps, from_arrays, keyed_generator

# The independent side ------------------------------------------------------------------------------------------------


def published_network(channels, width, norm):
    """ConvNet-3, without its classifier; 28×28 grey images are padded to 32×32."""
    layers = []
    for inputs, padding in ((channels, 3 if channels == 1 else 1), (width, 1), (width, 1)):
        normalize = nn.GroupNorm(width, width) if norm == "instance" else nn.BatchNorm2d(width)
        layers += [nn.Conv2d(inputs, width, 3, padding=padding), normalize, nn.ReLU(), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten())


def bilinear(image, matrix):
    """Sample (C, H, W) at matrix @ (x, y), in coordinates from −1 to 1, zero outside: four neighbours, written out."""
    _, height, width = image.shape
    y, x = torch.meshgrid(
        (2 * torch.arange(height, dtype=torch.float64) + 1) / height - 1,
        (2 * torch.arange(width, dtype=torch.float64) + 1) / width - 1,
        indexing="ij",
    )
    (a, b), (c, d) = matrix
    column = ((a * x + b * y + 1) * width - 1) / 2
    row = ((c * x + d * y + 1) * height - 1) / 2
    out = 0
    for i in (row.floor(), row.floor() + 1):
        for j in (column.floor(), column.floor() + 1):
            weight = (1 - (row - i).abs()) * (1 - (column - j).abs())
            weight = weight * ((i >= 0) & (i < height) & (j >= 0) & (j < width))
            neighbour = image[:, i.clamp(0, height - 1).long(), j.clamp(0, width - 1).long()]
            out = out + neighbour * weight.to(image.dtype)
    return out


def transform(image, operation, u):
    """One image (C, H, W) under one operation, with u uniform in [0, 1)."""
    _, height, width = image.shape
    if operation == "color":
        image = image + (u[0] - 0.5)
        grey = image.mean(0)
        image = (image - grey) * (2 * u[1]) + grey
        return (image - image.mean()) * (u[2] + 0.5) + image.mean()
    if operation == "crop":
        out = torch.zeros_like(image)
        most_y, most_x = int(height * 0.125 + 0.5), int(width * 0.125 + 0.5)
        down, right = math.floor(u[0] * (2 * most_y + 1)) - most_y, math.floor(u[1] * (2 * most_x + 1)) - most_x
        for i in range(height):
            for j in range(width):
                if 0 <= i + down < height and 0 <= j + right < width:
                    out[:, i, j] = image[:, i + down, j + right]
        return out
    if operation == "cutout":
        tall, wide = int(height * 0.5 + 0.5), int(width * 0.5 + 0.5)
        top = math.floor(u[0] * (height + 1 - tall % 2)) - tall // 2
        left = math.floor(u[1] * (width + 1 - wide % 2)) - wide // 2
        keep = torch.ones_like(image)
        keep[:, max(0, top) : max(0, top + tall), max(0, left) : max(0, left + wide)] = 0
        return image * keep
    if operation == "flip":
        return image[:, :, range(width - 1, -1, -1)] if u[0] < 0.5 else image
    if operation == "scale":
        sx, sy = (1 / 1.2 + v * (1.2 - 1 / 1.2) for v in u[:2])
        return bilinear(image, ((sx, 0), (0, sy)))
    if operation == "rotate":
        angle = (u[0] - 0.5) * 2 * 15 / 180 * math.pi
        return bilinear(image, ((math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle))))
    return image


def published_loss(network, reals, syn, omegas):
    """Σ_c ‖mean ψ(A(real_c)) − mean ψ(A(syn_c))‖², all classes in one forward, as batch statistics need."""
    def embed(batches):
        augmented = [transform(x, *omega) for batch, omega in zip(batches, omegas, strict=True) for x in batch]
        return network(torch.stack(augmented)).view(len(batches), len(batches[0]), -1)

    real_mean, syn_mean = embed(reals).detach().mean(1), embed(syn).mean(1)
    return ((real_mean - syn_mean) ** 2).sum()


# The comparison ------------------------------------------------------------------------------------------------------

CLASSES, IPC, BATCH = 2, 3, 5
SHAPES = {"grey": (28, 28), "RGB": (32, 32, 3)}
OPERATIONS = ["none", "color", "crop", "cutout", "flip", "scale", "rotate"]


def real_images(shape, dtype, per_class=6):
    pixels = torch.rand(CLASSES * per_class, *SHAPES[shape], generator=torch.Generator().manual_seed(0))
    pixels[:, 4:12, 6:] *= 0.3  # something that operations move
    return from_arrays(pixels, torch.arange(CLASSES).repeat(per_class)).to(dtype=dtype)


def compare(shape, dtype=torch.float64, steps_before=0, **fields):
    """Relative difference of loss and gradient at one iteration of a run."""
    real = real_images(shape, dtype)
    fields = {"ipc": IPC, "batch_real": BATCH, "width": 128, "block": 2, **fields}
    steps = dm_steps(real, config=DMConfig(**fields), generator=torch.Generator().manual_seed(1))
    for _ in range(steps_before):
        next(steps)
    loss, gradient = steps.loss_and_gradient()

    network = published_network(real.images.shape[1], fields["width"], fields.get("norm", "instance")).to(dtype)
    weights = list(steps.network.parameters())[: len(list(network.parameters()))]
    with torch.no_grad():
        for ours, theirs in zip(network.parameters(), weights, strict=True):
            ours.copy_(theirs)
    reals, omegas = [], []
    for c in range(CLASSES):
        pool = real.images[real.labels == c]
        order = torch.randperm(len(pool), generator=keyed_generator(steps.root, "batch", steps.iteration, c))
        reals.append(pool[order[:BATCH]])
        draws = steps.augment.sample(1, generator=keyed_generator(steps.root, "augment", steps.iteration, c))
        omegas.append((fields["augment"].split("_")[int(draws.operation)], draws.u[0].tolist()))
    syn = steps.images.clone().requires_grad_()
    expected = published_loss(network, reals, syn.view(CLASSES, IPC, *syn.shape[1:]), omegas)
    expected.backward()
    expected = expected.detach()
    assert syn.grad.norm() > 0
    assert loss.dtype == gradient.dtype == dtype
    return float((loss - expected).abs() / expected), float((gradient - syn.grad).norm() / syn.grad.norm())


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_full_width_float64(shape, operation):
    loss, gradient = compare(shape, augment=operation)
    assert loss < 1e-9
    assert gradient < 1e-9


@pytest.mark.parametrize("block", [1, IPC, 100, "class", "all"])
def test_every_way_of_cutting_blocks(block):
    loss, gradient = compare("grey", augment="rotate", block=block)
    assert loss < 1e-9
    assert gradient < 1e-9


def test_batch_statistics():
    loss, gradient = compare("RGB", augment="scale", norm="batch", block="all")
    assert loss < 1e-9
    assert gradient < 1e-9


@pytest.mark.parametrize("fields", [{"average": 0.9}, {"schedule": "constant"}, {"init": "noise"}])
def test_options_leave_loss_and_gradient_as_published(fields):
    loss, gradient = compare("RGB", augment="color_crop_cutout_flip_scale_rotate", steps_before=2, width=16, **fields)
    assert loss < 1e-9
    assert gradient < 1e-9


def test_after_some_steps_with_operations_that_change():
    loss, gradient = compare("RGB", augment="color_crop_cutout_flip_scale_rotate", steps_before=3, width=16)
    assert loss < 1e-9
    assert gradient < 1e-9


@pytest.mark.parametrize("shape", SHAPES)
def test_full_width_float32(shape):
    loss, gradient = compare(shape, dtype=torch.float32, augment="scale")
    assert loss < 1e-5
    assert gradient < 1e-2


def test_a_wrong_formula_would_be_noticed():
    """The comparison has teeth: one operation's parameter, changed by a thousandth, shows."""
    original = transform
    try:
        globals()["transform"] = lambda image, name, u: original(image, name, [v + 1e-3 for v in u])
        loss, gradient = compare("grey", augment="rotate", width=16)
    finally:
        globals()["transform"] = original
    assert loss > 1e-9
    assert gradient > 1e-9


# Devices -------------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("block", ["all", "class", 16, 256])
def test_a_step_on_a_gpu_is_that_on_a_cpu(block):
    pixels = torch.rand(60, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    real = from_arrays(pixels, torch.arange(60) % 3)
    config = DMConfig(ipc=2, batch_real=16, width=16, block=block)
    runs = [
        dm_steps(real.to(device, torch.float64), config=config, generator=torch.Generator().manual_seed(0))
        for device in ("cpu", "cuda")
    ]
    loss, there = (float(run.loss_and_gradient()[0]) for run in runs)
    assert there == pytest.approx(loss, rel=1e-9)
    gradient, there = (run.loss_and_gradient()[1].cpu() for run in runs)
    assert (there - gradient).norm() < 1e-4 * gradient.norm()
