"""Sets for other tools, and from them: folders of PNG, npz, safetensors, and the files of the published codes."""

import io
import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from . import files
from .data import LabeledImages
from .decoding import decode

KNOWN = ".npz, .safetensors or .pt"
TENSORS = ("images", "labels", "mean", "std")
CARD = "dataset.json"  # beside the folders of classes: what images can't say
PUBLISHED = {  # mean and std by which the published code normalises each data set, under the data set's name here
    "mnist5k": ((0.1307,), (0.3081,)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2861,), (0.3530,)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
}


class Cost(NamedTuple):
    """What a file changed in a set's pixels, in units of [0, 1].

    ``outside`` is the share of pixels outside [0, 1]; all pixels reach from ``low`` to ``high``. ``clipping`` is the
    change of those outside, as the root of its mean square over all pixels; ``rounding`` the largest change of another.
    """

    outside: float
    low: float
    high: float
    clipping: float
    rounding: float

    def __str__(self):
        return (f"{self.outside:.1%} of the pixels lie outside [0, 1], from {self.low:.2f} to {self.high:.2f}: changed "
                f"by {self.clipping:.2g} (root of the mean square over all pixels), the others by {self.rounding:.2g} "
                "at most")


def cost(before, after):
    """Compare a set with what came out of a file, image by image: a `Cost`.

    The same images in the same order, perhaps normalised differently; a ValueError if shape, labels or classes differ.

    Examples
    --------
    >>> from dmtutor import from_arrays
    >>> one = from_arrays(np.array([[[0.0, 0.5], [1.0, 0.5]]]), [0])
    >>> brighter = replace(one, images=one.images + 0.25 / one.std)
    >>> print(cost(brighter, one))
    25.0% of the pixels lie outside [0, 1], from 0.25 to 1.25: changed by 0.12 (root of the mean square over all \
pixels), the others by 0.25 at most
    """
    if before.images.shape != after.images.shape or before.classes != after.classes:
        raise ValueError(f"after must be the same images in the same classes; got {after} for {before}")
    if not torch.equal(before.labels, after.labels):
        raise ValueError("after must have the labels of before, in their order")
    x, y = before.pixels, after.pixels
    outside = (x < -1e-6) | (x > 1 + 1e-6)  # what was exactly 1 before it was normalised may come back a little larger
    clipping, rounding = (y - x) * outside, (y - x) * ~outside
    values = outside.double().mean(), x.min(), x.max(), clipping.square().mean().sqrt(), rounding.abs().max()
    return Cost(*map(float, values))


def export(data, path):
    """Write a set for other tools, in the format that the path's suffix names; then read it again and compare.

    It returns a `Cost`, by what the file's pixels differ from those of the set.

    ``name`` without a suffix
        A folder of PNG, ``00000_zero/00000.png``: 8 bits a pixel of [0, 1], what lies outside is clipped. The number
        keeps the order of the classes with readers that sort folders by name, as torchvision's ``ImageFolder`` does
        (that one makes grey images RGB, unless told otherwise). ``dataset.json`` beside them holds classes, mean, std.
    ``name.npz``
        NumPy arrays: ``images`` (n, C, H, W), normalised; ``labels`` (n,), int64; ``mean`` and ``std`` (C,), of pixels
        in [0, 1]; ``classes``; and ``meta``, JSON. Nothing is lost.
    ``name.safetensors``
        The same tensors; classes and meta are JSON under ``dmtutor`` in the file's metadata. Nothing is lost. The
        package safetensors is needed.
    ``name.pt``
        What the published code writes, ``{"data": [[images, labels]], "accs_all_exps": {}}`` in float32, with classes,
        mean, std and meta as further keys. The images are normalised as that code normalises the data set of
        ``data.meta["name"]``, or if it has none of this name, as they are here: then its ``get_dataset`` must use this
        set's mean and std.

    Folders and ``name.pt`` hold the images sorted by class. Stored images are written decoded: :func:`~dmtutor.decode`.

    Parameters
    ----------
    data : LabeledImages
        Tensors in its ``meta`` come back as lists.
    path : path
        A folder must be new; another file is replaced, when the new one is whole. A ValueError, before anything is
        written, if the suffix is none of these, if pixels are NaN or infinite, if the format can't hold the set, or if
        nothing can be written there; an ImportError if the package safetensors is needed and missing.

    References
    ----------
    ``main_DM.py`` and ``get_dataset`` of https://github.com/VICO-UoE/DatasetCondensation;
    https://github.com/huggingface/safetensors.

    Examples
    --------
    >>> import tempfile
    >>> from dmtutor import results
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(export(results.images("mnist5k_dm_1"), f"{folder}/digits"))
    81.9% of the pixels lie outside [0, 1], from -0.61 to 2.14: changed by 0.15 (root of the mean square over all \
pixels), the others by 0.002 at most
    """
    path = check_export(path)
    data = decode(data.to("cpu"))
    if not torch.isfinite(data.images[:]).all():
        raise ValueError("data must hold no NaN or infinite pixels")
    sort, write, _ = FORMATS[path.suffix]
    data = data.select(torch.cat(data.rows_of_class)) if sort else data
    write(data, path)
    return cost(data, load_exported(path))


def load_exported(path):
    """Read what :func:`export` wrote, in any of its formats: :class:`LabeledImages`. No code from the file is run.

    A FileNotFoundError or ValueError if there is nothing at ``path``, or it is damaged, or not from :func:`export`; an
    ImportError if the package safetensors is needed and missing.

    Examples
    --------
    >>> import tempfile
    >>> from dmtutor import results
    >>> digits = results.images("mnist5k_dm_1")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = export(digits, f"{folder}/digits.npz")
    ...     torch.equal(load_exported(f"{folder}/digits.npz").images, digits.images)
    True
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"path must be a folder or end in {KNOWN}; got {str(path)!r}")
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {str(path)!r}")
    try:
        return LabeledImages.from_dict(FORMATS[path.suffix][2](path))
    except ImportError:
        raise
    except Exception as error:  # each format is damaged in its own ways
        reason = " ".join(str(error).split())
        if isinstance(error, KeyError | FileNotFoundError):
            lacking = Path(error.filename).name if isinstance(error, FileNotFoundError) else error.args[0].split()[0]
            reason = f"it lacks {lacking}"
        advice = "; files of the published code are read by load_published" if path.suffix == ".pt" else ""
        raise ValueError(f"{str(path)!r} was not written by export, or it is damaged: {reason}{advice}") from error


def read_set(path):
    """Read a set, in the format of :meth:`LabeledImages.save` or in any of those of :func:`export`."""
    try:
        data = load_exported(path)
    except (ValueError, OSError):
        if Path(path).suffix not in (".pt", ".pth"):
            raise
        data = LabeledImages.load(path)
    if not len(data):
        raise ValueError(f"a set must hold images; {str(path)!r} has none")
    return data


def check_export(path, name="path"):
    """Raise a ValueError if :func:`export` can't write at ``path``; meant for before the work starts."""
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"{name} must be a new folder, without a dot, or end in {KNOWN}; got {str(path)!r}")
    if path.suffix == ".safetensors":
        _safetensors()
    return files.check_output(path, name) if path.suffix else files.check_new_folder(path, name)


def load_published(path, *, like, mean=None, std=None):
    """Read the sets that the published codes write: a list of `LabeledImages`; no code from the file is run.

    Either ``res_*.pt`` of DatasetCondensation: ``{"data": [[images, labels], ...]}``, a pair for each experiment. Or
    the images of a pair of files, ``images_best.pt`` beside ``labels_best.pt``, as trajectory matching writes them.
    Neither says how its pixels were normalised. The sets are normalised as in the file: judge them on
    ``test.normalized_like(sets[0])``. A FileNotFoundError or ValueError if files are missing or damaged, shapes or
    labels do not fit ``like``, labels are soft, pixels are whitened or not normalised, or mean and std are not known.

    Parameters
    ----------
    path : path
        Of ``res_*.pt``, or of the images.
    like : LabeledImages
        Real images, say: gives classes, shape, and name and augmentation of the data set.
    mean, std : sequence of float, optional
        By which the code that made the file normalised. Those of the published code for the data set of ``like`` if
        left out: they are not always those of the images.

    References
    ----------
    ``main_DM.py`` of https://github.com/VICO-UoE/DatasetCondensation; ``distill.py`` of
    https://github.com/GeorgeCazenavette/mtt-distillation.

    Examples
    --------
    >>> import tempfile
    >>> from dmtutor import load
    >>> train, _ = load("mnist5k")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pair = [train.images[:20], train.labels[:20]]
    ...     torch.save({"data": [pair, pair], "accs_all_exps": {}}, f"{folder}/res_DM_MNIST_ConvNet_2ipc.pt")
    ...     load_published(f"{folder}/res_DM_MNIST_ConvNet_2ipc.pt", like=train)[1]
    LabeledImages(20 images of 1×28×28, 10 classes)
    """
    if (mean is None) != (std is None):
        raise ValueError(f"mean and std must be given together; got {mean!r} and {std!r}")
    if mean is None:
        if like.built_in_name not in PUBLISHED:
            raise ValueError(f"mean and std are required: the published code has no data set {like.built_in_name!r}")
        mean, std = PUBLISHED[like.built_in_name]
    mean, std = (torch.as_tensor(values, dtype=torch.float32) for values in (mean, std))
    path = Path(path)
    content = _torch_load(path)
    if isinstance(content, torch.Tensor):
        if "images" not in path.name:
            raise ValueError(f"path of a tensor must have images in its name, and labels beside; got {str(path)!r}")
        for whitened in path.parent.glob("images_zca_*.pt"):
            raise ValueError(f"{str(path)!r} is of a run on whitened images, as {whitened.name} says: networks trained "
                             "on it expect test images that are whitened by the same matrix")
        pairs = [(content, _torch_load(path.with_name(path.name.replace("images", "labels"))))]
    else:
        try:
            pairs = [(images, labels) for images, labels in content["data"]]
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{str(path)!r} must hold pairs of images and labels under 'data', or a tensor of "
                             "images; a set of this library is read by LabeledImages.load") from None
    return [_published_set(*pair, like, mean, std, path) for pair in pairs]


def _published_set(images, labels, like, mean, std, path):
    if not isinstance(images, torch.Tensor) or images.shape[1:] != like.images.shape[1:]:
        raise ValueError(f"{str(path)!r} must hold images of {tuple(like.images.shape[1:])}, as those of like; "
                         f"got {tuple(getattr(images, 'shape', ()))}")
    if not isinstance(labels, torch.Tensor) or labels.is_floating_point():
        got = f"{labels.dtype}, {tuple(labels.shape)}" if isinstance(labels, torch.Tensor) else f"{type(labels)}"
        raise ValueError(f"{str(path)!r} must have one integer per image as labels, not soft ones; got {got}")
    if not torch.isfinite(images).all():
        raise ValueError(f"{str(path)!r} holds NaN or infinite pixels")
    if images.min() >= 0:
        raise ValueError(f"{str(path)!r} must hold normalised images; got no negative number, as of pixels in [0, 1]")
    meta = {name: like.meta[name] for name in ("name", "augment") if name in like.meta}
    return LabeledImages(images=images.detach().float(), labels=labels.long(), classes=like.classes, mean=mean, std=std,
                         meta=meta)


def _torch_load(path):
    """Tensors and plain types, and the NumPy numbers that the published code puts beside its images."""
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {str(path)!r}")
    scalar, (dtype, _) = np.float64(0).__reduce__()
    known = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")] + [np.dtype, type(dtype)]
    try:
        with torch.serialization.safe_globals(known), warnings.catch_warnings(action="ignore"):  # of what is refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{str(path)!r} is damaged, or holds more than tensors ({type(error).__name__})") from error


# The formats ---------------------------------------------------------------------------------------------------------

def _json(value):
    return json.dumps(value, default=torch.Tensor.tolist, ensure_ascii=False)


def _tensors(data):
    return {name: getattr(data, name)[:].contiguous().clone() for name in TENSORS}


def _write_folder(data, path):
    from PIL import Image

    channels = data.images.shape[1]
    if channels not in (1, 3):
        raise ValueError(f"data must have 1 or 3 channels to be written as PNG; got {channels}")
    empty = [name for name, count in zip(data.classes, data.counts, strict=True) if not count]
    if empty:
        raise ValueError(f"data must have images of every class to be written as folders; none of {', '.join(empty)}")
    pixels = data.pixels.clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()  # (n, H, W, C)
    card = {"classes": data.classes, "counts": data.counts.tolist(), "mean": data.mean.tolist(),
            "std": data.std.tolist(), "meta": data.meta}
    with files.new_folder(path) as folder:
        for c, (name, rows) in enumerate(zip(data.classes, data.rows_of_class, strict=True)):
            plain = re.sub(r"[^\w.-]", "_", name)[:60]
            of_class = folder / f"{c:05d}_{plain}"
            of_class.mkdir()
            for i, image in enumerate(pixels[rows.numpy()]):
                Image.fromarray(image[..., 0] if channels == 1 else image).save(of_class / f"{i:05d}.png")
        (folder / CARD).write_text(_json(card) + "\n", encoding="utf-8")


def _read_folder(path):
    from PIL import Image

    card = json.loads((path / CARD).read_text(encoding="utf-8"))
    folders = sorted(child for child in path.iterdir() if child.is_dir())
    if [folder.name[:6] for folder in folders] != [f"{c:05d}_" for c in range(len(card["classes"]))]:
        raise ValueError(f"its folders are not those of the {len(card['classes'])} classes in {CARD}")
    arrays, labels = [], []
    for c, folder in enumerate(folders):
        for file in sorted(folder.glob("*.png")):
            with Image.open(file) as image:
                if image.mode != {1: "L", 3: "RGB"}[len(card["mean"])]:
                    raise ValueError(f"{folder.name}/{file.name} is of mode {image.mode}")
                arrays.append(np.atleast_3d(np.asarray(image)))  # (H, W, C)
            labels.append(c)
    found = np.bincount(labels, minlength=len(folders)).tolist()
    if found != card.get("counts", found):
        c = next(c for c, count in enumerate(card["counts"]) if count != found[c])
        raise ValueError(f"{folders[c].name} must hold {card['counts'][c]} images; it holds {found[c]}")
    mean, std = (torch.tensor(card[name], dtype=torch.float32) for name in ("mean", "std"))
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous().float().div_(255)
    images.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))
    return {**card, "images": images, "labels": torch.tensor(labels), "mean": mean, "std": std}


def _write_npz(data, path):
    arrays = {name: tensor.numpy() for name, tensor in _tensors(data).items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, classes=np.array(data.classes), meta=np.array(_json(data.meta)))
    files.write_bytes(buffer.getbuffer(), path)


def _read_npz(path):
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in TENSORS}
        return {**tensors, "classes": arrays["classes"].tolist(), "meta": json.loads(str(arrays["meta"]))}


def _safetensors():
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("the package safetensors is required for this format: pip install safetensors") from error
    return safetensors


def _write_safetensors(data, path):
    card = _json({"classes": data.classes, "meta": data.meta})
    files.write_bytes(_safetensors().torch.save(_tensors(data), metadata={"dmtutor": card}), path)


def _read_safetensors(path):
    with _safetensors().safe_open(path, framework="pt") as file:
        return {**{name: file.get_tensor(name) for name in TENSORS}, **json.loads(file.metadata()["dmtutor"])}


def _write_published(data, path):
    mean, std = (torch.tensor(values) for values in PUBLISHED.get(data.built_in_name, ((), ())))
    if len(mean) == len(data.mean) and not (torch.equal(mean, data.mean) and torch.equal(std, data.std)):
        data = data.normalized_like(replace(data, mean=mean, std=std))
    tensors = _tensors(data.to(dtype=torch.float32))
    pair = [tensors.pop("images"), tensors.pop("labels")]
    card = {"classes": list(data.classes), "meta": data.meta}
    files.write({"data": [pair], "accs_all_exps": {}, **tensors, **card}, path)


def _read_published(path):
    content = _torch_load(path)
    [(images, labels)] = content["data"]
    return {**content, "images": images, "labels": labels}


FORMATS = {  # suffix: whether it holds images sorted by class, how it is written, how it is read
    "": (True, _write_folder, _read_folder),
    ".npz": (False, _write_npz, _read_npz),
    ".safetensors": (False, _write_safetensors, _read_safetensors),
    ".pt": (True, _write_published, _read_published),
}
