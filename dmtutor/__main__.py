"""Condense and evaluate from the shell: ``python -m dmtutor condense --help``."""

import argparse
import os
import sys
import warnings
from dataclasses import fields

import torch

from . import __version__, files, planning, sharding
from .checks import check_positive, check_seed
from .condensation import METHODS, begin, condense, load_run
from .coresets import random_subset
from .data import NAMES, LabeledImages, check_ipc, load
from .evaluation import Recipe, evaluate
from .networks import default_depth
from .pictures import RESIZE

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
    told = set()

    def note(message, *_):
        """A warning, once, in one line."""
        if str(message) not in told:
            tell(f"note: {' '.join(str(message).split())}")
        told.add(str(message))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = note
            parsed.run(parsed)
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        said = "; ".join([str(error), *getattr(error, "__notes__", [])])
        tell(f"python -m dmtutor {parsed.command}: error: {' '.join(said.split())}")
        sys.exit(2)
    except KeyboardInterrupt:
        tell("\n" + "; ".join(["stopped", *getattr(parsed, "advice", [])]))
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
                      help="save the run here once a minute and when stopped, and keep the file; by default it is "
                           "S.pt.run, until S.pt is written. The same command goes on from it")  # fmt: skip
    make.add_argument("--history", metavar="FILE.csv", help="write iteration, loss and seconds of every tenth step")
    make.add_argument("--no-evaluate", dest="evaluate", action="store_false", help="just condense")
    make.add_argument("--dry-run", action="store_true",
                      help="say what was read, what would be done and how long it would take, and stop")  # fmt: skip
    _data_flags(make, dataset_default="mnist5k")
    _evaluation_flags(make)
    group = make.add_argument_group("fields of the configuration, with their quick defaults")
    for name, (kind, defaults) in _fields().items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, default=argparse.SUPPRESS, metavar="X",
                           help=defaults)  # fmt: skip

    score = commands.add_parser("evaluate", formatter_class=formatter, help="score a set on real images")
    score.set_defaults(run=_evaluate)
    score.add_argument("file", metavar="S.pt", help="a set that condense wrote")
    _data_flags(score, dataset_default=None)
    score.add_argument("--seed", type=int, default=0, help="of the networks")
    _evaluation_flags(score)
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


def _data_flags(command, dataset_default):
    told = "" if dataset_default else "; the one the set was made of if left out"
    command.add_argument("--dataset", default=dataset_default, metavar="NAME",
                         help=f"{', '.join(NAMES)}, the path of an .npz file, or of an image folder{told}")  # fmt: skip
    command.add_argument("--root", metavar="DIR", help="where data sets lie, are downloaded to, or decoded")
    command.add_argument("--size", type=int, help="resize the images to size × size")
    command.add_argument("--resize", choices=RESIZE, default="fit",
                         help="by cutting off what exceeds the square, or by bars beside the whole image")  # fmt: skip
    command.add_argument("--skip-broken", action="store_true", help="leave out files that cannot be read")
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
    train, test = _load(parsed, parsed.dataset)
    recipe = _recipe(parsed, test)
    if parsed.evaluate:
        check_ipc(train, config.ipc)  # as many random images are drawn
        recipe.check(test.images)
    fields_of_run = {name: getattr(config, name) for name in names}
    begun = begin(train, parsed.method, seed=parsed.seed, device=parsed.device, **fields_of_run)
    checkpoint = files.check_output(parsed.checkpoint or f"{parsed.output}.run", "checkpoint")
    if checkpoint.exists():
        load_run(begun, checkpoint)
    _plan(parsed, begun, test, recipe)
    if parsed.dry_run:
        return
    parsed.advice = [f"the same command goes on from {checkpoint}"]
    try:
        synthetic = condense(train, parsed.method, seed=parsed.seed, device=parsed.device, checkpoint=checkpoint,
                             history=parsed.history, **fields_of_run)  # fmt: skip
    except FloatingPointError:
        if not parsed.checkpoint:
            checkpoint.unlink(missing_ok=True)  # it leads nowhere
        raise
    first = sharding.rank() == 0
    sharding.leave()
    if not first:
        return
    synthetic.save(parsed.output)
    if not parsed.checkpoint:
        checkpoint.unlink(missing_ok=True)
    parsed.advice = [f"{parsed.output} is written, and can be judged by evaluate {parsed.output}"]
    print(f"{parsed.output}: {len(synthetic)} images, {config.ipc} per class of {parsed.dataset}", flush=True)
    if parsed.evaluate:
        _compare(parsed, synthetic, train, test, recipe)


def _load(parsed, dataset):
    return load(dataset, root=parsed.root, size=parsed.size, resize=parsed.resize, skip_broken=parsed.skip_broken)


def _recipe(parsed, test):
    return RECIPES[parsed.recipe](depth=default_depth(test.images.shape[2:]))


def _plan(parsed, steps, test, recipe):
    """Say in one line what was read, what will be done, and how long it will take."""
    train, config = steps.real, steps.config
    resized = "" if not parsed.size else {"fit": ", edges cut off", "pad": ", between bars"}[parsed.resize]
    line = [f"read {planning.what_was_read(train, test)}{resized}"]
    if parsed.evaluate:
        judges = (1 + parsed.random_sets) * parsed.networks
        seconds = sharding.rank() == 0 and planning.judge_seconds(_few(train, config.ipc), test.to(train.images.device),
                                                                  recipe, judges)  # fmt: skip
    sharding.agree(None)  # the other processes wait
    left = (len(steps) - steps.iteration) * planning.step_seconds(steps)
    done = f", {steps.iteration} of them done" if steps.iteration else ""
    line.append(
        f"{parsed.method}, {config.ipc} images per class: {len(steps)} steps{done}, augmentation {config.augment}, "
        f"network of depth {config.depth} and width {config.width}, about {planning.about(left)}"
    )
    if parsed.evaluate:
        line.append(f"then {judges} networks of depth {recipe.depth} to judge, about {planning.about(seconds)}")
    if sharding.rank() == 0:
        print("; ".join(line), file=sys.stdout if parsed.dry_run else sys.stderr, flush=True)


def _few(train, ipc):
    """Images as many as a condensed set has."""
    return random_subset(train, ipc, generator=torch.Generator().manual_seed(0))


def _evaluate(parsed):
    _check(parsed)
    synthetic = LabeledImages.load(parsed.file)
    dataset = parsed.dataset or synthetic.meta.get("name")
    if parsed.dataset is None and dataset not in NAMES:
        raise ValueError(
            f"--dataset is required: {parsed.file} was made of {dataset or 'unknown data'}, a file or folder"
        )
    train, test = _load(parsed, dataset)
    if train.images.shape[1:] != synthetic.images.shape[1:] or train.classes != synthetic.classes:
        raise ValueError(f"--dataset must have the classes and the size of the set; got {train} for {synthetic}")
    check_ipc(train, int(synthetic.counts.max()))
    _compare(parsed, synthetic, train, test, _recipe(parsed, test))


def _compare(parsed, synthetic, train, test, recipe):
    """Print the accuracy of the set beside that of as many random real images, under one recipe."""
    train, test, synthetic = (part.to(parsed.device) for part in (train, test, synthetic))
    train, test = train.normalized_like(synthetic), test.normalized_like(synthetic)
    ipc = int(synthetic.counts.max())
    draws = [torch.Generator().manual_seed(parsed.seed + i) for i in range(parsed.random_sets)]
    randoms = [random_subset(train, ipc, generator=draw) for draw in draws]
    for name, sets in (("condensed", synthetic), ("random", randoms)):
        result = evaluate(
            sets, test, networks=parsed.networks, recipe=recipe, progress=True,
            generator=torch.Generator().manual_seed(parsed.seed),
        )  # fmt: skip
        print(f"{name:>9}: {result}", flush=True)


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
