"""Condensation in one call."""

import csv
import time
import warnings
from contextlib import closing
from dataclasses import fields, replace

import torch
from tqdm.auto import tqdm

from . import files, interrupts, sharding
from .checks import check_seed
from .data import check_set, ipc_of_names
from .distribution_matching import DMSteps
from .gradient_matching import DCSteps, DSASteps
from .idm import IDMSteps
from .steps import Steps, start
from .unrolling import DDSteps

LARGEST_PIXEL = 10.0  # no pixel of a set that teaches anything is so bright, where white is 1
METHODS = {steps_type.method: steps_type for steps_type in (DDSteps, DCSteps, DSASteps, IDMSteps, DMSteps)}


def condense(train, method="dm", *, ipc=10, seed=0, device=None, progress=True, checkpoint=None, history=None,
             **config_fields):
    """Condense a training set into ``ipc`` synthetic images per class: `LabeledImages` on the CPU, sorted by class.

    Their ``meta`` holds the configuration, the seed and the versions. Where ``torch.distributed`` has been initialised,
    as ``torchrun -m dmtutor condense`` does, its processes share the classes. Every one returns the whole set, on a CPU
    the same bits as from one process. Before any work, a TypeError if a field is not one of the configuration's, and a
    ValueError if a value is out of range or does not fit the data; a FloatingPointError if the pixels leave all bounds,
    as after steps that are too large. Such a state is not saved.

    Parameters
    ----------
    train : LabeledImages
    method : {"dm", "idm", "dsa", "dc", "dd"} or type
        Distribution matching, its improved form, gradient matching with Siamese augmentation and without, or dataset
        distillation; or a class of your own, derived from :class:`~dmtutor.steps.Steps`.
    ipc : int, tuple of int, or dict of str to int
        Images per class, of each class in order, or by the classes' names. Where they start as real ones, an integer is
        at most what a class has, with a warning.
    seed : int
        On a CPU the same seed gives the same bits. A number, where functions that a program composes take a generator:
        it stands in the set's ``meta``, for the one call or command that makes the set again.
    device : str or torch.device, optional
        Where to work; where ``train`` lies if left out.
    progress : bool
        Show a progress bar.
    checkpoint : path, optional
        Write the state of the run to this file once a minute and when interrupted, by Ctrl-C, SIGTERM or SIGHUP, and
        go on from it if it exists. The result is the same as without the interruption. With ``schedule="constant"``
        a finished run goes on to more iterations, as one run of so many.
    history : path, optional
        Write a table to this CSV file as the run goes on: iteration, loss and seconds of every tenth step.
    **config_fields
        Other fields of the method's configuration: :class:`DMConfig`, :class:`IDMConfig`, :class:`DSAConfig`,
        :class:`DCConfig`, :class:`DDConfig`, or the ``config_type`` of your class.

    Examples
    --------
    >>> from dmtutor import load
    >>> train, test = load("mnist5k")
    >>> condense(train, ipc=1, iterations=2, progress=False)
    LabeledImages(10 images of 1×28×28, 10 classes)
    """
    files.check_different(checkpoint=checkpoint, history=history)
    steps = begin(train, method, ipc=ipc, seed=seed, device=device, **config_fields)
    first = sharding.rank() == 0
    if checkpoint is not None:
        checkpoint = files.check_output(checkpoint, "checkpoint")
        if any(sharding.any_of(checkpoint.exists())):
            load_run(steps, checkpoint)
    if history is not None:
        history = files.check_output(history, "history")

    steps.progress = progress and first
    rows = History(history, steps.iteration) if history is not None and first else None
    images = len(train.classes) * steps.config.batch_real + sum(steps.ipc)  # in a step
    bar = tqdm(total=len(steps), initial=steps.iteration, desc=steps.method, unit="step", disable=not steps.progress)
    run = (step for step in steps) if checkpoint is None else saved(steps, lambda: save_run(steps, checkpoint))

    with bar, closing(run):
        for step in run:
            bar.update()
            if step.iteration % 10 == 0 or step.iteration == len(steps):
                check_bounded(steps)
            if step.iteration % 10 == 0 and (progress or history is not None):
                loss, rate = float(sharding.gather(step.loss[None]).sum()), bar.format_dict["rate"] or 0
                bar.set_postfix_str(f"loss {loss:.4g}, {rate * images:.0f} images/s", refresh=False)
                if rows is not None:
                    rows.add(step.iteration, loss)
    synthetic = steps.synthetic
    images, labels = sharding.gather(synthetic.images), sharding.gather(synthetic.labels)
    return replace(synthetic.to("cpu"), images=images, labels=labels, meta={**synthetic.meta, "seed": int(seed)})


def begin(train, method="dm", *, ipc=10, seed=0, device=None, **config_fields):
    """Check all that :func:`condense` is given, and make the steps of its run: on this process's classes."""
    check_set(train, "train")
    steps_type = METHODS.get(method) if isinstance(method, str) else method
    if not (isinstance(steps_type, type) and issubclass(steps_type, Steps)):
        raise ValueError(f"method must be one of {', '.join(METHODS)}, or a class derived from Steps; got {method!r}")
    check_seed(seed)
    config_type = steps_type.config_type
    valid = [f.name for f in fields(config_type)]
    unknown = [name for name in config_fields if name not in valid]
    if unknown:
        raise TypeError(f"unknown field {', '.join(unknown)} of {config_type.__name__}; it has {', '.join(valid)}")
    config = config_type(ipc=ipc_of_names(ipc, train.classes), **config_fields)
    options = {}
    if sharding.processes() > 1:
        if not issubclass(steps_type, DMSteps):
            shared = " or ".join(name for name, known in METHODS.items() if issubclass(known, DMSteps))
            raise ValueError(f"method must be {shared}, or a class derived from DMSteps, where processes share the "
                             f"work; got {steps_type.method!r}")
        options["classes"] = sharding.share(len(train.classes))
    generator = torch.Generator().manual_seed(int(seed))
    return start(steps_type, config_type, train.to(device), config, generator, **options)


def saved(steps, save, *, every=60):
    """The steps of a run, with its state saved once a minute, at the end, and when something stops it.

    ``save()`` writes what there is, between two steps, ``every`` so many seconds. Close this generator
    (``contextlib.closing``) to have the state saved at once where the loop is left early.
    """
    last = time.monotonic()
    with interrupts.deferred() as interrupted:
        try:
            for step in steps:
                yield step
                due, stop = sharding.any_of(time.monotonic() - last > every, bool(interrupted))
                if due or stop:
                    save()
                    last = time.monotonic()
                if stop:
                    raise KeyboardInterrupt
        finally:
            if sharding.processes() == 1 or steps.iteration == len(steps):
                with interrupts.undisturbed():  # a cluster may send its signal twice
                    save()


def check_bounded(steps):
    """Raise a FloatingPointError if pixels lie far outside of 0 … 1, or are NaN, in any process."""
    pixels = steps.images * steps.real.std.view(-1, 1, 1) + steps.real.mean.view(-1, 1, 1)
    largest = float(sharding.gather(pixels.abs().max()[None]).max())
    if not largest < LARGEST_PIXEL:
        raise FloatingPointError(f"the pixels have grown to {largest:.3g} after {steps.iteration} steps, where black "
                                 f"is 0 and white is 1: lr_img={steps.config.lr_img:g} is too large; give a tenth of "
                                 "it, or leave it out")


def save_run(steps, path):
    """Write the state of a run, of all its processes together, unless its pixels have left all bounds.

    Where the disk fails, a run that has come to its end is not lost: a warning says so.
    """
    check_bounded(steps)
    state = steps.state_dict()
    if sharding.processes() > 1:
        state.update({name: sharding.gather(state[name]) for name in steps.variables})
    if sharding.rank() == 0:
        try:
            files.write(state, path)
        except (OSError, ValueError) as error:
            if steps.iteration < len(steps):
                raise
            warnings.warn(f"the state was not saved: {error}", stacklevel=2)


def load_run(steps, path):
    """Go on from a state that any number of processes wrote."""
    try:
        state = files.read(path, keys=("method", "config", "root", "real", "iteration", "images"))
        if sharding.processes() > 1:
            rows = slice(sum(steps.ipc[: steps.classes[0]]), sum(steps.ipc[: steps.classes[-1] + 1]))
            state.update({name: state[name][rows] for name in steps.variables if name in state})
        steps.load_state_dict(state)
    except ValueError as error:
        error.add_note(f"{str(path)!r} does not hold this run: go on with the settings of the one it holds, delete it "
                       "to start anew, or name another checkpoint")
        raise


class History:
    """A table of iteration, loss and seconds, a CSV file that grows row by row; a run that goes on goes on with it.

    What was written after the checkpoint from which the run goes on is dropped: those steps are taken again.
    """

    columns = ("iteration", "loss", "seconds")

    def __init__(self, path, iteration):
        kept = [row for row in self.read(path) if int(row[0]) <= iteration] if path.exists() else []
        self.start = time.monotonic() - (float(kept[-1][2]) if kept else 0)
        self.path = path
        self.write("w", [self.columns, *kept])

    def add(self, iteration, loss):
        self.write("a", [(iteration, f"{loss:.6g}", f"{time.monotonic() - self.start:.2f}")])

    def write(self, mode, rows):
        with self.path.open(mode, newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)

    @classmethod
    def read(cls, path):
        """The rows of such a file, but for a last one that a kill has cut short."""
        try:
            head, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
            if tuple(head) != cls.columns:
                raise ValueError
        except ValueError as error:
            raise ValueError(f"history must not be another file: {str(path)!r} has no such columns") from error
        return [row for row in rows if len(row) == 3]
