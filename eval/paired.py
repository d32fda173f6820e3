"""A run beside its baseline, answer by answer: what flipped, and is the difference chance?

In: a benchmark and the rows of two runs. Out: on the lines that both answered, the flips between
yes and no, answers that turned wrong and right with McNemar's exact p, the shift of the yes-ratio,
and the difference of every number with its paired 95 % bootstrap interval over units (both runs
see the same draw). Lines that share one prompt share one answer, so they count once in the p value
(POPE asks 1,500 questions in all three splits); flips are counted in lines, as the scores are.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvlm_prune.eval.benchmark import OFFICIAL, Benchmark, Item, Scoring, Tally
from lvlm_prune.eval.bootstrap import (
    Number,
    draw_weights,
    drawn_numbers,
    plain_counts,
    with_ends,
)
from lvlm_prune.eval.mcnemar import mcnemar
from lvlm_prune.eval.row import Row
from lvlm_prune.eval.scored import rows_by_item


@dataclass(frozen=True)
class Both:
    """A line that both runs answered.

    Args:
        item: the line.
        ours: raw answer of the run.
        theirs: raw answer of the baseline.
        prompt: names of the two rows; lines with the same rows share their answers.
    """

    item: Item
    ours: str
    theirs: str
    prompt: tuple[str, str]


@dataclass(frozen=True)
class Answers:
    """How yes/no answers moved.

    Args:
        yes_to_no: lines that the baseline answers yes and the run no.
        no_to_yes: the other way round.
        right_to_wrong: lines that turned wrong.
        wrong_to_right: lines that turned right.
        prompts: distinct prompts.
        prompts_worse: distinct prompts that turned wrong.
        prompts_better: distinct prompts that turned right.
        p: McNemar's exact p over distinct prompts.
        p_lines: the same over lines, as if lines with one answer were independent.
        yes_shift: share of lines answered yes, run minus baseline.
    """

    yes_to_no: int
    no_to_yes: int
    right_to_wrong: int
    wrong_to_right: int
    prompts: int
    prompts_worse: int
    prompts_better: int
    p: float
    p_lines: float
    yes_shift: float

    def to_dict(self) -> dict[str, float]:
        """JSON-ready values."""
        return {
            "yes_to_no": self.yes_to_no,
            "no_to_yes": self.no_to_yes,
            "right_to_wrong": self.right_to_wrong,
            "wrong_to_right": self.wrong_to_right,
            "prompts": self.prompts,
            "prompts_right_to_wrong": self.prompts_worse,
            "prompts_wrong_to_right": self.prompts_better,
            "mcnemar_p": self.p,
            "mcnemar_p_lines": self.p_lines,
            "yes_shift": self.yes_shift,
        }


@dataclass(frozen=True)
class Pair:
    """One scoring rule.

    Args:
        lines: lines that both answered.
        total: lines of the benchmark under this rule.
        changed: lines with another raw answer.
        headline: name of the main number.
        answers: how answers moved; None where they are not right or wrong one by one.
        differences: run minus baseline of each number that is no plain count, official parser.
    """

    lines: int
    total: int
    changed: int
    headline: str
    answers: Answers | None
    differences: Mapping[str, Number]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "lines": self.lines,
            "total": self.total,
            "changed": self.changed,
            "headline": self.headline,
            "answers": None if self.answers is None else self.answers.to_dict(),
            "differences": {name: each.to_dict() for name, each in self.differences.items()},
        }


@dataclass(frozen=True)
class Paired:
    """A run beside its baseline on a benchmark.

    Args:
        pairs: by the key of the scoring rule.
    """

    pairs: Mapping[str, Pair]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values by the rule's key."""
        return {key: pair.to_dict() for key, pair in self.pairs.items()}


def paired(
    benchmark: Benchmark, rows: Sequence[Row], base_rows: Sequence[Row], seed: int = 0
) -> Paired:
    """Set a run beside its baseline.

    Args:
        benchmark: the lines and their rules.
        rows: the run's answers.
        base_rows: those of the baseline.
        seed: of the bootstrap.

    Raises:
        ValueError: a row for a line that the benchmark does not have, or two for one line.
    """
    ours, theirs = rows_by_item(benchmark, rows), rows_by_item(benchmark, base_rows)
    pairs = {}
    for key, scoring in benchmark.scorings.items():
        items = [item for item in benchmark.items if item.benchmark == key]
        both = list(_both(items, ours, theirs))
        if items:
            pairs[key] = Pair(
                lines=len(both),
                total=len(items),
                changed=sum(each.ours != each.theirs for each in both),
                headline=scoring.headline,
                answers=_answers(scoring, both),
                differences=_differences(scoring, both, seed) if both else {},
            )
    return Paired(pairs)


def _both(
    items: Iterable[Item], ours: Mapping[str, Row], theirs: Mapping[str, Row]
) -> Iterable[Both]:
    """The lines that both answered."""
    for item in items:
        our, their = ours.get(item.id), theirs.get(item.id)
        if our is None or their is None or our.text is None or their.text is None:
            continue
        yield Both(item, our.text, their.text, (our.id, their.id))


def _answers(scoring: Scoring, both: Sequence[Both]) -> Answers | None:
    """Flips, and who turned right or wrong."""
    right = scoring.right
    if right is None:
        return None
    said: Counter[tuple[str, str]] = Counter()
    lines: Counter[tuple[bool, bool]] = Counter()
    prompts: dict[tuple[tuple[str, str], str], tuple[bool, bool]] = {}
    for each in both:
        item = each.item
        texts = each.theirs, each.ours
        was, now = (scoring.parse(item, text, OFFICIAL) for text in texts)
        was_right, now_right = (right(item, text, OFFICIAL) for text in texts)
        said[was, now] += 1
        lines[was_right, now_right] += 1
        prompts[each.prompt, item.label] = was_right, now_right
    distinct = Counter(prompts.values())
    yes = sum(count * ((now == "yes") - (was == "yes")) for (was, now), count in said.items())
    worse, better = distinct[True, False], distinct[False, True]
    return Answers(
        yes_to_no=said["yes", "no"],
        no_to_yes=said["no", "yes"],
        right_to_wrong=lines[True, False],
        wrong_to_right=lines[False, True],
        prompts=len(prompts),
        prompts_worse=worse,
        prompts_better=better,
        p=mcnemar(worse, better),
        p_lines=mcnemar(lines[True, False], lines[False, True]),
        yes_shift=yes / len(both) if both else 0.0,
    )


def _differences(scoring: Scoring, both: Sequence[Both], seed: int) -> dict[str, Number]:
    """Run minus baseline of every number that is no plain count."""
    items = [each.item for each in both]
    ours = scoring.tally(items, [each.ours for each in both], OFFICIAL)
    theirs = scoring.tally(items, [each.theirs for each in both], OFFICIAL)
    if ours.units != theirs.units:
        raise ValueError(
            f"{scoring.name} made other units of the same lines: {len(ours.units)} and "
            f"{len(theirs.units)}; a tally's units must depend on the lines alone"
        )
    weights = draw_weights(len(ours.units), seed)
    plain = plain_counts(scoring.metrics, theirs, OFFICIAL)
    values = [_values(scoring, tally) for tally in (ours, theirs)]
    drawn = [drawn_numbers(scoring.metrics, tally, OFFICIAL, weights) for tally in (ours, theirs)]
    return {
        name: with_ends(values[0][name] - base, _minus(drawn[0], drawn[1], name))
        for name, base in values[1].items()
        if name not in plain and name in values[0]
    }


def _values(scoring: Scoring, tally: Tally) -> dict[str, float]:
    """The numbers of the whole sample."""
    found = scoring.metrics(tally.columns, tally.total, OFFICIAL)
    return {name: float(value) for name, value in found.items()}


def _minus(
    ours: Mapping[str, NDArray[np.float64]], theirs: Mapping[str, NDArray[np.float64]], name: str
) -> NDArray[np.float64] | None:
    """The difference of every draw, `[D]`."""
    return ours[name] - theirs[name] if name in ours and name in theirs else None
