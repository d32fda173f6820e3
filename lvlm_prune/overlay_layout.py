"""Put the pictures of an image's views beside each other, all enlarged by the same factor.

In: views in rows, and a function that draws one of them. Out: one Pillow image on white. It knows
nothing of what is drawn.
"""

from collections.abc import Callable, Sequence

from PIL import Image

from lvlm_prune.overlay_cells import enlarged, factor_to
from lvlm_prune.views import View

GAP = 6  # pixels between two views, fewer than between two panels

Rows = Sequence[Sequence[View]]


def composed(
    rows: Rows, draw: Callable[[Image.Image, View], Image.Image], side: int | None
) -> Image.Image:
    """Draw all views, enlarged alike, in rows on white.

    Args:
        rows: the views.
        draw: a view's picture from its enlarged image.
        side: size to enlarge to, in pixels; None for the views' own.
    """
    factor = view_factor(rows, side)
    return in_rows(
        [[draw(enlarged(view.image.convert("RGB"), factor), view) for view in row] for row in rows]
    )


def view_factor(rows: Rows, side: int | None) -> int:
    """The whole factor by which all views are enlarged."""
    wide = max(sum(view.image.width for view in row) for row in rows)
    tall = sum(max(view.image.height for view in row) for row in rows)
    return factor_to(side, max(wide, tall))


def in_rows(pictures: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Put pictures into rows on white."""
    places = corners([[picture.size for picture in row] for row in pictures])
    ends = [
        (left + picture.width, top + picture.height)
        for row, spots in zip(pictures, places, strict=True)
        for picture, (left, top) in zip(row, spots, strict=True)
    ]
    canvas = Image.new("RGB", (max(x for x, _ in ends), max(y for _, y in ends)), "white")
    for row, spots in zip(pictures, places, strict=True):
        for picture, spot in zip(row, spots, strict=True):
            canvas.paste(picture, spot)
    return canvas


def corners(sizes: Sequence[Sequence[tuple[int, int]]]) -> list[list[tuple[int, int]]]:
    """Where the upper left corner of each picture goes, for rows of (width, height)."""
    places, top = [], 0
    for row in sizes:
        lefts = [sum(width + GAP for width, _ in row[:number]) for number in range(len(row))]
        places.append([(left, top) for left in lefts])
        top += max(height for _, height in row) + GAP
    return places
