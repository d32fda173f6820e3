"""POPE: is this object in the image? (Li et al., EMNLP 2023, arXiv 2305.10355; RUCAIBox/POPE).

In: labels and raw answers, paired by the caller through question ids, never by line. Out: the
official counts and the five numbers of one split. The rule itself, with those of other harnesses
and for several splits, is `SCORING` (`pope_scoring`); `load` reads question files (`pope_files`).
An empty answer counts as yes, so how many answers name neither word is counted too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lvlm_prune.eval import parsers
from lvlm_prune.eval.benchmark import OFFICIAL, Item
from lvlm_prune.eval.pope_files import load
from lvlm_prune.eval.pope_scoring import NUMBERS, SCORING, numbers_of, tally

__all__ = ["SCORING", "PopeScore", "load", "parse", "score"]

CELLS = ("tp", "fp", "tn", "fn")


@dataclass(frozen=True)
class PopeScore:
    """Official scores of one split; shares are in 0..1.

    Args:
        tp: label yes, answer yes.
        fp: label no, answer yes.
        tn: label no, answer no.
        fn: label yes, answer no.
        unparsed: non-empty answers without the word yes or a no word; they count as yes.
        empty: answers without any text; they count as yes.
    """

    tp: int
    fp: int
    tn: int
    fn: int
    unparsed: int
    empty: int

    @property
    def count(self) -> int:
        """Number of answers."""
        return self.tp + self.fp + self.tn + self.fn

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self._number("accuracy")

    @property
    def precision(self) -> float:
        """Share of right answers among those that say yes."""
        return self._number("precision")

    @property
    def recall(self) -> float:
        """Share of the yes labels that were answered yes."""
        return self._number("recall")

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return self._number("f1")

    @property
    def yes_ratio(self) -> float:
        """Share of answers that say yes."""
        return self._number("yes_ratio")

    def to_dict(self) -> dict[str, int | float]:
        """Counts and shares for a result file."""
        counts = {name: getattr(self, name) for name in CELLS}
        says = {"yes": self.tp + self.fp, "no": self.tn + self.fn}
        odd = {"unparsed": self.unparsed, "empty": self.empty}
        return {**counts, **says, **odd, **{name: getattr(self, name) for name in NUMBERS}}

    def _number(self, name: str) -> float:
        """A number of the shared rule."""
        cells = {cell: getattr(self, cell) for cell in CELLS}
        return float(numbers_of(cells, OFFICIAL)[name])


def score(labels: Sequence[str], answers: Sequence[str]) -> PopeScore:
    """Score one split by the official rule.

    Args:
        labels: `yes` or `no`.
        answers: raw answers, one for each label.

    Raises:
        ValueError: different numbers of labels and answers, or an unknown label.
        TypeError: an answer that is no text, such as None for a failed call.
    """
    for number, answer in enumerate(answers):
        if not isinstance(answer, str):
            raise TypeError(f"answer {number} is {answer!r}; a failed call cannot be scored")
    items = [
        Item(str(number), None, "", label, "pope", "all") for number, label in enumerate(labels)
    ]
    counted = tally(items, answers)
    total = dict(zip(counted.columns, map(int, counted.total), strict=True))
    cells = {cell: total.get(f"all/{cell}", 0) for cell in CELLS}
    return PopeScore(**cells, unparsed=total["said/unparsed"], empty=total["said/empty"])


def parse(answer: str) -> str:
    """Read an answer as `yes` or `no` by the official rule."""
    return parsers.pope_official(answer)
