"""What a GPU needs, without one: on torch's meta device a step that waits for a number, or mixes devices, fails."""

from copy import copy
from dataclasses import replace

import pytest
import torch
from runs import real_images, seeded
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dmtutor import (
    DCConfig,
    DDConfig,
    DMConfig,
    DSAConfig,
    IDMConfig,
    Recipe,
    dc_steps,
    dd_steps,
    dm_steps,
    idm_steps,
    keyed_generator,
    train_network,
)
from dmtutor.distribution_matching import DMSteps
from dmtutor.steps import send, start

META = torch.device("meta")
COPIES = {torch.ops.aten.copy_.default, torch.ops.aten._foreach_copy_.default}
SMALL = {"ipc": 2, "batch_real": 5, "width": 4, "depth": 2, "augment": "color_crop_cutout_flip_scale_rotate"}


def with_a_pool(real, **arguments):
    return idm_steps(real, **arguments).trial()  # networks that nobody has trained


class Drawing(DMSteps):
    """A method with draws of its own: numbers and integers."""

    def draws(self, iteration):
        generator = keyed_generator(self.root, "method", iteration)
        return torch.randn(self.network.embedding_dim, 3, generator=generator), torch.randperm(3, generator=generator)

    def distance(self, real, syn, labels):
        directions, order = self.drawn
        return super().distance((real @ directions)[..., order], (syn @ directions)[..., order], labels)


def drawing(real, *, config, generator):
    return start(Drawing, DMConfig, real, config, generator)


METHODS = {
    "draws of its own": (drawing, DMConfig(block="all", **SMALL)),
    "dm": (dm_steps, DMConfig(block="all", **SMALL)),
    "dm, class by class": (dm_steps, DMConfig(block="class", average=0.9, **SMALL)),
    "dm, in blocks": (dm_steps, DMConfig(block=1, **SMALL)),
    "dm, batch norm": (dm_steps, DMConfig(norm="batch", **SMALL)),
    "idm": (with_a_pool, IDMConfig(pool=2, block="all", **{**SMALL, "ipc": 1})),
    "dc": (dc_steps, DCConfig(steps_per_network=2, **SMALL)),
    "dsa": (dc_steps, DSAConfig(steps_per_network=2, **SMALL)),
    "dd": (dd_steps, DDConfig(**SMALL)),
}


class Watch(TorchDispatchMode):
    """Counts what is dispatched on the meta device and what is copied there; nothing else may touch both devices."""

    def __init__(self):
        super().__init__()
        self.dispatched = self.copied = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given, made = ([x for x in tree_leaves(tree) if isinstance(x, torch.Tensor) and x.ndim > 0]
                       for tree in ((args, kwargs), result))
        if any(x.device == META for x in (*given, *made)):
            # In torch 2.6 an index also slices the dimensions that it leaves as they are: nothing is done there.
            nothing = function is torch.ops.aten.slice.Tensor and given[0].shape == made[0].shape
            self.dispatched += not nothing
            mixed = len({x.device for x in given}) > 1
            assert not mixed or function in COPIES, f"{function} of tensors on two devices"
            self.copied += mixed or (function is torch.ops.aten._to_copy.default and given[0].device != META)
        return result


def on_meta(steps):
    """The same steps with data, images and network on the meta device, which knows shapes and no numbers."""
    steps.network.to(META)
    if hasattr(steps, "matched"):  # moved, parameters are new ones
        steps.parameters = list(steps.network.parameters())
        steps.matched = [p for p in steps.parameters if p.ndim > 1]
    steps.real = replace(steps.real, images=steps.real.images.to(META))
    for name in (*steps.variables, "labels", *({"rows", "numbers"} & vars(steps).keys())):
        setattr(steps, name, getattr(steps, name).to(META))
    return steps


def test_what_a_method_draws_goes_to_the_device_in_the_same_copy():
    steps = on_meta(drawing(real_images(), config=METHODS["dm"][1], generator=seeded()))
    next(steps)
    with Watch() as watch:
        next(steps)
    assert watch.copied == 1 and {t.device for t in steps.drawn} == {META}
    double = drawing(real_images(dtype=torch.float64), config=METHODS["dm"][1], generator=seeded())
    next(double)
    assert [t.dtype for t in double.drawn] == [torch.float64, torch.int64]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("counts", [(6, 9, 7), (6, 4, 7)])  # the second has fewer images of a class than a batch
def test_a_step_waits_for_nothing_and_mixes_nothing(method, counts):
    make, config = METHODS[method]
    steps = on_meta(make(real_images(counts), config=config, generator=seeded()))
    with Watch() as watch:
        taken = [next(steps) for _ in range(3)]
    assert watch.dispatched
    assert {step.loss.device for step in taken} == {META} and steps.images.device == META


def test_a_step_of_training_waits_for_nothing_and_mixes_nothing():
    data = copy(real_images())
    for name in ("images", "labels", "mean", "std"):
        object.__setattr__(data, name, getattr(data, name).to(META))
    with Watch():
        network = train_network(data, recipe=Recipe(steps=3, width=4, depth=2, batch_size=8), generator=seeded())
    assert network(data.images).device == META


class Waits(DMSteps):
    def distance(self, real, syn, labels):
        return super().distance(real, syn, labels) / max(1, real.norm().item())


class Mixes(DMSteps):
    def distance(self, real, syn, labels):
        return super().distance(real * torch.ones(real.shape[-1]), syn, labels)


class MixesAnIndex(DMSteps):
    def distance(self, real, syn, labels):
        return super().distance(real[..., torch.arange(3)], syn[..., torch.arange(3)], labels)


@pytest.mark.parametrize("planted", [Waits, Mixes, MixesAnIndex])
def test_what_would_wait_or_mix_is_seen(planted):
    steps = on_meta(start(planted, DMConfig, real_images(), METHODS["dm"][1], seeded()))
    with pytest.raises((RuntimeError, AssertionError, NotImplementedError)), Watch():
        next(steps)


def at_the_published_setting(block):
    real = real_images((300,) * 10, size=32)
    real = replace(real, images=real.images.expand(-1, 3, -1, -1), mean=real.mean.expand(3), std=real.std.expand(3))
    config = DMConfig.reference(block=block, augment=SMALL["augment"])
    return on_meta(dm_steps(real, config=config, generator=seeded()))


@pytest.mark.slow
def test_a_step_at_the_published_setting_is_few_operations_and_one_copy():
    counts = {}
    for block in ("all", "class", 16):
        steps = at_the_published_setting(block)
        next(steps)
        dispatched = []
        for _ in range(5 if block == "all" else 1):  # what augmentations do depends on which are drawn
            with Watch() as watch:
                next(steps)
            assert watch.copied == 1  # all that the next step draws
            dispatched.append(watch.dispatched)
        counts[block] = max(dispatched)
    assert counts["all"] <= 450
    assert counts["all"] < counts["class"] < counts[16]


def test_what_is_sent_ahead_is_what_the_step_would_draw():
    ours, theirs = (drawing(real_images(), config=METHODS["dm"][1], generator=seeded()) for _ in range(2))
    for iteration in range(3):
        theirs.send(iteration)  # on the CPU it stays there
        ours.iteration = theirs.iteration = iteration
        (images, omega), sent = ours.draw(0, 1, 2), theirs.sent
        rows, omegas = zip(*(sent.draws[c] for c in range(3)), strict=True)
        assert torch.equal(theirs.real.images[torch.cat(rows)], images)
        assert torch.equal(torch.cat([o.u for o in omegas]), omega.u.float())
        assert torch.equal(torch.cat([o.operation for o in omegas]), omega.operation)
        assert all(map(torch.equal, sent.weights, ours.draw_weights(iteration)))
        assert len(sent.drawn) == 2 and all(map(torch.equal, sent.drawn, ours.draws(iteration)))
    theirs.iteration = 0  # of a state that was loaded
    assert theirs.sent.iteration == 0


@pytest.mark.parametrize("dtypes", [(torch.uint8, torch.float64), (torch.float32, torch.uint8, torch.int64)])
def test_sent_tensors_keep_shape_type_and_values(dtypes):
    tensors = [torch.arange(3 * (i + 1)).view(3, -1).to(dtype) for i, dtype in enumerate(dtypes)]
    assert all(map(torch.equal, send(tensors, torch.device("cpu")), tensors))
    arrived = send(tensors, META)
    assert [(t.shape, t.dtype) for t in arrived] == [(t.shape, t.dtype) for t in tensors]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_sent_to_a_gpu_they_have_the_same_values():
    tensors = [torch.rand(3, 5), torch.arange(7), torch.rand(2, dtype=torch.float64), torch.ones(3, dtype=torch.uint8)]
    arrived = send(tensors, torch.device("cuda"))
    assert all(torch.equal(a.cpu(), t) for a, t in zip(arrived, tensors, strict=True))
