"""Figures: Axes in, Axes out.

`image_grid`, `curve`, `accuracy_ladder` and `confusion_matrix` draw into ``ax``, a `matplotlib.axes.Axes`, or if it is
left out into one of their own in the book's style, and return it.
"""

import io
import math
import warnings
from contextlib import suppress

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from . import files
from .accuracies import t_interval
from .data import LabeledImages
from .decoding import decode

PAPER, INK = "#fcfbf8", "#222222"

# One colour for one method, in every figure: after Okabe and Ito, darkened until all pairs stay apart in
# colour-blind eyes and all lines on the paper (contrast at least 3:1).
COLORS = {
    "Random": "#8c8c8c",
    "Herding": "#00644b",
    "k-center": "#8a6d00",
    "DD": "#a03a78",
    "DC": "#0072b2",
    "DSA": "#3a9bd9",
    "DM": "#d55e00",
    "Whole set": "#000000",
}

# `plt.style.use(STYLE)` sets it for a whole notebook. The paper is solid, so that one PNG reads on light and
# dark pages; 6 inches wide with 12 point letters, so that it reads on a phone.
STYLE = {
    "figure.figsize": (6, 3.5),
    "figure.dpi": 144,
    "figure.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "savefig.dpi": "figure",
    "savefig.facecolor": PAPER,
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.facecolor": PAPER,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": plt.cycler(color=[COLORS[m] for m in ("DM", "DC", "Herding", "DD", "DSA", "Random")]),
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.color": "#dddad2",
    "grid.linewidth": 0.6,
    "lines.linewidth": 2,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "image.cmap": "gray",
    "image.interpolation": "nearest",
}

GAP = 2  # pixels between the images of a mosaic
MARK = "dmtutor"  # of a contact sheet


def image_grid(images, ax=None, *, columns=None):
    """Show images side by side, as one picture.

    A set is denormalised and sorted by class; where its classes are of one size, each starts a new row, or has one cell
    if it has one image, and is named. What lies outside [0, 1], more contrast than can be shown, is clamped.

    Parameters
    ----------
    images : LabeledImages, or Tensor (n, C, H, W)
        A tensor holds pixels in [0, 1]; C is 1 or 3. A TypeError or ValueError for others, for none and for NaN.
    ax : matplotlib.axes.Axes, optional
    columns : int, optional
        Images in a row. Default: the images of a class, if it has several; else all n up to 10, and of more ⌈√n⌉.

    Examples
    --------
    >>> ax = image_grid(torch.rand(12, 1, 28, 28), columns=6)
    >>> ax.images[0].get_array().shape        # 2 rows of 28 pixels, 6 columns, 2 pixels between
    (58, 178)
    """
    pixels, columns, per_class = arrange(images, columns)
    picture = mosaic(pixels, columns)
    rows = math.ceil(len(pixels) / columns)
    height, width = pixels.shape[2:]
    if ax is None:
        cell = 0.6 * min(1, 10 / columns)  # inches; the picture is at most 6 wide
        room = 0.2 + 0.1 * max(map(len, getattr(images, "classes", [""])))  # for the names
        ax = new_axes(figsize=(cell * columns + room, cell * rows * height / width + room))
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    bare(ax)
    ax.set(xticks=[], yticks=[])
    if per_class == 1 and rows == 1:
        long = max(map(len, images.classes)) > 6
        turn = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if long else {}
        ax.set_xticks((width + GAP) * (np.arange(columns) + 0.5), images.classes, **turn)
    elif per_class == 1 and columns > 1:
        for i, name in enumerate(images.classes):
            place = (width + GAP) * (i % columns), (height + GAP) * (i // columns)
            short = name if len(name) <= 10 else f"{name[:9]}…"
            ax.text(*place, short, fontsize=6, va="top", color=INK,
                    bbox={"facecolor": PAPER, "alpha": 0.8, "linewidth": 0, "pad": 0.5})
    elif per_class and per_class % columns == 0:
        band = (height + GAP) * per_class // columns
        ax.set_yticks(band * (np.arange(len(images.classes)) + 0.5), images.classes)
    return ax


def contact_sheet(data, path, *, title="", most=10):
    """Write a set as a PNG, and say what it shows: a row for each of up to 100 classes, its name and ``most`` images.

    Stored images are shown decoded. ``title`` stands above, and how many pixels were clamped to [0, 1].

    Examples
    --------
    >>> import tempfile
    >>> from dmtutor import results
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     contact_sheet(results.images("mnist5k_dm_1"), f"{folder}/digits.png")
    'an image of each class, 81.9% of the pixels lie outside [0, 1] and are clamped'
    """
    k = min(100, len(data.classes))
    rows = [rows[:most] for rows in data.rows_of_class[:k]]
    n = max(map(len, rows))
    shown = decode(data.select(torch.cat(rows)).to("cpu"))
    clamped = ((shown.pixels < -1e-6) | (shown.pixels > 1 + 1e-6)).double().mean()
    n *= len(shown) // sum(map(len, rows))  # of each class, once decoded
    pixels = torch.ones(k * n, *shown.images.shape[1:])  # white where a class has fewer
    place = torch.cat([c * n + torch.arange(int(m)) for c, m in enumerate(shown.counts[:k])])
    pixels[place] = shown.pixels.float()
    names = [c if c.isprintable() else ascii(c)[1:-1] for c in data.classes[:k]]
    channels = pixels.shape[1]
    grid = LabeledImages(images=pixels, labels=torch.arange(k).repeat_interleave(n), mean=torch.zeros(channels),
                         std=torch.ones(channels), classes=tuple(name.replace("$", r"\$")[:40] for name in names))
    notes = [f"{clamped:.1%} of the pixels lie outside [0, 1] and are clamped"] if clamped else []
    many = f"{n} images of a class" if min(shown.counts[:k]) == n else f"up to {n} images of a class"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks
        ax = image_grid(grid)
        ax.set_title("\n".join([title.replace("$", r"\$"), *notes]).strip(), fontsize=7, loc="left")
        wide = (pixels.shape[3] + GAP) * n / ax.figure.get_figwidth()
        buffer = io.BytesIO()
        ax.figure.savefig(buffer, format="png", bbox_inches="tight", dpi=max(144, min(300, wide)),
                          metadata={"Software": MARK})
        plt.close(ax.figure)
    files.write_bytes(buffer.getbuffer(), path)
    return ", ".join([many if n > 1 else "an image of each class", *notes])


def is_sheet(path):
    """Whether there is a file that :func:`contact_sheet` wrote."""
    with suppress(OSError, ValueError), Image.open(path) as picture:
        return picture.info.get("Software") == MARK
    return False


def curve(x, values, ax=None, *, label, color=None):
    """Draw a curve, of several runs their mean with a band.

    The band is Student's 95 % interval of the mean over runs, mean ± t₀.₉₇₅(runs − 1) · s / √runs, at each x apart.
    Scales, labels and legend are the caller's. A ValueError if ``values`` does not fit ``x``.

    Parameters
    ----------
    x : array, (n,)
    values : array, (n,) or (runs, n)
    ax : matplotlib.axes.Axes, optional
    label : str
        For the legend. One that starts with a name in ``COLORS`` has that method's colour; the whole set is dashed.
    color : optional
        Any colour of matplotlib's.

    Examples
    --------
    >>> ax = curve([1, 10, 50], [[0.5, 0.7, 0.8], [0.6, 0.7, 0.9]], label="Random")
    >>> ax.lines[0].get_ydata().round(2).tolist()
    [0.55, 0.7, 0.85]
    """
    x, values = to_array(x), to_array(values)
    if x.ndim != 1 or values.ndim not in (1, 2) or values.shape[-1] != len(x) or 0 in values.shape:
        raise ValueError(f"values must be (n,) or (runs, n) where x is (n,); got {values.shape}, x {x.shape}")
    ax = ax if ax is not None else new_axes()
    runs = np.atleast_2d(values)
    dashes = "--" if label.lower().startswith("whole set") else "-"
    (line,) = ax.plot(x, runs.mean(0), dashes, label=label, color=color or method_color(label))
    if len(runs) > 1:
        low, high = zip(*(t_interval(torch.from_numpy(column)) for column in runs.T), strict=True)
        ax.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    return ax


def accuracy_ladder(results, ax=None):
    """Compare test accuracies: a row each, with a dot for every set, the mean, and its interval.

    The numbers at the right are the mean and its interval in per cent. A result of one set says nothing about
    other sets of its kind: its interval is over networks, and is marked so.

    Parameters
    ----------
    results : dict of str to Accuracies
        At least one, from the top in this order. A name that starts with one in ``COLORS`` has that method's colour.
    ax : matplotlib.axes.Axes, optional

    Examples
    --------
    >>> from dmtutor.evaluation import Accuracies
    >>> right = torch.arange(100) < torch.tensor([91, 92, 93]).view(3, 1, 1)  # 3 sets, 1 network, 100 images
    >>> ax = accuracy_ladder({"DM": Accuracies(right)})
    >>> ax.texts[0].get_text()
    '92.0 [89.5, 94.5]'
    """
    if not results:
        raise ValueError("results must hold at least one result; got none")
    ax = ax if ax is not None else new_axes(figsize=(6, 0.8 + 0.45 * len(results)))
    for y, (name, result) in enumerate(results.items()):
        color = method_color(name) or INK
        values = 100 * to_array(result.values)  # (sets, networks)
        mean, low, high = (100 * float(v) for v in (result.mean, *result.interval))
        ax.plot(values.mean(1), [y] * len(values), "o", color=color, alpha=0.4, ms=5, mew=0)
        text = f"{mean:.1f}"
        if math.isfinite(low) and math.isfinite(high):
            ax.plot([low, high], [y, y], color=color, linewidth=2, solid_capstyle="butt")
            text += f" [{low:.1f}, {high:.1f}]" + ("*" if len(values) == 1 else "")
        ax.plot(mean, y, "|", color=color, ms=15, mew=2.5)
        ax.text(1.03, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=11, color=INK)
    ax.set_yticks(range(len(results)), list(results))
    ax.set_ylim(len(results) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    over_networks = any(len(result.values) == 1 for result in results.values())
    ax.set_xlabel("test accuracy, %" + ("\n* one set: interval over networks only" if over_networks else ""))
    return ax


def confusion_matrix(result, ax=None):
    """Show which classes are taken for which: a row for each true class, a column for each that networks saw.

    Cells hold per cent of the row's images, mean over sets and networks; numbers are written where there is room, for
    up to 12 classes. A class without test images has an empty row.

    Parameters
    ----------
    result : Accuracies
        Of :func:`~dmtutor.evaluate`; a stored one does not know what was seen, and is a ValueError.
    ax : matplotlib.axes.Axes, optional

    Examples
    --------
    >>> from dmtutor.evaluation import Accuracies
    >>> seen, labels = torch.tensor([[[0, 1, 1, 1]]]), torch.tensor([0, 0, 1, 1])
    >>> ax = confusion_matrix(Accuracies(seen == labels, labels=labels, predicted=seen, classes=("cat", "dog")))
    >>> [text.get_text() for text in ax.texts]
    ['50', '50', '0', '100']
    """
    shares = 100 * result.confusion.numpy()
    names = list(result.classes) or [str(c) for c in range(len(shares))]
    side = 1.5 + 0.45 * min(len(names), 12)
    ax = ax if ax is not None else new_axes(figsize=(side + 0.5, side))
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    if len(names) <= 12:
        for (row, column), share in np.ndenumerate(shares):
            if np.isfinite(share):
                ax.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=9,
                        color="white" if share > 60 else INK)
    every = range(0, len(names), math.ceil(len(names) / 25))  # more names would not be legible
    ax.set_xticks(every, [names[c] for c in every], rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(every, [names[c] for c in every])
    bare(ax)
    ax.set(xlabel="seen as", ylabel="class")
    return ax


def mosaic(pixels, columns):
    """Join images, (n, C, H, W) in [0, 1], to one: array (H′, W′) or (H′, W′, 3), white between. Clamps."""
    rows = math.ceil(len(pixels) / columns)
    channels, height, width = pixels.shape[1:]
    cells = torch.ones(rows * columns, channels, height + GAP, width + GAP)
    cells[: len(pixels), :, :height, :width] = pixels.detach().clamp(0, 1)
    picture = cells.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2)  # (rows, H, columns, W, C)
    picture = picture.reshape(rows * (height + GAP), columns * (width + GAP), channels)
    return picture[:-GAP, :-GAP].squeeze(-1).numpy()


def arrange(images, columns=None):
    """Pixels in the order of showing, (n, C, H, W); columns; images per class, or None."""
    pixels, per_class = getattr(images, "pixels", images), None
    if not isinstance(pixels, torch.Tensor):
        raise TypeError(f"images must be LabeledImages or a tensor; got {type(images).__name__}")
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or not len(pixels):
        raise ValueError(f"images must be (n, C, H, W) with n ≥ 1 and C = 1 or 3; got {tuple(pixels.shape)}")
    if not pixels.is_floating_point() or pixels.isnan().any():
        nan = int(pixels.isnan().sum())
        raise ValueError(f"images must be floating, without NaN; got {pixels.dtype} with {nan} NaN")
    if columns is not None and columns < 1:
        raise ValueError(f"columns must be at least 1; got {columns}")
    if pixels is not images:
        pixels = pixels[images.labels.argsort(stable=True)]
        if len(set(images.counts.tolist())) == 1:
            per_class = int(images.counts[0])
    n = len(pixels)
    if columns is None:
        columns = per_class if per_class and per_class > 1 else n if n <= 10 else math.ceil(math.sqrt(n))
    return pixels, min(columns, n), per_class


def bare(ax):
    """No frame and no ticks: the picture has edges of its own."""
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def new_axes(**figure):
    with plt.rc_context(STYLE):
        return plt.subplots(**figure)[1]


def method_color(label):
    """The colour of the method that ``label`` starts with, or None."""
    return next((color for name, color in COLORS.items() if label.lower().startswith(name.lower())), None)


def to_array(values):
    return np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values, dtype=float)
