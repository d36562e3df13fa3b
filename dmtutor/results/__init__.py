"""What long runs found: JSON files beside this one, each with the command that wrote it, and sets that were made."""

import base64
import json
from dataclasses import replace
from importlib import resources

import numpy as np
import torch

from ..checks import check_one_of
from ..data import LabeledImages
from ..evaluation import Accuracies


def load(name):
    """Read stored results, by the name of the script in ``benchmarks/`` which wrote them: a dict.

    ``provenance``: command, commit, device, versions and date of the first run. ``rows``: a list of dicts, one for each
    setting; where sets were evaluated, with their ``accuracies``, an :class:`~dmtutor.Accuracies`. A row that was added
    later has those of commit, device, versions and date that differ. A ValueError for another name lists what there is.

    Examples
    --------
    >>> stored = load("distribution_matching")
    >>> type(stored["rows"][0]["accuracies"])
    <class 'dmtutor.accuracies.Accuracies'>
    """
    content = json.loads(find(name, ".json").read_text(encoding="utf-8"))
    for row in content["rows"]:
        if "accuracies" in row:
            row["accuracies"] = unpack(row["accuracies"])
    return content


def rows(name, experiment, **values):
    """The stored rows of one experiment that have these ``values``, as ``method="DM"``: a list of dicts, at least one.

    ``name`` is as in :func:`load`. A ValueError if there is no such row, or no such file.

    Examples
    --------
    >>> [row["method"] for row in rows("predecessors", "ladder", ipc=1, method="DM")]
    ['DM']
    """
    wanted = {"experiment": experiment, **values}
    there = load(name)["rows"]
    found = [row for row in there if wanted.items() <= row.items()]
    if not found:
        known = ", ".join(sorted({row["experiment"] for row in there if "experiment" in row}))
        raise ValueError(f"name must be a file with rows of {wanted}; {name!r} has none, its experiments are: {known}")
    return found


def images(name):
    """Read a stored set of images, say a condensed one: to look at it, or to train on it without making it.

    `LabeledImages` in float32. The files hold 16 bits a pixel, so a set differs in the fourth digit from what was made;
    its ``meta`` says how it was made, with which seed. ``name`` is that of its file, such as ``"mnist5k_dm_10"``: data
    set, method, images per class; a ValueError lists those that there are.

    Examples
    --------
    >>> images("mnist5k_dm_10")
    LabeledImages(100 images of 1×28×28, 10 classes)
    """
    with resources.as_file(find(name, ".pt")) as path:
        stored = LabeledImages.load(path)
    return replace(stored, images=stored.images.float())


def find(name, ending):
    """The stored file of this name, or a ValueError that lists those that there are."""
    files = {file.name.removesuffix(ending): file for file in resources.files(__name__).iterdir()
             if file.name.endswith(ending)}
    check_one_of("name", name, sorted(files))
    return files[name]


def pack(accuracies):
    """Accuracies as plain types: the shape (sets, networks, images) and one bit per answer, in base64.

    The labels are those of the test images, so they are not kept; nor is which wrong class was seen.
    """
    if accuracies.weights is not None:
        raise ValueError("accuracies must be those of all images; got balanced ones: balance them after unpack")
    bits = np.packbits(accuracies.correct.numpy())
    return {"shape": list(accuracies.correct.shape), "bits": base64.b64encode(bits).decode()}


def unpack(packed):
    """The inverse of :func:`pack`.

    Examples
    --------
    >>> result = Accuracies(torch.rand(3, 2, 5) < 0.5)
    >>> torch.equal(unpack(pack(result)).correct, result.correct)
    True
    """
    count = int(np.prod(packed["shape"]))
    bits = np.unpackbits(np.frombuffer(base64.b64decode(packed["bits"]), dtype=np.uint8), count=count)
    return Accuracies(torch.from_numpy(bits).bool().view(packed["shape"]))
