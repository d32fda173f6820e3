"""Image files of unknown origin: what is read, how, and what is refused in one sentence."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lvlm_prune.errors import ImageFileError
from lvlm_prune.images import MAX_BYTES, load_image

PIXELS = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)


def png(width: int, height: int) -> bytes:
    """A PNG header that claims a size, with hardly any pixels behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 64)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "jpg", "gif"])
def test_formats(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(PIXELS).save(path, **options)
    image = load_image(path)
    assert (image.mode, image.size) == ("RGB", (32, 24))
    if suffix in ("png", "bmp", "webp"):
        assert np.array_equal(np.asarray(image), PIXELS)


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "P", "LA", "RGBA"])
def test_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    Image.fromarray(PIXELS).convert(mode).save(path)
    assert load_image(path).mode == "RGB"


@pytest.mark.filterwarnings("error")
def test_palette_with_transparency(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(PIXELS).convert("P").save(path, transparency=b"\0" * 128)
    assert load_image(path).mode == "RGB"


def test_sixteen_bit_greys_are_scaled(tmp_path):
    path = tmp_path / "image.png"
    values = np.linspace(0, 65535, 24 * 32).reshape(24, 32).astype(np.uint16)
    Image.fromarray(values).save(path)
    assert np.array_equal(np.asarray(load_image(path))[..., 0], values >> 8)


def test_exif_rotation(tmp_path):
    path = tmp_path / "image.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(path, exif=exif)
    assert load_image(path).size == (24, 32)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_first_frame_of_an_animation(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    red, _, blue = load_image(path).getpixel((8, 8))
    assert red > 200 > 50 > blue


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp"])
def test_truncated_files(tmp_path, suffix, share):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(PIXELS).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageFileError, match="damaged or incomplete|not an image"):
        load_image(path)


@pytest.mark.parametrize("side", [8_001, 40_000, 2**31 - 1])
@pytest.mark.filterwarnings("error")
def test_decompression_bombs(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side))
    with pytest.raises(ImageFileError, match="million pixels"):
        load_image(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"no image at all", "not an image"),
        (b"%PDF-1.4 " * 9, "not an image"),
        (b"\x89PNG\r\n\x1a\n", "not an image|damaged"),
        (b"GIF89a" + b"\0" * 7, "not an image|no pixels|damaged"),
        (png(0, 5), "not an image|no pixels|damaged"),
    ],
)
def test_what_is_no_image(tmp_path, content, reason):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(ImageFileError, match=reason) as caught:
        load_image(path)
    assert str(path) in str(caught.value)


def test_other_formats_are_refused(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(PIXELS).save(path, format="TIFF")
    with pytest.raises(ImageFileError, match="PNG, JPEG, WEBP, BMP, GIF"):
        load_image(path)


def test_missing_file(tmp_path):
    with pytest.raises(ImageFileError, match="does not exist"):
        load_image(tmp_path / "none.png")


def test_path_that_cannot_exist():
    with pytest.raises(ImageFileError, match="cannot be read"):
        load_image("a\0b.png")


def test_folder(tmp_path):
    with pytest.raises(ImageFileError, match="is a folder"):
        load_image(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_named_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageFileError, match="no regular file"):
        load_image(tmp_path / "pipe.png")


def test_huge_file(tmp_path):
    path = tmp_path / "image.png"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ImageFileError, match="limit is 64 MiB"):
        load_image(path)
