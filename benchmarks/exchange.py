"""Sets that leave the library: a network of one's own, 8 bits a pixel, and the published code as a judge.

    python benchmarks/exchange.py choose --data PATH.npz --work FOLDER
    python benchmarks/exchange.py own --data PATH.npz --work FOLDER
    python benchmarks/exchange.py png --data PATH.npz --work FOLDER
    python benchmarks/exchange.py published --data PATH.npz --work FOLDER --checkout PATH
    python benchmarks/exchange.py dcbench --data PATH.npz --work FOLDER --checkout PATH

PATH.npz holds CIFAR-10: x_train, y_train, x_test, y_test. FOLDER keeps the sets that were made.

``own`` trains the README's network by the README's lines on three condensed sets and on five random ones, ten images a
class, and scores it on the test images; ``choose`` does the same for that network with lines changed, on 5,000
training images that no set has seen. ``png`` evaluates the condensed sets before and after they were folders of PNG,
on 2,000 test images.

``published`` needs a checkout of https://github.com/VICO-UoE/DatasetCondensation, nothing of which is changed: its
``main_DM.py`` writes a file of few iterations and judges it, its ``evaluate_synset`` judges ours, and
:func:`dmtutor.evaluate` judges both, each with ConvNets of width 32, 100 of the 1,000 epochs and 2,000 test images.
(At one image a class that ``main_DM.py`` stops in ``rand_crop`` with torch 2.) ``dcbench`` has the evaluator of a
checkout of https://github.com/justincui03/dc_benchmark judge our file of one image a class, 300 epochs (it needs the
package einops). Where these codes would download CIFAR-10 they are handed the images of PATH.npz.

Results go to dmtutor/results/exchange.json, row by row, so a run that was stopped goes on where it was. One thread does
the work: a minute for a set, 10 seconds for a network of the README, about 40 for one of the others.
"""

import argparse
import contextlib
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from cifar10 import NAMES, split
from store import Table, seeded
from torchvision import datasets

from dmtutor import (
    Accuracies,
    LabeledImages,
    Recipe,
    condense,
    evaluate,
    export,
    load_exported,
    load_published,
    random_subset,
    results,
)
from dmtutor.exchange import cost

ROOT = Path(__file__).parents[1]
NETWORKS = 4  # of each judge
MORE = 6  # on the file of the published code, where four networks left a doubt
TEST = 2000  # images on which networks of these codes, and ours beside them, are scored
EVERYTHING = "color_crop_cutout_flip_scale_rotate"
NARROW = Recipe.reference(epochs=100, width=32, augment=EVERYTHING)  # what the published code calls ConvNetW32
WIDE = Recipe.reference(epochs=300, augment=EVERYTHING)  # DC-BENCH has this width alone
INPUT = ("nn.InstanceNorm2d(channels), ", "")
AUGMENT = 'S.meta.get("config", S.meta)["augment"]'  # random images know those of their data set, the same here
CHANGES = {  # what is changed in the README's lines
    "as in the README": [],
    "input as it is": [INPUT],
    "input as it is, flips alone": [INPUT, (AUGMENT, '"flip"')],
    "input as it is, instance norm": [INPUT, ("nn.BatchNorm2d(32)", "nn.GroupNorm(32, 32)")],
}


def made(folder, name, make):
    """A set of this name in the folder, made if it is not there."""
    path = folder / f"{name}.pt"
    if not path.exists():
        make().save(path)
    return path


def own_sets(real, folder):
    """Paths of the sets by method."""
    dm = [made(folder, f"dm-{seed}", lambda s=seed: condense(real, ipc=10, seed=s, progress=False))
          for seed in range(3)]
    draws = [made(folder, f"random-{seed}", lambda s=seed: random_subset(real, 10, generator=seeded(s)))
             for seed in range(5)]
    return {"DM": dm, "Random": draws}


def train_own(path, judge, changes, seed):
    """Run the README's lines on a set: which images of ``judge`` the network classifies rightly."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    [code] = [block for block in blocks if "LabeledImages.load" in block]
    here = [('"S.pt"', repr(str(path))), ('dmtutor.load("mnist5k")', "None, judge"), ("seed(0)", f"seed({seed})"),
            ('S.meta["config"]["augment"]', AUGMENT)]
    for old, new in (*here, *changes):
        assert old in code, old
        code = code.replace(old, new)
    names = {"judge": judge}
    exec(code, names)
    return names["right"]


def own(table, real, judge, folder, experiment, names, draws):
    for name in names:
        for method, paths in own_sets(real, folder).items():
            paths = paths[:draws]
            key = {"experiment": experiment, "network": name, "method": method, "ipc": 10}
            if table.find(**key) is None:
                right = [train_own(path, judge, CHANGES[name], seed) for seed, path in enumerate(paths)]
                accuracies = Accuracies(torch.stack(right)[:, None])
                table.add({**key, "accuracies": results.pack(accuracies)})
                print(f"{key}: {accuracies}", flush=True)


def png(table, real, test, folder):
    """The condensed sets before and after they were folders of PNG."""
    before, after = [], []
    for path in own_sets(real, folder)["DM"]:
        before.append(LabeledImages.load(path))
        if not path.with_suffix("").exists():
            export(before[-1], path.with_suffix(""))
        after.append(load_exported(path.with_suffix("")))
    costs = [cost(*pair)._asdict() for pair in zip(before, after, strict=True)]
    test = test.normalized_like(before[0])
    for which, sets in (("before", before), ("after", after)):
        key = {"experiment": "png", "which": which, "method": "DM", "ipc": 10}
        if table.find(**key) is None:
            accuracies = evaluate(sets, test, networks=2, recipe=Recipe(), generator=seeded(0))
            table.add({**key, "costs": costs, "accuracies": results.pack(accuracies)})
            print(f"{key}: {accuracies}, {costs}", flush=True)


# The published codes as judges ---------------------------------------------------------------------------------------


class Handed(torch.utils.data.Dataset):
    """Stands where torchvision's CIFAR-10 does, with images from a file, of the test images the first TEST."""

    classes = NAMES
    arrays: dict

    def __init__(self, root, train, download, transform):
        part = "train" if train else "test"
        self.images, self.labels, self.transform = self.arrays[f"x_{part}"], self.arrays[f"y_{part}"], transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError
        return self.transform(self.images[index]), int(self.labels[index])


@contextlib.contextmanager
def inside(checkout, folder, data, *paths):
    """Where another code finds its modules, our images instead of a download, and a log for what it prints."""
    with np.load(data) as file:
        Handed.arrays = {name: file[name][: TEST if "test" in name else None]
                         for name in ("x_train", "y_train", "x_test", "y_test")}
    search = [str(checkout.resolve() / path) for path in paths] + sys.path
    with (
        mock.patch.object(datasets, "CIFAR10", Handed),
        mock.patch.object(sys, "path", search),
        contextlib.chdir(folder),
        (folder / "log.txt").open("a") as log,
        contextlib.redirect_stdout(log),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of names that SciPy and torch have moved since
        yield


def published(table, test, folder, data, checkout):
    theirs, ours = folder / "theirs", folder / "ours.pt"
    flags = ("--dataset CIFAR10 --model ConvNetW32 --ipc 10 --Iteration 50 --batch_real 32 --num_exp 1 --eval_mode end "
             f"--num_eval {NETWORKS} --epoch_eval_train {NARROW.epochs} --data_path {folder} "
             f"--save_path {theirs}")
    written = theirs / "res_DM_CIFAR10_ConvNetW32_10ipc.pt"

    def run():
        with inside(checkout, folder, data, "."), mock.patch.object(sys, "argv", ["main_DM.py", *flags.split()]):
            runpy.run_path(str(checkout.resolve() / "main_DM.py"), run_name="__main__")
        scores = torch.load(written, weights_only=False)["accs_all_exps"]["ConvNetW32"]  # of a run of our own
        more = their_scores(torch.load(written, weights_only=False)["data"][0], folder, data, checkout, MORE)
        return {"flags": flags.split(" --data_path")[0], "real": len(Handed.arrays["x_train"]),
                "scores": [*map(float, scores), *more]}

    def judged(pair):
        return {"scores": their_scores(pair, folder, data, checkout, NETWORKS)}

    def read():
        [one] = load_published(written, like=test)
        return one

    rows = Rows(table, "published code", "VICO-UoE/DatasetCondensation", checkout, ipc=10, epochs=NARROW.epochs)
    rows.add("theirs", "theirs", run)
    rows.add("theirs", "ours", lambda: our_scores(read(), test, NARROW, NETWORKS + MORE))
    one = results.images("cifar10_dm_10")
    export(one, ours)
    rows.add("ours", "ours", lambda: our_scores(load_exported(ours), test, NARROW, NETWORKS))
    rows.add("ours", "theirs", lambda: judged(torch.load(ours)["data"][0]))
    rows.add("ours, not normalised", "theirs", lambda: judged([one.pixels, one.labels]))  # would the judge notice?


def dcbench(table, test, folder, data, checkout):
    """The evaluator of DC-BENCH on our file, laid where it looks for one."""
    place = folder / "distilled_results" / "DM" / "CIFAR10" / "IPC1"
    place.mkdir(parents=True, exist_ok=True)
    file = place / "res_DM_CIFAR10_ConvNet_1ipc.pt"
    export(results.images("cifar10_dm_1"), file)
    flags = ["--gpu", "", "--method", "dm", "--dataset", "CIFAR10", "--ipc", "1", "--dsa"]

    def run():
        with inside(checkout, folder, data, "evaluator", "."), mock.patch.object(sys, "argv", ["evaluator.py", *flags]):
            import evaluator as dc

            args = dc.prepare_args()
            args.epoch_eval_train = WIDE.epochs  # --dsa sets 1,000
            judge = dc.Evaluator()
            judge.load_data(str(place.parents[2]), dc.EvaluatorUtils.get_data_file_name("dm", "CIFAR10", 1), args)
            return {"flags": " ".join(flags), "scores": [float(judge.evaluate(args)) for _ in range(NETWORKS)]}

    rows = Rows(table, "DC-BENCH", "justincui03/dc_benchmark", checkout, ipc=1, epochs=WIDE.epochs)
    rows.add("ours", "theirs", run)
    rows.add("ours", "ours", lambda: our_scores(load_exported(file), test, WIDE, NETWORKS))


class Rows:
    """Rows of one experiment with one checkout: a file, a judge, and what that found."""

    def __init__(self, table, experiment, name, checkout, **more):
        git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True)
        self.table = table
        self.key = {"experiment": experiment, "checkout": name, "checkout_commit": git.stdout.strip(), **more}

    def add(self, file, judge, find):
        key = {**self.key, "file": file, "judge": judge}
        if self.table.find(**key) is None:
            row = {**key, **find()}
            self.table.add(row)
            print(results.unpack(row["accuracies"]) if judge == "ours" else row["scores"], file, judge, flush=True)


def our_scores(one, test, recipe, networks):
    real = test.normalized_like(one)
    return {"accuracies": results.pack(evaluate(one, real, networks=networks, recipe=recipe, generator=seeded(0)))}


def their_scores(pair, folder, data, checkout, networks):
    """Accuracies of networks that the published code trains on a pair of images and labels and scores."""
    with inside(checkout, folder, data, "."):
        import utils

        channel, size, classes, _, _, _, _, _, testloader = utils.get_dataset("CIFAR10", str(folder))
        args = argparse.Namespace(
            device="cpu", lr_net=0.01, epoch_eval_train=NARROW.epochs, batch_train=256, dsa=True,
            dsa_strategy=EVERYTHING, dsa_param=utils.ParamDiffAug(), dc_aug_param=None,
        )
        nets = (utils.get_network("ConvNetW32", channel, classes, size) for _ in range(networks))
        return [float(utils.evaluate_synset(i, net, *pair, testloader, args)[2]) for i, net in enumerate(nets)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=("choose", "own", "png", "published", "dcbench"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--checkout", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.work = asked.work.resolve()
    asked.work.mkdir(exist_ok=True)
    real, validation, test = split(asked.data)
    used = {"png": str(Recipe()), "published code": str(NARROW), "DC-BENCH": str(WIDE)}
    table = Table("exchange", command="python benchmarks/exchange.py TASK --data PATH.npz --work FOLDER", recipes=used)
    if asked.task == "choose":
        own(table, real, validation, asked.work, "choice", CHANGES, 3)
    elif asked.task == "own":
        own(table, real, test, asked.work, "own network", ["as in the README"], 5)
    elif asked.task == "png":
        png(table, real, test.select(torch.arange(TEST)), asked.work)
    elif asked.task == "published":
        published(table, test.select(torch.arange(TEST)), asked.work, asked.data.resolve(), asked.checkout)
    else:
        dcbench(table, test.select(torch.arange(TEST)), asked.work, asked.data.resolve(), asked.checkout)


if __name__ == "__main__":
    main()
