"""One picture, of a file or an array, as pixels that a network can be given: upright, on white, of one shape."""

import warnings

import numpy as np
from PIL import ExifTags, Image, ImageOps

DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # modes of more than 8 bits
GREY = ("1", "L", "LA", "La", *DEEP)
RESIZE = {"fit": ImageOps.fit, "pad": ImageOps.pad}


def head(file):
    """What can be told of a file without decoding it, or nearly.

    Returns
    -------
    grey : bool
        Whether the picture has no colour.
    shape : (int, int)
        Height and width of the upright picture.
    brightest : int
        The largest value where a pixel has more than 8 bits, else 0.

    Raises
    ------
    ValueError
        If the mode of the picture is none that can be read.
    OSError
        If it is no picture.
    """
    with warnings.catch_warnings(), Image.open(file) as image:
        warnings.simplefilter("ignore")  # of size, palettes and the like
        check(image)
        width, height = reversed(image.size) if turned(image) else image.size
        darkest, brightest = image.getextrema() if image.mode in DEEP else (0, 0)
        if darkest < 0:
            raise ValueError(f"its pixels reach down to {darkest}")
        return image.mode in GREY, (height, width), int(brightest)


def check(image):
    """Raise a ValueError for a picture that has no one meaning."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's second picture is a preview
        raise ValueError(f"it holds {frames} pictures, not one")
    if image.mode == "F":
        raise ValueError("its pixels are floating, which have no known white: store 8 or 16 bits")
    if image.format == "TIFF" and turned(image):
        raise ValueError("it is a TIFF that lies on its side, which Pillow does not always turn: store it upright")


def turned(image):
    """Whether a picture lies on its side, as its camera says.

    A PNG tells so here if it does before its pixels; to look behind them would be to decode it.
    """
    exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
    return exif.get(ExifTags.Base.Orientation, 1) > 4


def white(brightest):
    """The value of white where the brightest pixel of all has this value: the largest of as many bits, from 8 on.

    Examples
    --------
    >>> white(60_000), white(3_170)  # the second is of a camera of 12 bits
    (65535, 4095)
    """
    return 2 ** max(8, int(brightest).bit_length()) - 1


def flat(image, top=65535):
    """A picture of any mode as one of mode L or RGB: upright, what is transparent on white, ``top`` as white."""
    check(image)
    grey = image.mode in GREY
    image = ImageOps.exif_transpose(image)
    if image.mode in DEEP:
        if "transparency" in image.info:
            raise ValueError("it has 16 bits and a transparent grey")
        return Image.fromarray((np.asarray(image, np.float64) * (255 / top)).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if grey else "RGB")


def read(file, grey, shape, resize, top=65535):
    """The pixels of a file.

    Parameters
    ----------
    file : path
    grey : bool
        Whether to make a picture of one channel.
    shape : (int, int)
        Height and width to bring it to.
    resize : {"fit", "pad"} or None
        How, see :func:`resized`. None: it must have that shape.
    top : int
        The value of white where a pixel has more than 8 bits.

    Returns
    -------
    array, (C, H, W), uint8
        C is 1 or 3.
    """
    with warnings.catch_warnings(), Image.open(file) as image:
        warnings.simplefilter("ignore")
        image = flat(image, top).convert("L" if grey else "RGB")
        if image.size != shape[::-1]:
            if resize is None:
                raise ValueError(f"it is {image.height}×{image.width}, not {shape[0]}×{shape[1]}")
            image = RESIZE[resize](image, shape[::-1])
        pixels = np.asarray(image)
    return pixels[None] if grey else np.moveaxis(pixels, -1, 0)


def resized(channels, size, resize):
    """One image, (C, H, W), uint8 or floating in [0, 1], as (C, size, size).

    Parameters
    ----------
    resize : {"fit", "pad"}
        Cut off what exceeds the square, or keep all of the image between black bars.

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
