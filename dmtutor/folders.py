"""Folders of images: found, divided into training and test part, and decoded, if they are many once and for all."""

import hashlib
import json
import os
import re
import shutil
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from . import files as on_disk
from . import pictures, sharding
from .arrays import held_out, natural, plain
from .mapped import fingerprint, mean_and_std

IN_MEMORY = 2**30  # bytes that the images of a part may take as float32, before they stay on disk
ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".gif", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".avif")
OF_SYSTEMS = (".", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume", "lost+found")  # of systems
PARTS = {"train": ("train", "training"), "test": ("test", "testing"), "val": ("val", "valid", "validation")}
MAX_NAMED = 50  # broken files that an error names at most


def read_folder(path, size, cache, *, resize="fit", skip_broken=False, white=None):
    """Decode the images below ``path``, as :func:`~dmtutor.load` describes them, with its ``size``, ``resize``,
    ``skip_broken`` and ``white``. Without a test part :func:`~dmtutor.arrays.held_out` chooses one by the files' names.

    A part that takes more than :data:`IN_MEMORY` is decoded into a file below the folder ``cache``, and found again as
    long as the names, sizes and times of the images are the same.

    Returns (pixels, labels) of the training part and of the test part, pixels (n, C, H, W), uint8, mapped where they
    are in a file; the classes' names; and the value of white, if there was a picture of more than 8 bits, else None.
    """
    train, test, classes = _find(path)
    grey, shape, levels, broken = _look([file for file, _ in (*train, *test)])
    if size is None and len(shape) > 1:
        raise ValueError(f"size is required: the images in {str(path)!r} have {len(shape)} different shapes; to resize "
                         "them, give size=64 (--size 64), say")
    told = pictures.white_level(levels, white)
    shape = (size, size) if size else next(iter(shape), (1, 1))
    parts = []
    for name, samples in (("train", train), ("test", test)):
        samples = [sample for sample in samples if sample[0] not in broken]
        how = (grey, shape, resize if size else None, white)
        pixels, failed = _decode(samples, how, cache, f"{path.name}-{name}")
        broken |= {samples[i][0]: why for i, why in failed.items()}
        parts.append((pixels, np.array([c for i, (_, c) in enumerate(samples) if i not in failed], dtype=np.int64)))
    if broken:
        named = [f"{os.path.relpath(file, path)} ({why})" for file, why in sorted(broken.items())[:MAX_NAMED]]
        more = f" and {len(broken) - MAX_NAMED} more" if len(broken) > MAX_NAMED else ""
        message = (f"{len(broken)} of {len(train) + len(test)} images in {str(path)!r} cannot be read: "
                   f"{', '.join(named)}{more}")
        if not skip_broken:
            raise ValueError(f"{message}; mend or delete them, or leave them out by skip_broken=True (--skip-broken)")
        warnings.warn(f"{message}; left out", stacklevel=3)
        counts = np.bincount(parts[0][1], minlength=len(classes))
        if not counts.all():
            raise ValueError(f"class {classes[counts.argmin()]!r} in {str(path)!r} has no image left that can be read")
    return *parts, classes, told


def _find(path):
    """The files of both parts with their labels, and the classes' names."""
    parts = {part: _part(path, spellings) for part, spellings in PARTS.items()}
    held = parts["test"] or parts["val"]
    for part in filter(None, (parts["train"], held)):
        if not _folders(part) and any(map(_is_image, part.iterdir())):
            raise ValueError(f"{str(part)!r} must hold a folder of images for each class; rename it if it is a class")
    if parts["train"] and not held:
        raise ValueError(f"name must be a folder with test or val beside train; {str(path)!r} has neither: give "
                         f"{str(parts['train'])!r} itself, of which a fifth becomes the test part; rename it if it is "
                         "a class")
    if held and not parts["train"]:
        raise ValueError(f"name must be a folder with train beside {held.name}; {str(path)!r} has none: "
                         f"rename {held.name} if it is a class")
    found = _classes(parts["train"] or path)
    classes = list(found)
    train = [(file, c) for c, name in enumerate(classes) for file in found[name]]
    if held:
        used = {parts["train"].name, held.name}
        _warn_left_out(path, [f.name for f in _folders(path) if f.name not in used])
        found = _classes(held)
        if unknown := sorted(set(found) - set(classes)):
            raise ValueError(f"name must be a folder whose train and test parts have the same classes; {str(path)!r} "
                             f"has no {', '.join(map(repr, unknown))} in {parts['train'].name}")
        test = [(file, c) for c, name in enumerate(classes) for file in found.get(name, [])]
    else:
        own = held_out(np.array([c for _, c in train]), [os.fsencode(plain(f.name)) for f, _ in train])
        train, test = ([sample for sample, t in zip(train, own, strict=True) if t == part] for part in (False, True))
    tested = {c for _, c in test}
    if len(tested) < len(classes):
        none = [repr(name) for c, name in enumerate(classes) if c not in tested]
        warnings.warn(f"no test image of {len(none)} classes in {str(path)!r}: {', '.join(none)}", stacklevel=4)
    return train, test, classes


def _folders(path):
    """The folders in a folder, in the order of their names, but for hidden ones and those that systems add."""
    try:
        return sorted((f for f in path.iterdir() if f.is_dir() and not f.name.startswith(OF_SYSTEMS)),
                      key=lambda f: natural(plain(f.name)))
    except PermissionError as error:
        raise ValueError(f"a folder of images must be open to you; {str(path)!r} is not: {error.strerror}") from error


def _part(path, spellings):
    """The folder with one of these names, in upper or lower case, perhaps with "set" at its end, or None."""
    found = [folder for folder in _folders(path) if re.sub("[ _-]?set$", "", folder.name.lower()) in spellings]
    if len(found) > 1:
        raise ValueError(f"name must be a folder with one {spellings[0]} part; {str(path)!r} has "
                         f"{' and '.join(repr(folder.name) for folder in found)}")
    return found[0] if found else None


def _is_image(file):
    """Whether it is named as an image and is a file, or a link that leads nowhere: one to be told of."""
    named = file.suffix.lower() in ENDINGS and not file.name.startswith(".")
    return named and (file.is_file() or not file.exists())


def _classes(path):
    """The images of each class below a folder: {name: files}, both in the order of names."""
    found, empty, other, spelled = {}, [], Counter(), {}
    for folder in _folders(path):
        name = plain(folder.name)
        if name in spelled:
            raise ValueError(f"classes must have different names; {str(path)!r} has {name!r} twice, in two codings "
                             "(NFC and NFD): put their images together")
        spelled[name] = folder
        if not folder.name.isprintable():
            raise ValueError(f"the folder of a class must have a name that can be printed; got {folder.name!r}")
        deeper = next((file for sub in _folders(folder) for file in sorted(sub.rglob("*")) if _is_image(file)), None)
        if deeper:
            raise ValueError(f"images must lie in the folder of their class, {path}/<class>/; {str(deeper)!r} lies "
                             f"deeper: name {str(deeper.parent.parent)!r}, or move the images up")
        entries = sorted(folder.iterdir(), key=lambda f: f.name)
        files = [file for file in entries if _is_image(file)]
        other.update(f.suffix or f.name for f in entries if not (f.is_dir() or f.name.startswith(".") or _is_image(f)))
        if files:
            found[name] = files
        else:
            empty.append(name)
    stray = sorted(file.name for file in path.iterdir() if _is_image(file))
    if not found:
        why = f"{len(stray)} images lie in it without one" if stray else f"no {', '.join(ENDINGS)} was found"
        raise ValueError(f"name must be a folder with a folder of images for each class; in {str(path)!r} {why}")
    if empty:
        warnings.warn(f"no images in the class folders {', '.join(map(repr, empty))} of {str(path)!r}: skipped",
                      stacklevel=5)
    if stray or other:
        more = ["…"] if len(stray) > 3 else []
        _warn_left_out(path, [*stray[:3], *more, *(f"{n} × {ending}" for ending, n in other.items())])
    twins = [name for name, n in Counter(" ".join(name.lower().split()) for name in found).items() if n > 1]
    if twins:
        warnings.warn(f"classes of {str(path)!r} differ in upper and lower case or blanks alone: "
                      f"{', '.join(map(repr, twins))}", stacklevel=5)
    return found


def _warn_left_out(path, names):
    if names:
        warnings.warn(f"in {str(path)!r} left out, as no images of a class: {', '.join(names)}", stacklevel=6)


def _look(files):
    """Whether all pictures are grey, their shapes, how bright the deep ones are, and {file: why it is broken}."""
    heads, broken = [], {}
    for file in files:
        try:
            heads.append(pictures.describe(file))
        except Exception as error:  # Pillow raises a different type for each way in which a file can be broken
            broken[file] = _why(error, file)
    return all(grey for grey, _, _ in heads), {shape for _, shape, _ in heads}, [level for *_, level in heads], broken


def _why(error, file):
    return " ".join(str(error).replace(repr(str(file)), "").split()).strip(" :") or type(error).__name__


def _decode(samples, how, cache, name):
    """The pixels of one part, in memory or in a file, and which samples are broken: {row: why}."""
    grey, shape, *_ = how
    whole = (len(samples), 1 if grey else 3, *shape)
    if 4 * np.prod(whole, dtype=np.int64) <= IN_MEMORY:
        return _fill(np.empty(whole, np.uint8), samples, how)
    key = repr([3, whole, how, *(_identity(file) for file, _ in samples)])  # 3: how pictures are read
    path = cache / "folders" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
    if sharding.rank() == 0 and _decoded(path, whole) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(".*.partial"):  # of runs that were killed
            if time.time() - old.stat().st_mtime > 86_400:
                old.unlink(missing_ok=True)
        needed, free = np.prod(whole, dtype=np.int64), shutil.disk_usage(path.parent).free
        if needed > free:
            raise ValueError(f"the decoded images take {needed / 1e9:.0f} GB and {str(path.parent)!r} has "
                             f"{free / 1e9:.0f} left: give a smaller size, or root=, a folder with more room")
        beside = on_disk.partial(path)
        try:
            array = np.lib.format.open_memmap(beside, mode="w+", dtype=np.uint8, shape=whole)
            kept, failed = _fill(array, samples, how, progress=f"decoding into {path}")
            array.flush()
            mean, std = mean_and_std(kept)
            told = {"mean": mean.tolist(), "std": std.tolist(), "broken": failed, "digest": fingerprint(kept)}
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        on_disk.write_bytes(json.dumps(told).encode(), statistics_file(path))  # last: then all is there
    sharding.wait()  # for the first
    return _decoded(path, whole)


def _decoded(path, whole):
    """The pixels that were decoded into a file, and {row: why} of the broken samples; None if they are not there."""
    if not (path.exists() or statistics_file(path).exists()):
        return None
    try:
        told = json.loads(statistics_file(path).read_text())
        failed = {int(i): why for i, why in told["broken"].items()}
        pixels = np.load(path, mmap_mode="r")
        if pixels.shape != whole or not {"mean", "std", "digest"} <= set(told):
            raise ValueError("another shape")
    except Exception as error:  # files can be damaged in many ways
        warnings.warn(f"decoded anew: {str(path)!r} was damaged or not whole ({error})", stacklevel=5)
        return None
    return pixels[: len(pixels) - len(failed)], failed


def _identity(file):
    """What changes when a file does."""
    stat = file.stat() if file.exists() else None  # a link may lead nowhere
    return str(file), stat and (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def statistics_file(path):
    """Where mean and deviation of a decoded part stand."""
    return Path(path).with_suffix(".json")


def _fill(array, samples, how, progress=None):
    """Decode into the first rows of an array: these, and {row: why} of the samples that are broken."""
    kept, failed = 0, {}
    for i, (file, _) in enumerate(tqdm(samples, desc=progress, unit="image", disable=progress is None)):
        try:
            array[kept] = pictures.read(file, *how)
            kept += 1
        except Exception as error:
            failed[i] = _why(error, file)
    return array[:kept], failed
