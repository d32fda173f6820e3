"""The numbers of a run: answers joined to benchmark lines by name, scored by every parser.

In: a benchmark and the rows of one run; a row answers all lines that share its prompt. Out: for
each scoring rule of the benchmark how many lines were answered, what they say, every number of
every parser with its 95 % interval over units (images), the official layout, and what a reader
must know beside them. Failed calls are counted and left out, never read as answers.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lvlm_prune.eval.benchmark import OFFICIAL, Benchmark, Item, Scoring, Tally, Text
from lvlm_prune.eval.bootstrap import Number, draw_weights, numbers_of
from lvlm_prune.eval.chair_scoring import notes as caption_notes
from lvlm_prune.eval.mme_scoring import partial_notes, partial_sums, scored_tasks
from lvlm_prune.eval.row import Row

SAYS = ("yes", "no", "unparsed", "empty", "error")


@dataclass(frozen=True)
class Block:
    """The numbers of one scoring rule.

    Args:
        answered: lines with an answer.
        total: lines of the benchmark under this rule.
        units: what was drawn for the intervals, and how many.
        says: how many lines say yes, no, neither, nothing, and how many calls failed.
        headline: name of the main number.
        lower_is_better: whether a lower headline is better.
        scale: largest value of the headline.
        official: the layout of the official script.
        parsers: every number of every parser.
        notes: sentences.
    """

    answered: int
    total: int
    units: int
    says: Mapping[str, int]
    headline: str
    lower_is_better: bool
    scale: float
    official: Mapping[str, Any]
    parsers: Mapping[str, Mapping[str, Number]]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        parsers = {
            parser: {name: number.to_dict() for name, number in numbers.items()}
            for parser, numbers in self.parsers.items()
        }
        return {
            "answered": self.answered,
            "total": self.total,
            "units": self.units,
            "counts": dict(self.says),
            "headline": self.headline,
            "lower_is_better": self.lower_is_better,
            "scale": self.scale,
            "official": dict(self.official),
            "parsers": parsers,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Scored:
    """A run's numbers on a benchmark.

    Args:
        blocks: the numbers of each scoring rule.
    """

    blocks: Mapping[str, Block]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values by the rule's key."""
        return {key: block.to_dict() for key, block in self.blocks.items()}


def scored(benchmark: Benchmark, rows: Sequence[Row], seed: int = 0) -> Scored:
    """Score a run.

    Args:
        benchmark: the lines and their rules.
        rows: the run's answers; lines without one are counted as missing.
        seed: of the bootstrap.

    Raises:
        ValueError: a row for a line that the benchmark does not have, or two for one line.
    """
    texts = {name: row.text for name, row in rows_by_item(benchmark, rows).items()}
    blocks = {}
    for key, scoring in benchmark.scorings.items():
        items = [item for item in benchmark.items if item.benchmark == key]
        if items:
            blocks[key] = _block(scoring, items, texts, seed)
    return Scored(blocks)


def rows_by_item(benchmark: Benchmark, rows: Iterable[Row]) -> dict[str, Row]:
    """The row that answers each line.

    Raises:
        ValueError: a row for a line that the benchmark does not have, or two for one line.
    """
    known = {item.id for item in benchmark.items}
    found: dict[str, Row] = {}
    for row in rows:
        for name in row.items:
            if name not in known:
                raise ValueError(
                    f"row {row.id!r} answers the line {name!r}, which {benchmark.name} does not "
                    "have; score answers with the benchmark files that they were made from"
                )
            if name in found:
                raise ValueError(
                    f"line {name!r} is answered by the rows {found[name].id!r} and {row.id!r}; "
                    "keep one of them"
                )
            found[name] = row
    return found


def _block(scoring: Scoring, items: Sequence[Item], texts: Mapping[str, Text], seed: int) -> Block:
    """The numbers of one rule."""
    answered = [item for item in items if texts.get(item.id) is not None]
    said = [texts[item.id] for item in answered]
    tallies = {parser: scoring.tally(answered, said, parser) for parser in scoring.parsers}
    units = len(tallies[OFFICIAL].units)
    weights = draw_weights(units, seed)
    lacking = _lacking(scoring, items, answered, said)
    parsers = {
        parser: {
            name: number
            for name, number in numbers_of(scoring.metrics, tally, parser, weights).items()
            if name not in lacking
        }
        for parser, tally in tallies.items()
        if answered
    } or {parser: {} for parser in tallies}
    official = {name: number.value for name, number in parsers[OFFICIAL].items()}
    says = what_they_say(scoring, answered, said, tallies[OFFICIAL])
    says["error"] = sum(item.id in texts and texts[item.id] is None for item in items)
    missing = sum(item.id not in texts for item in items)
    return Block(
        answered=len(answered),
        total=len(items),
        units=units,
        says=says,
        headline=scoring.headline,
        lower_is_better=scoring.lower_is_better,
        scale=scoring.scale,
        official=scoring.layout(official) if official else {},
        parsers=parsers,
        notes=(
            *_left_out(len(items), says["error"], missing),
            *_one_word(says, len(answered)),
            *_undefined(scoring, tallies[OFFICIAL], official),
            *_incomplete(scoring, items, texts),
            *partial_notes(lacking),
            *_mean_note(scoring, answered, official),
            *(caption_notes(official) if scoring.name == "chair" and official else ()),
        ),
    )


def what_they_say(
    scoring: Scoring, items: Sequence[Item], texts: Sequence[Text], tally: Tally
) -> dict[str, int]:
    """How many answers say yes, no, neither or nothing, by the official parser.

    Where the rule counts this itself (`said/...`) its own counts are taken: POPE's script reads an
    answer without either word as yes, and here it is still `unparsed`.
    """
    sums = dict(zip(tally.columns, tally.total.tolist(), strict=True))
    if "said/unparsed" in sums:
        return {name: int(sums.get(f"said/{name}", 0)) for name in SAYS}
    says = Counter(
        scoring.parse(item, text, OFFICIAL) if text.strip() else "empty"
        for item, text in zip(items, texts, strict=True)
        if text is not None
    )
    return {name: says[name] for name in SAYS}


def _left_out(total: int, failed: int, missing: int) -> list[str]:
    """Which lines no number is about."""
    notes = []
    if failed:
        notes.append(f"{failed} of {total} calls failed; they are left out of every number.")
    if missing:
        notes.append(f"{missing} of {total} lines have no answer; they are left out.")
    return notes


def _one_word(says: Mapping[str, int], answered: int) -> list[str]:
    """A run that says the same to everything has numbers that mean nothing, under every rule."""
    return [
        f"Every answer says {word}: the numbers are those of a constant answer, and tell how the "
        "labels are distributed, not what was seen."
        for word in ("yes", "no")
        if answered and says[word] == answered
    ]


def _undefined(scoring: Scoring, tally: Tally, numbers: Mapping[str, float]) -> list[str]:
    """Which numbers are 0 because there was nothing to divide by; captions have their own note."""
    if scoring.right is None or not numbers:
        return []
    found = scoring.metrics(tally.columns, tally.total, OFFICIAL, np.nan)
    empty = [name for name, value in found.items() if "/" not in name and np.isnan(value)]
    are = "are" if len(empty) > 1 else "is"
    return [f"{', '.join(empty)} {are} 0 for want of anything to divide by."] if empty else []


def _lacking(
    scoring: Scoring, items: Sequence[Item], answered: Sequence[Item], said: Sequence[Text]
) -> dict[str, list[str]]:
    """MME's sums that lack a task which was asked, and these tasks."""
    if scoring.name != "mme":
        return {}
    return partial_sums((item.split for item in items), scored_tasks(answered, said))


def _incomplete(scoring: Scoring, items: Sequence[Item], texts: Mapping[str, Text]) -> list[str]:
    """MME pairs of which an answer is missing."""
    if scoring.name != "mme":
        return []
    from lvlm_prune.eval.mme import incomplete

    found = incomplete(items, [texts.get(item.id) for item in items])
    if not found:
        return []
    more = ", ..." if len(found) > 5 else ""
    return [f"{len(found)} incomplete pairs are left out: {', '.join(found[:5])}{more}."]


def _mean_note(scoring: Scoring, items: Sequence[Item], numbers: Mapping[str, float]) -> list[str]:
    """Whether the headline is the mean of the splits, which two harnesses out of three pool."""
    splits = list(dict.fromkeys(item.split for item in items))
    parts = [numbers.get(f"{split}/{scoring.headline}") for split in splits]
    known = [part for part in parts if part is not None]
    if len(known) < 2 or len(known) < len(parts):
        return []
    mean = sum(known) / len(known)
    if abs(mean - numbers[scoring.headline]) > 1e-9 * max(1.0, abs(mean)):
        return []
    return [f"{scoring.headline} is the mean over {', '.join(splits)}, not of the pooled lines."]
