"""Playgrounds: they compute in the reader's page, without a kernel, a server or a download.

The scripts beside this file mirror the library in plain JavaScript and double precision, each named after the module
that it repeats: one set of numbers gives one result in both, which the tests check in a browser. A playground is the
output of a code cell and holds all that it needs. Where scripts do not run, a sentence stands there.
"""

import re
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from itertools import groupby

import torch

SENTENCE = "A playground, which computes in the page: run this cell, or open the chapter in the rendered book."
LEVELS = 8  # greys of a digit
ALPHABET = "".join(letter for letter in map(chr, range(33, 127)) if letter not in "\"&'<>\\`")  # safe in HTML and JSON


@dataclass(frozen=True)
class Playground:
    """What :func:`points` and :func:`digits` return: a notebook and a page show it as a custom element."""

    name: str
    attributes: dict = field(default_factory=dict, repr=False)

    def _repr_html_(self):
        attributes = "".join(f' {key}="{escape(str(value))}"' for key, value in self.attributes.items())
        return (
            f"<dm-{self.name}{attributes}><p><em>{SENTENCE}</em></p></dm-{self.name}>\n<script>\n"
            f'(() => {{\n"use strict";\nif (customElements.get("dm-{self.name}")) return;\n{script(self.name)}}})();\n'
            "</script>"
        )


def script(*names):
    """Modules and those that they import, each once, as one script for a page: no import, export, comment or margin."""
    found = {}

    def visit(name):
        if name not in found:
            text = files(__name__).joinpath(f"{name}.js").read_text(encoding="utf-8")
            for other in re.findall(r'^import .* from "\./(\w+)\.js";$', text, re.M):
                visit(other)
            found[name] = re.sub(r"^import .*\n|^export |^ *//.*\n|^ +", "", text, flags=re.M)

    for name in names:
        visit(name)
    return "\n".join(found.values())


def encode(images):
    """Pixels, (n, 1, H, W) in [0, 1] with H · W even, as text: a letter is two neighbours of 8 greys, or a black run.

    Examples
    --------
    >>> encode(torch.tensor([0.0, 0, 0, 0, 0, 1, 1, 1]).view(1, 1, 2, 4))
    'h*f'
    """
    pairs = (images * (LEVELS - 1)).round().long().view(len(images), -1, 2) @ torch.tensor([LEVELS, 1])
    runs = ALPHABET[LEVELS**2 - 1 :]  # of 1, 2, … black pairs
    text = []
    for image in pairs.tolist():
        for pair, run in groupby(image):
            count = len(list(run))
            if pair:
                text.append(ALPHABET[pair - 1] * count)
            else:
                whole, rest = divmod(count, len(runs))
                text.append(runs[-1] * whole + (runs[rest - 1] if rest else ""))
    return "".join(text)


def points():
    """Move sixteen points onto a cloud in the plane, by hand or downhill on MMD², as in chapter 2: a `Playground`.

    Examples
    --------
    >>> points()
    Playground(name='points')
    """
    return Playground("points")


def digits(train, test):
    """Condense ten digits, train networks on them and draw a digit for these to read, as in chapter 5: a `Playground`.

    A ValueError if images are not 1×28×28 of ten classes, or a class has not as many.

    Parameters
    ----------
    train, test : LabeledImages
        Digits of ten classes, 1×28×28. The page gets the first 160 and 30 of each class, in eight greys, of about 110
        bytes each.

    Examples
    --------
    >>> from dmtutor import load
    >>> digits(*load("mnist5k"))
    Playground(name='digits')
    """
    parts = {}
    for name, part, count in (("train", train, 160), ("test", test, 30)):
        shape = list(part.images.shape[1:])
        if shape != [1, 28, 28] or len(part.classes) != 10:
            raise ValueError(f"{name} must be images of 1×28×28 in 10 classes; got {part!r}")
        if part.counts.min() < count:
            raise ValueError(f"{name} must hold at least {count} images of every class; got {int(part.counts.min())}")
        parts[name] = part.select(torch.cat([rows[:count] for rows in part.rows_of_class])).pixels
    return Playground(
        "digits",
        {"alphabet": ALPHABET, "mean": float(train.mean), "std": float(train.std),
         **{name: encode(pixels.clamp(0, 1)) for name, pixels in parts.items()}},
    )
