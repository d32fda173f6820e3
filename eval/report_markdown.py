"""A report as Markdown (GitHub's dialect), with pictures as files beside it.

In: the parts of a report. Out: the text of `report.md`.
"""

from lvlm_prune.eval.report_document import (
    Bullets,
    Code,
    Document,
    Facts,
    Heading,
    Paragraph,
    Part,
    Picture,
    Table,
)
from lvlm_prune.eval.table import markdown


def markdown_text(document: Document) -> str:
    """The whole file."""
    return "\n\n".join(_part(part) for part in document) + "\n"


def _part(part: Part) -> str:
    """One part."""
    match part:
        case Heading(level, text):
            return f"{'#' * level} {_line(text)}"
        case Paragraph(text):
            return _line(text)
        case Bullets(texts, strong):
            sign = "> -" if strong else "-"
            return "\n".join(f"{sign} {_line(text)}" for text in texts)
        case Facts(pairs):
            return "\n".join(f"- **{name}**: {_line(value)}" for name, value in pairs)
        case Code(text):
            return f"```sh\n{text}\n```"
        case Table(heads, rows):
            cells = [[_cell(cell) for cell in row] for row in rows]
            return markdown([_cell(head) for head in heads], cells)
        case Picture(file, caption):
            words = caption.partition(". ")[0].replace("[", "(").replace("]", ")")
            return f"![{_line(words)}]({file})\n\n{_line(caption)}"


def _line(text: str) -> str:
    """One line, as a line break would end the part; no signs of Markdown or HTML but in code."""
    parts = " ".join(text.split()).split("`")
    return "`".join(
        part if number % 2 else part.replace("<", "&lt;").replace("*", "\\*")
        for number, part in enumerate(parts)
    )


def _cell(text: str) -> str:
    """A cell: a bar would end it."""
    return _line(text).replace("|", "\\|")
