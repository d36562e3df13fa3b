"""Pictures as cameras, scanners and drawing programs leave them: each is read as it is seen, or named and refused."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dmtutor import pictures

H, W = 4, 6


def read(path, **changes):
    grey, shape, _ = pictures.describe(path)
    return pictures.read(path, **{"grey": grey, "shape": shape, "resize": None, **changes})


def saved(image, tmp_path, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def ramp(dtype=np.uint8, top=255):
    return np.linspace(0, top, H * W).round().astype(dtype).reshape(H, W)


def test_grey_of_8_bits_is_read_as_it_is(tmp_path):
    pixels = read(saved(Image.fromarray(ramp()), tmp_path))
    assert pixels.shape == (1, H, W) and np.array_equal(pixels[0], ramp())


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_grey_of_16_bits_is_scaled(tmp_path, name):
    deep = ramp(np.uint16, 65535)
    pixels = read(saved(Image.fromarray(deep), tmp_path, name))
    assert np.array_equal(pixels[0], (deep / 257).round())


def test_white_is_what_the_depth_says_or_the_caller(tmp_path):
    """One value for all files, whatever they hold: a hot pixel, or files of 8 bits beside, change nothing."""
    deep = ramp(np.uint16, 4000)
    path = saved(Image.fromarray(deep), tmp_path)
    assert np.array_equal(read(path)[0], (deep / 257).round())
    assert np.array_equal(read(path, white=4095)[0], (deep / 4095 * 255).round())
    deep[0, 0] = 50_000
    hot = saved(Image.fromarray(deep), tmp_path, "hot.png")
    assert np.array_equal(read(hot)[0, 1:], read(path)[0, 1:]) and read(hot, white=4095)[0, 0, 0] == 255
    beside = saved(Image.fromarray(ramp()), tmp_path, "eight.png")
    same = saved(Image.fromarray(ramp().astype(np.uint16) * 257), tmp_path, "sixteen.png")
    assert np.array_equal(read(beside), read(same)) and np.array_equal(read(beside, white=4095), read(beside))
    assert [pictures.describe(file)[2] for file in (path, hot, beside, same)] == [3826, 4000, None, 62708]


def colour_of_16_bits(path, top):
    """A PNG of 16 bits a colour, as Pillow cannot write it."""
    rows = np.stack([ramp(np.uint16, top)] * 3, -1).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = (b"IHDR", struct.pack(">2I5B", W, H, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ))
    return path


def test_colours_of_16_bits(tmp_path):
    path = colour_of_16_bits(tmp_path / "a.png", 4000)
    assert abs(read(path)[0] - ramp(np.uint16, 4000) / 257).max() < 1
    assert pictures.describe(path)[2] == 257 * 15
    with pytest.raises(ValueError, match="of which the upper 8 are read: store 8, or leave white out"):
        read(path, white=4095)


def test_a_white_that_may_be_another_is_told():
    with pytest.warns(UserWarning, match=r"reach 3000, and 65535 is read as white: if 4095 is theirs, give white=4095"):
        assert pictures.white_level([None, 700, 3000], None) == 65535
    assert pictures.white_level([None, 3000, 60_000], None) == 65535
    assert pictures.white_level([3000], 4095) == 4095
    assert pictures.white_level([None], 4095) is None


def test_beyond_16_bits_white_must_be_given(tmp_path):
    path = saved(Image.fromarray(ramp(np.int32, 100_000)), tmp_path, "a.tif")
    with pytest.raises(ValueError, match=r"reach up to 100000: give white, the value of white \(--white\)"):
        read(path)
    assert read(path, white=100_000).max() == 255


RED = (255, 0, 0)


def test_what_is_transparent_is_white(tmp_path):
    image = Image.new("RGBA", (W, H), (*RED, 0))
    image.putpixel((0, 0), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 128))
    pixels = read(saved(image, tmp_path))
    assert pixels[:, 0, 0].tolist() == list(RED)
    assert pixels[:, 0, 1].tolist() == [127] * 3
    assert (pixels.reshape(3, -1)[:, 2:] == 255).all()


def test_transparent_grey_stays_grey(tmp_path):
    alpha = np.where(ramp() < 99, 0, 255).astype(np.uint8)
    path = saved(Image.merge("LA", [Image.fromarray(ramp()), Image.fromarray(alpha)]), tmp_path)
    assert np.array_equal(read(path)[0], np.where(ramp() < 99, 255, ramp()))


def test_palettes_with_and_without_transparency(tmp_path):
    image = Image.new("P", (W, H), 1)
    image.putpalette([0, 255, 0, *RED])
    assert read(saved(image, tmp_path))[:, 0, 0].tolist() == list(RED)
    image.putpixel((0, 0), 0)
    pixels = read(saved(image, tmp_path, "b.png", transparency=1))
    assert pixels[:, 0, 0].tolist() == [0, 255, 0] and pixels[:, 1, 1].tolist() == [255] * 3
    grey = saved(Image.fromarray(ramp()), tmp_path, "c.png", transparency=0)  # a key, not an alpha channel
    assert read(grey)[0, 0, 0] == 255 and read(grey)[0, -1, -1] == 255 and read(grey)[0, 0, 1] == ramp()[0, 1]


def test_printers_colours(tmp_path):
    pixels = read(saved(Image.new("CMYK", (W, H), (0, 255, 255, 0)), tmp_path, "a.tif"))
    assert pixels[:, 0, 0].tolist() == list(RED)


def test_black_and_white_of_one_bit(tmp_path):
    pixels = read(saved(Image.fromarray(ramp() > 99), tmp_path))
    assert np.array_equal(pixels[0], np.where(ramp() > 99, 255, 0))


@pytest.mark.parametrize(
    ("name", "orientation", "turn"),
    [*((name, *turn) for name in ("a.jpg", "a.png", "a.webp") for turn in ((3, 2), (6, -1), (8, 1))), ("a.tif", 3, 2)],
)
def test_a_camera_held_sideways(tmp_path, name, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.kron(np.array([[0, 255], [0, 0]], np.uint8), np.ones((8, 16), np.uint8))
    path = saved(Image.fromarray(np.rot90(upright, -turn).copy()), tmp_path, name, exif=exif, **(
        {} if name.endswith(("png", "tif")) else {"quality": 95}))
    assert pictures.describe(path)[1] == upright.shape
    pixels = read(path)
    assert pixels.shape[1:] == upright.shape and abs(pixels[0] - upright.astype(float)).max() < 40


SIDEWAYS = Image.Exif()
SIDEWAYS[0x0112] = 6


@pytest.mark.parametrize(
    ("image", "name", "options", "why"),
    [
        (Image.fromarray(ramp(np.float32)), "a.tif", {}, "floating"),
        (Image.fromarray(ramp(np.int32, -9)), "a.tif", {}, "reach down to -9"),
        (Image.new("L", (W, H)), "a.tif", {"save_all": True, "append_images": [Image.new("L", (W, H), 9)]}, "2 pict"),
        (Image.new("L", (W, H)), "a.png", {"save_all": True, "append_images": [Image.new("L", (W, H), 9)]}, "2 pict"),
        (Image.new("L", (W, H)), "a.tif", {"exif": SIDEWAYS}, "on its side"),
    ],
    ids=["floating", "negative", "pages", "a film", "on its side"],
)
def test_what_has_no_one_meaning_is_refused(tmp_path, image, name, options, why):
    with pytest.raises(ValueError, match=why):
        read(saved(image, tmp_path, name, **options))


def test_resized_by_cutting_or_by_bars(tmp_path):
    wide = np.full((4, 8), 200, np.uint8)
    wide[:, :2] = wide[:, 6:] = 50
    path = saved(Image.fromarray(wide), tmp_path)
    assert (read(path, shape=(4, 4), resize="fit") == 200).all()
    padded = read(path, shape=(8, 8), resize="pad")[0]
    assert (padded[:2] == 0).all() and (padded[6:] == 0).all() and np.array_equal(padded[2:6], wide)
    for size in ((5000, 1), (1, 5000), (64, 1)):
        long = saved(Image.new("RGB", size, RED), tmp_path, "long.png")
        padded = read(long, shape=(8, 8), resize="pad")
        assert ((padded[0] == 255).sum(), (padded[0] == 0).sum()) == (8, 56)
    with pytest.raises(ValueError, match="it is 4×8, not 4×4"):
        read(path, shape=(4, 4))


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_arrays_are_resized_as_files_are(tmp_path, kind):
    x = np.random.default_rng(0).integers(0, 256, (3, 9, 12), dtype=np.uint8)
    path = saved(Image.fromarray(x.transpose(1, 2, 0)), tmp_path)
    for resize in ("fit", "pad"):
        expected = read(path, shape=(6, 6), resize=resize)
        made = pictures.resized(x if kind == np.uint8 else (x / 255).astype(kind), 6, resize)
        assert made.shape == (3, 6, 6)
        if kind == np.uint8:
            assert np.array_equal(made, expected)
        else:
            assert made.dtype == np.float32 and made.min() >= 0 and made.max() <= 1
            assert abs(made * 255 - expected).max() <= 1.01
    square = x[:, :, :9]
    assert pictures.resized(square, 9, "fit") is square
