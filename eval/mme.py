"""MME: pairs of yes/no questions about images (Fu et al., arXiv 2306.13394).

In: raw answers to pairs of questions about one image, one yes and one no, joined by image and never
by line. Out: the official accuracy (share of right answers), accuracy+ (share of pairs with both
right) and the score of one task, their sum in percent, 0..200. The rule itself, with those of other
harnesses and for several tasks, is `SCORING` (`mme_scoring`); `load` reads the release, text files
and parquet files (`mme_files`).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from lvlm_prune.eval import parsers
from lvlm_prune.eval.benchmark import Item
from lvlm_prune.eval.mme_files import load
from lvlm_prune.eval.mme_scoring import SCORING, incomplete, numbers_of, tally

__all__ = ["SCORING", "MmeScore", "incomplete", "load", "parse", "score"]


@dataclass(frozen=True)
class MmeScore:
    """Official scores of one task; shares are in 0..1.

    Args:
        right: right answers.
        both: pairs with both answers right.
        pairs: all pairs.
        other: answers that are neither yes nor no.
    """

    right: int
    both: int
    pairs: int
    other: int

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self._number("acc") / 100

    @property
    def accuracy_plus(self) -> float:
        """Share of pairs with both answers right."""
        return self._number("acc_plus") / 100

    @property
    def score(self) -> float:
        """The task's score, 0..200; always yes and always no give 50."""
        return self._number("score")

    def to_dict(self) -> dict[str, int | float]:
        """Counts and shares for a result file."""
        counts = {name: getattr(self, name) for name in ("right", "both", "pairs", "other")}
        names = ("accuracy", "accuracy_plus", "score")
        return {**counts, **{name: getattr(self, name) for name in names}}

    def _number(self, name: str) -> float:
        """A number of the shared rule."""
        return float(numbers_of(self.right, self.both, self.pairs)[name])


def parse(answer: str) -> str:
    """Read an answer as `yes`, `no` or `other` by the official rule."""
    said = parsers.mme_official(answer)
    return said if said in (parsers.YES, parsers.NO) else "other"


def score(rows: Iterable[tuple[str, str, str]]) -> MmeScore:
    """Score one task by the official rule.

    Args:
        rows: image, label (`yes` or `no`) and raw answer of every question, in any order.

    Raises:
        ValueError: an image without exactly one yes and one no question, or no rows at all.
    """
    listed = list(rows)
    items = [
        Item(str(number), image, "", label, "mme", "all")
        for number, (image, label, _) in enumerate(listed)
    ]
    answers = [answer for _, _, answer in listed]
    lonely = [name.removeprefix("all/") for name in incomplete(items, answers)]
    if lonely or not items:
        raise ValueError(f"each image needs one yes and one no question; without: {lonely[:5]}")
    counted = tally(items, answers)
    total = dict(zip(counted.columns, map(int, counted.total), strict=True))
    cells = {name: total[f"all/{name}"] for name in ("right", "both", "pairs")}
    if len(counted.units) != cells["pairs"]:
        raise ValueError("an image has two questions with the same label")
    return MmeScore(**cells, other=total["said/unparsed"] + total["said/empty"])
