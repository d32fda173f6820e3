"""Draw which visual tokens were kept, where ViT sinks are, and how tokens were scored.

In: the image as the model saw it, the grid (h, w) of its N tokens and the kept ones in raster order
`[K]`, scores `[N]`, sinks `[N]`; or the views of an image that has several grids. Out: Pillow
images, small ones enlarged by a whole factor. Kept tokens have full colour and an amber outline,
dropped ones are grey and dark; sinks carry a white cross. Methods that merge rows show where the
merged rows stand. It knows nothing of models.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from lvlm_prune.views import View

SIDE = 448  # pixels; small images are enlarged to about this
OUTLINE = (255, 176, 0)  # amber: bright for every kind of colour vision on grey and on colours
DIM = 0.5  # brightness of dropped tokens
GAP = 6  # pixels between two views, fewer than between two panels
# Viridis, which grows in brightness for every kind of colour vision.
VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def enlarge(image: Image.Image, side: int = SIDE) -> Image.Image:
    """Enlarge by the whole factor that comes nearest to `side`, never shrink."""
    return _times(image, max(1, round(side / max(image.size))))


def _times(image: Image.Image, factor: int) -> Image.Image:
    """Enlarge by a whole factor."""
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
    return _kept(enlarge(image.convert("RGB"), side), grid, kept, sinks)


def _kept(
    image: Image.Image,
    grid: tuple[int, int],
    kept: Sequence[int] | Tensor,
    sinks: Sequence[bool] | Tensor | None,
    least: int = 0,
) -> Image.Image:
    """See `draw_kept`; nothing is enlarged, and crosses have at least `least` pixels."""
    stays = _mask(kept, grid)
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None] * DIM + 28
    wanted = _pixels(stays, image.size)[..., None]
    picture = Image.fromarray(
        np.where(wanted, np.asarray(image), grey.astype(np.uint8)).astype(np.uint8)
    )
    _outline(picture, stays)
    if sinks is not None:
        _cross(picture, np.asarray(sinks, dtype=bool).reshape(grid), least)
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
    image = enlarge(image.convert("RGB"), side)
    return _scores(image, grid, values, kept, _span(values))


def _span(values: NDArray) -> tuple[float, float]:
    """The scores that are darkest and brightest."""
    return float(values.min()), float(np.quantile(values, 0.98))


def _scores(
    image: Image.Image,
    grid: tuple[int, int],
    values: NDArray,
    kept: Sequence[int] | Tensor,
    span: tuple[float, float],
) -> Image.Image:
    """See `draw_scores`; nothing is enlarged, and the span is the image's."""
    if values.size != grid[0] * grid[1]:
        raise ValueError(f"{values.size} scores for a grid of {grid[0]}x{grid[1]} tokens")
    low, high = span
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


def draw_kept_views(
    rows: Sequence[Sequence[View]], kept: Tensor, sinks: Tensor | None, total: int, side: int = SIDE
) -> Image.Image:
    """`draw_kept` for an image that has several grids.

    Args:
        rows: the views.
        kept: kept placeholders of the image, `[K]`.
        sinks: which of its N placeholders are ViT sinks, or None.
        total: N.
        side: size to enlarge to, in pixels.
    """

    def draw(image: Image.Image, view: View) -> Image.Image:
        marked = None if sinks is None else sinks[view.rows]
        return _kept(image, view.grid, view.own(kept, total), marked, _smallest_cross(rows))

    return _composed(rows, draw, side)


def draw_score_views(
    rows: Sequence[Sequence[View]], scores: Tensor, kept: Tensor, side: int = SIDE
) -> Image.Image:
    """`draw_scores` for an image that has several grids, which share one scale.

    Args:
        rows: the views.
        scores: of the image's placeholders, `[N]`.
        kept: kept placeholders, `[K]`.
        side: size to enlarge to, in pixels.
    """
    shown = [scores[view.rows].double().numpy() for row in rows for view in row]
    span = _span(np.concatenate(shown))

    def draw(image: Image.Image, view: View) -> Image.Image:
        values = scores[view.rows].double().numpy()
        return _scores(image, view.grid, values, view.own(kept, len(scores)), span)

    return _composed(rows, draw, side)


def draw_color_views(
    rows: Sequence[Sequence[View]], colors: NDArray, marked: Tensor, side: int = SIDE
) -> Image.Image:
    """Paint every token of an image in its own colour.

    Args:
        rows: the views.
        colors: `[N, 4]`, red, green, blue and opacity from 0 to 1 of the image's placeholders; the
            image shows through in grey.
        marked: `[N]` bool, tokens with a cross.
        side: size to enlarge to, in pixels.
    """

    def draw(image: Image.Image, view: View) -> Image.Image:
        cells = _pixels(colors[view.rows.numpy()].reshape(*view.grid, 4), image.size)
        grey = np.asarray(image.convert("L"), dtype=np.float64)[..., None]
        opacity = cells[..., 3:]
        mixed = 255 * cells[..., :3] * opacity + grey * (1 - opacity)
        picture = Image.fromarray(mixed.round().astype(np.uint8))
        _cross(picture, marked[view.rows].reshape(view.grid).numpy(), _smallest_cross(rows))
        return picture

    return _composed(rows, draw, side)


def draw_views(rows: Sequence[Sequence[View]], side: int = SIDE) -> Image.Image:
    """The views themselves, as large as the other functions draw them."""
    return _composed(rows, lambda image, view: image, side)


def _composed(
    rows: Sequence[Sequence[View]], draw: Callable[[Image.Image, View], Image.Image], side: int
) -> Image.Image:
    """Draw all views, enlarged alike, in rows on white."""
    wide = max(sum(view.image.width for view in row) for row in rows)
    heights = [max(view.image.height for view in row) for row in rows]
    factor = max(1, round(side / max(wide, sum(heights))))
    widths = [sum(factor * view.image.width + GAP for view in row) - GAP for row in rows]
    tall = sum(factor * height + GAP for height in heights) - GAP
    canvas = Image.new("RGB", (max(widths), tall), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for view in row:
            drawn = draw(_times(view.image.convert("RGB"), factor), view)
            canvas.paste(drawn, (left, top))
            left += drawn.width + GAP
        top += factor * height + GAP
    return canvas


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


def _smallest_cross(rows: Sequence[Sequence[View]]) -> int:
    """Pixels of a cross that can still be seen on all views together."""
    return max(sum(view.image.width for view in row) for row in rows) // 32


def _cross(picture: Image.Image, sinks: NDArray[np.bool_], least: int = 0) -> None:
    """Mark sinks with a white cross on a dark one; a large one reaches beyond its token."""
    draw = ImageDraw.Draw(picture)
    tops, lefts = _edges(picture.height, sinks.shape[0]), _edges(picture.width, sinks.shape[1])
    for row, column in np.argwhere(sinks):
        left, right = int(lefts[column]), int(lefts[column + 1])
        top, bottom = int(tops[row]), int(tops[row + 1])
        inset = min(max(2, (right - left) // 5), (right - left - least) // 2)
        box = (left + inset, top + inset, right - inset, bottom - inset)
        width = max(2, (right - left) // 10, least // 6)
        for color, thick in (((0, 0, 0), width + 4), ((255, 255, 255), width)):
            draw.line(box, fill=color, width=thick)
            draw.line((box[0], box[3], box[2], box[1]), fill=color, width=thick)
