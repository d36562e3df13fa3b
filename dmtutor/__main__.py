"""Condense, evaluate and export from the shell: ``python -m dmtutor condense --help``."""

import argparse
import os
import sys
from dataclasses import fields

import torch

from . import __version__, files, sharding
from .checks import check_positive, check_seed
from .condensation import METHODS, condense
from .coresets import random_subset
from .data import NAMES, LabeledImages, check_ipc, load
from .evaluation import Recipe, evaluate
from .exchange import check_export, export, load_exported

RECIPES = {"quick": Recipe, "reference": Recipe.reference}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors take one line."""

    def error(self, message):
        tell(f"{self.prog}: error: {message} (--help lists what there is)")
        sys.exit(2)


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says a default where there is one to say."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, True) else super()._get_help_string(action)


def main(arguments=None):
    """Run a command. Exit code 2 and one line for bad input, before any work; files are written whole or not."""
    parsed = parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    except (ValueError, TypeError, OSError, ImportError) as error:
        tell(f"python -m dmtutor {parsed.command}: error: {' '.join(str(error).split())}")
        sys.exit(2)
    except KeyboardInterrupt:
        checkpoint = getattr(parsed, "checkpoint", None)
        advice = f"; the same command goes on from {checkpoint}" if checkpoint else ""
        tell(f"\nstopped{advice}")
        sys.exit(130)


def tell(line):
    """Print one line on stderr; of the processes that ``torchrun`` started, the first alone."""
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr)


def parser():
    """The command line. The flags of ``condense`` are read off the configuration."""
    top = Parser(prog="python -m dmtutor", description="Dataset condensation in one command.")
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True)
    formatter = Help

    make = commands.add_parser("condense", formatter_class=formatter, help="make a small set, say what it is worth",
                               epilog="torchrun --nproc-per-node N -m dmtutor condense ... shares the classes among N "
                                      "processes; on a CPU the file is the same, bit for bit.")  # fmt: skip
    make.set_defaults(run=_condense)
    make.add_argument("--output", required=True, metavar="S.pt", help="file to write the condensed set to")
    make.add_argument("--method", choices=METHODS, default="dm", help="how to condense")
    make.add_argument("--setting", choices=("quick", "reference"), default="quick",
                      help="defaults of the fields below: quick, or as published")  # fmt: skip
    make.add_argument("--seed", type=int, default=0, help="the same seed gives the same file, bit for bit, on a CPU")
    make.add_argument("--checkpoint", metavar="FILE",
                      help="save the run once a minute and on Ctrl-C; the same command goes on from it")  # fmt: skip
    make.add_argument("--history", metavar="FILE.csv", help="write iteration, loss and seconds of every tenth step")
    make.add_argument("--no-evaluate", dest="evaluate", action="store_false", help="just condense")
    _data_flags(make, dataset_default="mnist5k")
    _evaluation_flags(make)
    group = make.add_argument_group("fields of the configuration, with their quick defaults")
    for name, (kind, defaults) in _fields().items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, default=argparse.SUPPRESS, metavar="X",
                           help=defaults)  # fmt: skip

    score = commands.add_parser("evaluate", formatter_class=formatter, help="score a set on real images")
    score.set_defaults(run=_evaluate)
    score.add_argument("file", metavar="S.pt", help="a set that condense wrote")
    _data_flags(score, dataset_default=None, told="; the one the set was made of if left out")
    score.add_argument("--seed", type=int, default=0, help="of the networks")
    _evaluation_flags(score)

    out = commands.add_parser("export", formatter_class=formatter, help="write a set for other tools",
                              description="Write a set as a folder of PNG (NAME), NAME.npz, NAME.safetensors, or "
                                          "NAME.pt as the published code writes it, and say what that changes.",
                              epilog="With --dataset networks are trained on the set before and after, the same "
                                     "ones, and scored on its test images.")  # fmt: skip
    out.set_defaults(run=_export, random_sets=1)
    out.add_argument("file", metavar="S.pt", help="a set that condense wrote")
    out.add_argument("output", metavar="NAME[.npz|.safetensors|.pt]", help="what to write")
    _data_flags(out, dataset_default=None, told="; none is needed to write")
    out.add_argument("--seed", type=int, default=0, help="of the networks")
    out.add_argument("--recipe", choices=RECIPES, default="quick", help="how networks are trained")
    out.add_argument("--networks", type=int, default=3, help="how many networks are trained before and after")
    return top


def _fields():
    """The fields of all methods: {name: (type for argparse, help)}. The help groups methods by their default."""
    found = {}
    for method, (config_type, _) in METHODS.items():
        for f in fields(config_type):
            default = "by the data" if f.default is None else str(f.default)
            found.setdefault(f.name, (f.type, {}))[1].setdefault(default, []).append(method)
    kinds = {bool: _boolean, int | None: _integer_or_none, int | str | None: _integer_or_word, int: int, float: float,
             float | None: float}  # fmt: skip
    told = {
        name: "; ".join(
            default if len(methods) == len(METHODS) else f"{', '.join(methods)}: {default}"
            for default, methods in defaults.items()
        )
        for name, (_, defaults) in found.items()
    }
    return {name: (kinds.get(kind, str), told[name]) for name, (kind, _) in found.items()}


def _data_flags(command, dataset_default, told=""):
    command.add_argument("--dataset", default=dataset_default, metavar="NAME",
                         help=f"{', '.join(NAMES)}, the path of an .npz file, or of an image folder{told}")  # fmt: skip
    command.add_argument("--root", metavar="DIR", help="where data sets lie, are downloaded to, or decoded")
    command.add_argument("--size", type=int, help="resize the images of a folder to size × size")
    command.add_argument("--device", help="cpu, cuda, …")


def _evaluation_flags(command):
    command.add_argument("--recipe", choices=RECIPES, default="quick", help="how networks are trained on the set")
    command.add_argument("--networks", type=int, default=3, help="how many networks are trained on each set")
    command.add_argument("--random-sets", type=int, default=3, help="how many random sets are drawn to compare with")


def _integer_or_none(text):
    return None if text.lower() == "none" else int(text)


def _integer_or_word(text):
    return int(text) if text.removeprefix("-").isdigit() else None if text.lower() == "none" else text


def _boolean(text):
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false; got {text!r}")
    return text.lower() == "true"


def _condense(parsed):
    sharding.join()
    files.check_output(parsed.output, "--output")
    _check(parsed)
    config_type, _ = METHODS[parsed.method]
    names = [f.name for f in fields(config_type)]
    given = {name: getattr(parsed, name) for name in _fields() if hasattr(parsed, name)}
    for name in given:
        if name not in names:
            flag, all_flags = (", ".join(f"--{n.replace('_', '-')}" for n in group) for group in ([name], names))
            raise ValueError(f"{flag} is not a field of {parsed.method}; it has {all_flags}")
    config = config_type.reference(**given) if parsed.setting == "reference" else config_type(**given)
    train, test = load(parsed.dataset, root=parsed.root, size=parsed.size)
    if parsed.evaluate:
        check_ipc(train, config.ipc)  # as many random images are drawn
        RECIPES[parsed.recipe]().check(test.images)
    synthetic = condense(
        train, parsed.method, seed=parsed.seed, device=parsed.device, checkpoint=parsed.checkpoint,
        history=parsed.history, **{name: getattr(config, name) for name in names},
    )  # fmt: skip
    first = sharding.rank() == 0
    sharding.leave()
    if not first:
        return
    synthetic.save(parsed.output)
    print(f"{parsed.output}: {len(synthetic)} images, {config.ipc} per class of {parsed.dataset}", flush=True)
    if parsed.evaluate:
        _compare(parsed, synthetic, train, test)


def _evaluate(parsed):
    _check(parsed)
    synthetic = LabeledImages.load(parsed.file)
    dataset = parsed.dataset or synthetic.meta.get("name")
    if parsed.dataset is None and dataset not in NAMES:
        raise ValueError(
            f"--dataset is required: {parsed.file} was made of {dataset or 'unknown data'}, a file or folder"
        )
    train, test = load(dataset, root=parsed.root, size=parsed.size)
    _check_fit(train, synthetic)
    check_ipc(train, int(synthetic.counts.max()))
    _compare(parsed, synthetic, train, test)


def _export(parsed):
    check_export(parsed.output, "output")
    _check(parsed)
    synthetic = LabeledImages.load(parsed.file)
    recipe = RECIPES[parsed.recipe]()
    if parsed.dataset is not None:
        _, test = load(parsed.dataset, root=parsed.root, size=parsed.size)
        _check_fit(test, synthetic)
        recipe.check(test.images)
    cost = export(synthetic, parsed.output)
    exported = load_exported(parsed.output)
    mean, std = (", ".join(f"{value:.4f}" for value in values) for values in (exported.mean, exported.std))
    print(f"{parsed.output}: {len(exported)} images, normalisation by mean {mean} and std {std}; {cost}", flush=True)
    if parsed.dataset is None:
        return
    found = []
    for name, one in (("before", synthetic), ("after", exported)):
        real, one = test.normalized_like(one).to(parsed.device), one.to(parsed.device)
        draws = torch.Generator().manual_seed(parsed.seed)
        found.append(evaluate(one, real, networks=parsed.networks, recipe=recipe, generator=draws, progress=True))
        print(f"{name:>10}: {found[-1]}", flush=True)
    print(f"{'change':>10}: {found[1].difference(found[0])}")


def _compare(parsed, synthetic, train, test):
    """Print the accuracy of the set beside that of as many random real images, under one recipe."""
    train, test, synthetic = (part.to(parsed.device) for part in (train, test, synthetic))
    train, test = train.normalized_like(synthetic), test.normalized_like(synthetic)
    ipc = int(synthetic.counts.max())
    draws = [torch.Generator().manual_seed(parsed.seed + i) for i in range(parsed.random_sets)]
    randoms = [random_subset(train, ipc, generator=draw) for draw in draws]
    for name, sets in (("condensed", synthetic), ("random", randoms)):
        result = evaluate(
            sets, test, networks=parsed.networks, recipe=RECIPES[parsed.recipe](), progress=True,
            generator=torch.Generator().manual_seed(parsed.seed),
        )  # fmt: skip
        print(f"{name:>9}: {result}", flush=True)


def _check_fit(real, synthetic):
    if real.images.shape[1:] != synthetic.images.shape[1:] or real.classes != synthetic.classes:
        raise ValueError(f"--dataset must have the classes and the size of the set; got {real} for {synthetic}")


def _check(parsed):
    check_seed(parsed.seed, "--seed")
    for name in ("networks", "random_sets"):
        check_positive(f"--{name.replace('_', '-')}", getattr(parsed, name))
    if parsed.device is not None:
        try:
            torch.empty(0, device=parsed.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"--device must be one that this machine has; got {parsed.device!r}") from error


if __name__ == "__main__":
    main()
