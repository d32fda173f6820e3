"""A legend below a picture: a small mark for each thing that is drawn, with words beside it.

In: a Pillow image and `Key`s. Out: the image on white with lines of keys below, as wide as before.
Marks differ in shape as well as in colour. It knows nothing of tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lvlm_prune.overlay import viridis
from lvlm_prune.overlay_cells import BLACK, OUTLINE, WHITE, draw_cross
from lvlm_prune.overlay_groups import TINTS

INK = (20, 20, 20)
SMALLEST = 12  # pixels of the letters where nothing else is asked for
LEAST = 8  # pixels of the letters in a picture too narrow for its words


@dataclass(frozen=True)
class Key:
    """One entry.

    Args:
        mark: one of `MARKS`.
        words: what it means.
    """

    mark: str
    words: str


KEPT = Key("kept", "kept: full colour, amber outline")
DROPPED = Key("dropped", "dropped: grey and dark")
SINK = Key("sink", "ViT sink")
SCORES = Key("scores", "low to high score")
MERGED = Key("merged", "merged into the numbered token")
NEWLINE = Key("newline", "newline token (struck out: dropped)")


def with_legend(
    picture: Image.Image, keys: Sequence[Key], size: int | None = None, margin: int = 0
) -> Image.Image:
    """Write the keys below a picture.

    Args:
        picture: any.
        keys: what to explain, in this order; as many in a line as fit.
        size: height of the letters in pixels, less where words would be cut off; one that goes with
            the picture's width if None.
        margin: white pixels left, right and below the legend.

    Raises:
        ValueError: a mark that is not known.
    """
    unknown = sorted({key.mark for key in keys} - set(MARKS))
    if unknown:
        raise ValueError(f"legend marks {unknown} are not known; allowed: {', '.join(MARKS)}")
    size = max(SMALLEST, picture.width // 50) if size is None else size
    room = picture.width - 2 * margin
    while size > LEAST and max(_width(key, size) for key in keys) > room:
        size -= 1
    lines = _lines(keys, room, size)
    step = round(1.7 * size)
    tall = picture.height + step * len(lines) + margin
    canvas = Image.new("RGB", (picture.width, tall), "white")
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        left, middle = margin, picture.height + step * number + step // 2
        for key in line:
            top = middle - size // 2
            for_mark = _mark_width(key, size)
            MARKS[key.mark](draw, (left, top, left + for_mark - 1, top + size - 1))
            spot = (left + for_mark + size // 2, middle)
            draw.text(spot, key.words, fill=INK, font=_font(size), anchor="lm")
            left += _width(key, size) + size
    return canvas


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own letters."""
    return ImageFont.load_default(size=size)


def _mark_width(key: Key, size: int) -> int:
    """Pixels of a mark: a square, or a bar for scores."""
    return 4 * size if key.mark == "scores" else size


def _width(key: Key, size: int) -> int:
    """Pixels of a mark and its words."""
    return _mark_width(key, size) + size // 2 + round(_font(size).getlength(key.words))


def _lines(keys: Sequence[Key], width: int, size: int) -> list[list[Key]]:
    """As many keys in a line as fit, at least one."""
    lines: list[list[Key]] = []
    for key in keys:
        longer = [*lines[-1], key] if lines else [key]
        if lines and sum(_width(one, size) + size for one in longer) - size <= width:
            lines[-1] = longer
        else:
            lines.append([key])
    return lines


Box = tuple[int, int, int, int]


def _kept(draw: ImageDraw.ImageDraw, box: Box) -> None:
    """A coloured square in amber."""
    draw.rectangle(box, fill=(120, 190, 235), outline=OUTLINE, width=max(2, (box[2] - box[0]) // 7))


def _dropped(draw: ImageDraw.ImageDraw, box: Box) -> None:
    """A grey square."""
    draw.rectangle(box, fill=(95, 95, 95))


def _sink(draw: ImageDraw.ImageDraw, box: Box) -> None:
    """The cross."""
    draw.rectangle(box, fill=(95, 95, 95))
    inset = max(2, (box[2] - box[0]) // 5)
    inner = (box[0] + inset, box[1] + inset, box[2] - inset, box[3] - inset)
    draw_cross(draw, inner, max(2, (box[2] - box[0]) // 10))


def _scores(draw: ImageDraw.ImageDraw, box: Box) -> None:
    """A bar from dark to bright."""
    colors = viridis(np.linspace(0, 1, box[2] - box[0] + 1)).round().astype(int)
    for x, color in zip(range(box[0], box[2] + 1), colors.tolist(), strict=True):
        draw.line((x, box[1], x, box[3]), fill=tuple(color))


def _merged(draw: ImageDraw.ImageDraw, box: Box) -> None:
    """Two tints, a border and a line with a dot."""
    middle = (box[0] + box[2]) // 2
    draw.rectangle((box[0], box[1], middle, box[3]), fill=TINTS[0])
    draw.rectangle((middle, box[1], box[2], box[3]), fill=TINTS[1])
    draw.line((middle, box[1], middle, box[3]), fill=BLACK)
    start, end = (box[0] + 3, box[3] - 3), (box[2] - 2, box[1] + 2)
    draw.line((*start, *end), fill=BLACK, width=3)
    draw.line((*start, *end), fill=WHITE)
    draw.ellipse((start[0] - 2, start[1] - 2, start[0] + 2, start[1] + 2), WHITE, BLACK)


def _newline(draw: ImageDraw.ImageDraw, box: Box) -> None:
    """A bar of three cells, the lower ones struck out."""
    left, right = box[0] + (box[2] - box[0]) // 4, box[2] - (box[2] - box[0]) // 4
    third = (box[3] - box[1]) // 3
    for number, color in enumerate((OUTLINE, (90, 90, 90), (90, 90, 90))):
        top = box[1] + number * (third + 1)
        draw.rectangle((left, top, right, top + third - 1), fill=color)
        if number:
            draw.line((left, top + third - 1, right, top), fill=WHITE)


MARKS: dict[str, Callable[[ImageDraw.ImageDraw, Box], None]] = {
    "kept": _kept,
    "dropped": _dropped,
    "sink": _sink,
    "scores": _scores,
    "merged": _merged,
    "newline": _newline,
}
