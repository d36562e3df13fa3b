"""What a run will do and how long it will take, said before it starts: measured on a few of its own steps."""

import math
from dataclasses import replace
from time import perf_counter

import torch

from . import sharding, threads
from .decoding import decode
from .evaluation import correctness, train_network

MEASURED_SECONDS = 1.0  # seconds of measuring after which no further step is taken
SCORED_IMAGES = 300  # test images on which the time of a score is measured


def step_seconds(steps):
    """Seconds that a step of a run takes, of the slowest process where several share it. The run is left as it is.

    The steps that are measured are spread over the run: in some methods not all cost the same.
    """
    trial = steps.trial()
    places = [i * (len(steps) - 1) // 4 for i in range(5)]
    spent = []  # the first one warms up, and does not count
    while len(spent) < 2 or (len(spent) <= 20 and sum(spent[1:]) < MEASURED_SECONDS):
        trial.iteration = places[len(spent) % 5]
        start = perf_counter()
        float(next(trial).loss)
        spent.append(perf_counter() - start)
    return max(sharding.gather(torch.tensor([sum(spent[1:]) / (len(spent) - 1)])).tolist())


def pool_seconds(steps):
    """Seconds that it takes to train the networks that a run draws from; 0 where none is trained before a step."""
    if not (training := steps.training):
        return 0.0
    networks, recipe = training
    return judge_seconds(steps.real, steps.real.select(torch.arange(1)), recipe, networks)


def judge_seconds(data, test, recipe, networks):
    """Seconds that it takes to train so many networks, on all sets together, by a `Recipe` and to score them.

    ``data`` is a set of the size of those that will be judged, and ``test`` the images to score them on.
    """
    data, device = decode(data), test.images.device
    at_once = min(torch.get_num_threads(), networks) if device.type == "cpu" else 1
    scored = test.select(torch.arange(min(SCORED_IMAGES, len(test))))

    def train(steps):
        start = perf_counter()
        short = replace(recipe, steps=steps, epochs=None)
        network = train_network(data, recipe=short, generator=torch.Generator().manual_seed(0))
        next(network.parameters()).sum().item()  # a device may still be at work
        return network, perf_counter() - start

    def judge(_):
        _, first = train(1)
        _, short = train(1)
        more = max(1, min(20, int(MEASURED_SECONDS / first)))
        network, long = train(1 + more)
        start = perf_counter()
        correctness(network, scored)
        scoring = (perf_counter() - start) * len(test) / len(scored)
        step = (long - short) / more if long > short else long / (1 + more)  # the machine may have been busy
        return short + step * (recipe.num_steps(len(data)) - 1) + scoring

    seconds = threads.parallel_map(judge, range(at_once), device)
    return sum(seconds) / at_once * math.ceil(networks / at_once)


def duration(seconds):
    """A duration in words.

    Examples
    --------
    >>> [duration(s) for s in (0.2, 47, 100, 5000, 100_000)]
    ['1 s', '47 s', '1 min 40 s', '1 h 23 min', '27 h 47 min']
    """
    s = max(1, round(seconds))
    if s < 60:
        return f"{s} s"
    if s < 600:
        return f"{s // 60} min {s % 60} s"
    minutes = round(s / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def what_was_read(train, test):
    """One line on a data set: how many images of which classes, their shape, colour and augmentation.

    Examples
    --------
    >>> from dmtutor import load
    >>> print(what_was_read(*load("mnist5k")))
    4,000 training and 1,000 test images, 10 classes of 400 (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), 28×28 grey
    """
    channels, height, width = train.images.shape[1:]
    counts = train.counts.tolist()
    sizes = f" of {counts[0]:,}"
    if len(set(counts)) > 1:
        least, largest = (" ".join(train.classes[counts.index(n)].split()) for n in (min(counts), max(counts)))
        sizes = f" of {min(counts):,} ({least}) to {max(counts):,} ({largest})" if len(counts) > 12 else ""
    twins = count_twins(train, test)
    white = f", white {train.meta['white']}" if "white" in train.meta else ""
    also = f" ({twins} of them training images, too)" if twins else ""
    return (f"{len(train):,} training and {len(test):,} test images{also}, {len(counts)} classes{sizes} "
            f"({class_list(train.classes, counts)}), {height}×{width} {'grey' if channels == 1 else 'RGB'}{white}")


def class_list(classes, counts):
    """The classes, with their numbers where these differ: all of up to 12, of more the first and the last.

    Examples
    --------
    >>> class_list(["cat", "dog"], [3, 3]), class_list(["cat", "dog"], [3, 4])
    ('cat, dog', 'cat 3, dog 4')
    """
    names = [" ".join(name.split()) for name in classes]
    if len(set(counts)) > 1:
        names = [f"{name} {n:,}" for name, n in zip(names, counts, strict=True)]
    return ", ".join(names if len(names) <= 12 else [*names[:6], "…", *names[-3:]])


def count_twins(train, test):
    """How many test images are exact copies of training images; of images in memory."""
    if not (isinstance(train.images, torch.Tensor) and isinstance(test.images, torch.Tensor)):
        return 0
    known = {hash(image.cpu().numpy().tobytes()) for image in train.images}
    return sum(hash(image.cpu().numpy().tobytes()) in known for image in test.images)
