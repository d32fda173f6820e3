"""Draw which tokens a method merged into which kept one.

In: the views of an image, its kept placeholders `[K]` and where each placeholder went, `[N]`, as
`Choice.groups` says. Out: a Pillow image at the size of the other overlays. The members of a group
share a tint and a dark border; a region that does not touch the kept token has a line to it, and on
the kept token stands the number of tokens in its group, where that fits: so groups can be told
apart without colours. Tokens that went nowhere are grey and dark. It knows nothing of models.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lvlm_prune.overlay import SIDE, dimmed
from lvlm_prune.overlay_cells import (
    BLACK,
    WHITE,
    Color,
    cell_edges,
    outline,
    over_pixels,
    token_mask,
)
from lvlm_prune.overlay_layout import Rows, composed, corners, view_factor
from lvlm_prune.views import View

# Okabe and Ito's colours without black, for every kind of colour vision.
TINTS: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
OPACITY = 0.5
NUMBERED = 18  # pixels of the smallest token that has room for a number


def draw_group_views(
    rows: Rows, groups: Tensor, kept: Tensor, side: int | None = SIDE
) -> Image.Image:
    """Show the members of each kept token.

    Args:
        rows: the views.
        groups: `[N]` int64, the kept placeholder that each one went into, -1 for none.
        kept: kept placeholders, `[K]`.
        side: size to enlarge to, in pixels; None for the views' own.
    """
    tint = group_tints(rows, groups)

    def draw(image: Image.Image, view: View) -> Image.Image:
        return _painted(image, view, groups, tint, view.own(kept, len(groups)))

    picture = composed(rows, draw, side)
    factor = view_factor(rows, side)
    places = token_centres(rows, factor)
    members = _members(groups)
    _draw_lines(picture, places, regions(rows, groups))
    smallest = min(view.image.width // view.grid[1] for row in rows for view in row) * factor
    if smallest >= NUMBERED:
        _number(picture, places, members, smallest)
    return picture


def group_tints(rows: Rows, groups: Tensor) -> dict[int, int]:
    """A tint for each group of two or more tokens, other than those of groups it touches.

    Args:
        rows: the views.
        groups: see `draw_group_views`.

    Returns:
        Number of a tint by the group's kept placeholder; with more than six touching groups of
        different tints, the tint that the fewest groups have.
    """
    touching: dict[int, set[int]] = {target: set() for target in _members(groups)}
    for view in (view for row in rows for view in row):
        cells = groups[view.rows].reshape(view.grid).tolist()
        across = [pair for line in cells for pair in zip(line, line[1:], strict=False)]
        down = [
            pair
            for one, two in zip(cells, cells[1:], strict=False)
            for pair in zip(one, two, strict=True)
        ]
        for one, two in across + down:
            if one != two and one in touching and two in touching:
                touching[one].add(two)
                touching[two].add(one)
    tints: dict[int, int] = {}
    for target in sorted(touching, key=lambda target: (-len(touching[target]), target)):
        taken = {tints[other] for other in touching[target] if other in tints}
        used = list(tints.values())
        tints[target] = min(
            range(len(TINTS)), key=lambda number: (number in taken, used.count(number), number)
        )
    return tints


def token_centres(rows: Rows, factor: int) -> dict[int, tuple[int, int]]:
    """The middle of each placeholder's pixels, in the picture of all views."""
    sizes = [
        [(view.image.width * factor, view.image.height * factor) for view in row] for row in rows
    ]
    found = {}
    for row, row_sizes, spots in zip(rows, sizes, corners(sizes), strict=True):
        for view, (width, height), (left, top) in zip(row, row_sizes, spots, strict=True):
            xs, ys = cell_edges(width, view.grid[1]), cell_edges(height, view.grid[0])
            for number, token in enumerate(view.rows.tolist()):
                y, x = divmod(number, view.grid[1])
                found[token] = (
                    left + int(xs[x] + xs[x + 1]) // 2,
                    top + int(ys[y] + ys[y + 1]) // 2,
                )
    return found


def _members(groups: Tensor) -> dict[int, list[int]]:
    """Placeholders of each group of two or more, by the kept one."""
    found: dict[int, list[int]] = {}
    for token, target in enumerate(groups.tolist()):
        if target >= 0:
            found.setdefault(target, []).append(token)
    return {target: tokens for target, tokens in found.items() if tokens != [target]}


def _painted(
    image: Image.Image, view: View, groups: Tensor, tints: Mapping[int, int], kept: Tensor
) -> Image.Image:
    """Groups in their tints, kept tokens in full colour, the rest dark."""
    targets = groups[view.rows].tolist()
    cells = np.array([TINTS[tints[t]] if t in tints else BLACK for t in targets], dtype=float)
    merged = np.array([t in tints for t in targets]).reshape(view.grid)
    grey = np.asarray(image.convert("L"), dtype=np.float64)[..., None]
    tint = over_pixels(cells.reshape(*view.grid, 3), image.size)
    mixed: NDArray = OPACITY * tint + (1 - OPACITY) * grey
    mixed = np.where(over_pixels(merged, image.size)[..., None], mixed, dimmed(image))
    stays = token_mask(kept, view.grid)
    mixed = np.where(over_pixels(stays, image.size)[..., None], np.asarray(image), mixed)
    picture = Image.fromarray(mixed.astype(np.uint8))
    _borders(picture, np.array(targets).reshape(view.grid))
    outline(picture, stays)
    return picture


def regions(rows: Rows, groups: Tensor) -> list[tuple[int, list[int]]]:
    """Connected tokens of one group in one view, for groups of two or more.

    Args:
        rows: the views.
        groups: see `draw_group_views`.

    Returns:
        The group's kept placeholder and the placeholders of each region.
    """
    merged, found = _members(groups), []
    for view in (view for row in rows for view in row):
        tokens = view.rows.tolist()
        targets = groups[view.rows].tolist()
        left = {place for place, target in enumerate(targets) if target in merged}
        while left:
            region = [left.pop()]
            for place in region:
                for near in _neighbours(place, view.grid):
                    if near in left and targets[near] == targets[place]:
                        left.remove(near)
                        region.append(near)
            found.append((targets[region[0]], sorted(tokens[place] for place in region)))
    return found


def _neighbours(place: int, grid: tuple[int, int]) -> list[int]:
    """Places above, below, left and right of one in raster order."""
    row, column = divmod(place, grid[1])
    near = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
    return [y * grid[1] + x for y, x in near if 0 <= y < grid[0] and 0 <= x < grid[1]]


def _borders(picture: Image.Image, targets: NDArray) -> None:
    """A dark line between tokens `[h, w]` that went into different ones."""
    draw = ImageDraw.Draw(picture)
    xs = cell_edges(picture.width, targets.shape[1])
    ys = cell_edges(picture.height, targets.shape[0])
    for row, column in np.argwhere(targets[:, 1:] != targets[:, :-1]):
        x = int(xs[column + 1])
        draw.line((x, int(ys[row]), x, int(ys[row + 1])), fill=BLACK)
    for row, column in np.argwhere(targets[1:] != targets[:-1]):
        y = int(ys[row + 1])
        draw.line((int(xs[column]), y, int(xs[column + 1]), y), fill=BLACK)


def _draw_lines(
    picture: Image.Image,
    places: Mapping[int, tuple[int, int]],
    found: Sequence[tuple[int, Sequence[int]]],
) -> None:
    """A white line on a black one from the middle of each region that lacks its kept token."""
    draw = ImageDraw.Draw(picture)
    lines = []
    for target, tokens in found:
        if target not in tokens and target in places:
            spots = np.array([places[token] for token in tokens])
            middle = spots[np.square(spots - spots.mean(axis=0)).sum(axis=1).argmin()]
            lines.append(((int(middle[0]), int(middle[1])), places[target]))
    for color, more in ((BLACK, 2), (WHITE, 0)):
        for start, end in lines:
            draw.line((*start, *end), fill=color, width=1 + more)
            reach = 2 + more // 2
            x, y = start
            draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=color)


def _number(
    picture: Image.Image,
    places: Mapping[int, tuple[int, int]],
    members: Mapping[int, Sequence[int]],
    smallest: int,
) -> None:
    """Write at each kept token how many tokens it stands for."""
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(11, round(0.5 * smallest)))
    for target, tokens in members.items():
        if target in places:
            draw.text(
                places[target],
                text=str(len(tokens)),
                fill=WHITE,
                font=font,
                anchor="mm",
                stroke_width=2,
                stroke_fill=BLACK,
            )
