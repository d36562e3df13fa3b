"""Arrays as users have them, brought into one form: images (n, C, H, W), labels in 0 … K−1."""

import hashlib
import re
import unicodedata

import numpy as np
import torch
from PIL import Image

from . import pictures

ARCHIVES = (("x_train", "y_train", "x_test", "y_test"),  # as Keras has them, and MedMNIST
            ("train_images", "train_labels", "test_images", "test_labels"))
MAX_CLASSES = 10**6  # classes: labels beyond it are numbers of something else


def images(x, *, size=None, resize="fit", white=None):
    """Images of any layout as one array, (n, C, H, W), uint8 or floating in [0, 1], where C is 1 or 3; and the value of
    white, if there was a PIL image of more than 8 bits, else None.

    The arguments are those of :func:`~dmtutor.from_arrays`. A ValueError says what would make ``x`` images.
    """
    told = None
    if isinstance(x, list | tuple) or (isinstance(x, np.ndarray) and x.dtype == object and x.ndim == 1):
        told = pictures.white_level([pictures.brightness(part) for part in x if isinstance(part, Image.Image)], white)
        x = _stack([_array(part, white) for part in x], size, resize)
    x = _layout(_array(x))
    _check_range([x])
    if size is not None and x.shape[2:] != (size, size):
        x = np.stack([pictures.resized(image, size, resize) for image in x])
    return x, told


def _array(x, white=None):
    """An array of anything like one."""
    if isinstance(x, Image.Image):
        return np.asarray(pictures.to_8_bits(x, white))
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        x = x.float() if x.dtype == torch.bfloat16 else x
    if np.ma.is_masked(x):
        raise ValueError("x must not be a masked array: what is masked is unknown; use x.filled(...)")
    try:
        x = x if isinstance(x, np.ndarray) else np.asarray(x)
        return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))
    except ValueError as error:
        raise ValueError("x and y must be arrays, or become arrays; got lists of different lengths") from error


def _stack(parts, size, resize):
    """Images of perhaps different shapes as one array."""
    if len({part.shape for part in parts}) == 1:
        return np.stack(parts)
    shapes = sorted({str(part.shape) for part in parts})
    if size is None:
        raise ValueError(f"x must hold images of one shape; got {len(shapes)}, such as {' and '.join(shapes[:2])}: "
                         "give size=64, say, to resize them all")
    parts = [_layout(part[None])[0] for part in parts]
    _check_range(parts)  # what lies outside would be clipped
    made = [pictures.resized(part, size, resize) for part in parts]
    if len({image.shape for image in made}) > 1:
        raise ValueError("x must be all grey or all of three channels; got both: repeat the grey one three times")
    return np.stack(made)


def _layout(x):
    """As (n, C, H, W)."""
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise ValueError(f"x must be uint8, or floating in [0, 1]; got {x.dtype}{_remedy_for_type(x)}")
    shape = x.shape
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and shape[-1] in (1, 3):
        x = np.moveaxis(x, -1, 1)
    if x.ndim != 4 or x.shape[1] not in (1, 3) or not x.size:
        raise ValueError("x must be images (n, H, W), (n, H, W, C) or (n, C, H, W) with n ≥ 1 and C = 1 or 3; "
                         f"got {shape}{_remedy_for_shape(shape)}")
    return x


def _check_range(parts):
    """Raise a ValueError for floating pixels that are no numbers in [0, 1]."""
    floating = [part for part in parts if part.dtype.kind == "f"]
    if not floating:
        return
    low, high = min(float(part.min()) for part in floating), max(float(part.max()) for part in floating)
    if not all(np.isfinite(part).all() for part in floating):
        raise ValueError("x must hold no NaN or infinite pixels")
    if low < 0 or high > 1:
        remedy = f"divide by {'255' if high <= 255 else 'the value of white'}"
        raise ValueError(f"x must be uint8, or floating in [0, 1]; got {floating[0].dtype} in [{low:.3g}, {high:.3g}]: "
                         f"{'undo the normalisation, x * std + mean' if low < 0 else remedy}")


def _remedy_for_type(x):
    if x.dtype == bool:
        return ": use x.astype('uint8') * 255"
    if x.dtype.kind not in "iu" or not x.size:
        return ""
    if x.min() < 0:
        return f" from {x.min()} to {x.max()}: bring black to 0 and white to 255" + (
            ", x.view('uint8') if these were bytes" if x.dtype == np.int8 else "")
    if x.max() <= 255:
        return f": use x.astype('uint8'){' * 255' if x.max() <= 1 else ''}"
    return f" up to {x.max()}: divide by the value of white, (x / 65535).astype('float32') for 16 bits"


def _remedy_for_shape(shape):
    if len(shape) == 2 and shape[1]:
        side = round(shape[1] ** 0.5)
        return f": are they flat? x.reshape(-1, {side}, {side})" if side**2 == shape[1] else ""
    if len(shape) != 4:
        return ""
    if shape[-1] == 4 or shape[1] == 4:
        return ": of red, green, blue and alpha keep three, x[..., :3] or x[:, :3]"
    return ": choose the three channels that are to be seen, say x[..., [3, 2, 1]] or x[:, [3, 2, 1]]"


def natural(name):
    """A key to sort names by, in which numbers count: 2 before 10.

    Examples
    --------
    >>> sorted(["10", "9", "a10", "a9"], key=natural)
    ['9', '10', 'a9', 'a10']
    """
    parts = re.split(r"(\d+)", name)  # text and digits in turn
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def plain(name):
    """The name of a class as text, in one of the two ways of writing é."""
    return unicodedata.normalize("NFC", name.decode() if isinstance(name, bytes) else str(name))


def labels(y, classes=None):
    """Labels as integers, (n,), int64, a copy, and the names of the classes, a tuple.

    Strings in ``y``, (n,) or (n, 1), are names of classes, numbered in the order of ``classes``, or sorted, numbers by
    their value. A ValueError if the labels are of another kind, or a name is not one of the classes.

    Examples
    --------
    >>> labels(["dog", "cat", "dog"])
    (array([1, 0, 1]), ('cat', 'dog'))
    """
    names = None if classes is None else tuple(map(plain, classes))
    if isinstance(classes, str | bytes) or (names and len(set(names)) < len(names)):
        raise ValueError(f"classes must be a sequence of different names; got {classes!r}")
    y = np.asarray(_array(y))
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2:
        raise ValueError(f"y must hold one integer per image; got shape {y.shape}: one row of scores? y.argmax(1)")
    if y.dtype.kind in "UST" or (y.dtype == object and all(isinstance(name, str) for name in y)):
        y = list(map(plain, y.tolist()))
        known = names or tuple(sorted(set(y), key=natural))
        number = {name: i for i, name in enumerate(known)}
        unknown = sorted(set(y) - set(known))
        if unknown:
            raise ValueError(f"y must be names of the classes, {_some(known)}; got {_some(unknown)}")
        return np.array([number[name] for name in y], dtype=np.int64), known
    if y.dtype.kind not in "iu":
        whole = y.dtype.kind == "f" and y.size and np.isfinite(y).all() and (y == y.round()).all()
        raise ValueError(f"y must be integers; got {y.dtype}{': use y.astype(int)' if whole else ''}")
    largest = int(y.max()) if y.size else 0
    if largest >= MAX_CLASSES:
        raise ValueError(f"y must lie in 0 … K−1; got up to {largest}: names, y = numpy.unique(y, return_inverse=True)")
    return y.astype(np.int64), names or tuple(map(str, range(largest + 1)))


def _some(names, most=12):
    return ", ".join(map(repr, names[:most])) + (", …" if len(names) > most else "")


def held_out(y, keys):
    """Which images, of classes y, (n,), are the test part where there is none: (n,), bool.

    About a fifth of every class, of two images one: those whose key says so. So images that are added move no others.
    The keys, bytes, are the images' names, or their contents: a copy is in the same part.

    Examples
    --------
    >>> names = [f"{i}.png".encode() for i in range(1000)]
    >>> test = held_out(np.zeros(1000), names)
    >>> int(test.sum()), bool((test[:500] == held_out(np.zeros(500), names[:500])).all())
    (203, True)
    """
    draws = np.array([int.from_bytes(hashlib.sha256(key).digest()[:6], "big") for key in keys]) / 2**48
    test = draws < 0.2
    for c in np.unique(y):
        rows = np.flatnonzero(y == c)
        if test[rows].all():
            test[rows[draws[rows].argmax()]] = False
        elif not test[rows].any() and len(rows) > 1:
            test[rows[draws[rows].argmin()]] = True
    return test


def read_npz(path):
    """Images and labels of an ``.npz`` file, under the names of :data:`ARCHIVES`; without a test part, divided.

    Returns (x, y) of the training part and of the test part, the classes' names or None, and the names of arrays that
    nothing is made of. A FileNotFoundError or ValueError if there is no such file, or it is damaged, or lacks an array.
    """
    try:
        with path.open("rb") as archive:
            file = np.load(archive, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise ValueError("it holds one array without a name: numpy.savez(path, x_train=..., y_train=...)")
            return _parts(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"no such file: {str(path)!r}") from None
    except Exception as error:  # a damaged archive shows in many ways
        why = "it holds Python objects, not numbers: save plain arrays" if "allow_pickle" in str(error) else error
        raise ValueError(f"{str(path)!r} must be an .npz file with arrays x_train, y_train, x_test, y_test; "
                         f"{why}") from error


def _parts(file):
    names = max(ARCHIVES, key=lambda names: sum(name in file for name in names))
    wanted = names if names[2] in file or names[3] in file else names[:2]
    missing = [name for name in wanted if name not in file]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}; it holds {', '.join(file.files) or 'nothing'}")
    left_out = [name for name in file.files if name not in (*wanted, "classes")]
    arrays = [file[name] for name in wanted]
    classes = list(map(plain, file["classes"])) if "classes" in file else None
    if len({y.dtype.kind in "iufb" for y in arrays[1::2]}) > 1:
        kinds = " and ".join(str(y.dtype) for y in arrays[1::2])
        raise ValueError(f"its labels must be numbers in both parts, or names in both; they are {kinds}")
    if len(arrays) == 2:
        x, y = arrays
        if not x.ndim or x.shape[:1] != y.shape[:1]:
            raise ValueError(f"its labels must be one for each image; the shapes are {x.shape} and {y.shape}")
        test = held_out(labels(y, classes)[0], [image.tobytes() for image in x])
        arrays = [x[~test], y[~test], x[test], y[test]]
    return (*zip(arrays[::2], arrays[1::2], strict=True), classes, left_out)
