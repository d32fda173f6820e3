"""POPE's scores (Li et al., EMNLP 2023, arXiv 2305.10355), positive class "yes".

In: lines with a label, and raw answers. Out: counts for each image, and from counts the official
numbers (RUCAIBox/POPE, evaluate.py at 3df3ba1) or those of another harness. They differ in how an
answer is read (`parsers`) and in what an answer that is not read does to the numbers:

- `official`: every answer is read; what is no `no` is a yes.
- `lmms-eval`: wrong for accuracy, absent from precision, recall and F1.
- `vlmevalkit`: wrong for accuracy, a no for precision, recall and F1.
- `vcd`: every answer is read, with the label in hand.
- `first-word`: wrong everywhere: a miss if the label is yes, a false alarm if it is no.

`yes_ratio` is the share of answers that say yes, also under `lmms-eval`, whose own number is the
share of the labels and says nothing of the answers. Numbers over several splits are means over the
splits, as papers give them; `pooled/f1` and its like take all answers as one split.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvlm_prune.eval import parsers
from lvlm_prune.eval.benchmark import OFFICIAL, Item, Scoring, Tally, Text
from lvlm_prune.eval.yes_no import LABELS, Counts, check, share

NUMBERS = ("accuracy", "precision", "recall", "f1", "yes_ratio")
COUNTS = ("TP", "FP", "TN", "FN")
POOLED = "pooled"
_SPLITS = ("random", "popular", "adversarial")
_CELL = {("yes", "yes"): "tp", ("yes", "no"): "fn", ("no", "yes"): "fp", ("no", "no"): "tn"}
_LOST = ("lost_yes", "lost_no")
_READ: Mapping[str, Callable[[str, str], str]] = {
    OFFICIAL: lambda answer, _: parsers.pope_official(answer),
    "lmms-eval": lambda answer, _: parsers.exact(answer),
    "vlmevalkit": lambda answer, _: parsers.one_of_two(answer),
    "vcd": parsers.substring,
    "first-word": lambda answer, _: parsers.first_word(answer),
}
# What an answer says, where the rule reads more than it says.
_NAMED = {OFFICIAL: parsers.first_sentence, "vcd": parsers.letters}


def tally(items: Sequence[Item], answers: Sequence[Text], parser: str = OFFICIAL) -> Tally:
    """Count for each image what its answers say.

    Args:
        items: lines of one or more splits, in any order.
        answers: raw answers, one for each line; None is a failed call and is left out.
        parser: how answers are read.

    Returns:
        For each split `tp`, `fp`, `tn`, `fn`, and `lost_yes` and `lost_no`, the answers to each
        label that were not read. `said/yes`, `said/no`, `said/unparsed` and `said/empty` split all
        answers by what the rule finds in them; `official` takes the last two for a yes, also
        `No!`, and `vcd` for the wrong answer.

    Raises:
        ValueError: different numbers of lines and answers, or a label that is neither yes nor no.
    """
    check(items, answers)
    splits = sorted(dict.fromkeys(item.split for item in items), key=_split_order)
    cells = (*_CELL.values(), *_LOST)
    counts = Counts(items, [f"{split}/{cell}" for split in splits for cell in cells])
    for item, answer in zip(items, answers, strict=True):
        if answer is not None:
            said = _parse(item, answer, parser)
            named = _NAMED[parser](answer) if parser in _NAMED else said
            counts.add(item, f"{item.split}/{_CELL.get((item.label, said), f'lost_{item.label}')}")
            counts.add(item, f"said/{said if named in LABELS else named}")
    return counts.tally()


def metrics(
    columns: tuple[str, ...],
    counts: NDArray[Any],
    parser: str = OFFICIAL,
    nothing: float = 0.0,
) -> dict[str, NDArray[np.float64]]:
    """The numbers of each split and of all together.

    Args:
        columns: of a `tally`.
        counts: sums of its counts, `[..., columns]`.
        parser: what the answers were read with.
        nothing: the number where there is nothing to divide by.

    Returns:
        `random/TP`, `random/f1` and so on for each split, `[...]` each. For all splits `f1` and its
        like, the mean over the splits. One split gives its counts by their plain names too;
        several give `pooled/TP`, `pooled/f1` and so on.
    """
    splits = [name.removesuffix("/tp") for name in columns if name.endswith("/tp")]
    if not splits:
        return {}
    place = {name: number for number, name in enumerate(columns)}
    cells = {
        split: {
            cell: np.asarray(counts[..., place[f"{split}/{cell}"]], np.float64)
            for cell in (*_CELL.values(), *_LOST)
        }
        for split in splits
    }
    found = {split: numbers_of(cells[split], parser, nothing) for split in splits}
    named = {f"{split}/{name}": each[name] for split, each in found.items() for name in each}
    if len(splits) == 1:
        return {**found[splits[0]], **named}
    means = {name: np.mean([found[split][name] for split in splits], axis=0) for name in NUMBERS}
    pooled = {cell: sum(cells[split][cell] for split in splits) for cell in cells[splits[0]]}
    every = numbers_of(pooled, parser, nothing)
    together = {f"{POOLED}/{name}": value for name, value in every.items()}
    return {**means, **named, **together}


def layout(numbers: Mapping[str, float]) -> dict[str, Any]:
    """The numbers of one run, named as the official script names them.

    Args:
        numbers: of `metrics`, one number each.

    Returns:
        `TP`, `FP`, `TN`, `FN`, `accuracy`, `precision`, `recall`, `f1` and `yes_ratio` of the only
        split. Of several: the five means, and the nine of each split under `splits` and of all
        answers as one split under `pooled`.
    """
    splits: dict[str, dict[str, Any]] = {}
    for name, value in numbers.items():
        split, slash, number = name.rpartition("/")
        if slash:
            exact = int(value) if number in COUNTS else float(value)
            splits.setdefault(split, {})[number] = exact
    pooled = splits.pop(POOLED, None)
    if pooled is None:
        return next(iter(splits.values()), {})
    return {**{name: float(numbers[name]) for name in NUMBERS}, "splits": splits, POOLED: pooled}


def _parse(item: Item, answer: str, parser: str) -> str:
    """What an answer says."""
    if parser not in _READ:
        raise ValueError(f"no POPE parser {parser!r}; there are {', '.join(_READ)}")
    return _READ[parser](answer, item.label)


def _right(item: Item, answer: str, parser: str) -> bool:
    """Whether an answer is right."""
    return _parse(item, answer, parser) == item.label


def numbers_of(
    cells: Mapping[str, Any], parser: str, nothing: float = 0.0
) -> dict[str, NDArray[np.float64]]:
    """Counts and shares of one split, with answers that were not read where the rule puts them.

    Args:
        cells: `tp`, `fp`, `tn`, `fn`; `lost_yes` and `lost_no` are 0 if not given.
        parser: what the answers were read with.
        nothing: the number where there is nothing to divide by. F1 needs no answer that says yes:
            it is 0 where a yes was missed.

    Returns:
        `TP`, `FP`, `TN`, `FN` as precision and recall see them, and the five shares.
    """
    tp, fp, tn, fn, lost_yes, lost_no = (
        np.asarray(cells.get(name, 0), np.float64) for name in ("tp", "fp", "tn", "fn", *_LOST)
    )
    count = tp + fp + tn + fn + lost_yes + lost_no
    said_yes = tp + fp
    if parser in ("vlmevalkit", "first-word"):
        fn = fn + lost_yes
    if parser == "first-word":
        fp = fp + lost_no
    precision, recall = share(tp, tp + fp), share(tp, tp + fn)
    f1 = share(2 * precision * recall, precision + recall)
    shares = {
        "accuracy": share(tp + tn, count, nothing),
        "precision": share(tp, tp + fp, nothing),
        "recall": share(tp, tp + fn, nothing),
        "f1": np.where(tp + fp + fn == 0, nothing, f1),
        "yes_ratio": share(said_yes, count, nothing),
    }
    return {**dict(zip(COUNTS, (tp, fp, tn, fn), strict=True)), **shares}


def _split_order(split: str) -> int:
    """The three splits in their usual order, then all others as they come."""
    return _SPLITS.index(split) if split in _SPLITS else len(_SPLITS)


SCORING = Scoring(
    name="pope",
    parsers=tuple(_READ),
    headline="f1",
    parse=_parse,
    right=_right,
    tally=tally,
    metrics=metrics,
    layout=layout,
)
