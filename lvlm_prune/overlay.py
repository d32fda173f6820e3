"""Draw which visual tokens were kept, where ViT sinks are, and how tokens were scored.

In: the image as the model saw it, the grid (h, w) of its N tokens and the kept ones in raster order
`[K]`, scores `[N]`, sinks `[N]`; or the views of an image that has several grids. Out: Pillow
images: with `side=None` at the size of the image itself, else enlarged by the whole factor that
comes nearest to `side` pixels, never shrunk. (`views` has limited the views of an image to 896
pixels together.) Kept tokens have full colour and an amber outline, dropped ones are grey and dark;
sinks carry a white cross. Methods that merge rows show where the merged rows stand;
`overlay_groups` draws what went into them. It knows nothing of models.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lvlm_prune.overlay_cells import (
    WHITE,
    cross,
    enlarged,
    factor_to,
    outline,
    over_pixels,
    token_mask,
)
from lvlm_prune.overlay_layout import Rows, composed
from lvlm_prune.views import View

SIDE = 448  # pixels; small images are enlarged to about this
DIM = 0.5  # brightness of dropped tokens
# Viridis, which grows in brightness for every kind of colour vision.
VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def enlarge(image: Image.Image, side: int | None = SIDE) -> Image.Image:
    """Enlarge by the whole factor that comes nearest to `side`, never shrink."""
    return enlarged(image, factor_to(side, max(image.size)))


def draw_kept(
    image: Image.Image,
    grid: tuple[int, int],
    kept: Sequence[int] | Tensor,
    sinks: Sequence[bool] | Tensor | None = None,
    side: int | None = SIDE,
) -> Image.Image:
    """Show the kept tokens in colour and the dropped ones dimmed.

    Args:
        image: what the model saw.
        grid: (h, w) tokens.
        kept: kept tokens, in raster order.
        sinks: which of the N tokens are ViT sinks, to be marked.
        side: size to enlarge to, in pixels; None for the image's own.

    Raises:
        ValueError: tokens outside the grid.
    """
    return _kept(enlarge(image.convert("RGB"), side), grid, kept, sinks)


def dimmed(image: Image.Image) -> NDArray[np.uint8]:
    """The image as dropped tokens are drawn, `[height, width, 1]`."""
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None] * DIM + 28
    return grey.astype(np.uint8)


def _kept(
    image: Image.Image,
    grid: tuple[int, int],
    kept: Sequence[int] | Tensor,
    sinks: Sequence[bool] | Tensor | None,
    least: int = 0,
) -> Image.Image:
    """See `draw_kept`; nothing is enlarged, and crosses have at least `least` pixels."""
    stays = token_mask(kept, grid)
    wanted = over_pixels(stays, image.size)[..., None]
    picture = Image.fromarray(np.where(wanted, np.asarray(image), dimmed(image)).astype(np.uint8))
    outline(picture, stays)
    if sinks is not None:
        cross(picture, np.asarray(sinks, dtype=bool).reshape(grid), least)
    return picture


def draw_scores(
    image: Image.Image,
    grid: tuple[int, int],
    scores: Sequence[float] | Tensor,
    kept: Sequence[int] | Tensor = (),
    side: int | None = SIDE,
) -> Image.Image:
    """Lay the scores over the grey image: dark purple is low, yellow is high.

    Args:
        image: what the model saw.
        grid: (h, w) tokens.
        scores: `[N]`; the highest 2 % share one colour, as attention has few very high values.
        kept: kept tokens, to be outlined.
        side: size to enlarge to, in pixels; None for the image's own.

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
    grey = np.asarray(image.convert("L"), dtype=np.float64)[..., None]
    mixed = 0.68 * over_pixels(viridis(level), image.size) + 0.32 * grey
    picture = Image.fromarray(mixed.astype(np.uint8))
    outline(picture, token_mask(kept, grid), WHITE)
    return picture


def viridis(level: NDArray) -> NDArray[np.float64]:
    """Colours from 0 to 255 of levels from 0 to 1, `[...]` to `[..., 3]`."""
    anchors = np.linspace(0, 1, len(VIRIDIS))
    channels = zip(*VIRIDIS, strict=True)
    return np.stack([np.interp(level, anchors, channel) for channel in channels], axis=-1)


def draw_kept_views(
    rows: Rows, kept: Tensor, sinks: Tensor | None, total: int, side: int | None = SIDE
) -> Image.Image:
    """`draw_kept` for an image that has several grids.

    Args:
        rows: the views.
        kept: kept placeholders of the image, `[K]`.
        sinks: which of its N placeholders are ViT sinks, or None.
        total: N.
        side: size to enlarge to, in pixels; None for the views' own.
    """

    def draw(image: Image.Image, view: View) -> Image.Image:
        marked = None if sinks is None else sinks[view.rows]
        return _kept(image, view.grid, view.own(kept, total), marked, _smallest_cross(rows))

    return composed(rows, draw, side)


def draw_score_views(
    rows: Rows, scores: Tensor, kept: Tensor, side: int | None = SIDE
) -> Image.Image:
    """`draw_scores` for an image that has several grids, which share one scale.

    Args:
        rows: the views.
        scores: of the image's placeholders, `[N]`.
        kept: kept placeholders, `[K]`.
        side: size to enlarge to, in pixels; None for the views' own.
    """
    shown = [scores[view.rows].double().numpy() for row in rows for view in row]
    span = _span(np.concatenate(shown))

    def draw(image: Image.Image, view: View) -> Image.Image:
        values = scores[view.rows].double().numpy()
        return _scores(image, view.grid, values, view.own(kept, len(scores)), span)

    return composed(rows, draw, side)


def draw_sink_views(rows: Rows, sinks: Tensor, side: int | None = SIDE) -> Image.Image:
    """The views in their colours, ViT sinks with a cross.

    Args:
        rows: the views.
        sinks: which of the image's placeholders are ViT sinks, `[N]` bool.
        side: size to enlarge to, in pixels; None for the views' own.
    """

    def draw(image: Image.Image, view: View) -> Image.Image:
        picture = image.copy()
        cross(picture, sinks[view.rows].reshape(view.grid).numpy(), _smallest_cross(rows))
        return picture

    return composed(rows, draw, side)


def draw_color_views(
    rows: Rows, colors: NDArray, marked: Tensor, side: int | None = SIDE
) -> Image.Image:
    """Paint every token of an image in its own colour.

    Args:
        rows: the views.
        colors: `[N, 4]`, red, green, blue and opacity from 0 to 1 of the image's placeholders; the
            image shows through in grey.
        marked: `[N]` bool, tokens with a cross.
        side: size to enlarge to, in pixels; None for the views' own.
    """

    def draw(image: Image.Image, view: View) -> Image.Image:
        cells = over_pixels(colors[view.rows.numpy()].reshape(*view.grid, 4), image.size)
        grey = np.asarray(image.convert("L"), dtype=np.float64)[..., None]
        opacity = cells[..., 3:]
        mixed = 255 * cells[..., :3] * opacity + grey * (1 - opacity)
        picture = Image.fromarray(mixed.round().astype(np.uint8))
        cross(picture, marked[view.rows].reshape(view.grid).numpy(), _smallest_cross(rows))
        return picture

    return composed(rows, draw, side)


def draw_views(rows: Rows, side: int | None = SIDE) -> Image.Image:
    """The views themselves, as large as the other functions draw them."""
    return composed(rows, lambda image, view: image, side)


def _smallest_cross(rows: Rows) -> int:
    """Pixels of a cross that can still be seen on all views together."""
    return max(sum(view.image.width for view in row) for row in rows) // 32
