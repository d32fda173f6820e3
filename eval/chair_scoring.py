"""CHAIR's numbers from any vocabulary (Rohrbach et al., arXiv 1809.02156, equations 1 and 2).

In: captions, what is in their images, and a vocabulary that finds objects in a caption. Out: counts
for each image, and from counts the official numbers. Every mention counts, also a repeated one:
CHAIRi is the share of mentions that are made up, CHAIRs the share of captions with at least one of
them. Recall, the share of the objects that are there which were named, and Len, the mean number of
tokens, stand beside them, because a caption that says nothing makes nothing up. An empty caption is
a caption. Where nothing was named, or nothing is there, the share is 0 and `notes` says so (the
official script ends with a ZeroDivisionError).

Knows no list of words; `chair` has COCO's, `caption` that of the drawn scenes.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lvlm_prune.eval.benchmark import OFFICIAL, Item, Scoring, Tally, Text
from lvlm_prune.eval.yes_no import share, unit_of

CAPTION, EMPTY = "caption", "empty"
NUMBERS = ("CHAIRs", "CHAIRi", "Recall", "Len")
COUNTS = ("mentions", "hallucinated", "hallucinated_captions", "gt_objects", "recalled")
COLUMNS = ("captions", *COUNTS, "tokens")


class Names(Protocol):
    """What finds objects in a caption."""

    def mentions(self, caption: str) -> list[str]:
        """The objects that a caption names, each as often as it is named."""

    def length(self, caption: str) -> int:
        """Tokens of a caption."""


def chair_scoring(
    name: str, vocabulary: Names, objects: Callable[[Item], Collection[str]]
) -> Scoring:
    """CHAIR's scoring rule with a vocabulary.

    Args:
        name: of the benchmark.
        vocabulary: finds the objects that a caption names.
        objects: the objects that are in the image of a line, named as the vocabulary names them.
    """

    def tally(items: Sequence[Item], answers: Sequence[Text], parser: str = OFFICIAL) -> Tally:
        _check(parser)
        if len(items) != len(answers):
            raise ValueError(f"{len(items)} images but {len(answers)} captions; join them first")
        units = tuple(dict.fromkeys(unit_of(item) for item in items))
        row = {unit: place for place, unit in enumerate(units)}
        counts = np.zeros((len(units), len(COLUMNS)), np.int64)
        for item, answer in zip(items, answers, strict=True):
            if answer is not None:
                found = count(vocabulary.mentions(answer), frozenset(objects(item)))
                counts[row[unit_of(item)]] += [1, *found, vocabulary.length(answer)]
        return Tally(COLUMNS, units, counts)

    return Scoring(
        name=name,
        parsers=(OFFICIAL,),
        headline="CHAIRs",
        parse=_parse,
        right=None,
        tally=tally,
        metrics=metrics,
        layout=layout,
        lower_is_better=True,
    )


def count(named: Sequence[str], there: frozenset[str]) -> list[int]:
    """Count one caption.

    Args:
        named: the objects it names, with repetitions.
        there: the objects of its image.

    Returns:
        Mentions, made-up mentions, 1 if there are any, objects that are there, and those named.
    """
    made_up = sum(name not in there for name in named)
    return [len(named), made_up, int(made_up > 0), len(there), len(there.intersection(named))]


def metrics(
    columns: tuple[str, ...],
    counts: NDArray[Any],
    parser: str = OFFICIAL,
    nothing: float = 0.0,
) -> dict[str, NDArray[np.float64]]:
    """The official numbers as shares in 0..1, and what they are made of.

    Args:
        columns: of a tally.
        counts: sums of its counts, `[..., columns]`.
        parser: `official`.
        nothing: the number where there is nothing to divide by.

    Returns:
        `CHAIRs`, `CHAIRi`, `Recall`, `Len` (mean tokens of a caption) and the counts, `[...]` each.
    """
    _check(parser)
    cell = {name: np.asarray(counts[..., place], np.float64) for place, name in enumerate(columns)}
    return {
        "CHAIRs": share(cell["hallucinated_captions"], cell["captions"], nothing),
        "CHAIRi": share(cell["hallucinated"], cell["mentions"], nothing),
        "Recall": share(cell["recalled"], cell["gt_objects"], nothing),
        "Len": share(cell["tokens"], cell["captions"], nothing),
        **{name: cell[name] for name in ("captions", *COUNTS)},
    }


def layout(numbers: Mapping[str, float]) -> dict[str, Any]:
    """The numbers of one run, named as the official script names them, and the counts."""
    shares = {name: float(numbers[name]) for name in NUMBERS}
    return {**shares, **{name: int(numbers[name]) for name in (*COUNTS, "captions")}}


def notes(numbers: Mapping[str, float]) -> list[str]:
    """What a reader has to know beside the numbers of a run."""
    found = []
    if numbers["captions"] and not numbers["mentions"]:
        found.append("No caption names an object of the list: CHAIRs and CHAIRi are 0, not good.")
    if numbers["captions"] and not numbers["gt_objects"]:
        found.append("No image holds an object of the list: every mention counts as made up.")
    return found


def _parse(_item: Item, answer: str, parser: str) -> str:
    """Whether there is a caption at all."""
    _check(parser)
    return CAPTION if answer.strip() else EMPTY


def _check(parser: str) -> None:
    """Refuse a parser that is not there."""
    if parser != OFFICIAL:
        raise ValueError(f"no CHAIR parser {parser!r}; there is {OFFICIAL}")
