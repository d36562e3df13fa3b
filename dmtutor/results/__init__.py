"""What long runs found: JSON files beside this one, each with the command that wrote it."""

import json
from importlib import resources


def load(name):
    """Read stored results.

    Parameters
    ----------
    name : str
        ``"distribution_matching"``, the dials of chapter 7; written by ``benchmarks/distribution_matching.py``.

    Returns
    -------
    dict
        ``provenance``: command, commit, device, versions and date of the run. ``rows``: a list of dicts, one for
        each setting, with ``values``, the accuracies in [0, 1] as sets × networks.

    Raises
    ------
    ValueError
        If there is no such file; it lists those that there are.

    Examples
    --------
    >>> sorted(load("distribution_matching"))
    ['provenance', 'rows']
    """
    folder = resources.files(__name__)
    stored = sorted(file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json"))
    if name not in stored:
        raise ValueError(f"name must be one of {', '.join(stored)}; got {name!r}")
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
