"""The flags of ``python -m dmtutor``; those of a method are the fields of its configuration."""

import argparse
import importlib
import inspect
import os
import re
import sys
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import get_type_hints

from . import __version__
from .condensation import METHODS
from .evaluation import Recipe
from .networks import MODELS
from .pictures import RESIZE
from .pretrained import NETWORKS
from .sources import NAMES
from .steps import Steps

RECIPES = {"quick": Recipe, "reference": Recipe.reference}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors take one line. A flag has one name, and no shorter ones."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, allow_abbrev=False, **options)

    def parse_args(self, arguments):
        parsed, unknown = self.parse_known_args(arguments)
        if unknown:
            command = self.commands.choices[parsed.command]
            first = next((word for word in unknown if word.startswith("-")), "").partition("=")[0].lstrip("-")
            known = [flag.lstrip("-") for flag in command._option_string_actions]
            near = [flag for flag in known if first and flag.startswith(first)] or get_close_matches(first, known, 1)
            command.error(f"unrecognized arguments: {' '.join(unknown)}{f'; is it --{near[0]}?' if near else ''}")
        return parsed

    def error(self, message):
        tell(f"{self.prog}: error: {message} (--help lists what there is)")
        sys.exit(2)


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says a default where there is one to say."""

    def _get_help_string(self, action):
        silent = action.default is None or isinstance(action.default, bool)
        return action.help if silent else super()._get_help_string(action)


def tell(line):
    """Print one line on stderr; of the processes that ``torchrun`` started, the first alone."""
    if os.environ.get("RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" not in os.environ:  # schedulers set RANK, too
        print(line, file=sys.stderr)


def parser(arguments):
    """The command line. The flags of ``condense`` are read off the configuration of the method that it names."""
    top = Parser(prog="python -m dmtutor", description="Dataset condensation in one command.",
                 epilog="COMMAND --help lists the flags of a command, condense --method NAME --help those of a method.")
    top.add_argument("--version", action="version", version=__version__)
    commands = top.commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    make = commands.add_parser("condense", formatter_class=Help, help="make a small set, say what it is worth",
                               epilog="torchrun --nproc-per-node N -m dmtutor condense ... shares the classes among N "
                                      "processes; on a CPU the file is the same, bit for bit.")
    make.add_argument("--output", required=True, metavar="S.pt",
                      help="file to write the condensed set to, ending in .pt")
    make.add_argument("--method", type=steps_type, default="dm", metavar=f"{{{','.join(METHODS)},module:Class}}",
                      help="how to condense; a class of your own, derived from Steps, is found from the current folder")
    make.add_argument("--setting", choices=("quick", "published"), default="quick",
                      help="defaults of the fields below: quick, or as published")
    make.add_argument("--seed", type=int, default=0, help="the same seed gives the same file, bit for bit, on a CPU")
    make.add_argument("--seeds", type=int, default=1, metavar="N",
                      help="make N sets, S_0.pt, S_1.pt, …, from --seed on: 3 or more give an interval")
    make.add_argument("--checkpoint", metavar="FILE",
                      help="save the run here once a minute and when stopped, and keep the file; by default it is "
                           "S.pt.run, until S.pt is written. The same command goes on from it")
    make.add_argument("--history", metavar="FILE.csv", help="write iteration, loss and seconds of every tenth step")
    make.add_argument("--overwrite", action="store_true", help="replace a file that is not of the same run")
    make.add_argument("--no-evaluate", dest="evaluate", action="store_false", help="just condense")
    make.add_argument("--dry-run", action="store_true",
                      help="say what was read, what would be done and how long it would take, draw some of it in "
                           "S.pt.png, and stop")
    _data_flags(make, dataset_default="mnist5k")
    _evaluation_flags(make, "3, or fewer if it would take longer than to condense")
    if arguments[:1] == ["condense"]:
        _field_flags(make, _named_method(arguments))

    score = commands.add_parser("evaluate", formatter_class=Help, help="score sets on real images")
    score.set_defaults(evaluate=True, dry_run=False)
    score.add_argument("files", metavar="S.pt", nargs="+",
                       help="sets that condense or export wrote; 3 or more, of several seeds, give an interval; "
                            "of sets that were made in several ways the differences are told")
    _data_flags(score, dataset_default=None, more="; the one the set was made of if left out")
    _evaluation_flags(score, "3").add_argument("--seed", type=int, default=0, metavar="N", help="of their draws")

    out = commands.add_parser("export", formatter_class=Help, help="write a set for other tools",
                              description="Write a set as a folder of PNG (NAME), NAME.npz, NAME.safetensors, or "
                                          "NAME.pt as the published code writes it, and say what that changes.",
                              epilog="With --dataset networks are trained on the set before and after, the same "
                                     "ones, and scored on its test images.")
    out.set_defaults(random_sets=1, model="convnet", evaluate=True)
    out.add_argument("file", metavar="S.pt", help="a set that condense or export wrote")
    out.add_argument("output", metavar="NAME[.npz|.safetensors|.pt]", help="what to write")
    out.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    _data_flags(out, dataset_default=None, more="; none is needed to write")
    judges = _judge_flags(out)
    judges.add_argument("--networks", type=int, default=3, metavar="N", help="how many before and after")
    judges.add_argument("--seed", type=int, default=0, metavar="N", help="of their draws")

    info = commands.add_parser("info", help="say what a set is and how it was made")
    draw = commands.add_parser("show", help="draw a set: a PNG to look at")
    for command in (info, draw):
        command.add_argument("file", metavar="S.pt", help="a set that condense or export wrote")
    draw.add_argument("--output", metavar="sheet.png", help="what to write (default: S.pt.png)")
    draw.add_argument("--overwrite", action="store_true", help="replace a file that is no such drawing")
    return top


def steps_type(text):
    """The class of a method: a name of the library's, or module:Class, of a module that lies in the current folder."""
    if text in METHODS:
        return METHODS[text]
    module, _, name = text.partition(":")
    if not (module and name):
        raise argparse.ArgumentTypeError(f"must be {', '.join(METHODS)} or module:Class; got {text!r}")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise argparse.ArgumentTypeError(f"must be a class that can be imported; got {text!r}, {error}") from error
    finally:
        sys.path.remove(os.getcwd())
    if not (isinstance(found, type) and issubclass(found, Steps)):
        raise argparse.ArgumentTypeError(f"must be a class derived from dmtutor.steps.Steps; got {text!r}")
    return found


def _named_method(arguments):
    """The class that --method names, or None: found first, for the other flags are its fields."""
    first = Parser(prog="python -m dmtutor condense", add_help=False)
    first.add_argument("--method", type=steps_type)
    return first.parse_known_args(arguments)[0].method


def _field_flags(command, method):
    """A flag for each field of a method's configuration; without help where no method is named."""
    words = "--method NAME --help lists them" if method is None else None
    group = command.add_argument_group("fields of the method's configuration, each with its [quick default]", words)
    try:
        for name, (kind, meaning) in field_flags((method or METHODS["dm"]).config_type).items():
            shown = meaning if method else argparse.SUPPRESS
            group.add_argument(f"--{name.replace('_', '-')}", type=kind, default=argparse.SUPPRESS, metavar="X",
                               dest=f"field {name}", help=shown)
    except (NameError, TypeError, ValueError, argparse.ArgumentError) as error:
        command.error(str(error))


def field_flags(config_type):
    """The fields of a configuration: {name: (type for argparse, help)}.

    The help is the first sentence about a field in the docstring of the class, or of one that it is derived from.
    Raises a ValueError if there is none.
    """
    meaning, kinds = {}, get_type_hints(config_type)
    for cls in reversed(config_type.__mro__):
        meaning.update(_first_sentences(vars(cls).get("__doc__") or ""))
    silent = [f.name for f in fields(config_type) if f.name not in meaning]
    if silent:
        raise ValueError(f"the docstring of {config_type.__name__} must say what each field is, a line 'name : type' "
                         f"under Parameters and a sentence below it; it lacks {', '.join(silent)}")
    words = {None: "by the data and --ipc", MISSING: "required"}  # where there is no number
    return {f.name: (PARSE.get(kinds[f.name], str),
                     f"{meaning[f.name]} [{words.get(f.default, f.default)}]".replace("%", "%%"))
            for f in fields(config_type)}


def _first_sentences(docstring):
    """{field: first sentence about it} of a numpydoc docstring."""
    text = inspect.cleandoc(docstring).partition("Parameters\n----------\n")[2].partition("\n\n")[0]
    meaning = {}
    for name, kind, lines in re.findall(r"^(\w+) : (.*)\n((?:    .*\n?)+)", text, re.M):
        plain = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`|``(.*?)``", r"\1\2", " ".join(lines.split()))
        words = f": {kind[1:-1]}" if kind.startswith("{") else ""
        meaning[name] = re.split(r"\.(?: |$)", plain)[0] + words.replace('"', "")
    return meaning


def _data_flags(command, dataset_default, more=""):
    group = command.add_argument_group("the real images")
    group.add_argument("--dataset", default=dataset_default, metavar="NAME",
                       help=f"{', '.join(NAMES)}, the path of an .npz file, or of an image folder{more}")
    group.add_argument("--root", metavar="DIR", help="where data sets lie, are downloaded to, or decoded")
    size, resize, white = ("none", "fit", "65535") if dataset_default else ("as the set was made",) * 3
    group.add_argument("--size", type=int, metavar="N", help=f"resize the images to N × N (default: {size})")
    group.add_argument("--resize", choices=RESIZE, help="by cutting off what exceeds the square, or by bars beside the "
                                                        f"whole image (default: {resize})")
    group.add_argument("--white", type=int, metavar="N", help="the value of white where the pictures of a folder have "
                                                              f"more than 8 bits, 4095 for 12 (default: {white})")
    group.add_argument("--skip-broken", action="store_true", help="leave out files that cannot be read")
    group.add_argument("--device", help="where to work: cpu, cuda, …")


def _judge_flags(command):
    group = command.add_argument_group("networks that judge a set")
    group.add_argument("--recipe", choices=RECIPES, default="quick", help="how they are trained on it")
    group.add_argument("--judge-augment", metavar="STRATEGY",
                       help="with which operations, on all sets that are compared, as crop_scale_rotate or none "
                            "(default: those of the data set, whatever the set was condensed with)")
    return group


def _evaluation_flags(command, default):
    group = _judge_flags(command)
    group.add_argument("--networks", type=int, metavar="N", help=f"how many for each set (default: {default})")
    group.add_argument("--random-sets", type=int, metavar="N",
                       help=f"how many random sets are drawn to compare with, 0 for none (default: {default})")
    group.add_argument("--model", choices=(*MODELS, *NETWORKS),
                       help="their architecture, or a frozen one under a linear head (default: --network or convnet)")
    group.add_argument("--whole", action="store_true", help="train as many on all real images, too")
    return group


def _integers(text):
    try:
        if "=" not in text:
            return tuple(map(int, text.split(","))) if "," in text else int(text)
        pairs = [part.rpartition("=")[::2] for part in text.split(",")]
        named = {name.strip(): int(number) for name, number in pairs}
        if len(named) == len(pairs) and all(named):
            return named
        problem = ", of each once"
    except ValueError:
        problem = ""
    raise argparse.ArgumentTypeError(
        f"must be a number, or one for each class, 10,10,3 or cat=10,dog=3{problem}; got {text!r}")


def _integer_or_word(text):
    return int(text) if text.removeprefix("-").isdigit() else None if text.lower() == "none" else text


def _boolean(text):
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false; got {text!r}")
    return text.lower() == "true"


PARSE = {bool: _boolean, int | tuple[int, ...]: _integers, int | None: _integer_or_word,
         int | str | None: _integer_or_word, int: int, float: float, float | None: float}
