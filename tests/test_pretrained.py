"""Distribution matching through frozen networks: any module, against the loop written out."""

import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from runs import real_images, seeded
from sklearn.linear_model import LogisticRegression
from torch import nn

import dmtutor.__main__ as shell
from dmtutor import LabeledImages, condense, keyed_generator, load, planning, random_subset
from dmtutor.condensation import begin
from dmtutor.decoding import pyramid
from dmtutor.pretrained import NETWORKS, Frozen, PretrainedConfig, PretrainedSteps, class_means, judge, probe, unit


class Own(nn.Module):
    """A user's network: trained elsewhere, with a norm and dropout that mind the mode."""

    def __init__(self, seed):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Dropout()
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=seeded(seed)))

    def forward(self, x):
        return self.drop(F.avg_pool2d(F.silu(self.norm(self.conv(x))), 4).flatten(1))


def frozen(seed=0, **more):
    return Frozen(Own(seed), **{"mean": [0.4], "std": [0.3], "size": 8, **more})


class One(PretrainedSteps):
    networks = (frozen(),)


class Two(PretrainedSteps):
    networks = (frozen(), frozen(1))


FIELDS = {"ipc": 2, "iterations": 4, "lr_img": 0.05, "levels": 3}


def make(kind=Two, real=None, **fields):
    return begin(real_images() if real is None else real, kind, **{**FIELDS, **fields})


def written_out(real, networks, iterations=4):
    """The loop by torch's own Adam and interpolation, for classes of two images, in one graph."""
    steps = make(real=real)
    start = steps.pixels(steps.images).clamp(0, 1)
    levels = [start.clone(), torch.zeros_like(start[..., :4, :4]), torch.zeros_like(start[..., :2, :2])]
    adam = torch.optim.Adam([level.requires_grad_() for level in levels], lr=0.05)
    for i in range(iterations):
        adam.param_groups[0]["lr"] = 0.05 * (1 - i / iterations)
        network, loss = networks[i % len(networks)], 0
        with torch.no_grad():
            z = network(real.pixels)
            centre = z.mean(0)
        pixels = sum(F.interpolate(level, (8, 8), mode="bilinear") for level in levels).clamp(0, 1)
        for c in range(3):
            omega = steps.augment.sample(2, generator=keyed_generator(steps.root, "augment", i, c))
            seen = (pixels[2 * c : 2 * c + 2] - real.mean) / real.std
            ours = F.normalize(network(steps.augment.apply(seen, omega) * real.std + real.mean) - centre).mean(0)
            theirs = F.normalize(z[real.labels == c] - centre).mean(0)
            loss = loss + 1 - F.cosine_similarity(ours, theirs, dim=0)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return sum(F.interpolate(level, (8, 8), mode="bilinear") for level in levels).clamp(0, 1).detach()


def test_it_is_the_loop_written_out():
    real = real_images(dtype=torch.float64)
    made = make(real=real).finish()
    expected = written_out(real, [network.double() for network in (frozen(), frozen(1))])
    torch.testing.assert_close(made.pixels, expected, rtol=1e-7, atol=1e-7)
    assert made.images.dtype == torch.float64 and next(Two.networks[0].parameters()).dtype == torch.float32
    assert (made.pixels - make(real=real).pixels(make(real=real).images)).abs().max() > 0.05


def test_any_number_of_threads_and_a_run_that_goes_on_give_the_same_bits():
    whole, before = make().finish().images, torch.get_num_threads()
    try:
        for threads in (2, 4):
            torch.set_num_threads(threads)
            assert torch.equal(make().finish().images, whole)
    finally:
        torch.set_num_threads(before)
    begun = make()
    next(begun)
    again = make()
    again.load_state_dict(begun.state_dict())
    again.real_features = lambda k: pytest.fail("the means are in the state")
    assert len(make().means) == 1 and len(again.means) == 2
    assert torch.equal(again.finish().images, whole)


def test_a_run_starts_from_the_images_nearest_to_the_mean_of_half_a_class():
    real, network = real_images((40, 40, 40)), frozen()
    features = network.embeddings(real)
    z, steps = unit(features, features.mean(0)), make(One, real=real, ipc=1)
    draw = keyed_generator(steps.root, "init")
    for c, rows in enumerate(real.rows_of_class):
        half = rows[torch.randperm(40, generator=draw)[:20]]
        nearest = half[(z[half] - z[half].mean(0)).norm(dim=1).argmin()]
        assert torch.equal(steps.images[c], real.images[nearest])
    assert not make(One, init="noise").means and make(One, init="noise").finish().images.shape == (6, 1, 8, 8)


def test_a_state_of_other_networks_is_refused():
    class Other(PretrainedSteps):
        method, networks = "Two", (frozen(), frozen(2))

    begun = make()
    next(begun)
    with pytest.raises(ValueError, match="state must be of a run through the same networks, in the same order"):
        make(Other).load_state_dict(begun.state_dict())


def test_the_loss_falls_and_the_pixels_stay_within_bounds():
    steps = make(One, iterations=60, augment="none")
    losses = [float(step.loss) for step in steps]
    assert losses[-1] < 0.5 * losses[0]
    assert steps.synthetic.pixels.min() > -1e-6 and steps.synthetic.pixels.max() < 1 + 1e-6


def test_a_network_is_not_changed_and_is_in_evaluation_mode():
    network = frozen()
    before = network.fingerprint
    assert not network.network.training and not any(p.requires_grad for p in network.parameters())

    class Mine(PretrainedSteps):
        networks = (network,)

    make(Mine).finish()
    assert network.fingerprint == before != frozen(1).fingerprint


@pytest.mark.parametrize(("more", "message"), [
    ({"size": 9}, "images must be 9×9 for this network; got 8×8"),
    ({"size": (8, 4)}, "images must be 8×4 for this network; got 8×8"),
    ({"mean": [0.5] * 3, "std": [0.2] * 3}, "images must have 3 channels, as the network's mean and std; got 1"),
])
def test_images_that_a_network_is_not_for(more, message):
    class Mine(PretrainedSteps):
        networks = (frozen(**more),)

    with pytest.raises(ValueError) as caught:
        make(Mine)
    assert str(caught.value) == message


def test_a_wrong_normalisation_is_told():
    real = real_images()
    wrong = replace(real, std=3 * real.std)
    with pytest.raises(ValueError, match=r"pixels must lie in 0 … 1 for a pretrained network; got -?\d"):
        make(real=wrong)
    with pytest.raises(ValueError, match="std must be positive, one number for each of 1 channels"):
        frozen(std=[0.0])
    with pytest.raises(ValueError, match="std must be positive, one number for each of 1 channels"):
        frozen(std=[0.2, 0.2])


def test_what_gives_no_embeddings_is_refused():
    class Mine(PretrainedSteps):
        networks = (Frozen(nn.Conv2d(1, 2, 3), mean=[0.5], std=[0.5]),)

    with pytest.raises(ValueError, match=r"the network must give embeddings, \(n, d'\); got shape \(1, 2, 6, 6\)"):
        make(Mine)
    with pytest.raises(ValueError, match=r"PretrainedSteps.networks must name Frozen networks; it is empty"):
        make(PretrainedSteps)


@pytest.mark.parametrize("field", [{"width": 8}, {"batch_real": 4}, {"norm": "none"}])
def test_a_field_that_would_do_nothing_is_refused(field):
    with pytest.raises(ValueError, match=f"{next(iter(field))} must be left out: neither a network nor a batch is dr"):
        PretrainedConfig(**field)


def test_a_pyramid_is_a_sum_of_enlarged_levels():
    levels = [torch.randn(2, 3, *size, generator=seeded(i)) for i, size in enumerate([(8, 12), (4, 6), (1, 2)])]
    expected = sum(F.interpolate(level, (8, 12), mode="bilinear") for level in levels)
    torch.testing.assert_close(pyramid(levels), expected)


def test_the_probe_is_logistic_regression_on_centred_unit_features():
    z, seen = torch.randn(30, 5, generator=seeded(0)), torch.randn(40, 5, generator=seeded(1))
    labels = torch.arange(30) % 3
    mean = z.mean(0)
    ours, theirs = (x - mean for x in (z, seen))
    ours, theirs = (x / x.norm(dim=1, keepdim=True) for x in (ours, theirs))
    head = LogisticRegression(C=10.0, max_iter=1000).fit(ours, labels)
    assert probe(z, labels, seen).tolist() == head.predict(theirs).tolist()


def test_a_probe_on_the_class_means_is_the_nearest_mean():
    """Of unit length and centred, with one point a class: what a linear head can know of a class is its mean."""
    real, network = real_images((40, 40, 40)), frozen()
    features = network.embeddings(real)
    centre, means = class_means(features, real)
    torch.testing.assert_close(means.mean(0), torch.zeros(means.shape[1]), atol=0.2, rtol=0)
    seen = unit(features, centre)
    nearest = (seen @ F.normalize(means, dim=1).T).argmax(1)
    said = probe(F.normalize(means, dim=1), torch.arange(3), seen)
    assert (said == nearest).float().mean() > 0.85


def test_sets_are_judged_by_probes():
    real = real_images((40, 40, 40))
    sets = [random_subset(real, 2, generator=seeded(i)) for i in range(3)]
    found = judge(sets, real, frozen())
    assert found.values.shape == (3, 1) and found.mean > 0.34
    said = probe(frozen().embeddings(sets[1]), sets[1].labels, frozen().embeddings(real))
    assert torch.equal(found.predicted[1, 0], said)


def test_in_one_call_with_a_checkpoint_and_from_the_shell(tmp_path, monkeypatch, capsys):
    made = condense(real_images(), Two, **FIELDS, progress=False, checkpoint=tmp_path / "run.pt")
    assert torch.equal(condense(real_images(), Two, **FIELDS, progress=False, checkpoint=tmp_path / "run.pt").images,
                       made.images)
    assert made.meta["method"] == "Two" and made.meta["config"]["levels"] == 3
    assert planning.step_seconds(make()) > 0

    pixels = (real_images().pixels[:, 0].clamp(0, 1) * 255).byte().numpy()
    labels = real_images().labels.numpy()
    np.savez(tmp_path / "data.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mine", types.SimpleNamespace(Two=Two))
    command = ["condense", "--method", "mine:Two", "--dataset", "data.npz", "--no-evaluate", "--ipc", "1",
               "--iterations", "2", "--levels", "2", "--output", "S.pt"]
    shell.main([*command, "--dry-run"])
    assert "through 2 frozen networks" in capsys.readouterr().out
    shell.main(command)
    stored = LabeledImages.load("S.pt")
    assert stored.meta["config"]["levels"] == 2 and 0 <= judge([stored], real_images(), frozen()).mean <= 1


def test_the_shell_names_networks_and_judges_by_linear_heads(tmp_path, monkeypatch, capsys):
    for seed, name in enumerate(("efficientnet_lite0", "efficientnet_lite1")):
        monkeypatch.setitem(NETWORKS, name, lambda seed=seed: frozen(seed))
    real = real_images((40, 40, 40))
    pixels, labels = (real.pixels[:, 0].clamp(0, 1) * 255).byte().numpy(), real.labels.numpy()
    np.savez(tmp_path / "data.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    monkeypatch.chdir(tmp_path)
    command = ["condense", "--method", "dmtutor.pretrained:PretrainedSteps", "--dataset", "data.npz",
               "--iterations", "4", "--levels", "2", "--output", "S.pt", "--network"]
    shell.main([*command, "efficientnet_lite0,efficientnet_lite1"])
    told = capsys.readouterr()
    train, test = load("data.npz")
    (made,) = sets = [LabeledImages.load("S.pt")]
    assert torch.equal(condense(train, Two, ipc=1, iterations=4, levels=2, progress=False).images, made.images)
    assert "through 2 frozen networks" in told.err and "then a linear head on efficientnet_lite0 to judge" in told.err
    assert f"condensed: {judge(sets, test, frozen())}" in told.out
    randoms = [random_subset(train, 1, generator=seeded(i)) for i in range(3)]
    assert f"random: {judge(randoms, test, frozen())}" in told.out

    shell.main(["evaluate", "S.pt", "--dataset", "data.npz", "--model", "efficientnet_lite1", "--random-sets", "0"])
    assert capsys.readouterr().out == f"condensed: {judge(sets, test, frozen(1))}\n"
    with pytest.raises(SystemExit):
        shell.main([*command, "efficientnet_lite9", "--overwrite"])
    assert "network must be one of efficientnet_lite0, " in capsys.readouterr().err
