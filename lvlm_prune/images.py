"""Open an image file safely, as RGB.

In: a path. Out: a Pillow image in mode RGB, turned upright by its EXIF orientation, first frame of
an animation; what `transformers.image_utils.load_image` gives, with 16-bit greys scaled instead of
clipped. The file is data of unknown origin: its format, size and number of pixels are limited, and
it is decoded here, so that nothing fails later. It knows nothing of models or processors.
"""

import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lvlm_prune.errors import ImageFileError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 10**6


def load_image(path: str | Path) -> Image.Image:
    """Read one image file.

    Args:
        path: a PNG, JPEG, WebP, BMP or GIF file of at most 64 MiB and 64 million pixels.

    Returns:
        The decoded image in mode RGB.

    Raises:
        ImageFileError: the file is missing, no regular file, too large, of another format, or
            broken; the message names it and says what to do.
    """
    path = Path(path)
    _check_file(path)
    try:
        # Pillow only warns below twice its own limit; ours is lower, and one error is enough.
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                _check_size(path, image.size)
                image.load()
                return _plain(ImageOps.exif_transpose(image)).convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageFileError(_too_many_pixels(path)) from None
    except UnidentifiedImageError:
        raise ImageFileError(
            f"{path} is not an image that can be read; pass a {', '.join(FORMATS)} file"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        if isinstance(error, ImageFileError):
            raise
        raise ImageFileError(
            f"{path} is damaged or incomplete ({error}); save or download the image again"
        ) from error


def _check_file(path: Path) -> None:
    """Refuse what is no regular file of a reasonable size, before anything is read."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else "cannot be read"
        raise ImageFileError(f"image file {path} {reason}; check the path") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise ImageFileError(f"{path} is {kind}; pass the path of one image file")
    if not found.st_size:
        raise ImageFileError(f"{path} is empty (0 bytes); save or download the image again")
    if found.st_size > MAX_BYTES:
        raise ImageFileError(
            f"{path} has {found.st_size / 2**20:.0f} MiB, the limit is {MAX_BYTES // 2**20} MiB; "
            "pass a smaller file"
        )


def _check_size(path: Path, size: tuple[int, int]) -> None:
    """Refuse images without pixels, or with so many that decoding would exhaust the memory."""
    if not min(size):
        raise ImageFileError(f"{path} has no pixels ({size[0]}x{size[1]}); pass another image")
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageFileError(_too_many_pixels(path))


def _too_many_pixels(path: Path) -> str:
    """The sentence for a decompression bomb."""
    return (
        f"{path} has more than {MAX_PIXELS // 10**6} million pixels; "
        "make it smaller first, models see far fewer"
    )


def _plain(image: Image.Image) -> Image.Image:
    """Prepare the modes that Pillow's own conversion to RGB clips or warns about."""
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")
    if not image.mode.startswith("I"):
        return image
    # 16-bit greys; Pillow would clip them to white.
    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    return Image.fromarray((values >> 8).astype(np.uint8))
