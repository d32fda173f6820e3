"""Put pictures into a labelled grid, like a figure of a paper.

In: rows of `Panel`s. Out: one Pillow image on white, each panel with a title and a grey note below
it, wrapped to the panel's width. The letters are Pillow's bundled font (Latin script only).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

MARGIN = 14
INK = (20, 20, 20)
SOFT = (90, 90, 90)
VERMILION = (190, 60, 0)


@dataclass(frozen=True)
class Panel:
    """One picture with its words.

    Args:
        image: the picture.
        title: words in black below it.
        note: words in grey below the title.
        alarm: whether the note is in vermilion instead, as for a wrong answer.
    """

    image: Image.Image
    title: str
    note: str = ""
    alarm: bool = False


def panel_grid(
    rows: Sequence[Sequence[Panel]], heading: str = "", size: int = 20, wrap: int | None = None
) -> Image.Image:
    """Draw rows of panels.

    Args:
        rows: panels; rows may differ in length.
        heading: words above everything.
        size: height of the letters in pixels.
        wrap: panels in a line, if a row is longer; its other lines begin below the second panel.
    """
    if wrap is not None:
        rows = [line for row in rows for line in _wrapped(row, wrap)]
    wide = max(max(panel.image.width for panel in row) for row in rows)
    columns = max(len(row) for row in rows)
    width = columns * wide + (columns + 1) * MARGIN
    heads = _lines(heading, width - 2 * MARGIN, size + 4)
    heights = [_height(row, wide, size) for row in rows]
    top = MARGIN + _text_height(heads, size + 4) + (MARGIN // 2 if heads else 0)
    canvas = Image.new("RGB", (width, top + sum(heights) + len(rows) * MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    _write(draw, heads, (MARGIN, MARGIN // 2), size + 4, INK)
    for row, height in zip(rows, heights, strict=True):
        for number, panel in enumerate(row):
            left = MARGIN + number * (wide + MARGIN)
            canvas.paste(panel.image, (left, top))
            below = top + max(each.image.height for each in row) + 6
            lines = _lines(panel.title, wide, size)
            _write(draw, lines, (left, below), size, INK)
            below += _text_height(lines, size)
            color = VERMILION if panel.alarm else SOFT
            _write(draw, _lines(panel.note, wide, size - 3), (left, below), size - 3, color)
        top += height + MARGIN
    return canvas


def _wrapped(row: Sequence[Panel], wrap: int) -> list[list[Panel]]:
    """A row in lines of about equal length, the first panel of each line but the first blank."""
    lines = -(-(len(row) - 1) // (wrap - 1)) or 1
    step = -(-(len(row) - 1) // lines)
    blank = Panel(Image.new("RGB", (1, 1), "white"), "")
    return [
        [row[0] if line == 0 else blank, *row[1 + line * step : 1 + (line + 1) * step]]
        for line in range(lines)
    ]


def _height(row: Sequence[Panel], wide: int, size: int) -> int:
    """Height of a row with its words."""
    words = max(
        _text_height(_lines(panel.title, wide, size), size)
        + _text_height(_lines(panel.note, wide, size - 3), size - 3)
        for panel in row
    )
    return max(panel.image.height for panel in row) + 6 + words


def _lines(text: str, width: int, size: int) -> list[str]:
    """Break a text into lines that fit; a longer word stands alone."""
    font = ImageFont.load_default(size=size)
    lines: list[str] = []
    for paragraph in text.split("\n") if text else []:
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def _text_height(lines: Sequence[str], size: int) -> int:
    """Height of some lines."""
    return len(lines) * round(size * 1.3)


def _write(
    draw: ImageDraw.ImageDraw,
    lines: Sequence[str],
    place: tuple[int, int],
    size: int,
    color: tuple[int, int, int],
) -> None:
    """Write lines below each other."""
    font = ImageFont.load_default(size=size)
    for number, line in enumerate(lines):
        draw.text((place[0], place[1] + number * round(size * 1.3)), line, fill=color, font=font)
