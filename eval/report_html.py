"""A report as one HTML file: works offline, in light and dark, on a phone and on paper.

In: the parts of a report, and the folder of its PNG files. Out: the text of `report.html`, with
drawings inlined as SVG and pictures as base64. There is no script and no outside resource, and
nothing in it is trusted: every text is escaped.
"""

import base64
import re
from collections.abc import Iterable
from html import escape
from itertools import groupby
from pathlib import Path

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
from lvlm_prune.eval.report_style import STYLE


def html_text(document: Document, folder: Path) -> str:
    """The whole file.

    Args:
        document: the parts, the title first.
        folder: where the pictures are.
    """
    title = next((part.text for part in document if isinstance(part, Heading)), "report")
    body = "\n".join(
        _verdicts(parts, folder) if strong else "\n".join(_part(part, folder) for part in parts)
        for strong, parts in groupby(document, _is_verdict)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _is_verdict(part: Part) -> bool:
    """Whether a part is one of the boxes that stand side by side."""
    return isinstance(part, Bullets) and part.strong


def _verdicts(parts: Iterable[Part], folder: Path) -> str:
    """Boxes side by side, where the page is wide enough."""
    return f'<div class="verdicts">{"".join(_part(part, folder) for part in parts)}</div>'


def _part(part: Part, folder: Path) -> str:
    """One part."""
    match part:
        case Heading(level, text):
            return f"<h{level}>{_inline(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_inline(text)}</p>"
        case Bullets(texts, strong):
            items = "".join(f"<li>{_inline(text)}</li>" for text in texts)
            return f'<ul class="verdict">{items}</ul>' if strong else f"<ul>{items}</ul>"
        case Facts(rows):
            pairs = (f"<dt>{escape(name)}</dt><dd>{_inline(value)}</dd>" for name, value in rows)
            return f"<dl>{''.join(pairs)}</dl>"
        case Code(text):
            return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'
        case Table():
            return _table(part)
        case Picture():
            return _picture(part, folder)


def _table(table: Table) -> str:
    """A table in a box of its own, which scrolls where the page is narrow."""
    heads = "".join(f'<th scope="col">{_head(head)}</th>' for head in table.heads)
    rows = []
    for number, (first, *others) in enumerate(table.rows):
        mark = ' class="baseline"' if number in table.marked else ""
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
        rows.append(f'<tr{mark}><th scope="row">{escape(first)}</th>{cells}</tr>')
    body = "\n".join(rows)
    return (
        '<div class="scroll table" tabindex="0" role="region" aria-label="table"><table>\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _head(text: str) -> str:
    """The head of a column, which breaks behind a slash and before a bracket alone."""
    return escape(text).replace(" / ", "&nbsp;/ ").replace(" %]", "&nbsp;%]")


def _picture(picture: Picture, folder: Path) -> str:
    """A drawing or a picture with its caption."""
    if picture.svg is None:
        data = base64.b64encode((folder / picture.file).read_bytes()).decode("ascii")
        label = escape(picture.caption, quote=True)
        drawn = f'<img alt="{label}" src="data:image/png;base64,{data}">'
    else:
        drawn = picture.svg
    box = '<div class="scroll drawing" tabindex="0" role="region" aria-label="picture">'
    if picture.narrow is not None:
        box = '<div class="drawing">'
        drawn = f'<div class="wide">{drawn}</div><div class="narrow">{picture.narrow}</div>'
    return f"<figure>{box}{drawn}</div><figcaption>{_inline(picture.caption)}</figcaption></figure>"


def _inline(text: str) -> str:
    """Escaped text with its code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
