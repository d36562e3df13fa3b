import dataclasses
import functools
import io
import itertools
import os
import platform
import shutil
import subprocess
import sys
from unittest import mock

import pytest
import torch
from runs import InterruptAt, real_images, seeded

from dmtutor import DMConfig, dm_steps, from_arrays, keyed_generator, mean_distance, threads
from dmtutor.data import LabeledImages
from dmtutor.memory import keep_freed_memory
from dmtutor.sources import AUGMENT

TINY = {"ipc": 2, "iterations": 4, "batch_real": 5, "lr_img": 1.0, "width": 4, "depth": 2, "block": 3}


def make(real=None, seed=0, **fields):
    real = real_images() if real is None else real
    return dm_steps(real, config=DMConfig(**{**TINY, **fields}), generator=seeded(seed))


# Configuration -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *itertools.product(["ipc", "iterations", "batch_real", "block"], [0, -1, 1.5, "3", True]),
        *itertools.product(["lr_img"], [0, -1.0, float("nan"), float("inf")]),
        *itertools.product(["momentum"], [-0.1, 1, float("nan")]),
        *itertools.product(["average"], [-0.1, 1, "0.5", float("nan")]),
        *itertools.product(["compile", "amp"], [1, "true", None]),
        ("init", "random"),
        ("augment", "colour"),
    ],
)
def test_a_value_out_of_range_names_its_field(field, value):
    with pytest.raises(ValueError, match=f"{field} must .*got"):
        DMConfig(**{field: value})


@pytest.mark.parametrize("field", ["lr_img", "momentum"])
def test_a_number_given_as_text_names_its_field(field):
    with pytest.raises((TypeError, ValueError), match=field):
        DMConfig(**{field: "0.5"})


def test_the_configuration_is_frozen_and_keyword_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DMConfig().ipc = 3
    with pytest.raises(TypeError):
        DMConfig(3)


def test_batch_statistics_need_one_forward():
    with pytest.raises(ValueError, match="block must be 'all' for norm='batch'"):
        DMConfig(norm="batch", block=16)
    assert DMConfig(norm="batch").block == "all"


def test_the_published_setting():
    ours = DMConfig.reference()
    published = {"ipc": 10, "iterations": 20_000, "batch_real": 256, "lr_img": 1.0, "momentum": 0.5, "init": "real",
                 "augment": None, "width": 128, "depth": 3, "norm": "instance", "activation": "relu",
                 "pooling": "avg"}
    assert {k: getattr(ours, k) for k in published} == published
    assert DMConfig.reference(ipc=99).lr_img == 1
    assert DMConfig.reference(ipc=100).lr_img == 10
    assert DMConfig.reference(ipc=100, lr_img=3.0, iterations=7) == dataclasses.replace(
        DMConfig.reference(ipc=100), lr_img=3.0, iterations=7
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ipc": 10}, "ipc must be at most 9, the images of class '1'; got 10"),
        ({"norm": "instnce"}, "norm must be one of instance"),
        ({"activation": "tanh"}, "activation must be one of relu"),
        ({"pooling": "sum"}, "pooling must be one of avg"),
        ({"width": 0}, "width must be a positive integer"),
        ({"depth": 4}, "depth must be at most 3 for images of 8×8"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_draw(fields, message):
    generator = seeded()
    before = generator.get_state()
    with pytest.raises(ValueError, match=message):
        dm_steps(real_images(), config=DMConfig(**{**TINY, **fields}), generator=generator)
    assert torch.equal(generator.get_state(), before)


def test_a_class_without_images_is_refused():
    real = real_images()
    real = dataclasses.replace(real, classes=("0", "1", "2", "ghost"))
    for init in ("real", "noise"):
        with pytest.raises(ValueError, match="every class"):
            make(real, init=init)


def test_wrong_types_are_refused():
    real = real_images()
    with pytest.raises(TypeError, match="config must be a DMConfig"):
        dm_steps(real, config={"ipc": 1}, generator=seeded())
    with pytest.raises(TypeError, match="generator"):
        dm_steps(real, config=DMConfig(**TINY))
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator.*got None"):
        dm_steps(real, config=DMConfig(**TINY), generator=None)


# The loss ------------------------------------------------------------------------------------------------------------


def test_mean_distance_is_the_squared_distance_of_means():
    real, syn = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, 1.0], [0.0, 3.0], [3.0, 2.0]])
    assert mean_distance(real, syn) == (2 - 1) ** 2 + (3 - 2) ** 2
    assert mean_distance(real, real) == 0


def test_summed_over_classes_it_is_an_mmd_with_a_label_kernel():
    """Σ_c ‖Δ_c‖² = C² MMD² under k(x, x′)·1[y = y′], classes equally probable."""
    classes, n, m = 3, 5, 2
    real = torch.randn(classes, n, 4, generator=seeded(), dtype=torch.float64)
    syn = torch.randn(classes, m, 4, generator=seeded(1), dtype=torch.float64)
    points = torch.cat([real.flatten(0, 1), syn.flatten(0, 1)])
    labels = torch.cat([torch.arange(classes).repeat_interleave(n), torch.arange(classes).repeat_interleave(m)])
    kernel = points @ points.T * (labels[:, None] == labels)
    weights = torch.cat([torch.ones(classes * n) / n, -torch.ones(classes * m) / m]).double() / classes
    mmd2 = weights @ kernel @ weights
    torch.testing.assert_close(sum(map(mean_distance, real, syn)), classes**2 * mmd2, rtol=1e-7, atol=0)


@pytest.mark.parametrize("norm", ["instance", "group", "layer", "none"])
@pytest.mark.parametrize("block", [1, 2, 4, 100])
def test_the_class_loop_in_blocks_equals_one_forward(block, norm):
    real = real_images(dtype=torch.float64)
    fields = {"ipc": 5, "norm": norm, "augment": "color_crop_cutout_flip_scale_rotate"}
    loss, gradient = make(real, block=block, **fields).loss_and_gradient()
    whole_loss, whole_gradient = make(real, block="all", **fields).loss_and_gradient()
    torch.testing.assert_close(loss, whole_loss, rtol=1e-11, atol=0)
    torch.testing.assert_close(gradient, whole_gradient, rtol=1e-8, atol=1e-12)


def test_runs_in_blocks_of_different_size_agree_up_to_rounding():
    real = real_images(dtype=torch.float64)
    runs = [make(real, block=block).finish().images for block in (1, 2, 3, 100, "class", "all")]
    for run in runs[1:]:
        torch.testing.assert_close(run, runs[0], rtol=0, atol=1e-8)


def test_the_gradient_is_that_of_the_loss():
    """Against finite differences of the loss alone."""
    steps = make(real_images(dtype=torch.float64), augment="rotate", activation="swish")
    _, gradient = steps.loss_and_gradient()
    start = steps.images.clone()
    direction = torch.randn(start.shape, generator=seeded(), dtype=torch.float64)
    losses = []
    for h in (1e-5, -1e-5):
        steps.images.copy_(start + h * direction)
        losses.append(float(steps.loss_and_gradient()[0]))
    assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(float((gradient * direction).sum()), rel=1e-6)


def test_classes_do_not_touch_each_other():
    one, two = make(), make()
    two.images[2:4] += 1  # class 1
    (_, a), (_, b) = one.loss_and_gradient(), two.loss_and_gradient()
    assert torch.equal(a[:2], b[:2])
    assert torch.equal(a[4:], b[4:])
    assert not torch.allclose(a[2:4], b[2:4])


def test_who_holds_some_classes_only_makes_their_part_of_the_set():
    """From noise, to the bit, though the images of other classes are not there."""
    real, config = real_images(), DMConfig(**{**TINY, "init": "noise"})
    whole, parts = dm_steps(real, config=config, generator=seeded(0)).finish(), []
    for c in range(len(real.classes)):
        steps = dm_steps(real.select(real.labels == c), config=config, generator=seeded(0), classes=[c])
        parts.append(steps.finish())
    assert torch.equal(torch.cat([p.images for p in parts]), whole.images)
    assert torch.equal(torch.cat([p.labels for p in parts]), whole.labels)

    own = real.select(real.labels != 0)
    with pytest.raises(ValueError, match="init must be 'noise' where real holds some classes only"):
        dm_steps(own, config=DMConfig(ipc=1), generator=seeded(0), classes=[1])
    for classes in (None, [0, 1]):
        with pytest.raises(ValueError, match="real must hold images of every class; 1 of"):
            dm_steps(own, config=DMConfig(ipc=1, init="noise"), generator=seeded(0), classes=classes)


def test_copies_of_an_image_share_its_gradient():
    """Each image's gradient carries 1/ipc."""
    real = real_images(dtype=torch.float64)
    single, double = make(real, ipc=1), make(real, ipc=2)
    double.images.copy_(single.images.repeat_interleave(2, dim=0))
    (loss, gradient), (same, halves) = single.loss_and_gradient(), double.loss_and_gradient()
    torch.testing.assert_close(same, loss)
    torch.testing.assert_close(halves, gradient.repeat_interleave(2, dim=0) / 2)


def test_a_batch_above_the_class_is_the_whole_class():
    real = real_images(dtype=torch.float64)
    losses = [make(real, batch_real=size).loss_and_gradient()[0] for size in (9, 100)]
    torch.testing.assert_close(*losses)
    assert not torch.allclose(losses[0], make(real, batch_real=3).loss_and_gradient()[0])


def test_a_small_real_batch_is_unbiased():
    """Over all batches of 2 of 6 images: the mean gradient is the full batch's, and the mean loss exceeds the full
    loss by (tr Σ/B)(N−B)/(N−1)."""
    real = real_images((6, 6), dtype=torch.float64)
    full = make(real, ipc=2, batch_real=6, augment="none")
    loss, gradient = full.loss_and_gradient()
    state = full.state_dict()
    rows = [(real.labels == c).nonzero()[:, 0] for c in range(2)]
    small = []
    for pair in itertools.combinations(range(6), 2):
        steps = make(real.select(torch.cat([r[list(pair)] for r in rows])), ipc=2, batch_real=6, augment="none")
        steps.images.copy_(state["images"])
        small.append(steps.loss_and_gradient())
    torch.testing.assert_close(torch.stack([g for _, g in small]).mean(0), gradient, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(small[0][1], gradient, rtol=0.1)
    embeddings = [full.network.embed(real.images[r]) for r in rows]
    spread = sum(float(e.var(0, correction=0).sum()) for e in embeddings)
    expected = float(loss) + spread / 2 * (6 - 2) / (6 - 1)
    assert float(torch.stack([l for l, _ in small]).mean()) == pytest.approx(expected, rel=1e-9)


def cosines(gradient, images):
    return torch.cosine_similarity(gradient.flatten(1), images.flatten(1)).abs()


@pytest.mark.parametrize("augment", ["none", "crop", "cutout", "flip", "scale", "rotate"])
def test_instance_norm_is_blind_to_contrast(augment):
    """ψ(as) = ψ(s), so ⟨∇L, s⟩ = 0: also with biases, and through the operations that are linear in s."""
    steps = make(real_images(dtype=torch.float64, size=16), width=16, augment=augment)
    _, gradient = steps.loss_and_gradient()
    assert cosines(gradient, steps.images).max() < 1e-3  # not 0: the norm divides by √(variance + 10⁻⁵)
    without = make(real_images(dtype=torch.float64, size=16), width=16, augment=augment, norm="none")
    assert cosines(without.loss_and_gradient()[1], without.images).max() > 1e-2


def test_so_contrast_only_grows():
    """Without momentum, ‖s⁺‖² = ‖s‖² + η²‖g‖²."""
    steps = make(real_images(dtype=torch.float64, size=16), width=16, augment="none", momentum=0.0, lr_img=0.5)
    before = steps.images.square().sum()
    _, gradient = steps.loss_and_gradient()
    next(steps)
    grown = steps.images.square().sum() - before
    torch.testing.assert_close(grown, 0.25 * gradient.square().sum(), rtol=1e-3, atol=0)
    assert grown > 1e-6


# The iterator --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_steps_are_sgd_with_momentum(schedule):
    steps, twin = (
        make(real_images(dtype=torch.float64), momentum=0.7, lr_img=0.3, schedule=schedule) for _ in range(2)
    )
    pixels = twin.images.clone().requires_grad_()
    optimizer = torch.optim.SGD([pixels], lr=0.3, momentum=0.7)
    for step in steps:
        if schedule == "linear":
            optimizer.param_groups[0]["lr"] = 0.3 * (1 - (step.iteration - 1) / len(steps))
        twin.images.copy_(pixels.detach())
        _, pixels.grad = twin.loss_and_gradient()
        optimizer.step()
        twin.iteration += 1
        torch.testing.assert_close(step.synthetic.images, pixels.detach(), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("ipc", "width"), [(1, 4), (1, 8), (5, 4)])
def test_the_default_step_grows_with_ipc_and_falls_with_the_embedding(ipc, width):
    """The loss sums over d' features and an image's gradient carries 1/ipc: η ∝ ipc/d' keeps the step."""
    steps = make(ipc=ipc, width=width, lr_img=None)
    assert steps.config.lr_img == pytest.approx(512 * ipc / (width * 2 * 2))
    assert steps.synthetic.meta["config"]["lr_img"] == steps.config.lr_img
    assert torch.equal(steps.finish().images, make(ipc=ipc, width=width, lr_img=steps.config.lr_img).finish().images)


def test_what_a_step_holds():
    steps = make()
    assert len(steps) == 4
    start = steps.synthetic
    loss, _ = steps.loss_and_gradient()
    history = list(steps)
    assert [s.iteration for s in history] == [1, 2, 3, 4]
    assert history[0].loss.shape == ()
    assert not history[0].loss.requires_grad
    assert history[0].loss == loss  # of the images before the step
    assert not torch.equal(start.images, steps.synthetic.images)
    assert len({float(s.loss) for s in history}) == 4
    with pytest.raises(StopIteration):
        next(steps)
    assert steps.iteration == 4


def test_a_snapshot_is_a_copy():
    steps = make()
    snapshot = next(steps).synthetic
    before = snapshot.images.clone()
    next(steps)
    assert torch.equal(snapshot.images, before)
    snapshot.images.zero_()
    assert steps.synthetic.images.abs().max() > 0


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_every_step_keeps_its_own_images(average):
    seen = [step.synthetic for step in make(average=average)]
    kept = list(make(average=average))
    assert len(kept) == len(seen) > 2
    for step, synthetic in zip(kept, seen, strict=True):
        assert step.synthetic.meta["iteration"] == step.iteration
        assert torch.equal(step.synthetic.images, synthetic.images)


def test_the_synthetic_set():
    real = real_images()
    steps = make(real, ipc=3)
    synthetic = steps.synthetic
    assert isinstance(synthetic, LabeledImages)
    assert synthetic.images.shape == (9, 1, 8, 8)
    assert synthetic.images.dtype == torch.float32
    assert synthetic.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert synthetic.classes == real.classes
    assert torch.equal(synthetic.mean, real.mean)
    assert torch.equal(synthetic.std, real.std)
    assert synthetic.meta["method"] == "dm"
    assert synthetic.meta["config"] == dataclasses.asdict(steps.config)
    assert type(synthetic.meta["versions"]["torch"]) is str  # torch's own version type is not loaded as plain data


def test_it_starts_from_random_real_images_of_the_class():
    real = real_images()
    steps = make(real, ipc=6)
    for c in range(3):
        pool = [x.tolist() for x in real.of_class(c)]
        start = [x.tolist() for x in steps.synthetic.of_class(c)]
        assert all(x in pool for x in start)
        assert len({str(x) for x in start}) == 6
    assert not torch.equal(steps.images, make(real, seed=1, ipc=6).images)


def test_it_starts_from_noise():
    steps = make(init="noise", ipc=40)  # more than a class has
    assert steps.synthetic.counts.tolist() == [40, 40, 40]
    assert abs(float(steps.images.mean())) < 0.05
    assert abs(float(steps.images.std()) - 1) < 0.05
    steps.finish()


def test_the_real_images_are_left_alone():
    real = real_images()
    before = real.images.clone()
    make(real, augment="color_flip").finish()
    assert torch.equal(real.images, before)
    assert not real.images.requires_grad


def test_the_data_set_brings_its_augmentation():
    real = real_images()
    assert make(real).config.augment == real.meta["augment"] == "color_crop_cutout_flip_scale_rotate"
    real.meta["augment"] = AUGMENT["svhn"]
    steps = make(real)
    assert steps.config.augment == AUGMENT["svhn"]
    assert "flip" not in steps.synthetic.meta["config"]["augment"]
    assert make(real, augment="flip").config.augment == "flip"
    assert make(dataclasses.replace(real, meta={})).config.augment == "none"


@pytest.mark.parametrize("fields", [{"norm": "batch", "block": "all"}, {"norm": "layer", "activation": "swish"},
                                    {"pooling": "max", "norm": "group"}, {"ipc": 1, "block": 1}])
def test_every_network_condenses(fields):
    images = make(**fields).finish().images
    assert torch.isfinite(images).all()


def test_colour_images_of_any_shape():
    pixels = torch.rand(12, 10, 7, 3, generator=seeded())
    real = from_arrays(pixels, torch.arange(2).repeat(6))
    assert make(real).finish().images.shape == (4, 3, 10, 7)


@pytest.mark.slow
def test_it_learns():
    """On networks and batches that it has not seen, the learned images are nearer than the real ones it began with."""
    real = real_images((60, 60, 60))
    steps = make(real, iterations=40, width=8, batch_real=20, ipc=1, augment="none")
    start = steps.images.clone()
    steps.finish()

    def distance(images):
        judge = make(real, seed=99, width=8, batch_real=60, ipc=1, augment="none")
        judge.images.copy_(images)
        losses = []
        for judge.iteration in range(10):
            losses.append(float(judge.loss_and_gradient()[0]))
        return sum(losses)

    assert distance(steps.images) < 0.7 * distance(start)


@pytest.mark.parametrize("average", [0.5, 0.9])
def test_the_average_weighs_the_images_after_each_step(average):
    """Σ aⁱ S_{t−i} / Σ aⁱ; the steps themselves stay as they were."""
    real = real_images(dtype=torch.float64)
    plain = [step.synthetic.images for step in make(real)]
    steps = make(real, average=average)
    assert torch.equal(steps.synthetic.images, make(real).images)  # nothing to average yet
    for t, step in enumerate(steps, 1):
        weights = [average**i for i in reversed(range(t))]
        expected = sum(w * s for w, s in zip(weights, plain, strict=False)) / sum(weights)
        torch.testing.assert_close(step.synthetic.images, expected, rtol=0, atol=1e-12)
        assert torch.equal(steps.images, plain[t - 1])


def test_the_average_is_part_of_the_state():
    whole = make(average=0.8).finish().images
    first = make(average=0.8)
    next(first), next(first)
    second = make(average=0.8)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.finish().images, whole)
    assert not torch.equal(whole, make().finish().images)
    with pytest.raises(ValueError, match=r"same configuration.*average=0\.8 there, 0\.0 here"):
        make().load_state_dict(first.state_dict())


def test_an_average_settles_where_a_constant_step_does_not():
    """On ½(s − n_t)² with noise n, SGD wanders about the optimum; its average wanders less."""
    steps = make(iterations=400, average=0.98, schedule="constant", lr_img=0.3, momentum=0.0, ipc=1)
    noise = torch.randn(401, *steps.images.shape, generator=seeded())
    steps.loss_and_gradient = lambda: (torch.zeros(()), steps.images - noise[steps.iteration])
    wandering = steps.finish().images.square().mean()
    assert wandering < 0.2 * steps.images.square().mean()


# Speed ---------------------------------------------------------------------------------------------------------------


def test_a_run_makes_no_copy_of_the_data():
    steps = make(real_images((60, 60, 60)))
    mine = [v for v in vars(steps).values() if isinstance(v, torch.Tensor)]
    assert sum(t.numel() for t in mine) < steps.real.images.numel() / 4
    assert steps.real.images.data_ptr() == make(steps.real).real.images.data_ptr()


GLIBC = [int(part) for part in platform.libc_ver()[1].split(".")] if platform.libc_ver()[0] == "glibc" else [0]


@pytest.mark.slow
@pytest.mark.skipif(GLIBC < [2, 35], reason="freed memory is glibc's matter, from 2.35 on")
def test_freed_memory_is_kept_for_the_next_tensor():
    """Page faults, in a fresh process: every 4 KB that the system has to clear is one."""
    count = """
import resource, sys, threading, torch
from dmtutor.memory import keep_freed_memory
def compute():
    for _ in range(int(sys.argv[2])):
        x = torch.zeros(int(sys.argv[1])); y = x + 1; z = y + 1; del x, y, z
def faults(in_a_thread):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    if in_a_thread:
        thread = threading.Thread(target=compute); thread.start(); thread.join()
    else:
        compute()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
torch.set_num_threads(1)
before = faults(False)
keep_freed_memory(); faults(False)
print(before, *(min(faults(in_a_thread) for _ in range(3)) for in_a_thread in (False, True)))
"""
    for size in (("1_000_000", "20"), ("25_000_000", "10")):  # 100 MB: more than a thread's own arena would keep
        command = [sys.executable, "-c", count, *size]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        before, *after = map(int, done.stdout.split())
        assert 5 * max(after) < before > 5_000  # the least of three: a heap laid out anew, once, is not the matter


def test_without_glibc_nothing_happens(monkeypatch):
    for failure in (AttributeError, OSError, TypeError):
        monkeypatch.setattr("ctypes.CDLL", mock.Mock(side_effect=failure))
        keep_freed_memory()


def test_an_allocator_that_refuses_keeps_its_own_way(monkeypatch):
    library = mock.Mock()
    library.mallopt.return_value = 0  # as glibc before 2.35 does, for more than 32 MB
    monkeypatch.setattr("ctypes.CDLL", lambda name: library)
    keep_freed_memory()
    assert library.mallopt.call_count == 1  # a second call would end its own adapting


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own look at it, else hidden
@pytest.mark.parametrize(("shape", "amp", "backend"), [
    ((8, 8), False, "eager"), ((8, 8, 3), False, "inductor"), ((8, 8, 3), True, "inductor"),
])
def test_translated_it_is_the_same_and_translated_once(shape, amp, backend, monkeypatch):
    """Compared with the engine that test_parity.py compares with the published loop."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    pixels = torch.rand(27, *shape, generator=seeded())
    real = from_arrays(pixels, torch.arange(27) % 3).to(dtype=torch.float32 if amp else torch.float64)
    fields = {"ipc": 4, "block": 3, "batch_real": 8, "iterations": 12, "augment": "color_crop_cutout_flip_scale_rotate"}
    plain, steps = (make(real, amp=amp, compile=translated, **fields) for translated in (False, True))
    for _ in range(2):
        next(plain), next(steps)
    counters = torch._dynamo.utils.counters
    before = counters["stats"]["unique_graphs"]
    assert before > 0
    plain.finish(), steps.finish()
    assert counters["stats"]["unique_graphs"] == before
    difference = (steps.images - plain.images).norm() / (plain.images - make(real, **fields).images).norm()
    assert difference < (0.1 if amp else 1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own look at it, else hidden
def test_translations_of_many_runs_do_not_take_each_other_s_place(monkeypatch):
    """torch keeps eight of one piece of code; a translation that the caller has made stays."""
    translated, compile = [], torch.compile

    def backend(graph, inputs):
        translated.append(1)
        return graph

    monkeypatch.setattr(torch, "compile", lambda function, **options: compile(function, backend=backend, **options))
    mine = torch.compile(lambda x: x + 1)
    mine(torch.ones(2))
    runs = [make(ipc=2, batch_real=2, block="class", compile=True, width=4 + i) for i in range(10)]
    [next(run) for run in runs]
    before = len(translated)
    [next(run) for run in runs]
    mine(torch.ones(2))
    assert len(translated) == before >= 1 + len(runs)


@pytest.mark.parametrize("block", [None, "all", "class", 3])
def test_in_16_bits_loss_and_gradient_are_nearly_the_same(block):
    pixels = torch.rand(60, 16, 16, 3, generator=seeded())
    real = from_arrays(pixels, torch.arange(60) % 3)
    fields = {"ipc": 4, "batch_real": 16, "iterations": 4, "block": block, "augment": "color_crop_rotate", "width": 32}
    plain, steps = make(real, **fields), make(real, amp=True, **fields)
    there, loss = (run.loss_and_gradient() for run in (plain, steps))
    assert loss[0].dtype == loss[1].dtype == torch.float32
    assert 0 < abs(float(loss[0] / there[0]) - 1) < 0.01
    assert 0 < float((loss[1] - there[1]).norm() / there[1].norm()) < 0.1
    made = steps.finish().images
    assert made.dtype == torch.float32 and torch.equal(made, make(real, amp=True, **fields).finish().images)


def test_16_bits_are_refused_for_images_of_64():
    real = real_images().to(dtype=torch.float64)
    with pytest.raises(ValueError, match=r"amp must be False where images are not torch\.float32; got torch\.float64"):
        make(real, amp=True)


@pytest.mark.slow
def test_without_a_compiler_translation_is_refused(tmp_path):
    attempt = """
import torch
from dmtutor import DMConfig, dm_steps, from_arrays
real = from_arrays(torch.rand(6, 8, 8), torch.arange(6) % 2)
config = DMConfig(ipc=1, width=4, depth=2, batch_real=2, compile=True)
try:
    dm_steps(real, config=config, generator=torch.Generator().manual_seed(0))
except ValueError as error:
    print(error)
"""
    environment = {**os.environ, "CXX": str(tmp_path / "missing"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", attempt], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("compile must be False where torch.compile does not work, which needs a compiler")


# Seeds and states ----------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits():
    assert torch.equal(make(seed=5).finish().images, make(seed=5).finish().images)
    assert not torch.equal(make(seed=5).finish().images, make(seed=6).finish().images)


def test_the_callers_generator_advances_once():
    one, two = seeded(), seeded()
    dm_steps(real_images(), config=DMConfig(**TINY), generator=one).finish()
    dm_steps(real_images(), config=DMConfig(**{**TINY, "iterations": 50}), generator=two)
    assert torch.equal(one.get_state(), two.get_state())
    assert not torch.equal(one.get_state(), seeded().get_state())


def test_every_iteration_has_a_network_of_its_own():
    steps = make()
    weights = []
    for _ in range(3):
        next(steps)
        weights.append(torch.cat([p.flatten() for p in steps.network.parameters()]))
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


def test_augmentation_off_leaves_networks_and_batches_as_they_were():
    def seen(**fields):
        steps = make(**fields)
        apply, inputs = steps.augment.apply, []
        steps.augment.apply = lambda x, draws: inputs.append(x.detach().clone()) or apply(x, draws)
        with threads.single_threaded():  # the classes in their order
            steps.loss_and_gradient()
            steps.iteration = 1
            steps.loss_and_gradient()
        return inputs, list(steps.network.parameters())

    (batches, weights), (same_batches, same_weights) = seen(augment="none"), seen(augment="rotate_color")
    assert len(batches) == len(same_batches) > 0
    assert all(map(torch.equal, batches, same_batches))
    assert all(map(torch.equal, weights, same_weights))
    assert not all(map(torch.equal, batches, seen(augment="none", seed=1)[0]))


def test_batches_come_from_the_keyed_stream():
    """Documented, so that a run can be followed by hand: one class, one batch, the identity of its images."""
    real = real_images()
    steps = make(real, batch_real=3, block=100)
    apply, inputs = steps.augment.apply, []
    steps.augment.apply = lambda x, draws: inputs.append(x.detach().clone()) or apply(x, draws)
    with threads.single_threaded():  # the first class first
        steps.loss_and_gradient()
    pool = real.of_class(0)
    order = torch.randperm(len(pool), generator=keyed_generator(steps.root, "batch", 0, 0))
    assert torch.equal(inputs[0], pool[order[:3]])


@pytest.mark.parametrize("done", [0, 1, 3, 4])
def test_a_resumed_run_equals_the_uninterrupted_one_to_the_bit(done):
    whole = make().finish().images
    first = make()
    for _ in range(done):
        next(first)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = make()
    second.load_state_dict(torch.load(buffer, weights_only=True))
    assert second.iteration == done
    assert torch.equal(second.finish().images, whole)


def test_a_state_is_a_copy():
    steps = make()
    next(steps)
    state = steps.state_dict()
    copies = {k: state[k].clone() for k in ("images", "momentum")}
    steps.finish()
    assert all(torch.equal(state[k], copies[k]) for k in copies)
    other = make()
    other.load_state_dict(state)
    other.finish()
    assert all(torch.equal(state[k], copies[k]) for k in copies)


@pytest.mark.slow
def test_an_interruption_anywhere_in_a_step_leaves_a_state_to_go_on_from():
    real = real_images((3, 3))
    fields = {"ipc": 1, "iterations": 2, "depth": 1, "batch_real": 2, "augment": "none"}
    whole = make(real, **fields).finish().images
    for n in itertools.count(1):
        steps = make(real, **fields)
        next(steps)
        try:
            with InterruptAt(n):
                next(steps)
        except KeyboardInterrupt:
            assert torch.equal(steps.finish().images, whole), f"interrupted at call {n}"
        else:
            break
    assert n > 20


def test_a_state_of_another_configuration_is_refused():
    state = make(lr_img=2.0, width=8).state_dict()
    with pytest.raises(ValueError, match=r"same configuration.*lr_img=2\.0 there, 1\.0 here.*width=8 there, 4 here"):
        make().load_state_dict(state)


def test_a_field_that_a_state_does_not_know_has_its_default_there():
    """A state that was written before the library had the field goes on, where the field is left out."""
    whole, begun = make().finish().images, make()
    next(begun)
    state = begun.state_dict()
    for name in ("average", "amp", "schedule", "pooling"):
        del state["config"][name]
    again = make()
    again.load_state_dict(state)
    assert torch.equal(again.finish().images, whole)
    with pytest.raises(ValueError, match=r"same configuration; got pooling='avg' there, 'max' here"):
        make(pooling="max").load_state_dict(state)


def test_a_device_s_own_block_is_no_part_of_the_state(monkeypatch):
    """What a CPU has begun goes on where another block is the default."""
    begun = make(block=None)
    next(begun)
    assert begun.block == 16 and begun.config.block is None
    monkeypatch.setattr("dmtutor.distribution_matching.default_block", lambda config, real: "class")
    again = make(block=None)
    again.load_state_dict(begun.state_dict())
    assert again.block == "class"
    torch.testing.assert_close(again.finish().images, begun.finish().images)
    with pytest.raises(ValueError, match="block=None there, 2 here"):
        make(block=2).load_state_dict(begun.state_dict())


def test_a_state_of_other_images_is_refused():
    with pytest.raises(ValueError, match="state must"):
        make().load_state_dict(make(real_images(size=12)).state_dict())
    with pytest.raises(ValueError, match="state must"):
        make().load_state_dict(make(real_images(seed=7)).state_dict())


def test_a_state_of_another_seed_is_refused():
    with pytest.raises(ValueError, match=r"state must .*seed"):
        make(seed=1).load_state_dict(make(seed=0).state_dict())
