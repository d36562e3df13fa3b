"""Condense, evaluate and export from the shell: ``python -m dmtutor condense --help``."""

import argparse
import inspect
import math
import os
import re
import sys
import tempfile
import warnings
from contextlib import ExitStack, suppress
from dataclasses import fields, replace
from pathlib import Path

import torch

from . import __version__, files, planning, sharding
from .augmentation import SiameseAugment
from .checks import check_device, check_positive, check_seed
from .condensation import METHODS, begin, condense, load_run
from .coresets import random_subset
from .data import LabeledImages
from .decoding import random_tiles
from .evaluation import Recipe, evaluate
from .exchange import check_export, export, load_exported
from .networks import MODELS, default_depth
from .pictures import RESIZE
from .sources import NAMES, load

RECIPES = {"quick": Recipe, "reference": Recipe.reference}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors take one line."""

    def error(self, message):
        tell(f"{self.prog}: error: {message} (--help lists what there is)")
        sys.exit(2)


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says a default where there is one to say."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, True, False) else super()._get_help_string(action)


def main(arguments=None):
    """Run a command. Exit code 2 and one line for bad input, before any work; files are written whole or not."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name may hold what the terminal cannot show
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
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError, MemoryError, RuntimeError) as error:
        said = "; ".join([str(error), *getattr(error, "__notes__", [])])
        if isinstance(error, MemoryError | OverflowError | RuntimeError):
            if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory|overflow", said):
                raise
            said = f"this takes more memory than there is: smaller numbers or a smaller size would do ({said})"
        tell(f"python -m dmtutor {parsed.command}: error: {' '.join(said.split())}")
        sys.exit(2)
    except KeyboardInterrupt:
        tell("\n" + "; ".join(["stopped", *getattr(parsed, "advice", [])]))
        sys.exit(130)


def tell(line):
    """Print one line on stderr; of the processes that ``torchrun`` started, the first alone."""
    if os.environ.get("RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" not in os.environ:  # schedulers set RANK, too
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
    make.add_argument("--output", required=True, metavar="S.pt",
                      help="file to write the condensed set to, ending in .pt")  # fmt: skip
    make.add_argument("--method", choices=METHODS, default="dm", help="how to condense")
    make.add_argument("--setting", choices=("quick", "reference"), default="quick",
                      help="defaults of the fields below: quick, or as published")  # fmt: skip
    make.add_argument("--seed", type=int, default=0, help="the same seed gives the same file, bit for bit, on a CPU")
    make.add_argument("--seeds", type=int, default=1, metavar="N",
                      help="make N sets, S_0.pt, S_1.pt, …, from --seed on: 3 or more give an interval")  # fmt: skip
    make.add_argument("--checkpoint", metavar="FILE",
                      help="save the run here once a minute and when stopped, and keep the file; by default it is "
                           "S.pt.run, until S.pt is written. The same command goes on from it")  # fmt: skip
    make.add_argument("--history", metavar="FILE.csv", help="write iteration, loss and seconds of every tenth step")
    make.add_argument("--overwrite", action="store_true", help="replace a file that is not of the same run")
    make.add_argument("--no-evaluate", dest="evaluate", action="store_false", help="just condense")
    make.add_argument("--dry-run", action="store_true",
                      help="say what was read, what would be done and how long it would take, and stop")  # fmt: skip
    _data_flags(make, dataset_default="mnist5k")
    _evaluation_flags(make)
    group = make.add_argument_group("fields of the configuration, with their quick defaults")
    for name, (kind, told) in _fields().items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, default=argparse.SUPPRESS, metavar="X", help=told)

    score = commands.add_parser("evaluate", formatter_class=formatter, help="score sets on real images")
    score.set_defaults(run=_evaluate, evaluate=True, dry_run=False)
    score.add_argument("files", metavar="S.pt", nargs="+",
                       help="sets that condense wrote; 3 or more, of several seeds, give an interval")  # fmt: skip
    _data_flags(score, dataset_default=None, told="; the one the set was made of if left out")
    score.add_argument("--seed", type=int, default=0, help="of the networks")
    _evaluation_flags(score)

    out = commands.add_parser("export", formatter_class=formatter, help="write a set for other tools",
                              description="Write a set as a folder of PNG (NAME), NAME.npz, NAME.safetensors, or "
                                          "NAME.pt as the published code writes it, and say what that changes.",
                              epilog="With --dataset networks are trained on the set before and after, the same "
                                     "ones, and scored on its test images.")  # fmt: skip
    out.set_defaults(run=_export, random_sets=1, model="convnet")
    out.add_argument("file", metavar="S.pt", help="a set that condense wrote")
    out.add_argument("output", metavar="NAME[.npz|.safetensors|.pt]", help="what to write")
    out.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    _data_flags(out, dataset_default=None, told="; none is needed to write")
    out.add_argument("--seed", type=int, default=0, help="of the networks")
    out.add_argument("--recipe", choices=RECIPES, default="quick", help="how networks are trained")
    _judge_augment_flag(out)
    out.add_argument("--networks", type=int, default=3, help="how many networks are trained before and after")
    return top


def _fields():
    """The fields of all methods: {name: (type for argparse, help)}.

    The help is the first sentence of the docstring, and the methods grouped by their default.
    """
    found = {}
    for method, (config_type, _) in METHODS.items():
        for f in fields(config_type):
            default = "by the data" if f.default is None else str(f.default)
            found.setdefault(f.name, (f.type, {}))[1].setdefault(default, []).append(method)
    kinds = {bool: _boolean, int | tuple[int, ...]: _integers, int | None: _integer_or_none,
             int | str | None: _integer_or_word, int: int, float: float, float | None: float}  # fmt: skip
    told = {
        name: "; ".join(
            default if len(methods) == len(METHODS) else f"{', '.join(methods)}: {default}"
            for default, methods in defaults.items()
        )
        for name, (_, defaults) in found.items()
    }
    meaning = {}
    for config_type, _ in METHODS.values():  # the last, distribution matching, has the last word
        meaning.update(_first_sentences(config_type))
    return {name: (kinds.get(kind, str), f"{meaning[name]} [{told[name]}]".replace("%", "%%"))
            for name, (kind, _) in found.items()}  # fmt: skip


def _first_sentences(config_type):
    """{field: first sentence about it} of a numpydoc docstring."""
    text = inspect.getdoc(config_type).partition("Parameters\n----------\n")[2].partition("\n\n")[0]
    told = {}
    for name, kind, lines in re.findall(r"^(\w+) : (.*)\n((?:    .*\n?)+)", text, re.M):
        plain = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`|``(.*?)``", r"\1\2", " ".join(lines.split()))
        words = f": {kind[1:-1]}" if kind.startswith("{") else ""
        told[name] = re.split(r"\.(?: |$)", plain)[0] + words.replace('"', "")
    return told


def _data_flags(command, dataset_default, told=""):
    command.add_argument("--dataset", default=dataset_default, metavar="NAME",
                         help=f"{', '.join(NAMES)}, the path of an .npz file, or of an image folder{told}")  # fmt: skip
    command.add_argument("--root", metavar="DIR", help="where data sets lie, are downloaded to, or decoded")
    told_size = "" if dataset_default else "; by default to those of the set"
    command.add_argument("--size", type=int, help=f"resize the images to size × size{told_size}")
    told = "fit" if dataset_default else "as the set was made"
    command.add_argument("--resize", choices=RESIZE, help="by cutting off what exceeds the square, or by bars beside "
                                                          f"the whole image (default: {told})")  # fmt: skip
    command.add_argument("--white", type=int, metavar="N",
                         help="the value of white where the pictures of a folder have more than 8 bits, 4095 for 12 "
                              f"(default: {'65535' if dataset_default else 'as the set was made'})")  # fmt: skip
    command.add_argument("--skip-broken", action="store_true", help="leave out files that cannot be read")
    command.add_argument("--device", help="cpu, cuda, …")


def _judge_augment_flag(command):
    command.add_argument("--judge-augment", metavar="STRATEGY",
                         help="operations with which networks are trained, on all sets that are compared, as "
                              "crop_scale_rotate or none (default: those of the data set, whatever the set was "
                              "condensed with)")  # fmt: skip


def _evaluation_flags(command):
    command.add_argument("--recipe", choices=RECIPES, default="quick", help="how networks are trained on the set")
    _judge_augment_flag(command)
    command.add_argument("--networks", type=int, default=3, help="how many networks are trained on each set")
    command.add_argument("--random-sets", type=int, default=3, help="how many random sets are drawn to compare with")
    command.add_argument("--model", choices=MODELS, default="convnet", help="the network that is trained on the set")
    command.add_argument("--whole", action="store_true", help="train networks on all real images, too")


def _integers(text):
    try:
        return tuple(map(int, text.split(","))) if "," in text else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, or one for each class, 10,10,3; got {text!r}") from None


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
    outputs = _outputs(parsed)
    _check(parsed)
    with ExitStack() as held:
        if sharding.rank() == 0 and not parsed.dry_run:
            for output in outputs.values():
                held.enter_context(files.locked(output, "--output"))
                held.enter_context(files.locked(_checkpoint(parsed, output), "checkpoint"))
        _condense_into(parsed, outputs)


def _condense_into(parsed, outputs):
    config_type, _ = METHODS[parsed.method]
    names = [f.name for f in fields(config_type)]
    given = {name: getattr(parsed, name) for name in _fields() if hasattr(parsed, name)}
    for name in given:
        if name not in names:
            flag, all_flags = (", ".join(f"--{n.replace('_', '-')}" for n in group) for group in ([name], names))
            raise ValueError(f"{flag} is not a field of {parsed.method}; it has {all_flags}")
    config = config_type.reference(**given) if parsed.setting == "reference" else config_type(**given)
    fields_of_run = {name: getattr(config, name) for name in names}
    train, test = _load(parsed, parsed.dataset)
    recipe = _recipe(parsed, test)
    if parsed.evaluate:
        recipe.check(test.images)
    checkpoints = {seed: _checkpoint(parsed, output) for seed, output in outputs.items()}
    left = 0
    for seed, checkpoint in checkpoints.items():
        begun = begin(train, parsed.method, seed=seed, device=parsed.device, **fields_of_run)
        if checkpoint.exists():
            load_run(begun, checkpoint)
        files.check_replaced(outputs[seed], "--output", own=parsed.overwrite or _made_by(begun, seed, outputs[seed]))
        left += len(begun) - begun.iteration
    _plan(parsed, train, test, recipe, len(outputs), begun.ipc, begun, left)
    if parsed.dry_run:
        return
    sets = []
    for seed, output in outputs.items():
        parsed.advice = [f"the same command goes on from {checkpoints[seed]}"]
        try:
            made = condense(train, parsed.method, seed=seed, device=parsed.device, checkpoint=checkpoints[seed],
                            history=parsed.history, **fields_of_run)  # fmt: skip
        except FloatingPointError:
            if not parsed.checkpoint:
                checkpoints[seed].unlink(missing_ok=True)  # it leads nowhere
            raise
        if sharding.rank() == 0:
            _save(made, output)
            print(f"{output}: {_images(made.counts.tolist())} of {parsed.dataset}", flush=True)
        sets.append(made)
    first = sharding.rank() == 0
    sharding.leave()
    if not first:
        return
    if not parsed.checkpoint:
        for checkpoint in checkpoints.values():
            checkpoint.unlink(missing_ok=True)
    parsed.advice = [f"the sets are written: evaluate {' '.join(map(str, outputs.values()))} judges them"]
    if parsed.evaluate:
        _compare(parsed, sets, train, test, recipe)


def _made_by(begun, seed, path):
    """Whether the file holds what this run makes, or made when it was to have fewer iterations."""
    try:
        meta = LabeledImages.load(path).meta
    except (FileNotFoundError, ValueError):
        return False
    ours = begun.synthetic.meta
    differs = {name for name in ours["config"] if ours["config"][name] != meta.get("config", {}).get(name)}
    same = all(meta.get(name) == {**ours, "seed": seed}[name] for name in ("method", "fingerprint", "seed"))
    return same and (not differs or (differs == {"iterations"} and begun.config.schedule == "constant"))


def _save(made, output):
    """Write a finished set, and where the disk refuses it, elsewhere: it is the work of a whole run."""
    try:
        made.save(output)
    except (OSError, ValueError) as error:
        for folder in (tempfile.gettempdir(), "."):
            with suppress(OSError, ValueError):
                elsewhere = files.partial(Path(folder) / output.name).with_suffix(output.suffix)
                made.save(elsewhere)
                error.add_note(f"the set is finished, and lies in {str(elsewhere)!r}")
                break
        raise


def _outputs(parsed):
    """The file of each seed: S.pt, or S_0.pt, S_1.pt, … for several."""
    check_seed(parsed.seed, "--seed")
    check_positive("--seeds", parsed.seeds)
    path = files.check_output(parsed.output, "--output")
    if path.suffix not in (".pt", ".pth"):
        raise ValueError(f"--output must end in .pt, the format that is written; got {parsed.output!r}")
    if parsed.history:
        files.check_output(parsed.history, "history")
    files.check_different(output=path, checkpoint=parsed.checkpoint or f"{path}.run", history=parsed.history)
    if parsed.seeds == 1:
        return {parsed.seed: path}
    for flag in ("checkpoint", "history"):
        if getattr(parsed, flag):
            raise ValueError(f"--{flag} must be left out with --seeds: each run has a file of its own")
    seeds = range(parsed.seed, parsed.seed + parsed.seeds)
    check_seed(seeds[-1], "the last of --seeds")
    return {seed: path.with_stem(f"{path.stem}_{seed}") for seed in seeds}


def _checkpoint(parsed, output):
    return files.check_output(parsed.checkpoint or f"{output}.run", "checkpoint")


def _images(ipc):
    """How many images these are, of each class."""
    least, most = min(ipc), max(ipc)
    return f"{sum(ipc)} images, {most if least == most else f'{least} to {most}'} per class"


def _load(parsed, dataset, **changes):
    options = {"size": parsed.size, "resize": parsed.resize or "fit", **changes}
    return load(dataset, root=parsed.root, skip_broken=parsed.skip_broken, white=parsed.white, **options)


def _recipe(parsed, test):
    """The recipe of the judge's networks, of the depth for these images."""
    depth = {"depth": default_depth(test.images.shape[2:])} if parsed.model == "convnet" else {}
    return RECIPES[parsed.recipe](model=parsed.model, augment=parsed.judge_augment, **depth)


def _plan(parsed, train, test, recipe, sets, ipc, steps=None, left=0, factor=1, augments=()):
    """Say in one line what was read, what will be done, and how long it will take.

    ``left`` steps of all runs together are still to be taken. ``augments`` are those of sets that are there already.
    """
    resized = "" if not parsed.size else f" (others {'between bars' if parsed.resize == 'pad' else 'cut to fit'})"
    if steps:
        factor = getattr(steps.config, "factor", 1)
    parts = [f"read {planning.what_was_read(train, test)}{resized}"]
    if parsed.evaluate:
        randoms = parsed.random_sets * (2 if factor > 1 else 1)  # random tiles, too
        judges = (sets + randoms + parsed.whole) * parsed.networks
        judging = 0.0
        if sharding.rank() == 0:
            some = _random(train, ipc, 0)
            some = replace(some, meta={**some.meta, "factor": factor})
            device = parsed.device or train.images.device
            judging = planning.judge_seconds(some.to(device), test.to(device), recipe, judges)
        sharding.agree(None)  # the other processes wait
    if steps:
        config = steps.config
        done = len(steps) * sets - left
        pool = planning.pool_seconds(steps)
        parts.append(
            f"{parsed.method}, {f'{sets} sets of ' if sets > 1 else ''}{_images(ipc)}: {len(steps)} steps"
            f"{' each' if sets > 1 else ''}{f', {done} of them done' if done else ''}, augmentation {config.augment}, "
            f"network of depth {config.depth} and width {config.width}, "
            f"about {planning.about(left * planning.step_seconds(steps) + math.ceil(left / len(steps)) * pool)}"
        )
    if parsed.evaluate:
        network = f"networks of depth {recipe.depth}" if recipe.model == "convnet" else f"{recipe.model} networks"
        own = {train.meta.get("augment", "none"), *augments}
        augment = recipe.augment or " or ".join(sorted(own))
        parts.append(
            f"{'then ' if steps else ''}{judges} {network} to judge, augmentation {augment}, "
            f"about {planning.about(judging)}"
        )
    if sharding.rank() == 0:
        print("; ".join(parts), file=sys.stdout if parsed.dry_run else sys.stderr, flush=True)


def _evaluate(parsed):
    _check(parsed)
    sets = [LabeledImages.load(file) for file in parsed.files]
    first, name = sets[0], sets[0].meta.get("name")
    for file, other in zip(parsed.files, sets, strict=True):
        if other.images.shape[1:] != first.images.shape[1:] or other.classes != first.classes:
            raise ValueError(f"the sets must have the same classes and size; got {other} in {file}, {first} before")
        built_in = name in NAMES and other.meta.get("built_in", True)  # a folder may have any name
        if parsed.dataset is None and not (built_in and other.meta.get("name") == name):
            raise ValueError(
                f"--dataset is required: {file} was made of {other.meta.get('name') or 'unknown data'}, a file or "
                "folder"
            )
    height, width = first.images.shape[2:]
    parsed.size = parsed.size or (height if height == width else None)
    parsed.resize = parsed.resize or first.meta.get("resize")
    parsed.white = parsed.white or first.meta.get("white")
    train, test = _load(parsed, parsed.dataset or name)
    for file, other in zip(parsed.files, sets, strict=True):
        _check_fit(train, other, file)
    recipe = _recipe(parsed, test)
    recipe.check(test.images)
    augments = [data.meta.get("augment", "none") for data in sets]
    for augment in augments:
        SiameseAugment(augment)  # raises a ValueError for one that is unknown
    factor = first.meta.get("factor", 1)
    _plan(parsed, train, test, recipe, len(sets), first.counts.tolist(), factor=factor, augments=augments)
    _compare(parsed, [data.normalized_like(first) for data in sets], train, test, recipe)


def _export(parsed):
    if check_export(parsed.output, "output").suffix:
        files.check_different(file=parsed.file, output=parsed.output)
        files.check_replaced(parsed.output, "output", own=parsed.overwrite)
    _check(parsed)
    synthetic = LabeledImages.load(parsed.file)
    if parsed.dataset is not None:
        height, width = synthetic.images.shape[2:]
        parsed.size = parsed.size or (height if height == width else None)
        parsed.resize = parsed.resize or synthetic.meta.get("resize")
        parsed.white = parsed.white or synthetic.meta.get("white")
        _, test = _load(parsed, parsed.dataset)
        _check_fit(test, synthetic, parsed.file)
        recipe = _recipe(parsed, test)
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


def _compare(parsed, sets, train, test, recipe):
    """Print the accuracy of sets beside that of as many random real images, under one recipe."""
    train, test, *sets = (part.to(parsed.device) for part in (train, test, *sets))
    train, test = train.normalized_like(sets[0]), test.normalized_like(sets[0])
    most = torch.stack([data.counts for data in sets]).max(0).values.tolist()
    randoms = [_random(train, most, parsed.seed + i) for i in range(parsed.random_sets)]
    compared = {"condensed": sets, "random": randoms}
    factor = max(data.meta.get("factor", 1) for data in sets)
    if factor > 1:
        compared["tiles"] = [_random_tiles(train, most, factor, parsed.seed + i) for i in range(parsed.random_sets)]
    if parsed.whole:
        compared["whole set"] = [train]
    for name, group in compared.items():
        result = evaluate(
            group, test, networks=parsed.networks, recipe=recipe, progress=True,
            generator=torch.Generator().manual_seed(parsed.seed),
        )  # fmt: skip
        print(f"{name:>9}: {result}{_by_class(result)}", flush=True)


def _random(train, ipc, seed):
    """As many random images of each class, or all that there are: sets that began as noise may have more."""
    ipc = tuple(min(n, have) for n, have in zip(ipc, train.counts.tolist(), strict=True))
    return random_subset(train, ipc, generator=torch.Generator().manual_seed(seed))


def _random_tiles(train, ipc, factor, seed):
    """Random images, factor² in the pixels of one, or as many as there are."""
    ipc = tuple(max(1, min(n, have // factor**2)) for n, have in zip(ipc, train.counts.tolist(), strict=True))
    return random_tiles(train, ipc, factor=factor, generator=torch.Generator().manual_seed(seed))


def _by_class(result):
    """Where classes of the test images differ in size, what one number hides."""
    counts = result.test_counts
    if len(set(counts.tolist())) == 1:
        return ""
    each = result.by_class.mean((0, 1)).nan_to_num(2)
    least = int(each.argmin())
    return f"; balanced {100 * result.balanced.mean:.1f} %, least {100 * each[least]:.1f} % ({result.classes[least]})"


def _check_fit(real, synthetic, file):
    """Raise a ValueError where real images can't judge a set, and warn where they are not those it was made of."""
    if real.images.shape[1:] != synthetic.images.shape[1:] or real.classes != synthetic.classes:
        pairs = zip(real.classes, synthetic.classes, strict=False)
        differ = next((f", class {ours!r} for {theirs!r}" for ours, theirs in pairs if ours != theirs), "")
        raise ValueError(
            f"--dataset must have the classes and the size of the set; got {real} for {synthetic}{differ}"
        )
    if synthetic.meta.get("fingerprint", now := real.meta["fingerprint"]) != now:
        warnings.warn(f"{file} was not made of these images: some were added, taken away, swapped, changed or read in "
                      "another way since", stacklevel=2)  # fmt: skip


def _check(parsed):
    check_seed(parsed.seed, "--seed")
    for name in ("networks", "random_sets"):
        check_positive(f"--{name.replace('_', '-')}", getattr(parsed, name))
    if parsed.judge_augment is not None:
        try:
            SiameseAugment(parsed.judge_augment)
        except ValueError as error:
            raise ValueError(f"--judge-{error}") from None
    if parsed.device is not None:
        check_device(parsed.device, "--device")


if __name__ == "__main__":
    main()
