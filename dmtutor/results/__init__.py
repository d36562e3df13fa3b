"""What long runs found: JSON files beside this one, each with the command that wrote it."""

import base64
import json
from importlib import resources

import numpy as np
import torch

from ..evaluation import Accuracies


def load(name):
    """Read stored results.

    Parameters
    ----------
    name : str
        That of the script in ``benchmarks/`` which wrote them, such as ``"distribution_matching"``.

    Returns
    -------
    dict
        ``provenance``: command, commit, device, versions and date of the run. ``rows``: a list of dicts, one for
        each setting; where sets were evaluated, with their ``accuracies``, an :class:`~dmtutor.Accuracies`.

    Raises
    ------
    ValueError
        If there is no such file; it lists those that there are.

    Examples
    --------
    >>> stored = load("distribution_matching")
    >>> type(stored["rows"][0]["accuracies"])
    <class 'dmtutor.evaluation.Accuracies'>
    """
    folder = resources.files(__name__)
    stored = sorted(file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json"))
    if name not in stored:
        raise ValueError(f"name must be one of {', '.join(stored)}; got {name!r}")
    content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    for row in content["rows"]:
        if "accuracies" in row:
            row["accuracies"] = unpack(row["accuracies"])
    return content


def pack(accuracies):
    """Accuracies as plain types: the shape (sets, networks, images) and one bit per answer, in base64."""
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
