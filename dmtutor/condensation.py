"""Condensation in one call."""

import time
from dataclasses import fields, replace

import torch
from tqdm.auto import tqdm

from . import files
from .checks import check_seed
from .distribution_matching import DMConfig, dm_steps

METHODS = {"dm": (DMConfig, dm_steps)}


def condense(train, method="dm", *, ipc=10, seed=0, device=None, progress=True, checkpoint=None, **config_fields):
    """Condense a training set into ``ipc`` synthetic images per class.

    Parameters
    ----------
    train : LabeledImages
    method : {"dm"}
    ipc : int
        Images per class.
    seed : int
        On a CPU the same seed gives the same bits.
    device : str or torch.device, optional
        Where to work; where ``train`` lies if left out.
    progress : bool
        Show a progress bar.
    checkpoint : path, optional
        Write the state of the run to this file once a minute and when interrupted, and go on from it if it exists.
        The result is the same as without the interruption.
    **config_fields
        Other fields of the method's configuration, such as :class:`DMConfig`.

    Returns
    -------
    LabeledImages
        On the CPU, sorted by class; its ``meta`` holds the configuration, the seed and the versions.

    Raises
    ------
    TypeError
        If a field is not one of the configuration's.
    ValueError
        Before any work, if a value is out of range or does not fit the data.

    Examples
    --------
    >>> from dmtutor import load
    >>> train, test = load("mnist5k")
    >>> condense(train, ipc=1, iterations=2, progress=False)
    LabeledImages(10 images of 1×28×28, 10 classes)
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    check_seed(seed)
    config_type, make_steps = METHODS[method]
    valid = [f.name for f in fields(config_type)]
    unknown = [name for name in config_fields if name not in valid]
    if unknown:
        raise TypeError(f"unknown field {', '.join(unknown)} of {config_type.__name__}; it has {', '.join(valid)}")
    config = config_type(ipc=ipc, **config_fields)
    steps = make_steps(train.to(device), config=config, generator=torch.Generator().manual_seed(seed))
    if checkpoint is not None:
        checkpoint = files.check_output(checkpoint, "checkpoint")
        if checkpoint.exists():
            steps.load_state_dict(files.read(checkpoint, keys=steps.state_dict()))

    saved = time.monotonic()
    bar = tqdm(total=len(steps), initial=steps.iteration, desc=method, unit="step", disable=not progress)
    try:
        with bar:
            for step in steps:
                bar.update()
                if step.iteration % 10 == 0 and progress:
                    bar.set_postfix_str(f"loss {float(step.loss):.4g}", refresh=False)
                if checkpoint is not None and time.monotonic() - saved > 60:
                    files.write(steps.state_dict(), checkpoint)
                    saved = time.monotonic()
    finally:
        if checkpoint is not None:
            files.write(steps.state_dict(), checkpoint)
    synthetic = steps.synthetic.to("cpu")
    return replace(synthetic, meta={**synthetic.meta, "seed": seed})
