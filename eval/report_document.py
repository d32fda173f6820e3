"""A report as a list of parts, which Markdown and HTML are both written from.

In: nothing. Out: the parts. Text is plain, except that words in backticks are code.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """Sentences."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences; a `strong` one is what a reader in a hurry reads."""

    texts: tuple[str, ...]
    strong: bool = False


@dataclass(frozen=True)
class Facts:
    """Names with values."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Code:
    """A command, as it stands in a shell."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table: the first column is words, all others are numbers.

    Args:
        heads: of the columns.
        rows: cells.
        marked: rows that stand out, such as the baseline.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A picture with a caption.

    Args:
        file: name of its PNG in the report's folder.
        caption: one or two sentences; also what is read aloud in its place.
        svg: drawing for HTML; None takes the PNG.
        narrow: the same drawing for a phone; None has only one.
    """

    file: str
    caption: str
    svg: str | None = None
    narrow: str | None = None


Part = Heading | Paragraph | Bullets | Facts | Code | Table | Picture
Document = Sequence[Part]
