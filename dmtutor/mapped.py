"""Images that stay on disk as they are, 8 bits a number, and are normalised as they are read."""

import hashlib
import mmap
from dataclasses import dataclass, replace

import numpy as np
import torch

CPU = torch.device("cpu")
ROWS = 64  # images here and there that are read at once
CHUNK = 10_000  # images that are read at once where all are


@dataclass(frozen=True, eq=False)
class MappedImages:
    """The images of :class:`~dmtutor.LabeledImages` where they are more than should be in memory.

    ``images[rows]`` is a tensor, normalised, the same bits as from images that are in memory; nothing else is read.
    Shape, dtype and device are those of the tensors.

    Parameters
    ----------
    pixels : array, (N, C, H, W), uint8
        Usually mapped: ``numpy.load(path, mmap_mode="r")``. All processes of a machine that map a file share it.
    mean, std : Tensor, (C,), float32
        In units of [0, 1].
    rows : array, (n,), int64, optional
        Which images these are, and in which order; all if None.
    device, dtype : optional
        Of the tensors that are read.
    digest : str, optional
        The :func:`fingerprint` of ``pixels``, if it is known.

    Examples
    --------
    >>> pixels = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 1, 2, 2)
    >>> images = MappedImages(pixels, torch.zeros(1), torch.ones(1) / 255)
    >>> images.shape, images[torch.tensor([2])].flatten()
    (torch.Size([3, 1, 2, 2]), tensor([ 8.,  9., 10., 11.]))
    """

    pixels: np.ndarray
    mean: torch.Tensor
    std: torch.Tensor
    rows: np.ndarray | None = None
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    digest: str | None = None

    ndim = 4

    def __post_init__(self):
        self._advise("MADV_RANDOM")  # rows are read here and there: the system should not read on

    def _advise(self, advice):
        """Tell the system how a mapped file is used, where it listens."""
        file = getattr(self.pixels, "_mmap", None)
        if file is not None and self.pixels.mode == "r" and hasattr(mmap, advice):
            file.madvise(getattr(mmap, advice))

    def __len__(self):
        return len(self.pixels) if self.rows is None else len(self.rows)

    @property
    def shape(self):
        return torch.Size((len(self), *self.pixels.shape[1:]))

    def __getitem__(self, rows):
        if isinstance(rows, torch.Tensor):
            rows = rows.cpu().numpy()
        if self.rows is not None:
            rows = self.rows[rows]
        read = torch.from_numpy(self._read(rows)).to(self.device)
        mean, std = (values.to(self.device).view(-1, 1, 1) for values in (self.mean, self.std))
        return read.to(torch.float32).div_(255).sub_(mean).div_(std).to(self.dtype)

    @property
    def fingerprint(self):
        """The :func:`fingerprint` of the images, without reading them where ``digest`` is known."""
        rows = np.arange(len(self)) if self.rows is None else self.rows
        known = self.pixels if self.digest is None else np.array([self.digest])
        return fingerprint(known, rows, self.mean.cpu().numpy(), self.std.cpu().numpy())

    def _read(self, rows):
        """A copy of these pixels, some at a time: what was read stays in the system's cache, not in the process."""
        if isinstance(rows, np.ndarray) and rows.dtype != bool and len(rows) > ROWS:
            return np.concatenate([self._read(part) for part in np.split(rows, range(ROWS, len(rows), ROWS))])
        read = np.array(self.pixels[rows])
        self._advise("MADV_DONTNEED")
        return read

    def split(self, size):
        """The images in parts of ``size``, read one after the other."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def select(self, rows):
        """Some of the images, (n,) integers or booleans, still on disk."""
        own = np.arange(len(self)) if self.rows is None else self.rows
        return replace(self, rows=own[rows.cpu().numpy()])

    def to(self, device=None, dtype=None):
        """The same images, to be read as tensors of another device or type."""
        return replace(self, device=torch.device(device or self.device), dtype=dtype or self.dtype)


def fingerprint(*arrays):
    """16 hexadecimal digits that another number, shape, type or order of these arrays would change.

    Examples
    --------
    >>> fingerprint(np.arange(3)) == fingerprint(np.arange(3)), fingerprint(np.arange(3)) == fingerprint(np.arange(4))
    (True, False)
    """
    made = hashlib.sha256()
    for array in map(np.atleast_1d, arrays):
        made.update(f"{array.dtype.str} {array.shape}".encode())
        for start in range(0, len(array), CHUNK):
            made.update(array[start : start + CHUNK].tobytes())
    return made.hexdigest()[:16]


def mean_and_std(pixels):
    """Mean and deviation of every channel of 8-bit images, exactly: from how often each of the 256 values occurs.

    ``pixels`` is an array, (n, C, H, W), uint8; the two are tensors, (C,), float32, in units of [0, 1]. A constant
    channel has a deviation of 1.

    Examples
    --------
    >>> mean_and_std(np.array([0, 255], dtype=np.uint8).reshape(2, 1, 1, 1))
    (tensor([0.5000]), tensor([0.5000]))
    """
    counts = np.zeros((pixels.shape[1], 256))
    for start in range(0, len(pixels), CHUNK):
        part = np.array(pixels[start : start + CHUNK])
        for channel, row in enumerate(counts):
            row += np.bincount(part[:, channel].ravel(), minlength=256)
    values = np.float64(np.arange(256, dtype=np.float32) / np.float32(255))  # as the pixels are read
    shares = counts / counts.sum(1, keepdims=True)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(1)
    std = torch.from_numpy(variance**0.5).float()
    std[std == 0] = 1
    return torch.from_numpy(mean).float(), std
