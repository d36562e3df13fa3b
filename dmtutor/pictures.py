"""One picture, of a file or an array, as pixels that a network can be given: upright, on white, of one shape."""

import warnings

import numpy as np
from PIL import ExifTags, Image, ImageOps

DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # modes of more than 8 bits
GREY = ("1", "L", "LA", "La", *DEEP)
FULL = 65535  # of 16 bits


def _pad(image, size):
    """:func:`PIL.ImageOps.pad`, which leaves nothing of an image that is much longer than wide."""
    scale = min(size[0] / image.width, size[1] / image.height)
    if round(min(image.size) * scale) < 1:
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
    return ImageOps.pad(image, size)


RESIZE = {"fit": ImageOps.fit, "pad": _pad}


def describe(file):
    """Of a file, hardly decoded: whether it has no colour, (height, width) of the upright picture, :func:`brightness`.

    A ValueError if its mode is none that can be read, an OSError if it is no picture.
    """
    with warnings.catch_warnings(), Image.open(file) as image:
        warnings.simplefilter("ignore")  # of size, palettes and the like
        check(image)
        width, height = reversed(image.size) if is_sideways(image) else image.size
        return image.mode in GREY, (height, width), brightness(image)


def brightness(image):
    """What 99 % of a picture's pixels are below, for a single hot one does not count; None if it has not 16 bits."""
    if image.mode in DEEP:
        return int(np.percentile(_deep(image), 99, method="lower"))
    if _rounded(image):
        return 257 * int(np.percentile(np.asarray(image.convert("RGB")), 99, method="lower"))
    return None


def _deep(image):
    """The numbers of a picture of more than 8 bits, float64."""
    numbers = np.asarray(image, np.float64)
    if numbers.min() < 0:
        raise ValueError(f"its pixels reach down to {numbers.min():.0f}")
    return numbers


def _rounded(image):
    """Whether it has 16 bits a number, of which Pillow reads the upper 8: as pictures in colour."""
    return image.mode not in DEEP and any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def white_level(levels, white):
    """The value of white of a data set, None if it has no picture of 16 bits; with a warning if it may be another.

    ``levels`` are what :func:`brightness` says of each picture, and ``white`` is what the caller says.
    """
    levels = [level for level in levels if level is not None]
    if levels and white is None and max(levels) < FULL // 4:
        top = 2 ** max(8, max(levels).bit_length()) - 1
        warnings.warn(f"the pictures of 16 bits reach {max(levels)}, and {FULL} is read as white: if {top} is theirs, "
                      f"give white={top} (--white {top})", stacklevel=4)
    return (white or FULL) if levels else None


def check(image):
    """Raise a ValueError for a picture that has no one meaning."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's second picture is a preview
        raise ValueError(f"it holds {frames} pictures, not one")
    if image.mode == "F":
        raise ValueError("its pixels are floating, which have no known white: store 8 or 16 bits")
    if image.format == "TIFF" and is_sideways(image):
        raise ValueError("it is a TIFF that lies on its side, which Pillow does not always turn: store it upright")


def is_sideways(image):
    """Whether a picture lies on its side, as its camera says.

    A PNG tells so here if it does before its pixels; to look behind them would be to decode it.
    """
    exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
    return exif.get(ExifTags.Base.Orientation, 1) > 4


def to_8_bits(image, white=None):
    """A picture of any mode as one of mode L or RGB: upright, what is transparent on white.

    ``white`` is the value of white in a picture of more than 8 bits, the largest of 16 bits if None.
    """
    check(image)
    if white not in (None, FULL) and _rounded(image):
        raise ValueError("it has 16 bits a colour, of which the upper 8 are read: store 8, or leave white out")
    grey = image.mode in GREY
    image = ImageOps.exif_transpose(image)
    if image.mode in DEEP:
        if "transparency" in image.info:
            raise ValueError("it has 16 bits and a transparent grey")
        numbers = _deep(image)
        if white is None and numbers.max() > FULL:
            raise ValueError(f"its pixels reach up to {numbers.max():.0f}: give white, the value of white (--white)")
        return Image.fromarray((numbers * (255 / (white or FULL))).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if grey else "RGB")


def read(file, grey, shape, resize, white=None):
    """The pixels of a file: an array, (C, H, W), uint8, with one channel if ``grey``, else three.

    It is resized to ``shape``, (H, W), or must have it where ``resize`` is None. ``white`` is as of :func:`to_8_bits`.
    """
    with warnings.catch_warnings(), Image.open(file) as image:
        warnings.simplefilter("ignore")
        image = to_8_bits(image, white).convert("L" if grey else "RGB")
        if image.size != shape[::-1]:
            if resize is None:
                raise ValueError(f"it is {image.height}×{image.width}, not {shape[0]}×{shape[1]}")
            image = RESIZE[resize](image, shape[::-1])
        pixels = np.asarray(image)
    return pixels[None] if grey else np.moveaxis(pixels, -1, 0)


def resized(channels, size, resize):
    """One image, (C, H, W), uint8 or floating in [0, 1], as (C, size, size): by ``resize="fit"`` without what exceeds
    the square, by ``"pad"`` whole, between black bars.

    Examples
    --------
    >>> wide = np.full((1, 2, 4), 200, np.uint8)
    >>> resized(wide, 2, "fit").tolist(), resized(wide, 4, "pad")[0, :, 0].tolist()
    ([[[200, 200], [200, 200]]], [0, 200, 200, 0])
    """
    if channels.shape[1:] == (size, size):
        return channels
    kind = channels.dtype if channels.dtype == np.uint8 else np.float32
    made = [RESIZE[resize](Image.fromarray(np.ascontiguousarray(c, kind)), (size, size)) for c in channels]
    made = np.stack(list(map(np.asarray, made)))
    return made if kind == np.uint8 else made.clip(0, 1)  # a cubic curve may overshoot
