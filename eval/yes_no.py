"""Counting answers to yes/no questions, image by image.

In: lines of a benchmark and their raw answers. Out: a `Tally` with the columns a scoring rule
names, and the four counts that every rule has to give: how many answers name yes, no, neither, or
nothing at all. Knows no benchmark and no rule.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lvlm_prune.eval import parsers
from lvlm_prune.eval.benchmark import Item, Tally, Text

LABELS = (parsers.YES, parsers.NO)
_SAID = (parsers.YES, parsers.NO, parsers.UNPARSED, parsers.EMPTY)


class Counts:
    """Counts that grow answer by answer.

    Args:
        items: all lines, also those whose call failed, so that runs over the same lines have the
            same rows and columns.
        columns: what the rule counts; `said/yes`, `said/no`, `said/unparsed` and `said/empty` are
            added.
    """

    def __init__(self, items: Sequence[Item], columns: Sequence[str]) -> None:
        self._columns = (*columns, *(f"said/{word}" for word in _SAID))
        self._units = tuple(dict.fromkeys(unit_of(item) for item in items))
        self._column = {name: place for place, name in enumerate(self._columns)}
        self._row = {name: place for place, name in enumerate(self._units)}
        self._counts = np.zeros((len(self._units), len(self._columns)), np.int64)

    def add(self, item: Item, column: str, count: int = 1) -> None:
        """Count something for the image of a line."""
        self._counts[self._row[unit_of(item)], self._column[column]] += count

    def tally(self) -> Tally:
        """What was counted."""
        return Tally(self._columns, self._units, self._counts)


def unit_of(item: Item) -> str:
    """What is drawn together: all questions about an image."""
    return item.id if item.image is None else item.image


def check(items: Sequence[Item], answers: Sequence[Text]) -> None:
    """Refuse what cannot be scored.

    Raises:
        ValueError: different numbers of lines and answers, or a label that is neither yes nor no.
    """
    if len(items) != len(answers):
        raise ValueError(f"{len(items)} labels but {len(answers)} answers; join them by id first")
    for item in items:
        if item.label not in LABELS:
            raise ValueError(f"label of {item.id} is {item.label!r}; allowed: yes, no")


def share(
    part: NDArray[np.float64], whole: NDArray[np.float64], nothing: float = 0.0
) -> NDArray[np.float64]:
    """A quotient, `nothing` where there is nothing to divide by."""
    default = np.full(np.shape(part), nothing)
    return np.divide(part, whole, out=default, where=np.asarray(whole) != 0)
