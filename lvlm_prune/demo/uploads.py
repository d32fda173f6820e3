"""From an uploaded file to a decoded image that is safe to show a model.

In: the path of a file in the page's own upload folder. Out: an RGB image and a digest of its
pixels. Formats, bytes and pixels are limited by `load_image`; here the sides are, too. Sentences
name the upload and never a path, as they go to whoever sent it.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from warnings import catch_warnings, simplefilter

from PIL import Image

from lvlm_prune.demo.cancelling import Job
from lvlm_prune.errors import ImageFileError
from lvlm_prune.images import FORMATS, MAX_BYTES, load_image

SHORTEST = 16  # pixels; a patch of an encoder has about as many
LONGEST = 10_000  # pixels of a side
NARROWEST = 50  # the longer side by the shorter one, at most
STRIP = 256  # rows of pixels that are fingerprinted at a time
LARGE = 12 * 10**6  # pixels; of larger images one is held at a time, whoever asks
PATIENCE = 0.2  # seconds between two looks whether the one who waits has cancelled


def read_upload(path: str | None) -> tuple[Image.Image, str]:
    """Decode an upload.

    Args:
        path: of a file that the page's server has stored itself, or None without one.

    Returns:
        The image in mode RGB, and the digest of its pixels.

    Raises:
        ValueError: there is none, or it is no image that can be used; in one sentence.
    """
    if not path:
        raise ValueError("Choose an image first: upload one, or click an example.")
    try:
        image = load_image(path)
    except ImageFileError as error:
        raise ValueError(_sentence(error, path)) from None
    width, height = image.size
    if min(image.size) < SHORTEST:
        raise ValueError(
            f"This image is too small: it has {width}x{height} pixels; each side needs at least "
            f"{SHORTEST}."
        )
    if max(image.size) > LONGEST:
        raise ValueError(
            f"This image is too large: it has {width}x{height} pixels; a side may have at most "
            f"{LONGEST}. Make it smaller first."
        )
    if max(image.size) > NARROWEST * min(image.size):
        raise ValueError(
            f"This image is too narrow: it has {width}x{height} pixels; one side may be at most "
            f"{NARROWEST} times as long as the other."
        )
    return image, digest(image)


class LargeImages:
    """Lets one large image in at a time, as a decoded one takes hundreds of megabytes."""

    def __init__(self) -> None:
        self._lock = Lock()

    @contextmanager
    def one_at_a_time(self, path: str | None, job: Job) -> Iterator[None]:
        """Hold the place of a large image during the block; others do not wait.

        Args:
            path: of an upload, or None.
            job: ends the waiting.

        Raises:
            CancelledError: the job was cancelled while it waited.
        """
        if not path or pixels(path) <= LARGE:
            yield
            return
        while not self._lock.acquire(timeout=PATIENCE):
            job.check()
        try:
            yield
        finally:
            self._lock.release()


def pixels(path: str) -> int:
    """Pixels that an image's head announces; 0 where it cannot be read, which is said later."""
    try:
        with catch_warnings():
            simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                return int(image.width * image.height)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 0


def digest(image: Image.Image) -> str:
    """A fingerprint of an image's size and pixels."""
    made = hashlib.blake2b(f"{image.mode} {image.size} ".encode(), digest_size=16)
    # In strips: Pillow's bytes of a large image at once take twice its memory.
    for top in range(0, image.height, STRIP):
        strip = image.crop((0, top, image.width, min(top + STRIP, image.height)))
        made.update(strip.tobytes())
    return made.hexdigest()


def _sentence(error: ImageFileError, path: str) -> str:
    """The loader's sentence, with the upload in place of its path."""
    text = str(error).removeprefix("image file ").replace(str(Path(path)), "This file")
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


LIMITS = (
    f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}, up to {MAX_BYTES // 2**20} MiB; sides from "
    f"{SHORTEST} to {LONGEST} pixels."
)
