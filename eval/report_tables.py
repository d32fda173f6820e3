"""The tables of a report.

In: sections. Out: one table of all runs, one of the parsers side by side, one of the splits. Every
run stands in every table, also those that are no better than a control.
"""

from collections.abc import Callable

from lvlm_prune.eval.benchmark import OFFICIAL
from lvlm_prune.eval.report_document import Table
from lvlm_prune.eval.report_numbers import (
    NONE,
    difference,
    interval,
    p_value,
    ratio,
    shown,
    signed,
    tokens,
)
from lvlm_prune.eval.report_sections import Entry, Section

Column = tuple[str, Callable[[Entry], str]]
MOST_SPLITS = 16  # tables of more splits would be read by nobody


def main_table(section: Section) -> Table:
    """All runs with their main number, beside the baseline."""
    columns = [*_score_columns(section), *_answer_columns(section), *_time_columns(section)]
    if not section.captions:
        columns.append(("unparsed / empty / error", _odd))
    elif any(entry.says["error"] or entry.says["empty"] for entry in section.entries):
        columns.append(("empty / error", lambda e: f"{e.says['empty']} / {e.says['error']}"))
    return _table(section, columns)


def _score_columns(section: Section) -> list[Column]:
    """The main number, its difference, and of captions the recall."""
    scale = section.scale
    columns: list[Column] = [
        ("kept", lambda e: f"{tokens(e.kept)} of {tokens(e.total)}"),
        (f"{section.metric} [95 %]", lambda e: interval(e.headline, scale)),
    ]
    if section.staged:
        columns.insert(1, ("average over layers", lambda e: tokens(e.spent)))
    if section.compared:
        columns.append(
            ("minus baseline [95 %]", lambda e: difference(section.gain(e), scale)),
        )
    for name in section.beside:
        columns += [
            (f"{name} [95 %]", _interval_of(name, scale)),
            (f"{name} minus baseline [95 %]", _difference_of(name, scale)),
        ]
    return columns


def _interval_of(name: str, scale: float) -> Callable[[Entry], str]:
    """A cell for a number."""
    return lambda entry: interval(entry.parsers.get(OFFICIAL, {}).get(name), scale)


def _difference_of(name: str, scale: float) -> Callable[[Entry], str]:
    """A cell for the difference of a number."""
    return lambda entry: difference(entry.differences.get(name), scale)


def _answer_columns(section: Section) -> list[Column]:
    """Flips, p values and the yes-ratio; none for captions."""
    columns: list[Column] = []
    if any(entry.answers for entry in section.entries):
        columns += [
            ("lines yes→no / no→yes", lambda e: _counts(e, "yes_to_no", "no_to_yes")),
            ("prompts right→wrong / wrong→right", _turned),
            ("McNemar p", lambda e: p_value((e.answers or {}).get("mcnemar_p"))),
            ("Holm p", lambda e: p_value(e.holm)),
        ]
    if any(entry.yes_ratio is not None for entry in section.entries):
        columns.append(("yes-ratio (shift)", _yes_ratio))
    return columns


def _turned(entry: Entry) -> str:
    """The two counts that McNemar's test compares."""
    return _counts(entry, "prompts_right_to_wrong", "prompts_wrong_to_right")


def _counts(entry: Entry, first: str, second: str) -> str:
    """Two counts."""
    return f"{entry.answers[first]:,} / {entry.answers[second]:,}" if entry.answers else NONE


def _yes_ratio(entry: Entry) -> str:
    """How often it says yes, and how much more often than the baseline."""
    if entry.yes_ratio is None:
        return NONE
    shift = f" ({signed(entry.answers['yes_shift'], 1)})" if entry.answers else ""
    return f"{shown(entry.yes_ratio)}{shift}"


def _time_columns(section: Section) -> list[Column]:
    """Measured times; none where nothing was timed."""
    if all(entry.llm_ratio is None for entry in section.entries):
        return []
    return [("prefill: LLM / all", lambda e: f"{ratio(e.llm_ratio)} / {ratio(e.total_ratio)}")]


def _odd(entry: Entry) -> str:
    """Answers that are no answers."""
    return " / ".join(f"{entry.says[name]:,}" for name in ("unparsed", "empty", "error"))


def parser_table(section: Section) -> Table | None:
    """The main number by every parser; None where there is only one."""
    names = [*dict.fromkeys(parser for entry in section.entries for parser in entry.parsers)]
    if len(names) < 2:
        return None
    columns = [_kept_column(), *((name, _by_parser(section, name)) for name in names)]
    return _table(section, columns)


def parsers_agree(section: Section) -> bool:
    """Whether the main number of every run is the same by every parser."""
    for entry in section.entries:
        found = [numbers.get(section.metric) for numbers in entry.parsers.values()]
        if any(number != found[0] for number in found):
            return False
    return True


def _by_parser(section: Section, parser: str) -> Callable[[Entry], str]:
    """A cell for a parser's main number."""
    return lambda e: interval(e.parsers.get(parser, {}).get(section.metric), section.scale)


def split_table(section: Section) -> Table | None:
    """The number of every split by the official parser; None where there is one split alone."""
    metric, splits = split_names(section)
    if not 1 < len(splits) <= MOST_SPLITS:
        return None
    columns = [_kept_column(), *((split, _of_split(section, split, metric)) for split in splits)]
    return _table(section, columns)


def split_names(section: Section) -> tuple[str, list[str]]:
    """Which number of the splits is shown, and the splits that have it."""
    names = section.entries[0].parsers.get(OFFICIAL, {})
    for metric in (section.metric, "score", "f1", "accuracy"):
        splits = [name.rpartition("/")[0] for name in names if name.endswith(f"/{metric}")]
        if splits:
            return metric, splits
    return section.metric, []


def _of_split(section: Section, split: str, metric: str) -> Callable[[Entry], str]:
    """A cell for the number of a split."""
    return lambda e: interval(e.parsers.get(OFFICIAL, {}).get(f"{split}/{metric}"), section.scale)


def _kept_column() -> Column:
    """The budget, in every table."""
    return "kept", lambda e: f"{tokens(e.kept)} of {tokens(e.total)}"


def _table(section: Section, columns: list[Column]) -> Table:
    """One row for each run."""
    rows = [(entry.label, *(cell(entry) for _, cell in columns)) for entry in section.entries]
    marked = frozenset(i for i, entry in enumerate(section.entries) if entry.baseline)
    return Table(("run", *(head for head, _ in columns)), tuple(rows), marked)
