"""Other methods of the family, each a short member of the steps, against the plain loop in float64."""

import pytest
import torch
import torch.nn.functional as F
from runs import real_images, seeded

from dmtutor import ConvNet, DMConfig, dm_steps, keyed_generator
from dmtutor.distribution_matching import DMSteps, mean_distance
from dmtutor.mmd import Gaussian, mmd2
from dmtutor.steps import start

FIELDS = {"ipc": 4, "batch_real": 5, "width": 4, "depth": 1, "augment": "color_crop_cutout_flip_scale_rotate"}
BLOCKS = [1, 3, 16, "class", "all"]


class Kernel(DMSteps):
    """Maximum mean discrepancy of a Gaussian kernel on embeddings."""

    def distance(self, real, syn, labels):
        return mmd2(real, syn, kernel=Gaussian(3.0))


class FourInOne(DMSteps):
    """Every stored image holds four, a quarter of its height and width each."""

    def decode(self, images):
        n, c, h, w = images.shape
        quarters = images.view(n, c, 2, h // 2, 2, w // 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, h // 2, w // 2)
        return F.interpolate(quarters, (h, w), mode="bilinear")


class CrossEntropy(DMSteps):
    """The network should also tell the classes of the synthetic images."""

    def distance(self, real, syn, labels):
        logits = self.network.classifier(syn)  # (k, M, K)
        entropy = F.cross_entropy(logits.movedim(-1, 1), labels[:, None].expand(logits.shape[:2]), reduction="none")
        return mean_distance(real, syn) + 0.1 * entropy.mean(1)


class Trained(DMSteps):
    """Networks that somebody has trained, one of them in an iteration."""

    def draw_weights(self, iteration):
        which = torch.randint(len(TRAINED), (), generator=keyed_generator(self.root, "network", iteration))
        return TRAINED[which]


TRAINED = [[torch.randn(p.shape, generator=seeded(i)) for p in ConvNet(channels=1, image_size=8, classes=3, width=4,
            depth=1, generator=seeded()).parameters()] for i in range(3)]  # fmt: skip


def plain_loop(steps):
    """The objective written out: class by class, no blocks, one graph."""
    steps.network.load_parameters(steps.draw_weights(steps.iteration))
    images, total = steps.images.clone().requires_grad_(), 0
    for c in steps.classes:
        batch, omega = steps.draw(c)
        real = steps.network.embed(steps.augment.apply(batch, omega))
        syn = steps.network.embed(steps.augment.apply(steps.decode(images[steps.labels == c]), omega))
        if isinstance(steps, Kernel):
            k = [torch.exp(-torch.cdist(a, b).square() / (2 * 3.0**2)).mean() for a, b in
                 ((real, real), (real, syn), (syn, syn))]  # fmt: skip
            total = total + k[0] - 2 * k[1] + k[2]
        else:
            total = total + (real.mean(0) - syn.mean(0)).square().sum()
        if isinstance(steps, CrossEntropy):
            total = total - 0.1 * steps.network.classifier(syn).log_softmax(1)[:, c].mean()
    return total.detach(), *torch.autograd.grad(total, images)


def make(kind, block, real=None, **fields):
    real = real_images((9, 6, 8), dtype=torch.float64) if real is None else real
    return start(kind, DMConfig, real, DMConfig(**{**FIELDS, **fields}, block=block), seeded())


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("kind", [DMSteps, Kernel, FourInOne, CrossEntropy, Trained])
@pytest.mark.parametrize("batch_real", [5, 7])  # 7 images are more than the second class has
def test_it_is_the_plain_loop(kind, block, batch_real):
    steps = make(kind, block, batch_real=batch_real)
    for steps.iteration in range(2):
        loss, gradient = steps.loss_and_gradient()
        expected, expected_gradient = plain_loop(steps)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-13)
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("kind", [Kernel, FourInOne, CrossEntropy, Trained])
def test_parts_of_the_classes_resuming_and_bits_are_kept(kind):
    def run(classes=None, stop=None):
        steps = start(kind, DMConfig, real_images(), DMConfig(**FIELDS, iterations=4, block=3), seeded(),
                      classes=classes)  # fmt: skip
        if stop:
            begun = start(kind, DMConfig, real_images(), steps.config, seeded(), classes=classes)
            [next(begun) for _ in range(stop)]
            steps.load_state_dict(begun.state_dict())
        return steps.finish().images

    whole = run()
    assert torch.equal(run(stop=2), whole)
    assert torch.equal(torch.cat([run([0]), run([1, 2])]), whole)


def test_the_members_of_distribution_matching_itself():
    steps = dm_steps(real_images(), config=DMConfig(**FIELDS), generator=seeded())
    assert type(steps) is DMSteps and steps.block == 16 and steps.config.block is None
    assert steps.decode(steps.images) is steps.images
