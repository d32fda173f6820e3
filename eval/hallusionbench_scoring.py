"""HallusionBench's scores, read by string match (Guan et al., CVPR 2024, arXiv 2310.14566).

In: questions and raw answers. Out: counts for each set, and from counts the numbers of the official
script under its names. There GPT-4 judges an answer correct, incorrect or unclear; here its own
words do, so `mode` is `string match`, and the numbers are not comparable with judged ones. A word
is read as yes or no, and else the answer is unclear:

- `official`: the first word of the answer, in any case and without marks around it.
- `vlmevalkit`: one of the two words anywhere and not the other; unclear is always wrong.
- `first-word`: the first yes or no anywhere.

An unclear answer is right for a question without a figure (VS, figure 0) and else wrong. aAcc is
the share of right answers, fAcc of figures with all right, qAcc of questions that are right for
every figure of their set; `easy` and `hard` are qAcc over unedited and over edited figures alone. A
group with a failed call is left out. `yes_diff` compares how often yes is said and right; `fp` is
the share of wrong answers whose label is no. Figures and questions cross inside a set, so a set is
what is drawn together.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvlm_prune.eval import parsers
from lvlm_prune.eval.benchmark import OFFICIAL, Item, Scoring, Tally, Text
from lvlm_prune.eval.yes_no import check, share

EDITED = "2"  # visual_input of an edited figure
ROUNDED = 4  # decimals of a percentage
_SAID = (parsers.YES, parsers.NO, parsers.UNPARSED, parsers.EMPTY)
_GROUPS = ("pairs", "figs", "easy", "hard")
_SHARES = {"aAcc": "q", "qAcc": "pairs", "fAcc": "figs", "easy": "easy", "hard": "hard"}
_COUNTED = (
    *(f"{group}{end}" for group in ("q", *_GROUPS) for end in ("", "_right")),
    *("easy_q", "hard_q", "yes", "yes_label", "wrong", "wrong_no_label"),
)


def leading_word(answer: str) -> str:
    """Read the first word of an answer, in any case and without marks around it."""
    word = re.match(r"\W*(\w+)", answer)
    said = word.group(1).lower() if word else ""
    if said in (parsers.YES, parsers.NO):
        return said
    return parsers.UNPARSED if answer.strip() else parsers.EMPTY


_READ: Mapping[str, Callable[[str], str]] = {
    OFFICIAL: leading_word,
    "vlmevalkit": parsers.one_of_two,
    "first-word": parsers.first_word,
}


def tally(items: Sequence[Item], answers: Sequence[Text], parser: str = OFFICIAL) -> Tally:
    """Count for each set what its answers say.

    Args:
        items: questions, in any order.
        answers: raw answers, one for each question; None is a failed call and is left out.
        parser: how answers are read.

    Returns:
        For each category the counts that `metrics` reads, such as `VD/figs` and `VD/figs_right`,
        and `said/yes`, `said/no`, `said/unparsed` and `said/empty` of all answers.

    Raises:
        ValueError: different numbers of questions and answers, or an unknown label or parser.
    """
    check(items, answers)
    splits = sorted({item.split for item in items})
    columns = [f"{split}/{count}" for split in splits for count in _COUNTED]
    columns += [f"said/{word}" for word in _SAID]
    units = tuple(dict.fromkeys(str(item.facts["set"]) for item in items))
    row = {name: place for place, name in enumerate(units)}
    column = {name: place for place, name in enumerate(columns)}
    counts = np.zeros((len(units), len(columns)), np.int64)
    groups: dict[tuple[int, str, str], list[bool | None]] = defaultdict(list)
    for item, answer in zip(items, answers, strict=True):
        unit = row[str(item.facts["set"])]
        good = None if answer is None else _right(item, answer, parser)
        for group, member in _groups(item):
            groups[unit, f"{item.split}/{group}", member].append(good)
        if answer is not None:
            counts[unit, column[f"said/{_parse(item, answer, parser)}"]] += 1
        if good is not None:
            for name in _facts(item, good):
                counts[unit, column[f"{item.split}/{name}"]] += 1
    for (unit, name, _), right in groups.items():
        if None not in right:
            counts[unit, column[name]] += 1
            counts[unit, column[f"{name}_right"]] += all(right)
    return Tally(tuple(columns), units, counts)


def metrics(
    columns: tuple[str, ...],
    counts: NDArray[Any],
    parser: str = OFFICIAL,
    nothing: float = 0.0,
) -> dict[str, NDArray[np.float64]]:
    """The numbers of all questions, and the percentages of each category.

    Args:
        columns: of a `tally`.
        counts: sums of its counts, `[..., columns]`.
        parser: what the answers were read with; all are scored alike.
        nothing: the number where there is nothing to divide by.

    Returns:
        `aAcc`, `qAcc`, `fAcc`, `easy` and `hard` in percent, also as `VD/aAcc` and so on; the
        shares `yes_diff` and `fp`; the counts `total/q`, `total/pairs`, `total/figs`, `total/easy`,
        `total/hard` and `total/wrong`; `[...]` each.
    """
    splits = [name.removesuffix("/q") for name in columns if name.endswith("/q")]
    place = {name: place for place, name in enumerate(columns)}
    cells = {
        split: {name: _float(counts[..., place[f"{split}/{name}"]]) for name in _COUNTED}
        for split in splits
    }
    if not splits:
        return {}
    every = {name: _float(sum(own[name] for own in cells.values())) for name in _COUNTED}
    named = {
        f"{split}/{name}": value
        for split, own in cells.items()
        for name, value in _percentages(own, nothing).items()
    }
    totals = {"q": "q", "pairs": "pairs", "figs": "figs", "easy": "easy_q", "hard": "hard_q"}
    return {
        **_percentages(every, nothing),
        "yes_diff": share(every["yes"] - every["yes_label"], every["q"], nothing),
        "fp": share(every["wrong_no_label"], every["wrong"], nothing),
        **named,
        **{f"total/{name}": every[cell] for name, cell in totals.items()},
        "total/wrong": every["wrong"],
    }


def layout(numbers: Mapping[str, float]) -> dict[str, Any]:
    """The numbers of one run under the names of the official script.

    Args:
        numbers: of `metrics`, one number each.

    Returns:
        `aAcc`, `qAcc`, `fAcc`, `easy`, `hard` in percent, `totals` with the number of questions,
        pairs, figures and of questions about unedited and edited figures, `yes_diff`, `fp`, and
        `mode`, which says that no judge was asked. Where nothing is wrong the official script
        divides by zero, and `yes_diff` and `fp` are None.
    """
    totals = ("q", "pairs", "figs", "easy", "hard")
    judged = bool(numbers["total/wrong"])
    return {
        **{name: round(float(numbers[name]), ROUNDED) for name in _SHARES},
        "totals": {name: int(numbers[f"total/{name}"]) for name in totals},
        **{name: float(numbers[name]) if judged else None for name in ("yes_diff", "fp")},
        "mode": "string match",
    }


def _parse(item: Item, answer: str, parser: str) -> str:
    """What an answer says."""
    if parser not in _READ:
        raise ValueError(f"no HallusionBench parser {parser!r}; there are {', '.join(_READ)}")
    return _READ[parser](answer)


def _right(item: Item, answer: str, parser: str) -> bool:
    """Whether an answer is right."""
    said = _parse(item, answer, parser)
    if said in (parsers.YES, parsers.NO):
        return said == item.label
    return parser != "vlmevalkit" and _without_figure(item)


def _without_figure(item: Item) -> bool:
    """Whether not to know is right."""
    return item.facts["category"] == "VS" and item.facts["figure_id"] == "0"


def _groups(item: Item) -> Iterator[tuple[str, str]]:
    """What a question is part of within its set: kind of group, and which."""
    question = str(item.facts["question_id"])
    yield "pairs", question
    yield "hard" if item.facts["visual_input"] == EDITED else "easy", question
    if not _without_figure(item):
        yield "figs", str(item.facts["figure_id"])


def _facts(item: Item, good: bool) -> Iterator[str]:
    """The single counts that a question adds to."""
    yield "q"
    yield "hard_q" if item.facts["visual_input"] == EDITED else "easy_q"
    if good:
        yield "q_right"
    else:
        yield "wrong"
        if item.label == parsers.NO:
            yield "wrong_no_label"
    if item.label == parsers.YES:
        yield "yes_label"
    # The official script takes a wrong answer to say the opposite of the label.
    if good == (item.label == parsers.YES):
        yield "yes"


def _percentages(
    cells: Mapping[str, NDArray[np.float64]], nothing: float
) -> dict[str, NDArray[np.float64]]:
    """Shares of what is all right, in percent."""
    return {
        name: 100 * share(cells[f"{of}_right"], cells[of], nothing) for name, of in _SHARES.items()
    }


def _float(values: Any) -> NDArray[np.float64]:
    """Counts as numbers to divide."""
    return np.asarray(values, np.float64)


SCORING = Scoring(
    name="hallusionbench",
    parsers=tuple(_READ),
    headline="aAcc",
    parse=_parse,
    right=_right,
    tally=tally,
    metrics=metrics,
    layout=layout,
    scale=100.0,
)
