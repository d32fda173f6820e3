"""Draw the tiles of an image with their names, the tokens kept of each, and its newline tokens.

In: the views of an image, its kept placeholders `[K]` and the number of all, N. Out: one Pillow
image: above each view a line with its name and how many of its tokens were kept; right of a view
that has a newline token behind each row of tokens (LLaVA-NeXT, OneVision) a bar with one cell a
row: amber for a kept newline token, grey with a stroke for a dropped one. It knows no family: a
newline token is a placeholder that follows a row of tokens and lies in no view.
"""

from collections.abc import Collection

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lvlm_prune.overlay import SIDE, draw_kept_views
from lvlm_prune.overlay_cells import BLACK, OUTLINE, WHITE, cell_edges
from lvlm_prune.overlay_layout import Rows, in_rows, view_factor
from lvlm_prune.views import View

LETTERS = 16  # pixels
BAR = 12  # pixels of the bar of newline tokens
SPACE = 3  # between a view and its bar
DARK = (90, 90, 90)


def draw_tiles(
    rows: Rows, kept: Tensor, sinks: Tensor | None, total: int, side: int | None = SIDE
) -> Image.Image:
    """Kept and dropped tokens of every view, named, with newline tokens.

    Args:
        rows: the views.
        kept: kept placeholders of the image, `[K]`.
        sinks: which of its N placeholders are ViT sinks, or None.
        total: N.
        side: size to enlarge to, in pixels; None for the views' own. Names and bars come on top.
    """
    factor = view_factor(rows, side)
    newlines = newline_tokens(rows, total)
    held = set(kept.tolist())
    pictures = []
    for row, ends in zip(rows, newlines, strict=True):
        drawn = []
        for view, tokens in zip(row, ends, strict=True):
            own = max(view.image.size) * factor
            picture = draw_kept_views([[view]], kept, sinks, total, own)
            drawn.append(_named(_with_bar(picture, tokens, held), label(view, kept, total)))
        pictures.append(drawn)
    return in_rows(pictures)


def newline_tokens(rows: Rows, total: int) -> list[list[list[int]]]:
    """The placeholders behind the rows of tokens of each view; none where not every row has one.

    Args:
        rows: the views.
        total: placeholders of the image, N.
    """
    shown = {token for row in rows for view in row for token in view.rows.tolist()}

    def behind(view: View) -> list[int]:
        ends = view.rows.reshape(view.grid)[:, -1].tolist()
        after = [end + 1 for end in ends]
        return after if all(token < total and token not in shown for token in after) else []

    return [[behind(view) for view in row] for row in rows]


def label(view: View, kept: Tensor, total: int) -> str:
    """A view's name and how many of its tokens were kept."""
    counted = f"{len(view.own(kept, total))} of {len(view.rows)}"
    return f"{view.name}: {counted}" if view.name else f"{counted} tokens"


def _with_bar(picture: Image.Image, tokens: list[int], kept: Collection[int]) -> Image.Image:
    """Put the newline tokens of a view at its right."""
    if not tokens:
        return picture
    wide = Image.new("RGB", (picture.width + SPACE + BAR, picture.height), "white")
    wide.paste(picture, (0, 0))
    draw = ImageDraw.Draw(wide)
    tops = cell_edges(picture.height, len(tokens))
    left, right = picture.width + SPACE, wide.width - 1
    for number, token in enumerate(tokens):
        top, bottom = int(tops[number]), int(tops[number + 1]) - 2
        draw.rectangle((left, top, right, bottom), fill=OUTLINE if token in kept else DARK)
        if token not in kept:
            draw.line((left, bottom, right, top), fill=WHITE)
    return wide


def _named(picture: Image.Image, words: str) -> Image.Image:
    """Put a line of words above a picture, in smaller letters where it is narrow."""
    size = LETTERS
    while size > 8 and ImageFont.load_default(size=size).getlength(words) > picture.width:
        size -= 1
    line = round(1.4 * size)
    taller = Image.new("RGB", (picture.width, picture.height + line), "white")
    taller.paste(picture, (0, line))
    font = ImageFont.load_default(size=size)
    ImageDraw.Draw(taller).text((0, line // 2), words, fill=BLACK, font=font, anchor="lm")
    return taller
