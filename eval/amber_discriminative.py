"""AMBER's yes/no questions (Wang et al., arXiv 2311.07397; junyangwang0410/AMBER, inference.py).

In: lines with a label, and raw answers. Out: counts for each image, and from counts the official
numbers in percent. The positive class is "no": precision is the share of right answers among those
that say no, recall the share of the lines with label no that were answered no. An answer is exactly
`Yes` or `No`; anything else (`yes`, `No.`) is wrong and says nothing. Every denominator is a count
+ 0.001 (attributes: three counts, + 0.003), and accuracy, precision and recall are rounded to one
decimal before F1 = 2PR / (P + R + 0.0001) in shares (existence: + 0.001) is made of them.

`vlmevalkit` and `first-word` read the answers otherwise and go through the same formulas;
VLMEvalKit itself reports accuracies only. Groups are spelled as the script spells them. Which of
them it prints depends on its `--evaluation_type`; here it depends on what was asked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvlm_prune.eval import parsers
from lvlm_prune.eval.benchmark import OFFICIAL, Item, Scoring, Tally, Text
from lvlm_prune.eval.yes_no import Counts, check

EXISTENCE, RELATION = "existence", "relation"
ATTRIBUTES = ("state", "number", "action")
SPLITS = (EXISTENCE, *ATTRIBUTES, RELATION)
NUMBERS = ("Accuracy", "Precision", "Recall", "F1")
ALL = "Descriminative Task"
_CELLS = ("asked", "right", "label_no", "said_no", "right_no")
_SMALL = 0.001


@dataclass(frozen=True)
class Group:
    """Questions that the script puts together.

    Args:
        splits: their splits.
        counters: how many counters the script adds up, each of which starts at 0.001.
        in_f1: what stands in the denominator of F1.
    """

    splits: tuple[str, ...]
    counters: int = 1
    in_f1: float = 0.0001


GROUPS: Mapping[str, Group] = {
    ALL: Group(SPLITS),
    "Exsitence": Group((EXISTENCE,), in_f1=0.001),
    "Attribute": Group(ATTRIBUTES, counters=3),
    "State": Group(("state",)),
    "Number": Group(("number",)),
    "Action": Group(("action",)),
    "Relation": Group((RELATION,)),
}
# The groups that are printed when the group on the left was asked about.
_PRINTED = {
    "Exsitence": ("Exsitence",),
    "Attribute": ("Attribute", "State", "Number", "Action"),
    "Relation": ("Relation",),
}


def yes_or_no(answer: str) -> str:
    """The official reading: exactly `Yes` or exactly `No`."""
    if answer in ("Yes", "No"):
        return answer.lower()
    return parsers.UNPARSED if answer.strip() else parsers.EMPTY


_READ: Mapping[str, Callable[[str], str]] = {
    OFFICIAL: yes_or_no,
    "vlmevalkit": parsers.one_of_two,
    "first-word": parsers.first_word,
}


def tally(items: Sequence[Item], answers: Sequence[Text], parser: str = OFFICIAL) -> Tally:
    """Count for each image what its answers say.

    Args:
        items: lines of any splits, in any order.
        answers: raw answers, one for each line; None is a failed call and is left out.
        parser: how answers are read.

    Returns:
        For each split `asked`, `right`, `label_no`, `said_no` and `right_no` (both), and the four
        `said/...` of all answers.

    Raises:
        ValueError: different numbers of lines and answers, an unknown label, split or parser.
    """
    check(items, answers)
    if unknown := sorted({item.split for item in items}.difference(SPLITS)):
        raise ValueError(f"splits {', '.join(unknown)} are none of AMBER's {', '.join(SPLITS)}")
    counts = Counts(items, [f"{split}/{cell}" for split in SPLITS for cell in _CELLS])
    for item, answer in zip(items, answers, strict=True):
        if answer is None:
            continue
        said = _parse(item, answer, parser)
        label_no, said_no = item.label == parsers.NO, said == parsers.NO
        cells = (True, said == item.label, label_no, said_no, label_no and said_no)
        for cell, there in zip(_CELLS, cells, strict=True):
            counts.add(item, f"{item.split}/{cell}", int(there))
        counts.add(item, f"said/{said}")
    return counts.tally()


def metrics(
    columns: tuple[str, ...],
    counts: NDArray[Any],
    parser: str = OFFICIAL,
    nothing: float = 0.0,
) -> dict[str, NDArray[np.float64]]:
    """The official numbers of every group.

    Args:
        columns: of a `tally`.
        counts: sums of its counts, `[..., columns]`.
        parser: what the answers were read with; all are scored alike.
        nothing: the number where there is nothing to divide by.

    Returns:
        `Attribute/F1` and so on, 0..100, and `Attribute/asked`; the numbers of all questions
        together also by their plain names, `F1`.
    """
    place = {name: number for number, name in enumerate(columns)}

    def total(group: Group, cell: str) -> NDArray[np.float64]:
        chosen = [place[f"{split}/{cell}"] for split in group.splits]
        return np.asarray(counts[..., chosen].sum(axis=-1), np.float64)

    found = {}
    for name, group in GROUPS.items():
        cells = {cell: total(group, cell) for cell in _CELLS}
        found.update(
            {f"{name}/{key}": value for key, value in _numbers(cells, group, nothing).items()}
        )
    return {**{name: found[f"{ALL}/{name}"] for name in (*NUMBERS, "asked")}, **found}


def _numbers(
    cells: Mapping[str, NDArray[np.float64]], group: Group, nothing: float
) -> dict[str, NDArray[np.float64]]:
    """The numbers of one group."""
    small = _SMALL * group.counters
    accuracy = round_as_python(cells["right"] / (cells["asked"] + small) * 100)
    precision = round_as_python(cells["right_no"] / (cells["said_no"] + small) * 100)
    recall = round_as_python(cells["right_no"] / (cells["label_no"] + small) * 100)
    part, whole = precision / 100, recall / 100
    f1 = round_as_python(2 * part * whole / (part + whole + group.in_f1) * 100)
    either_no = cells["said_no"] + cells["label_no"]
    wholes = (cells["asked"], cells["said_no"], cells["label_no"], either_no)
    values = (
        np.where(whole == 0, nothing, value)
        for whole, value in zip(wholes, (accuracy, precision, recall, f1), strict=True)
    )
    return {**dict(zip(NUMBERS, values, strict=True)), "asked": cells["asked"]}


def round_as_python(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """One decimal, as Python's `round` has it; NumPy's differs at 0.15 and its like."""
    flat = [round(value, 1) for value in np.ravel(values).tolist()]
    return np.asarray(flat, np.float64).reshape(np.shape(values))


def layout(numbers: Mapping[str, float]) -> dict[str, Any]:
    """The groups that the script prints for what was asked, in its order and spelling.

    All three dimensions are its type `d`, one is `de`, `da` or `dr`. Attributes are printed with
    all three kinds, also with one that was not asked about, which is 0 there.
    """
    asked = [name for name in _PRINTED if numbers[f"{name}/asked"]]
    printed = [ALL] if len(asked) == len(_PRINTED) else []
    printed += [group for name in asked for group in _PRINTED[name]]
    return {name: {key: float(numbers[f"{name}/{key}"]) for key in NUMBERS} for name in printed}


def _parse(_item: Item, answer: str, parser: str) -> str:
    """What an answer says."""
    if parser not in _READ:
        raise ValueError(f"no AMBER parser {parser!r}; there are {', '.join(_READ)}")
    return _READ[parser](answer)


def _right(item: Item, answer: str, parser: str) -> bool:
    """Whether an answer is right."""
    return _parse(item, answer, parser) == item.label


DISCRIMINATIVE = Scoring(
    name="amber",
    parsers=tuple(_READ),
    headline="F1",
    parse=_parse,
    right=_right,
    tally=tally,
    metrics=metrics,
    layout=layout,
    scale=100.0,
)
