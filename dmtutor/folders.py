"""Folders of images: found, divided into training and test part, and decoded, if they are many once and for all."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from . import sharding
from .mapped import mean_and_std

IN_MEMORY = 2**30  # bytes that the images of a part may take as float32, before they stay on disk


def read_folder(path, size, cache):
    """Decode the images below ``path``.

    Parameters
    ----------
    path : Path
        ``train/<class>/*`` beside ``test/<class>/*`` or ``val/<class>/*``, or ``<class>/*``.
    size : int or None
        Resize to ``size × size``, cutting off what exceeds the square.
    cache : Path
        A part that takes more than :data:`IN_MEMORY` is decoded into a file there, and found again as long as the
        names, sizes and times of the images are the same.

    Returns
    -------
    train, test : (array, array)
        Pixels, (n, H, W) or (n, 3, H, W), uint8, mapped where they are in a file; and labels, (n,).
    classes : list of str
    """
    train, test, classes = _find(path)
    heads = _heads([file for file, _ in (*train, *test)])
    mode = "L" if all(m in ("1", "L") for m, _ in heads) else "RGB"
    shapes = {shape for _, shape in heads}
    if size is None and len(shapes) > 1:
        raise ValueError(f"size is required: the images in {str(path)!r} have {len(shapes)} different shapes")
    shape = (size, size) if size else shapes.pop()[::-1]
    parts = [(_decode(part, mode, shape, cache, f"{path.name}-{name}"), np.array([label for _, label in part]))
             for name, part in (("train", train), ("test", test))]  # fmt: skip
    return *parts, classes


def _find(path):
    """The files of both parts with their labels, and the classes' names."""
    from torchvision.datasets import ImageFolder  # raises FileNotFoundError for a class without images

    held_out = next((path / part for part in ("test", "val") if (path / part).is_dir()), None)
    if (path / "train").is_dir() and not held_out:
        raise ValueError(f"name must be a folder with test or val beside train; {str(path)!r} has neither")
    if held_out:
        train, test = ImageFolder(path / "train"), ImageFolder(held_out)
        if train.classes != test.classes:
            raise ValueError(f"name must be a folder whose train and test parts have the same classes; {str(path)!r}")
        return train.samples, test.samples, train.classes
    found = ImageFolder(path)
    labels = np.array(found.targets)
    order = np.random.RandomState(0).permutation(len(labels))
    in_test = np.zeros(len(labels), dtype=bool)
    for c, name in enumerate(found.classes):
        of_class = order[labels[order] == c]
        if len(of_class) < 5:
            raise ValueError(f"class {name!r} in {str(path)!r} must have at least 5 images to be split 80/20")
        in_test[of_class[: len(of_class) // 5]] = True
    train, test = ([sample for sample, t in zip(found.samples, in_test, strict=True) if t == part]
                   for part in (False, True))  # fmt: skip
    return train, test, found.classes


def _heads(files):
    """Mode and shape, (width, height), of every image, by its first bytes."""
    from PIL import Image

    heads = []
    for file in files:
        with Image.open(file) as image:
            heads.append((image.mode, image.size))
    return heads


def _decode(samples, mode, shape, cache, name):
    """The pixels of one part, in memory or in a file."""
    channels = (3,) if mode == "RGB" else ()
    whole = (len(samples), *channels, *shape)
    if 4 * np.prod(whole, dtype=np.int64) <= IN_MEMORY:
        return _fill(np.empty(whole, np.uint8), samples, mode, shape)
    stats = [os.stat(file) for file, _ in samples]
    key = repr([whole, *((file, s.st_size, s.st_mtime_ns) for (file, _), s in zip(samples, stats, strict=True))])
    path = cache / "folders" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
    if sharding.rank() == 0 and not statistics_file(path).exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=whole)
            _fill(array, samples, mode, shape, progress=f"decoding into {path}")
            array.flush()
            mean, std = mean_and_std(array.reshape(len(array), -1, *shape))
            os.replace(partial, path)
            partial.write_text(json.dumps({"mean": mean.tolist(), "std": std.tolist()}))
            os.replace(partial, statistics_file(path))  # last: then all is there
        finally:
            partial.unlink(missing_ok=True)
    sharding.agree(None)  # the other processes wait for the first
    return np.load(path, mmap_mode="r")


def statistics_file(path):
    """Where mean and deviation of a decoded part stand."""
    return Path(path).with_suffix(".json")


def _fill(array, samples, mode, shape, progress=None):
    from PIL import Image, ImageOps

    for i, (file, _) in enumerate(tqdm(samples, desc=progress, unit="image", disable=progress is None)):
        with Image.open(file) as image:
            image = image.convert("L" if image.mode in ("1", "L") else "RGB").convert(mode)
            if image.size != shape[::-1]:
                image = ImageOps.fit(image, shape[::-1])
            pixels = np.asarray(image)
        array[i] = np.moveaxis(pixels, -1, 0) if mode == "RGB" else pixels
    return array
