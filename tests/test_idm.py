"""Distribution matching with decoding, trained networks and a cross-entropy: against the loop written out."""

import pytest
import torch
import torch.nn.functional as F
from runs import real_images, seeded

from dmtutor import DMConfig, IDMConfig, condense, decode, dm_steps, evaluate, idm_steps, keyed_generator, planning
from dmtutor.evaluation import Recipe, train_network
from dmtutor.idm import IDMSteps

FIELDS = {"ipc": 2, "batch_real": 5, "width": 4, "depth": 1, "augment": "color_crop_cutout_flip_scale_rotate",
          "pool": 3, "pool_steps": 4, "alpha": 0.7}


def make(real=None, classes=None, **fields):
    real = real_images((9, 8, 10)) if real is None else real
    return idm_steps(real, config=IDMConfig(**{**FIELDS, **fields}), generator=seeded(), classes=classes)


def written_out(steps):
    """Loss and gradient by one graph: class by class, tile by tile, without the library's decoding and loss."""
    network, total = steps.network, 0
    network.load_parameters(steps.draw_weights(steps.iteration))
    images, r = steps.images.clone().requires_grad_(), steps.config.factor
    for c in steps.classes:
        batch, omega = steps.draw(c)
        seen = []
        for s in images[steps.labels == c]:
            for row in s.chunk(r, 1):
                for tile in row.chunk(r, 2):
                    seen.append(F.interpolate(tile[None], s.shape[1:], mode="bilinear"))
        psi = network.embed(steps.augment.apply(torch.cat(seen), omega))
        mean = network.embed(steps.augment.apply(batch, omega)).mean(0)
        total = total + (mean - psi.mean(0)).square().sum()
        chance = network.classifier(psi).softmax(1)[:, c]
        total = total - steps.config.alpha * psi.shape[1] / 512 * chance.log().mean()
    return total.detach(), *torch.autograd.grad(total, images)


@pytest.mark.slow
@pytest.mark.parametrize("block", [1, 3, 16, "class", "all"])
@pytest.mark.parametrize("fields", [{}, {"factor": 4}, {"factor": 1}, {"alpha": 0}, {"ipc": (1, 2, 1)},
                                    {"pool": 0, "alpha": 0}])
def test_it_is_the_loop_written_out(block, fields):
    counts = (33, 32, 40) if fields.get("factor") == 4 else (9, 8, 10)
    steps = make(real_images(counts, dtype=torch.float64), block=block, **fields)
    for steps.iteration in range(2):
        loss, gradient = steps.loss_and_gradient()
        expected, expected_gradient = written_out(steps)
        torch.testing.assert_close(loss, expected, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-12)
        assert gradient.abs().sum() > 0


def test_without_its_three_ideas_it_is_distribution_matching_to_the_bit():
    fields = {"ipc": 2, "iterations": 3, "width": 4, "depth": 1}
    ours = idm_steps(real_images(), config=IDMConfig(**fields, factor=1, pool=0, alpha=0), generator=seeded())
    theirs = dm_steps(real_images(), config=DMConfig(**fields), generator=seeded())
    assert torch.equal(ours.finish().images, theirs.finish().images)
    assert "factor" not in ours.synthetic.meta


def test_parts_of_the_classes_resuming_and_bits_are_kept(monkeypatch):
    whole = make(iterations=4, block=3).finish().images
    parts = [make(iterations=4, block=3, classes=classes).finish().images for classes in ([0], [1, 2])]
    assert torch.equal(torch.cat(parts), whole)
    begun = make(iterations=4, block=3)
    next(begun)
    state = begun.state_dict()
    monkeypatch.setattr(IDMSteps, "_trained", lambda *_: pytest.fail("the pool is in the state"))
    again = make(iterations=4, block=3)
    again.load_state_dict(state)
    assert torch.equal(again.finish().images, whole)


def test_any_number_of_threads_gives_the_same_bits():
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.append(make(iterations=2).finish().images)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_the_pool_goes_from_a_random_network_to_a_trained_one():
    real = real_images((40, 40, 40))
    steps = make(real, pool_steps=60, width=8)
    first = steps.network.draw_parameters(generator=keyed_generator(steps.root, "train", 0))
    assert all(map(torch.equal, steps.pool[0], first))
    recipe = Recipe(steps=60, lr=0.01, batch_size=64, width=8, depth=1, augment=FIELDS["augment"])
    last = train_network(real, recipe=recipe, generator=keyed_generator(steps.root, "train", 2))
    assert all(map(torch.equal, steps.pool[2], last.parameters()))
    steps.network.load_parameters(steps.pool[2])
    right = [(steps.network(real.images).argmax(1) == real.labels).double().mean()]
    steps.network.load_parameters(steps.pool[0])
    right.append((steps.network(real.images).argmax(1) == real.labels).double().mean())
    assert right[0] > right[1] + 0.2
    drawn = {id(steps.draw_weights(i)) for i in range(30)}
    assert drawn == {id(weights) for weights in steps.pool}


@pytest.mark.slow
def test_the_cross_entropy_makes_the_network_sure():
    """Of what it is given; α = 0 leaves that to the means."""
    real, sure = real_images((40, 40, 40)), []
    for alpha in (0, 20.0):
        steps = make(real, pool=2, pool_steps=100, width=8, alpha=alpha, iterations=40, augment="none")
        seen = decode(steps.finish())
        steps.network.load_parameters(steps.pool[1])
        sure.append(float(steps.network(seen.images).softmax(1)[torch.arange(len(seen)), seen.labels].mean()))
    assert sure[1] > sure[0] + 0.02


@pytest.mark.parametrize(("fields", "message"), [
    ({"factor": 3}, "factor must divide the images' sides, 8 × 8; got 3"),
    ({"factor": 0}, "factor must be a positive integer; got 0"),
    ({"factor": 2.0}, "factor must be a positive integer; got 2.0"),
    ({"pool": 1}, "pool must be 0, for new networks in every step, or at least 2; got 1"),
    ({"pool": -1}, "pool must be a positive integer; got -1"),
    ({"pool_steps": 0}, "pool_steps must be a positive integer; got 0"),
    ({"alpha": -1}, "alpha must not be negative; got -1"),
    ({"alpha": float("inf")}, "alpha must not be negative; got inf"),
    ({"alpha": "much"}, "alpha must be a number; got 'much'"),
    ({"pool": 0}, "alpha must be 0 for pool=0: random networks tell no classes apart; got 0.7"),
    ({"ipc": 3}, "ipc must be at most 8, the images of class '1'; got 12"),
])
def test_what_does_not_fit_is_refused_before_any_work(monkeypatch, fields, message):
    monkeypatch.setattr(IDMSteps, "_trained", lambda *_: pytest.fail("work"))
    with pytest.raises(ValueError) as caught:
        make(**fields)
    assert str(caught.value) == message


def test_the_weight_of_the_cross_entropy_falls_with_the_images():
    assert [IDMConfig(ipc=ipc).alpha for ipc in (1, 10, (1, 2, 9))] == [10, 1, 2.5]
    assert IDMConfig(pool=0).alpha == 0 and IDMConfig(alpha=3).alpha == 3


def test_there_is_no_published_setting():
    with pytest.raises(ValueError, match="setting must be quick for idm"):
        IDMConfig.reference(ipc=1)


def test_a_state_of_another_pool_is_refused():
    begun = make(iterations=4)
    next(begun)
    with pytest.raises(ValueError, match="pool_steps=4 there, 5 here"):
        make(iterations=4, pool_steps=5).load_state_dict(begun.state_dict())


def test_in_one_call(tmp_path):
    fields = {**FIELDS, "ipc": 1, "iterations": 3}
    real = real_images()
    made = condense(real, "idm", **fields, progress=False, checkpoint=tmp_path / "run.pt")
    assert made.meta["method"] == "idm" and made.meta["factor"] == 2 and len(decode(made)) == 12
    again = condense(real, "idm", **fields, progress=False, checkpoint=tmp_path / "run.pt")
    assert torch.equal(again.images, made.images)
    result = evaluate(made, real, networks=1, recipe=Recipe(steps=2, width=4, depth=1), generator=seeded())
    assert result.values.shape == (1, 1)


def test_time_is_told_without_training_the_pool(monkeypatch):
    steps = make(iterations=5)
    monkeypatch.setattr(IDMSteps, "_trained", lambda *_: pytest.fail("the pool was trained"))
    assert planning.step_seconds(steps) > 0 and planning.pool_seconds(steps) > 0
    assert planning.pool_seconds(make(pool=0, alpha=0)) == 0 == planning.pool_seconds(
        dm_steps(real_images(), config=DMConfig(ipc=1, width=4, depth=1), generator=seeded()))
    assert "pool" not in vars(steps)


def test_stopped_while_the_pool_is_trained_there_is_nothing_to_save(tmp_path, monkeypatch):
    """Least of all by training it once more."""
    calls = []

    def stops(self, k):
        calls.append(k)
        raise KeyboardInterrupt

    monkeypatch.setattr(IDMSteps, "_trained", stops)
    with pytest.raises(KeyboardInterrupt):
        condense(real_images(), "idm", **{**FIELDS, "ipc": 1, "iterations": 2}, progress=False,
                 checkpoint=tmp_path / "run.pt")
    several = torch.get_num_threads() > 1  # begin at once, none of them twice
    assert calls == [0] or (several and 0 in calls and len(calls) == len(set(calls)))
    monkeypatch.undo()
    assert condense(real_images(), "idm", **{**FIELDS, "ipc": 1, "iterations": 2}, progress=False,
                    checkpoint=tmp_path / "run.pt").meta["iteration"] == 2
