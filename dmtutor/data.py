"""Labelled images, real or synthetic: one type, and what is asked of it."""

from dataclasses import dataclass, field, replace

import torch

from . import files
from .checks import check_device, check_generator, check_ipc_field, check_positive
from .mapped import CHUNK, MappedImages, fingerprint


@dataclass(frozen=True, kw_only=True, eq=False)
class LabeledImages(torch.utils.data.Dataset):
    """Images with labels, and all that is needed to show, save and compare them.

    Synthetic sets are of this type too, sorted by class, so that classes may differ in size.

    It is a data set of torch as well: item i is the pair of ``images[i]``, normalised, and ``labels[i]``, so
    ``DataLoader(data, batch_size=50, shuffle=True)`` gives batches. Real images to test on must be normalised by the
    same ``mean`` and ``std``: :meth:`normalized_like`. A program that normalises by itself takes
    ``TensorDataset(data.pixels, data.labels)``. A ValueError if shapes or labels do not fit together.

    Parameters
    ----------
    images : Tensor, (n, C, H, W), floating
        Normalised: (pixel − mean) / std, pixels in [0, 1]. Or :class:`~dmtutor.mapped.MappedImages`, read from disk.
    labels : Tensor, (n,), int64
        In 0 … K−1.
    classes : tuple of str
        The K names.
    mean, std : Tensor, (C,)
        What the pixels were normalised by.
    meta : dict
        Plain types and tensors: name, default augmentation, configuration, seed, versions. Of the real images
        ``built_in``, whether they are the library's own, and ``fingerprint``, which other images would change.

    Examples
    --------
    >>> from dmtutor import from_arrays
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
        if self.images.ndim != 4 or not self.images.dtype.is_floating_point:
            raise ValueError(f"images must be a floating tensor (n, C, H, W); got {tuple(self.images.shape)} "
                             f"{self.images.dtype}")
        check_labels(self.labels, len(self.images), len(self.classes))
        for name in ("mean", "std"):
            if getattr(self, name).shape != (self.images.shape[1],):
                raise ValueError(f"{name} must hold one number per channel, {self.images.shape[1]}; "
                                 f"got shape {tuple(getattr(self, name).shape)}")
        if not isinstance(self.meta, dict):
            raise ValueError(f"meta must be a dict; got {self.meta!r}")

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if self.meta.get("factor", 1) > 1:
            raise ValueError("these images hold several each: take decode(data), which has them one by one")
        return self.images[index], self.labels[index]

    def __repr__(self):
        n, c, h, w = self.images.shape
        return f"LabeledImages({n} images of {c}×{h}×{w}, {len(self.classes)} classes)"

    @property
    def counts(self):
        """Images in each class: Tensor, (K,), int64."""
        return torch.bincount(self.labels, minlength=len(self.classes))

    @property
    def built_in_name(self):
        """The name of the library's data set that the images are of or were made of, or None: a folder may have any."""
        return self.meta.get("name") if self.meta.get("built_in", True) else None

    @property
    def rows_of_class(self):
        """Which images are of each class, in their order: K tensors (n_c,), int64."""
        return self.labels.argsort(stable=True).split(self.counts.tolist())

    @property
    def fingerprint(self):
        """16 hexadecimal digits that any other label, image or order would change."""
        images = self.images
        parts = [images.fingerprint] if isinstance(images, MappedImages) else [i.cpu() for i in images.split(CHUNK)]
        return fingerprint(self.labels.cpu(), *parts)

    @property
    def pixels(self):
        """Images × std + mean: Tensor, (n, C, H, W), in [0, 1] for real images. Not clamped."""
        return self.images[:] * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)

    def of_class(self, c):
        """Images of class ``c``: Tensor, (m, C, H, W). A ValueError if there is no such class."""
        if c not in range(len(self.classes)):
            raise ValueError(f"class must be 0 … {len(self.classes) - 1}, got {c!r}")
        return self.images[self.labels == c]

    def select(self, indices):
        """The rows ``indices`` (a tensor of integers or booleans, (m,)), in that order."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def split(self, fraction, *, generator):
        """Divide at random, stratified: (rest, part), the part with ``round(fraction · n_c)`` images of each class c.

        Every setting is chosen on such a part of the training data; the test set is read once. A ValueError if
        ``fraction`` is outside (0, 1), or so small or large that a class of one side would be empty.

        Parameters
        ----------
        fraction : float
            In (0, 1).
        generator : torch.Generator, on the CPU
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must be between 0 and 1, exclusive; got {fraction!r}")
        check_generator(generator)
        cuts = []
        for c, rows in enumerate(self.rows_of_class):
            count = len(rows)
            order = torch.randperm(count, generator=generator)
            cut = round(fraction * count)
            if not 0 < cut < count:
                raise ValueError(f"fraction must leave images of every class on both sides; {fraction} of the {count} "
                                 f"images of class {self.classes[c]!r} is {cut}")
            cuts.append(rows.cpu()[order].split([cut, count - cut]))
        part, rest = (torch.cat(side).sort().values.to(self.labels.device) for side in zip(*cuts, strict=True))
        if isinstance(self.images, MappedImages):  # what is on disk stays there
            return tuple(replace(self, images=self.images.select(i), labels=self.labels[i]) for i in (rest, part))
        return self.select(rest), self.select(part)

    def to(self, device=None, dtype=None):
        """A copy on ``device``, with images, mean and std in ``dtype``."""
        if device is not None:
            check_device(device)
        moved = {k: getattr(self, k).to(device=device, dtype=dtype) for k in ("images", "mean", "std")}
        return replace(self, labels=self.labels.to(device=device), **moved)

    def normalized_like(self, other):
        """The same pixels, normalised by the mean and std of ``other``."""
        if self.images.shape[1:] != other.images.shape[1:]:
            raise ValueError(f"other must hold images of {tuple(self.images.shape[1:])}; got "
                             f"{tuple(other.images.shape[1:])}")
        if self.classes != other.classes:
            ours, theirs = (", ".join(part.classes[:12]) for part in (self, other))
            raise ValueError(f"other must have the same classes; got {theirs} instead of {ours}")
        mean, std = (t.to(self.mean) for t in (other.mean, other.std))
        if isinstance(self.images, MappedImages):
            return replace(self, images=replace(self.images, mean=mean, std=std), mean=mean, std=std)
        return replace(self, images=(self.pixels - mean.view(-1, 1, 1)) / std.view(-1, 1, 1), mean=mean, std=std)

    def quantized(self, bits=8):
        r"""The same images in so many bits a number, evenly spaced from the least to the largest value of the set.

        .. math:: \hat x = a + h \operatorname{round} \frac{x - a}{h}, \qquad h = \frac{\max x - \min x}{2^b - 1},
            \quad a = \min x

        A learned image made of 32-bit numbers takes the room of four photographs, which have 8; with 8, of one. What
        lies outside black and white is kept, and the dtype. No value moves more than h / 2. :meth:`save` writes 8 bits.

        Parameters
        ----------
        bits : int
            1 … 16, else a ValueError.

        Examples
        --------
        >>> from dmtutor import results
        >>> digits = results.images("mnist5k_dm_1")
        >>> len(digits.quantized(2).images.unique()), len(digits.quantized().images.unique()) <= 256
        (4, True)
        """
        codes, low, step = self._codes(bits)
        return replace(self, images=low + step * codes)

    def _codes(self, bits):
        """Images as whole numbers in 0 … 2^bits − 1, of their dtype, and the least value and the step they count."""
        check_positive("bits", bits)
        if bits > 16:
            raise ValueError(f"bits must be in 1 … 16; got {bits}")
        x = self.images[:]
        low, high = x.aminmax()
        step = (high - low) / (2**bits - 1)
        return ((x - low) / step.where(step > 0, 1)).round(), low, step

    def save(self, path, *, eight_bits=False):
        """Write the set to one file, whole or not at all; the same set gives the same bytes.

        A flat dict of plain types and CPU tensors, with no date and no path inside:
        ``torch.load(path, weights_only=True)`` reads it without this library. With ``eight_bits`` it holds the images
        of :meth:`quantized`, a byte a number: images = low + step · bytes, in float32.
        """
        tensors = {"images": self.images[:], "labels": self.labels, "mean": self.mean, "std": self.std}
        if eight_bits:
            codes, low, step = self.to(dtype=torch.float32)._codes(8)
            tensors.update(images=codes.to(torch.uint8), low=low, step=step)
        # Views are cloned: torch.save would write the whole storage behind them.
        cpu = {k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()}
        files.write({**cpu, "classes": list(self.classes), "meta": self.meta}, path)

    @staticmethod
    def load(path):
        """Read a set that :meth:`save` wrote. No code from the file is run.

        A FileNotFoundError or ValueError if there is no such file, or it is damaged, or not a set.
        """
        content = files.read(path, keys=("images", "labels", "classes", "mean", "std", "meta"))
        try:
            if "step" in content:  # a byte a number
                content = {**content, "images": content["low"] + content["step"] * content["images"].float()}
            return LabeledImages.from_dict(content)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{str(path)!r} is not a set of labelled images: {error}") from error

    @staticmethod
    def from_dict(content):
        """The set that a file holds, by a dict of its fields; others are left out."""
        fields = {name: content[name] for name in ("images", "labels", "mean", "std", "meta")}
        data = LabeledImages(classes=tuple(content["classes"]), **fields)
        if not all(torch.isfinite(t).all() for t in (data.images, data.mean, data.std)):
            raise ValueError("it holds NaN or infinite numbers")
        return data


def check_set(data, name, *, whole=False):
    """Raise a TypeError for what is no LabeledImages, with what makes one; where ``whole``, a ValueError for tiles."""
    if not isinstance(data, LabeledImages):
        raise TypeError(f"{name} must be LabeledImages; got {type(data).__name__}: train, test = load(path), or "
                        "from_arrays(x, y), or from_dataset(dataset)")
    if whole and data.meta.get("factor", 1) > 1:
        raise ValueError(f"{name} must be images, not yet stored as tiles; decode({name}) shows those as images")


def check_labels(labels, n, num_classes, name="labels"):
    """Raise a ValueError if ``labels`` are not n integers in 0 … num_classes − 1."""
    if labels.shape != (n,):
        raise ValueError(f"{name} must hold one integer per image, shape ({n},); got {tuple(labels.shape)}")
    if labels.dtype != torch.int64:
        raise ValueError(f"{name} must be int64; got {labels.dtype}")
    low, high = (int(labels.min()), int(labels.max())) if n else (0, 0)
    if n and not 0 <= low <= high < num_classes:
        hint = ": do they count from 1? subtract 1" if low >= 1 and high == num_classes else ""
        raise ValueError(f"{name} must lie in 0 … {num_classes - 1} for {num_classes} classes; got {low} … "
                         f"{high}{hint}")


def check_every_class(real, classes=None):
    """Raise a ValueError if a class, or one of ``classes``, has no image."""
    counts = zip(real.classes, real.counts.tolist(), strict=True)
    none = [name for c, (name, count) in enumerate(counts) if not count and (classes is None or c in classes)]
    if none:
        hint = "do labels count from 1? subtract 1; or number" if none == [real.classes[0]] else "number"
        raise ValueError(f"real must hold images of every class; {len(none)} of {len(real.classes)} have none, "
                         f"{', '.join(map(repr, none[:5]))}{', …' if len(none) > 5 else ''}: {hint} the classes anew, "
                         "names, y = numpy.unique(y, return_inverse=True)")


def check_varied(real):
    """Raise a ValueError if real images have a channel without contrast: nothing would hold a learned one back."""
    constant = real.meta.get("constant", [])
    if len(constant) == len(real.mean):
        raise ValueError(f"real must hold images that differ; got one colour alone, {_values(real.mean)} where white "
                         "is 1: what is transparent is read as white")
    if constant:
        raise ValueError(f"real must vary in every channel; got one value alone in channels {constant}, "
                         f"{_values(real.mean[constant])} where white is 1: make the images grey")


def _values(mean):
    return " ".join(f"{value:.3g}" for value in mean.tolist())


def check_ipc(real, ipc):
    """How many images of each class are asked for, (K,), by an integer or a tuple of one for each class.

    Raises a ValueError if a class has fewer.
    """
    wanted = ipc_by_class(ipc, real.classes)
    missing, c = torch.tensor([n - have for n, have in zip(wanted, real.counts.tolist(), strict=True)]).max(0)
    if missing > 0:
        raise ValueError(f"ipc must be at most {real.counts[c]}, the images of class {real.classes[c]!r}; got "
                         f"{wanted[c]}")
    return wanted


def ipc_by_class(ipc, classes):
    """``ipc`` as a list, one for each class."""
    check_ipc_field(ipc)
    each = list(map(int, ipc)) if isinstance(ipc, tuple) else [int(ipc)] * len(classes)
    if len(each) != len(classes):
        raise ValueError(f"ipc must hold one number for each of the {len(classes)} classes; got {len(each)}: {ipc}")
    return each


def ipc_of_names(ipc, classes):
    """``ipc``, and of {class: number} the numbers in the order of the classes; a ValueError for other classes.

    Examples
    --------
    >>> ipc_of_names({"dog": 3, "cat": 10}, ("cat", "dog"))
    (10, 3)
    """
    if not isinstance(ipc, dict):
        return ipc
    if set(ipc) != set(classes):
        unknown, lacking = [c for c in ipc if c not in classes], [c for c in classes if c not in ipc]
        wrong = f"{unknown[0]!r} is none of them" if unknown else f"it lacks {', '.join(map(repr, lacking[:8]))}"
        raise ValueError(f"ipc must name each class once; {wrong}: {', '.join(classes)}")
    return tuple(ipc[name] for name in classes)


def batches(n, batch_size, generator):
    """Rows of batch after batch without end; each pass over the n images has a new order."""
    while True:
        yield from torch.randperm(n, generator=generator).split(batch_size)
