"""Arrays as users have them, brought into one form: images (n, C, H, W), labels in 0 … K−1."""

import re

import numpy as np
import torch
from PIL import Image

from . import pictures

SPELLINGS = {"x": ("x", "image", "images", "imgs", "data"), "y": ("y", "label", "labels", "target", "targets"),
             "classes": ("classes", "classnames", "labelnames")}  # fmt: skip
MOST = 10**6  # classes: labels beyond it are numbers of something else
KINDS = {spelling: kind for kind, spellings in SPELLINGS.items() for spelling in spellings}


def images(x, *, size=None, resize="fit"):
    """Images of any layout as one array.

    Parameters
    ----------
    x : array, Tensor, or sequence of arrays, tensors or PIL images
        All of one shape, unless ``size`` is given.
    size : int, optional
        Resize to size × size.
    resize : {"fit", "pad"}
        As :func:`~dmtutor.pictures.resized`.

    Returns
    -------
    array, (n, C, H, W)
        uint8 or floating; C is 1 or 3.

    Raises
    ------
    ValueError
        If it is none, with what would make it one.
    """
    if isinstance(x, list | tuple) or (isinstance(x, np.ndarray) and x.dtype == object and x.ndim == 1):
        x = _stack(list(map(_array, x)), size, resize)
    x = _layout(_array(x))
    if size is not None and x.shape[2:] != (size, size):
        x = np.stack([pictures.resized(image, size, resize) for image in x])
    return x


def _array(x):
    """An array of anything like one."""
    if isinstance(x, Image.Image):
        return np.asarray(pictures.flat(x))
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        x = x.float() if x.dtype == torch.bfloat16 else x
    if np.ma.is_masked(x):
        raise ValueError("x must not be a masked array: what is masked is unknown; use x.filled(...)")
    try:
        return x if isinstance(x, np.ndarray) else np.asarray(x)
    except ValueError as error:
        raise ValueError("x and y must be arrays, or become arrays; got lists of different lengths") from error


def _stack(parts, size, resize):
    """Images of perhaps different shapes as one array."""
    if len({part.shape for part in parts}) == 1:
        return np.stack(parts)
    shapes = sorted({str(part.shape) for part in parts})
    if size is None:
        raise ValueError(
            f"x must hold images of one shape; got {len(shapes)}, such as {' and '.join(shapes[:2])}: give size=64, "
            "say, to resize them all"
        )
    made = [pictures.resized(_layout(part[None])[0], size, resize) for part in parts]
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
        raise ValueError(
            "x must be images (n, H, W), (n, H, W, C) or (n, C, H, W) with n ≥ 1 and C = 1 or 3; "
            f"got {shape}{_remedy_for_shape(shape)}"
        )
    return x


def _remedy_for_type(x):
    if x.dtype == bool:
        return ": use x.astype('uint8') * 255"
    if x.dtype.kind not in "iu" or not x.size:
        return ""
    if x.min() >= 0 and x.max() <= 255:
        return ": use x.astype('uint8')"
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


def remedy_for_range(low, high):
    """What to do about floating pixels in [low, high]."""
    if low < 0:
        return "undo the normalisation, x * std + mean"
    return "divide by 255" if high <= 255 else "divide by the value of white"


def labels(y, classes=None):
    """Labels as integers, and the names of the classes.

    Parameters
    ----------
    y : array or Tensor, (n,) or (n, 1), of integers or of strings
        Strings are names of classes, numbered in the order of ``classes``, or sorted.
    classes : sequence of str, optional

    Returns
    -------
    y : array, (n,), int64
        A copy.
    classes : tuple of str

    Raises
    ------
    ValueError
        If the labels are of another kind, or a name is not one of the classes.

    Examples
    --------
    >>> labels(["dog", "cat", "dog"])
    (array([1, 0, 1]), ('cat', 'dog'))
    """
    if isinstance(classes, str) or (classes is not None and len(set(map(str, classes))) < len(classes)):
        raise ValueError(f"classes must be a sequence of different names; got {classes!r}")
    names = None if classes is None else tuple(map(str, classes))
    y = np.asarray(_array(y))
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2:
        raise ValueError(f"y must hold one integer per image; got shape {y.shape}: one row of scores? y.argmax(1)")
    if y.dtype.kind in "UST" or (y.dtype == object and all(isinstance(name, str) for name in y)):
        y = y.astype(str)
        known = names or tuple(map(str, np.unique(y)))
        number = {name: i for i, name in enumerate(known)}
        unknown = sorted(set(y.tolist()) - set(known))
        if unknown:
            raise ValueError(f"y must be names of the classes, {_some(known)}; got {_some(unknown)}")
        return np.array([number[name] for name in y.tolist()], dtype=np.int64), known
    if y.dtype.kind not in "iu":
        whole = y.dtype.kind == "f" and y.size and np.isfinite(y).all() and (y == y.round()).all()
        raise ValueError(f"y must be integers; got {y.dtype}{': use y.astype(int)' if whole else ''}")
    largest = int(y.max()) if y.size else 0
    if largest >= MOST:
        raise ValueError(f"y must lie in 0 … K−1; got up to {largest}: names, y = numpy.unique(y, return_inverse=True)")
    return y.astype(np.int64), names or tuple(map(str, range(largest + 1)))


def _some(names, most=12):
    return ", ".join(map(repr, names[:most])) + (", …" if len(names) > most else "")


def held_out(y):
    """Which images are the test part where there is none: (n,), bool.

    Of every class a fifth, in a random order that is always the same; one of two to four images; none of one.

    Examples
    --------
    >>> [int(held_out(np.zeros(n)).sum()) for n in (1, 2, 4, 5, 9, 10)]
    [0, 1, 1, 1, 1, 2]
    """
    order = np.random.RandomState(0).permutation(len(y))  # the legacy generator's stream is frozen for good
    test = np.zeros(len(y), dtype=bool)
    for c in np.unique(y):
        of_class = order[y[order] == c]
        test[of_class[: max(len(of_class) // 5, len(of_class) > 1)]] = True
    return test


def read_npz(path):
    """Images and labels of an ``.npz`` file, under any of their usual names.

    Returns
    -------
    train, test : (array, array)
    classes : list of str, or None
    left_out : list of str
        Arrays that nothing is made of.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it is damaged, or lacks an array.
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
        raise ValueError(
            f"{str(path)!r} must be an .npz file with arrays x_train, y_train, x_test, y_test; {why}"
        ) from error


def _parts(file):
    found, left_out = {}, []
    for name in file.files:
        key = _spelled(name)
        if key in found:
            raise ValueError(f"its arrays {found[key]!r} and {name!r} say the same")
        if key is None:
            left_out.append(name)
        else:
            found[key] = name
    classes = found.pop(("classes", "train"), None)
    held = next((part for part in ("test", "val") if ("x", part) in found or ("y", part) in found), None)
    wanted = [("x", "train"), ("y", "train"), *([("x", held), ("y", held)] if held else [])]
    missing = [f"{kind}_{part}" for kind, part in wanted if (kind, part) not in found]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}; it holds {', '.join(file.files) or 'nothing'}")
    left_out += [name for key, name in found.items() if key not in wanted]
    arrays = [file[found[key]] for key in wanted]
    names = None if classes is None else [str(c) for c in file[classes]]
    if len({y.dtype.kind in "iufb" for y in arrays[1::2]}) > 1:
        kinds = " and ".join(str(y.dtype) for y in arrays[1::2])
        raise ValueError(f"its labels must be numbers in both parts, or names in both; they are {kinds}")
    if not held:
        x, y = arrays
        if not x.ndim or x.shape[:1] != y.shape[:1]:
            raise ValueError(f"its labels must be one for each image; the shapes are {x.shape} and {y.shape}")
        test = held_out(labels(y, names)[0])
        arrays = [x[~test], y[~test], x[test], y[test]]
    return (*zip(arrays[::2], arrays[1::2], strict=True), names, left_out)


def _spelled(name):
    """Which array it is by its name: ("x", "train") for "X_train", "train_images", "images", … ; None if none."""
    letters = re.sub("[^a-z]", "", name.lower())
    for part, spellings in (("train", ("training", "train")), ("test", ("testing", "test")),
                            ("val", ("validation", "valid", "val")), ("train", ("",))):  # fmt: skip
        for spelling in spellings:
            if spelling in letters and letters.replace(spelling, "", 1) in KINDS:
                return KINDS[letters.replace(spelling, "", 1)], part
    return None
