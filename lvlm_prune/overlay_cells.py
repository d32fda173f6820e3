"""Pixels of visual tokens: where each lies in an image, outlines around some and crosses on others.

In: an image of any size and the grid (h, w) of its tokens. Out: masks, borders in pixels, and marks
drawn into a Pillow image in place. A grid need not divide the image: cells differ by a pixel then.
It knows nothing of what the marks mean.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

Color = tuple[int, int, int]
OUTLINE: Color = (255, 176, 0)  # amber: bright for every kind of colour vision, on grey and colours
WHITE: Color = (255, 255, 255)
BLACK: Color = (0, 0, 0)


def enlarged(image: Image.Image, factor: int) -> Image.Image:
    """Enlarge by a whole factor."""
    size = (image.width * factor, image.height * factor)
    return image.resize(size, Image.Resampling.LANCZOS)


def factor_to(side: int | None, longest: int) -> int:
    """The whole factor that brings `longest` pixels nearest to `side`; 1 for native size."""
    return 1 if side is None else max(1, round(side / longest))


def token_mask(tokens: Sequence[int] | Tensor, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Some tokens as a mask, `[h, w]`.

    Raises:
        ValueError: tokens outside the grid.
    """
    rows = np.asarray(tokens, dtype=np.int64)
    if rows.size and (rows.min() < 0 or rows.max() >= grid[0] * grid[1]):
        raise ValueError(
            f"kept tokens {rows.min()}..{rows.max()} are outside a grid of {grid[0]}x{grid[1]}"
        )
    mask = np.zeros(grid[0] * grid[1], dtype=bool)
    mask[rows] = True
    return mask.reshape(grid)


def cell_edges(size: int, count: int) -> NDArray[np.int64]:
    """Borders between `count` tokens along `size` pixels, both ends included."""
    return np.arange(count + 1) * size // count


def over_pixels(cells: NDArray, size: tuple[int, int]) -> NDArray:
    """Repeat the value of each token over its pixels, `[h, w, ...]` to `[height, width, ...]`."""
    tall = np.repeat(cells, np.diff(cell_edges(size[1], cells.shape[0])), axis=0)
    return np.repeat(tall, np.diff(cell_edges(size[0], cells.shape[1])), axis=1)


def outline(picture: Image.Image, inside: NDArray[np.bool_], color: Color = OUTLINE) -> None:
    """Draw the border between tokens inside `[h, w]` and the others, on the inner side."""
    draw = ImageDraw.Draw(picture)
    tops = cell_edges(picture.height, inside.shape[0])
    lefts = cell_edges(picture.width, inside.shape[1])
    # Tokens of few pixels keep some of their own.
    smallest = min(int(np.diff(tops).min()), int(np.diff(lefts).min()))
    width = max(1, min(max(2, picture.width // 200), smallest // 4))
    around = np.pad(inside, 1)
    for row, column in np.argwhere(inside):
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


def cross(picture: Image.Image, marked: NDArray[np.bool_], least: int = 0) -> None:
    """Mark tokens `[h, w]` with a white cross on a dark one.

    Args:
        picture: drawn into.
        marked: the tokens.
        least: pixels of the smallest cross; a large one reaches beyond its token.
    """
    draw = ImageDraw.Draw(picture)
    tops = cell_edges(picture.height, marked.shape[0])
    lefts = cell_edges(picture.width, marked.shape[1])
    for row, column in np.argwhere(marked):
        left, right = int(lefts[column]), int(lefts[column + 1])
        top, bottom = int(tops[row]), int(tops[row + 1])
        inset = min(max(2, (right - left) // 5), (right - left - least) // 2)
        inset = min(inset, (min(right - left, bottom - top) - 1) // 2)
        box = (left + inset, top + inset, right - inset, bottom - inset)
        draw_cross(draw, box, max(2, (right - left) // 10, least // 6))


def draw_cross(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], width: int) -> None:
    """The diagonals of a box, white on black."""
    for color, thick in ((BLACK, width + 4), (WHITE, width)):
        draw.line(box, fill=color, width=thick)
        draw.line((box[0], box[3], box[2], box[1]), fill=color, width=thick)
