"""Draw which visual tokens were kept, where ViT sinks are, and how tokens were scored.

In: the image as the model saw it, the grid (h, w) of its N tokens and the kept ones in raster order
`[K]`, scores `[N]`, sinks `[N]`. Out: Pillow images, small ones enlarged by a whole factor. Kept
tokens have full colour and an amber outline, dropped ones are grey and dark; sinks carry a white
cross. Methods that merge rows show where the merged rows stand. It knows nothing of models.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

SIDE = 448  # pixels; small images are enlarged to about this
OUTLINE = (255, 176, 0)  # amber: bright for every kind of colour vision on grey and on colours
DIM = 0.5  # brightness of dropped tokens
# Viridis, which grows in brightness for every kind of colour vision.
VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def model_view(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Image.Image:
    """The image that the encoder saw, after the processor's resizing and cropping.

    Args:
        pixels: one image of `pixel_values`, `[3, height, width]`.
        mean: the image processor's `image_mean`.
        std: the image processor's `image_std`.
    """
    values = pixels.detach().float().cpu().numpy()
    values = values * np.array(std)[:, None, None] + np.array(mean)[:, None, None]
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))


def enlarge(image: Image.Image, side: int = SIDE) -> Image.Image:
    """Enlarge by the whole factor that comes nearest to `side`, never shrink."""
    factor = max(1, round(side / max(image.size)))
    size = (image.width * factor, image.height * factor)
    return image.resize(size, Image.Resampling.LANCZOS)


def draw_kept(
    image: Image.Image,
    grid: tuple[int, int],
    kept: Sequence[int] | Tensor,
    sinks: Sequence[bool] | Tensor | None = None,
    side: int = SIDE,
) -> Image.Image:
    """Show the kept tokens in colour and the dropped ones dimmed.

    Args:
        image: what the model saw.
        grid: (h, w) tokens.
        kept: kept tokens, in raster order.
        sinks: which of the N tokens are ViT sinks, to be marked.
        side: size to enlarge to, in pixels.

    Raises:
        ValueError: tokens outside the grid.
    """
    image = enlarge(image.convert("RGB"), side)
    stays = _mask(kept, grid)
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None] * DIM + 28
    wanted = _pixels(stays, image.size)[..., None]
    picture = Image.fromarray(
        np.where(wanted, np.asarray(image), grey.astype(np.uint8)).astype(np.uint8)
    )
    _outline(picture, stays)
    if sinks is not None:
        _cross(picture, np.asarray(sinks, dtype=bool).reshape(grid))
    return picture


def draw_scores(
    image: Image.Image,
    grid: tuple[int, int],
    scores: Sequence[float] | Tensor,
    kept: Sequence[int] | Tensor = (),
    side: int = SIDE,
) -> Image.Image:
    """Lay the scores over the grey image: dark purple is low, yellow is high.

    Args:
        image: what the model saw.
        grid: (h, w) tokens.
        scores: `[N]`; the highest 2 % share one colour, as attention has few very high values.
        kept: kept tokens, to be outlined.
        side: size to enlarge to, in pixels.

    Raises:
        ValueError: another number of scores than tokens, or tokens outside the grid.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.size != grid[0] * grid[1]:
        raise ValueError(f"{values.size} scores for a grid of {grid[0]}x{grid[1]} tokens")
    image = enlarge(image.convert("RGB"), side)
    low, high = values.min(), np.quantile(values, 0.98)
    level = ((values - low) / (high - low if high > low else 1)).clip(0, 1).reshape(grid)
    anchors = np.linspace(0, 1, len(VIRIDIS))
    color = np.stack(
        [np.interp(level, anchors, channel) for channel in zip(*VIRIDIS, strict=True)], axis=-1
    )
    grey = np.asarray(image.convert("L"), dtype=np.float64)[..., None]
    mixed = 0.68 * _pixels(color, image.size) + 0.32 * grey
    picture = Image.fromarray(mixed.astype(np.uint8))
    _outline(picture, _mask(kept, grid), (255, 255, 255))
    return picture


def _mask(kept: Sequence[int] | Tensor, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Kept tokens as a mask, `[h, w]`."""
    rows = np.asarray(kept, dtype=np.int64)
    if rows.size and (rows.min() < 0 or rows.max() >= grid[0] * grid[1]):
        raise ValueError(
            f"kept tokens {rows.min()}..{rows.max()} are outside a grid of {grid[0]}x{grid[1]}"
        )
    mask = np.zeros(grid[0] * grid[1], dtype=bool)
    mask[rows] = True
    return mask.reshape(grid)


def _edges(size: int, count: int) -> NDArray[np.int64]:
    """Borders between `count` tokens along `size` pixels, both ends included."""
    return np.arange(count + 1) * size // count


def _pixels(cells: NDArray, size: tuple[int, int]) -> NDArray:
    """Repeat the value of each token over its pixels, `[h, w, ...]` to `[height, width, ...]`."""
    tall = np.repeat(cells, np.diff(_edges(size[1], cells.shape[0])), axis=0)
    return np.repeat(tall, np.diff(_edges(size[0], cells.shape[1])), axis=1)


def _outline(
    picture: Image.Image, stays: NDArray[np.bool_], color: tuple[int, int, int] = OUTLINE
) -> None:
    """Draw the border between kept and dropped tokens, on the kept side."""
    draw = ImageDraw.Draw(picture)
    width = max(2, picture.width // 200)
    tops, lefts = _edges(picture.height, stays.shape[0]), _edges(picture.width, stays.shape[1])
    around = np.pad(stays, 1)
    for row, column in np.argwhere(stays):
        left, right = int(lefts[column]), int(lefts[column + 1]) - 1
        top, bottom = int(tops[row]), int(tops[row + 1]) - 1
        if not around[row, column + 1]:
            draw.rectangle((left, top, right, top + width - 1), fill=color)
        if not around[row + 2, column + 1]:
            draw.rectangle((left, bottom - width + 1, right, bottom), fill=color)
        if not around[row + 1, column]:
            draw.rectangle((left, top, left + width - 1, bottom), fill=color)
        if not around[row + 1, column + 2]:
            draw.rectangle((right - width + 1, top, right, bottom), fill=color)


def _cross(picture: Image.Image, sinks: NDArray[np.bool_]) -> None:
    """Mark sinks with a white cross on a dark one."""
    draw = ImageDraw.Draw(picture)
    tops, lefts = _edges(picture.height, sinks.shape[0]), _edges(picture.width, sinks.shape[1])
    for row, column in np.argwhere(sinks):
        left, right = int(lefts[column]), int(lefts[column + 1])
        top, bottom = int(tops[row]), int(tops[row + 1])
        inset = max(2, (right - left) // 5)
        box = (left + inset, top + inset, right - inset, bottom - inset)
        width = max(2, (right - left) // 10)
        for color, thick in (((0, 0, 0), width + 4), ((255, 255, 255), width)):
            draw.line(box, fill=color, width=thick)
            draw.line((box[0], box[3], box[2], box[1]), fill=color, width=thick)
