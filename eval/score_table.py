"""Scores as text for the terminal: one column a parser, counts and notes always.

In: what `score.score` returns. Out: lines. Nested numbers are named by their path, such as
`tasks/count`; other numbers than counts have four digits after the point.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from lvlm_prune.eval.score_error import printable
from lvlm_prune.tables import aligned

ABOUT = ("benchmark", "parser", "n", "total", "counts", "notes", "parsers")
LONG = ("counts", "details")  # counts have rows of their own; MME's details are for --json


def score_text(result: Mapping[str, Any]) -> str:
    """The table of a score."""
    numbers = {name: value for name, value in result.items() if name not in ABOUT}
    columns = result.get("parsers") or {result["parser"]: {**numbers, "counts": result["counts"]}}
    cells = {
        parser: {**dict(_flat(each, "")), **dict(_flat(each["counts"], "says "))}
        for parser, each in columns.items()
    }
    names = list(dict.fromkeys(name for column in cells.values() for name in column))
    rows = [["", *columns]]
    rows += [[name, *(column.get(name, "-") for column in cells.values())] for name in names]
    head = f"{result['benchmark']}: {result['n']}/{result['total']} lines"
    return "\n".join([head, "", *aligned(rows), *_notes(result)])


def _flat(values: Mapping[str, Any], before: str) -> Iterator[tuple[str, str]]:
    """Numbers by their path."""
    for name, value in values.items():
        if name in LONG:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}/")
        else:
            yield f"{before}{name}", _number(value)


def _number(value: Any) -> str:
    """A cell."""
    return f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)


def _notes(result: Mapping[str, Any]) -> list[str]:
    """What a reader has to know."""
    notes = [f"note: {printable(note)}" for note in result["notes"]]
    return ["", *notes] if notes else []
