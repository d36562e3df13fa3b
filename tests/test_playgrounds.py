"""The playgrounds in a browser: the page computes again what dmtutor computed, on numbers handed over."""

from itertools import islice

import pytest
import torch
from runs import seeded

from dmtutor import DMConfig, Recipe, dm_steps, load, random_subset, train_network
from dmtutor.augmentation import SiameseAugment
from dmtutor.data import batches
from dmtutor.embeddings import RandomFourierFeatures
from dmtutor.mmd import Gaussian, Linear, mmd2, witness
from dmtutor.playgrounds import ALPHABET, encode, script

DTYPE = torch.float64
NAMES = "linear, gaussian, fourier, mmd2, witness, gradient, sgd, clouds, draw, worth, generator, decode, likeMnist, "
NAMES += "ConvNet, SiameseAugment, DMSteps, trainNetwork, correct"


@pytest.fixture(scope="module")
def page(browser):
    """An empty page with the engine."""
    page = browser.new_page()
    engine = script("mmd", "clouds", "images", "distribution_matching", "evaluation")
    page.add_script_tag(content=f"(() => {{ 'use strict'; {engine} window.dm = {{ {NAMES} }}; }})()")
    yield page
    page.close()


@pytest.fixture(scope="module")
def data():
    return load("mnist5k")


def flat(tensors):
    return [t.detach().flatten().tolist() for t in tensors]


def assert_equal(got, expected, tolerance=1e-10):
    """Relative to the norm."""
    got = torch.as_tensor(got, dtype=DTYPE).flatten()
    expected = torch.as_tensor(expected, dtype=DTYPE).detach().flatten()
    assert got.shape == expected.shape and expected.norm() > 0
    assert (got - expected).norm() < tolerance * expected.norm()


# Points -----------------------------------------------------------------------------------------------------------

KERNELS = {
    "linear": (Linear(), "linear()"),
    "0.1": (Gaussian(0.1), "gaussian(0.1)"),
    "0.5": (Gaussian(0.5), "gaussian(0.5)"),
    "0.5 and 2": (Gaussian((0.5, 2.0)), "gaussian(0.5, 2)"),
    "2 features": (RandomFourierFeatures(2, 2, bandwidth=0.5, generator=seeded(0)), None),
    "128 features": (RandomFourierFeatures(2, 128, bandwidth=0.5, generator=seeded(1)), None),
}


@pytest.mark.parametrize("name", KERNELS)
def test_mmd_witness_and_gradient(page, name):
    kernel, in_page = KERNELS[name]
    if in_page is None:
        phi = kernel
        in_page, kernel = f"fourier({flat([phi.frequencies])[0]})", lambda a, b: phi(a) @ phi(b).mT
    x, y, z = torch.randn(3, 40, 2, generator=seeded(2), dtype=DTYPE)
    x, y = x[:30] + 1, y[:16].requires_grad_()
    value = mmd2(x, y, kernel=kernel)
    got = page.evaluate(
        f"""([x, y, z]) => {{
            const kernel = dm.{in_page}, f = dm.witness(x, y, kernel), map = [];
            for (let i = 0; i < z.length; i += 2) map.push(f(z[i], z[i + 1])[0]);
            return {{ value: dm.mmd2(x, y, kernel), gradient: [...dm.gradient(x, y, kernel)], map }};
        }}""",
        flat([x, y, z]),
    )
    assert got["value"] == pytest.approx(value.item(), rel=1e-10)
    assert_equal(got["gradient"], torch.autograd.grad(value, y)[0])
    assert_equal(got["map"], witness(z, x, y, kernel=kernel))


def test_a_change_in_the_eighth_digit_is_noticed(page):
    x, y = torch.randn(2, 20, 2, generator=seeded(3), dtype=DTYPE)
    in_page = "([x, y]) => [...dm.gradient(x, y, dm.gaussian(0.5 * (1 + 1e-8)))]"
    y.requires_grad_()
    (expected,) = torch.autograd.grad(mmd2(x, y, kernel=Gaussian(0.5)), y)
    with pytest.raises(AssertionError):
        assert_equal(page.evaluate(in_page, flat([x, y])), expected)
    in_page = in_page.replace(" * (1 + 1e-8)", "")
    assert_equal(page.evaluate(in_page, flat([x, y])), expected)


def test_descent_is_that_of_torch(page):
    x, start = torch.randn(2, 16, 2, generator=seeded(4), dtype=DTYPE)
    points = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([points], lr=4.0, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        mmd2(x, points, kernel=Gaussian(0.5)).backward()
        optimizer.step()
    got = page.evaluate(
        """([x, y]) => {
            const v = new Float64Array(y.length), kernel = dm.gaussian(0.5);
            for (let i = 0; i < 20; i++) dm.sgd(y, dm.gradient(x, y, kernel), v, { lr: 4, momentum: 0.9 });
            return y;
        }""",
        flat([x, start]),
    )
    assert_equal(got, points)


def chapter_cloud(name):
    """A distribution of chapter 2: points before their noise, shares and variances."""
    angle = (torch.arange(2000, dtype=DTYPE) + 0.5) / 2000 * torch.pi
    upper = 2 * torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], 1)
    circle = torch.stack([(2 * angle).cos(), (2 * angle).sin()], 1)
    even = torch.full((2000,), 1 / 2000, dtype=DTYPE)
    if name == "moons":
        return torch.cat([upper, -upper]), torch.cat([even, even]) / 2, torch.full((4000,), 0.2**2, dtype=DTYPE)
    if name == "rings":
        shares = torch.cat([even / 3, 2 * even / 3])
        return torch.cat([circle, 2.2 * circle]), shares, torch.full((4000,), 0.12**2, dtype=DTYPE)
    centres = torch.tensor([[-1.6, -1.0], [1.5, -1.3], [0.2, 1.5]], dtype=DTYPE)
    widths = torch.tensor([0.3, 0.6, 0.45], dtype=DTYPE)
    return centres, torch.tensor([0.5, 0.3, 0.2], dtype=DTYPE), widths**2


@pytest.mark.parametrize("name", ["moons", "rings", "clusters"])
@pytest.mark.parametrize("h", [0.1, 0.5, 1.0])
def test_worth_is_that_of_the_chapters_distribution(page, name, h):
    centres, shares, variances = chapter_cloud(name)
    points = torch.randn(16, 2, generator=seeded(5), dtype=DTYPE)

    def smoothed(z, more=0.0):  # E k(z, x)
        wide = h**2 + variances + more
        return (shares * h**2 / wide * torch.exp(-torch.cdist(z, centres).square() / (2 * wide))).sum(1)

    if name == "clusters":
        within = sum(s * smoothed(c[None], v)[0] for c, s, v in zip(centres, shares, variances, strict=True))
    else:
        within = (shares * smoothed(centres, variances[0])).sum()
    error = within - 2 * smoothed(points).mean() + Gaussian(h)(points, points).mean()
    got = page.evaluate(f"points => dm.worth(dm.clouds.{name}, {h})(points)", flat([points])[0])
    assert got == pytest.approx(float((1 - within) / error), rel=1e-10 if name == "clusters" else 1e-4)


@pytest.mark.parametrize("name", ["moons", "rings", "clusters"])
def test_random_points_are_worth_their_number(page, name):
    """On average, by 1 / worth: so the points that are drawn are of the distribution that judges."""
    got = page.evaluate(
        f"""() => {{
            const random = dm.generator(1), value = dm.worth(dm.clouds.{name}, 0.5), parts = [];
            for (let i = 0; i < 400; i++) parts.push(1 / value(dm.draw(dm.clouds.{name}, 16, random)));
            return parts;
        }}"""
    )
    parts = 16 * torch.tensor(got)
    assert abs(float(parts.mean()) - 1) < 4 * float(parts.std()) / 20


# Digits -----------------------------------------------------------------------------------------------------------


def test_images_arrive_as_they_were_sent(page, data):
    train, _ = data
    some = train.select(torch.arange(0, 4000, 400))
    text = encode(torch.cat([torch.zeros(2, 1, 28, 28), some.pixels, torch.ones(1, 1, 28, 28)]))
    assert set(text) <= set(ALPHABET) and len(text) < 130 * 10 + 50 + 392
    decode = "([text, alphabet]) => dm.decode(text, alphabet, 0, 1).map(image => [...image])"
    black, also, *received, white = torch.tensor(page.evaluate(decode, [text, ALPHABET]), dtype=DTYPE)
    assert not black.any() and not also.any() and white.min() == 1
    expected = (some.pixels * 7).round() / 7
    torch.testing.assert_close(torch.stack(received), expected.flatten(1).double(), rtol=0, atol=1e-6)


STEPS = """({ real, images, config, iterations }) => {
    const steps = new dm.DMSteps(images.map(image => [image]), config, dm.generator(0)), losses = [];
    const network = steps.network = new dm.ConvNet(config.width);
    steps.draw = c => ({ batch: iterations[steps.iteration].batches[c], omega: iterations[steps.iteration].omegas[c] });
    network.resetParameters = () => network.loadParameters(iterations[steps.iteration].weights);
    for (let i = 0; i < 10 * iterations.length; i++) if (steps.next()) losses.push(steps.loss);
    return { losses, images: steps.images.map(image => [...image]) };
}"""


@pytest.mark.parametrize("augment, width", [("none", 8), ("crop", 8), ("scale", 8), ("rotate", 8),
                                            ("crop_scale_rotate", 16)])
def test_three_steps_of_dm(page, data, augment, width):
    train = data[0].to(dtype=DTYPE)
    config = DMConfig(ipc=1, iterations=3, batch_real=3, width=width, augment=augment, schedule="constant")
    steps = dm_steps(train, config=config, generator=seeded(0))
    names, start, iterations, losses = augment.split("_"), steps.images, [], []
    for i in range(3):
        drawn = [steps.draw(c) for c in range(10)]
        iterations.append(
            {
                "batches": [x.flatten(1).tolist() for x, _ in drawn],
                "omegas": [{"operation": names[int(w.operation)], "u": w.u[0].tolist()} for _, w in drawn],
                "weights": flat(steps.draw_weights(i)),
            }
        )
        losses.append(float(next(steps).loss))
    settings = {"width": width, "augment": augment, "momentum": config.momentum, "init": "real"}
    got = page.evaluate(STEPS, {"images": flat(start), "config": settings, "iterations": iterations})
    assert got["losses"] == pytest.approx(losses, rel=1e-10)
    moved = torch.tensor(got["images"], dtype=DTYPE) - start.flatten(1)
    assert_equal(moved, steps.images - start)


TRAIN = """({ weights, images, labels, recipe, draws }) => {
    const augment = new dm.SiameseAugment("none"), network = new dm.ConvNet(recipe.width).loadParameters(weights);
    augment.sample = () => draws.shift();
    for (const step of dm.trainNetwork(network, images, labels, { ...recipe, augment }, null)) ;
    return { parameters: network.parameters.map(p => [...p]), right: images.map((x, i) => dm.correct(network, x, i)) };
}"""


def test_three_steps_of_the_judge(page, data):
    few = random_subset(data[0], 1, generator=seeded(0)).to(dtype=DTYPE)
    recipe = Recipe(steps=3, width=8)
    trained = train_network(few, recipe=recipe, generator=seeded(1))

    generator = seeded(1)  # and once more, to hear what it draws
    augment = SiameseAugment(few.meta["augment"])
    network = recipe.network(few.images, 10, generator=generator)
    weights, draws = flat(network.parameters()), []
    for rows in islice(batches(10, recipe.batch_size, generator), 3):
        omega = augment.sample(10, generator=generator, same_operation=True)
        draw = [{"operation": augment.strategy.split("_")[int(omega.operation[0])], "u": u} for u in omega.u.tolist()]
        draws.append([draw[int(i)] for i in rows.argsort()])  # for image 0, 1, …
    fields = ("steps", "width", "lr", "momentum", "weight_decay")
    got = page.evaluate(
        TRAIN,
        {
            "weights": weights,
            "images": flat(few.images),
            "labels": list(range(10)),
            "recipe": {name: getattr(recipe, name) for name in fields},
            "draws": draws,
        },
    )
    moved = [a - torch.tensor(b) for a, b in zip((p.detach().flatten() for p in trained.parameters()), weights,
                                                 strict=True)]
    got_moved = [torch.tensor(a, dtype=DTYPE) - torch.tensor(b, dtype=DTYPE)
                 for a, b in zip(got["parameters"], weights, strict=True)]
    assert_equal(torch.cat(got_moved), torch.cat(moved))
    with torch.no_grad():
        assert got["right"] == (trained(few.images).argmax(1) == few.labels).tolist()
