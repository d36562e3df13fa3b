"""Other methods of the family, each a short member of the steps, against the plain loop in float64."""

import os
import re
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from runs import real_images, seeded

import dmtutor.__main__ as shell
from dmtutor import ConvNet, DMConfig, LabeledImages, condense, dm_steps, files, keyed_generator
from dmtutor.distribution_matching import DMSteps, mean_distance
from dmtutor.mmd import Gaussian, mmd2
from dmtutor.steps import Step, Steps, start

FIELDS = {"ipc": 4, "batch_real": 5, "width": 4, "depth": 1, "augment": "color_crop_cutout_flip_scale_rotate"}
BLOCKS = [1, 3, 16, "class", "all"]

# The two methods of the library's page: a module of them, as a reader would save it.
PAGE = (Path(__file__).parents[1] / "book" / "api.md").read_text(encoding="utf-8")
(OWN,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
own = types.ModuleType("own")
sys.modules["own"] = own  # where a dataclass looks for it
exec(OWN, vars(own))


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
            depth=1, generator=seeded()).parameters()] for i in range(3)]


def plain_loop(steps):
    """The objective written out: class by class, no blocks, one graph."""
    steps.network.load_parameters(steps.draw_weights(steps.iteration))
    images, total = steps.images.clone().requires_grad_(), 0
    for c in steps.classes:
        batch, omega = steps.draw(c)
        real = steps.network.embed(steps.augment.apply(batch, omega))
        syn = steps.network.embed(steps.augment.apply(steps.decode(images[steps.labels == c]), omega))
        if isinstance(steps, own.Frequencies):
            (t,) = steps.draws(steps.iteration)
            mean = [torch.exp(1j * (x @ t.double())).mean(0) for x in (real, syn)]  # the characteristic functions at t
            total = total + (mean[0] - mean[1]).abs().square().sum()
        elif isinstance(steps, Kernel | own.Kernel):
            sigma = 3.0 if isinstance(steps, Kernel) else steps.config.sigma
            k = [torch.exp(-torch.cdist(a, b).square() / (2 * sigma**2)).mean() for a, b in
                 ((real, real), (real, syn), (syn, syn))]
            total = total + k[0] - 2 * k[1] + k[2]
        else:
            total = total + (real.mean(0) - syn.mean(0)).square().sum()
        if isinstance(steps, CrossEntropy):
            total = total - 0.1 * steps.network.classifier(syn).log_softmax(1)[:, c].mean()
    return total.detach(), *torch.autograd.grad(total, images)


def make(kind, block, real=None, **fields):
    real = real_images((9, 6, 8), dtype=torch.float64) if real is None else real
    return start(kind, kind.config_type, real, kind.config_type(**{**FIELDS, **fields}, block=block), seeded())


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("kind", [DMSteps, Kernel, FourInOne, CrossEntropy, Trained, own.Frequencies, own.Kernel])
@pytest.mark.parametrize("batch_real", [5, 7])  # 7 images are more than the second class has
def test_it_is_the_plain_loop(kind, block, batch_real):
    steps = make(kind, block, batch_real=batch_real)
    for steps.iteration in range(2):
        loss, gradient = steps.loss_and_gradient()
        expected, expected_gradient = plain_loop(steps)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-13)
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("kind", [Kernel, FourInOne, CrossEntropy, Trained, own.Frequencies, own.Kernel])
def test_parts_of_the_classes_resuming_and_bits_are_kept(kind):
    def run(classes=None, stop=None):
        config = kind.config_type(**FIELDS, iterations=4, block=3)
        steps = start(kind, kind.config_type, real_images(), config, seeded(), classes=classes)
        if stop:
            begun = start(kind, kind.config_type, real_images(), steps.config, seeded(), classes=classes)
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


# A class of one's own ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Frequencies", "Kernel"])
def test_each_is_at_most_25_lines_with_what_may_be_set(name):
    start, end = OWN.index(f"@dataclass(frozen=True, kw_only=True)\nclass {name}Config"), len(OWN)
    if name == "Frequencies":
        end = OWN.index("@dataclass", start + 1)
    assert len([line for line in OWN[start:end].splitlines() if line.strip()]) <= 25


def test_a_class_is_condensed_with_by_itself():
    fields = {**FIELDS, "ipc": 1, "iterations": 2, "frequencies": 8}
    made = condense(real_images(), own.Frequencies, **fields, progress=False)
    assert made.meta["method"] == "Frequencies" and made.meta["config"]["frequencies"] == 8
    for number in (2, 4):
        torch.set_num_threads(number)
        try:
            assert torch.equal(condense(real_images(), own.Frequencies, **fields, progress=False).images, made.images)
        finally:
            torch.set_num_threads(1)
    with pytest.raises(TypeError, match=r"unknown field sigma of FrequenciesConfig; it has ipc, .*frequencies"):
        condense(real_images(), own.Frequencies, sigma=1.0)


@pytest.mark.parametrize("wrong", [Step, DMConfig, None, 3, DMSteps.distance])
def test_what_is_no_class_of_steps_is_refused(wrong):
    with pytest.raises(ValueError, match="method must be one of dd, dc, dsa, idm, dm, or a class derived from Steps; "):
        condense(real_images(), wrong)


def test_a_class_that_gives_no_name_is_saved_under_its_own(tmp_path):
    """Not under that of the class it is derived from, whose state it does not go on from."""
    fields = {**FIELDS, "ipc": 1, "iterations": 2, "progress": False}
    assert (DMSteps.method, Kernel.method) == ("dm", "Kernel")
    condense(real_images(), checkpoint=tmp_path / "run.pt", **fields)
    with pytest.raises(ValueError, match="method='dm' there, 'Kernel' here"):
        condense(real_images(), Kernel, checkpoint=tmp_path / "run.pt", **fields)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the module and data of three classes."""
    pixels = torch.randint(256, (24, 16, 16), generator=seeded(), dtype=torch.uint8).numpy()
    np.savez(tmp_path / "data.npz", x_train=pixels, y_train=np.arange(24) % 3, x_test=pixels, y_test=np.arange(24) % 3)
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("mine", None)


QUICK = ["--dataset", "data.npz", "--no-evaluate", "--ipc", "2", "--iterations", "4", "--width", "4"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "flag"), [("Frequencies", "frequencies"), ("Kernel", "sigma")])
def test_from_the_shell_by_its_module(folder, capsys, monkeypatch, name, flag):
    """Help, plan, one process and two, and a run that goes on: the same bytes."""
    command = ["condense", "--method", f"mine:{name}"]
    with pytest.raises(SystemExit) as left:
        shell.main([*command, "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert not left.value.code and f"--{flag} X " in words and "--lr-img X Step size on the pixels [" in words
    command += [*QUICK, f"--{flag}", "7"]
    shell.main([*command, "--output", "S.pt", "--dry-run"])
    assert f"; {name}, 6 images, 2 per class: 4 steps" in capsys.readouterr().out
    shell.main([*command, "--output", "one.pt"])
    made = LabeledImages.load("one.pt")
    assert (made.meta["method"], made.meta["config"][flag]) == (name, 7)

    advance = Steps.__next__

    def stops(self):
        if self.iteration == 2:
            raise KeyboardInterrupt
        return advance(self)

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(shell.planning, "step_seconds", lambda _: 1.0)
        patched.setattr(Steps, "__next__", stops)
        shell.main([*command, "--output", "again.pt", "--checkpoint", "run.pt"])
    assert files.read(folder / "run.pt", keys=["iteration"])["iteration"] == 2
    shell.main([*command, "--output", "again.pt", "--checkpoint", "run.pt"])

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    library = os.pathsep.join(map(os.path.abspath, sys.path))
    done = subprocess.run([*torchrun, "-m", "dmtutor", *command, "--output", "two.pt"], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": library}, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (folder / "one.pt").read_bytes() == (folder / "two.pt").read_bytes() == (folder / "again.pt").read_bytes()


@pytest.mark.parametrize(("method", "lines", "message"), [
    ("mine:Missing", "", "module 'mine' has no attribute 'Missing'"),
    ("nowhere_at_all:Kernel", "", "must be a class that can be imported; got 'nowhere_at_all:Kernel', No module named"),
    ("mine:", "", "must be dd, dc, dsa, idm, dm or module:Class; got 'mine:'"),
    ("dmm", "", "must be dd, dc, dsa, idm, dm or module:Class; got 'dmm'"),
    ("mine:KernelConfig", "", "must be a class derived from dmtutor.steps.Steps; got 'mine:KernelConfig'"),
    ("mine:Silent", "    more: int = 3", "the docstring of SilentConfig must say what each field is"),
    ("mine:Silent", "    seed: int = 3", "it lacks seed"),
    ("mine:Silent", '    """.\n\n    Parameters\n    ----------\n    seed : int\n        Two meanings.\n    """\n'
                    "    seed: int = 3", "conflicting option string: --seed"),
])
def test_a_method_that_cannot_be_run_is_told_in_a_line(folder, capsys, method, lines, message):
    silent = f"@dataclass(frozen=True, kw_only=True)\nclass SilentConfig(DMConfig):\n{lines or '    pass'}\n"
    (folder / "mine.py").write_text(f"{OWN}\n{silent}\nclass Silent(DMSteps):\n    config_type = SilentConfig\n")
    with pytest.raises(SystemExit) as left:
        shell.main(["condense", "--method", method, *QUICK, "--output", "S.pt"])
    out, err = capsys.readouterr()
    assert left.value.code == 2 and out == "" and err.count("\n") == 1 and message in err
    with pytest.raises(SystemExit):
        shell.main(["--version"])


def test_a_field_may_have_the_name_of_what_is_no_flag(folder, capsys):
    @dataclass(frozen=True, kw_only=True)
    class OddConfig(DMConfig):
        """Parameters
        ----------
        evaluate : int
            How often something is looked at.
        """

        evaluate: int = 3

    sys.modules["mine"] = types.SimpleNamespace(Odd=type("Odd", (DMSteps,), {"config_type": OddConfig}))
    shell.main(["condense", "--method", "mine:Odd", *QUICK, "--output", "S.pt", "--evaluate", "5"])
    assert LabeledImages.load("S.pt").meta["config"]["evaluate"] == 5
