"""The report of a run: `report.md`, `report.html` and the pictures that they show.

In: the values of `results.json`. Out: files in the run's folder. What is said comes from the
numbers; pictures of kept tokens that lie in the folder already are shown too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lvlm_prune.eval.benchmark import OFFICIAL
from lvlm_prune.eval.report_about import about_parts, left_out_parts
from lvlm_prune.eval.report_document import Bullets, Document, Heading, Paragraph, Part, Picture
from lvlm_prune.eval.report_guide import guide_parts
from lvlm_prune.eval.report_html import html_text
from lvlm_prune.eval.report_markdown import markdown_text
from lvlm_prune.eval.report_numbers import listed
from lvlm_prune.eval.report_pictures import section_pictures
from lvlm_prune.eval.report_sections import Section, labelled, sections_of
from lvlm_prune.eval.report_tables import (
    main_table,
    parser_table,
    parsers_agree,
    split_names,
    split_table,
)
from lvlm_prune.eval.report_words import verdict
from lvlm_prune.eval.results import write_text

SHOWN = {
    "overlays.png": "Visual tokens that each method keeps of the first images (in colour), and the "
    "answers.",
    "budgets.png": "Visual tokens that one method keeps at each budget, of the first images.",
}


def write_report(folder: Path, results: Mapping[str, Any]) -> None:
    """Write `report.md`, `report.html` and their pictures.

    Args:
        folder: of the run; `overlays.png` and `budgets.png` are shown if they are there.
        results: values of `results.json`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    sections = sections_of(results)
    title = f"{', '.join(results['benchmarks'])} on {results['model']}"
    parts: list[Part] = [Heading(1, title)]
    parts += verdict_parts(sections)
    for section in sections:
        parts += section_parts(section, folder)
    parts += _pictures(folder)
    parts += about_parts(results)
    parts += left_out_parts(results)
    parts += guide_parts(sections, results)
    write_document(folder, parts)


def write_document(folder: Path, document: Document) -> None:
    """Write the parts of a report as Markdown and HTML."""
    write_text(folder / "report.md", markdown_text(document))
    write_text(folder / "report.html", html_text(document, folder))


def verdict_parts(sections: Sequence[Section]) -> list[Part]:
    """What a reader in a hurry reads."""
    parts: list[Part] = []
    for section in sections:
        sentences = verdict(section)
        if sentences and len(sections) > 1:
            sentences[0] = f"{section.name}. {sentences[0]}"
        if sentences:
            parts.append(Bullets(tuple(sentences), strong=True))
    return parts


def section_parts(section: Section, folder: Path) -> list[Part]:
    """Tables and pictures of one scoring rule."""
    parts: list[Part] = [Heading(2, section.name), main_table(section)]
    shared = _shared_notes(section)
    own = [(labelled(e), note) for e in section.entries for note in e.notes if note not in shared]
    notes = [*shared, *(f"`{label}`: {note}" for label, note in own)]
    if notes:
        parts.append(Bullets(tuple(notes)))
    parts += section_pictures(section, folder)
    return [*parts, *_parser_parts(section), *_split_parts(section)]


def _parser_parts(section: Section) -> list[Part]:
    """The main number as other harnesses would have it."""
    table = parser_table(section)
    if table is None:
        return []
    names = listed([f"`{name}`" for name in table.heads[2:]])
    heading = Heading(3, f"{section.name}: {section.metric} by parser")
    if parsers_agree(section):
        return [heading, Paragraph(f"The same for every run by {names}.")]
    words = f"The same answers as other harnesses read them; `{OFFICIAL}` is the benchmark's own."
    return [heading, Paragraph(words), table]


def _split_parts(section: Section) -> list[Part]:
    """The splits of the benchmark."""
    table = split_table(section)
    if table is None:
        return []
    heading = Heading(3, f"{section.name}: {split_names(section)[0]} by split")
    pooled = "pooled" in table.heads
    words = [Paragraph("`pooled`: the lines of all splits as one.")] if pooled else []
    return [heading, *words, table]


def _shared_notes(section: Section) -> list[str]:
    """Notes that every run has."""
    first, *others = section.entries
    return [note for note in first.notes if all(note in entry.notes for entry in others)]


def _pictures(folder: Path) -> list[Part]:
    """Pictures that lie in the folder."""
    found = [Picture(name, words) for name, words in SHOWN.items() if (folder / name).is_file()]
    return [Heading(2, "What was kept"), *found] if found else []
