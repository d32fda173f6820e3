"""MME's official scores (Fu et al., arXiv 2306.13394; eval tool, calculation.py).

In: raw answers to pairs of questions about one image, one yes and one no, joined by image and never
by line. Out: accuracy (share of right answers), accuracy+ (share of pairs with both right) and the
task's score, their sum in percent, 0..200. An answer is lower-cased but not stripped; it
is `yes` or `no` itself, or its first four characters contain `yes`, or else `no`; anything else
is `other` and wrong.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class MmeScore:
    """Scores of one task; shares are in 0..1.

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
        return self.right / (2 * self.pairs)

    @property
    def accuracy_plus(self) -> float:
        """Share of pairs with both answers right."""
        return self.both / self.pairs

    @property
    def score(self) -> float:
        """The task's score, 0..200; always yes and always no give 50."""
        return 100 * (self.accuracy + self.accuracy_plus)

    def to_dict(self) -> dict[str, int | float]:
        """Counts and shares for a result file."""
        counts = {name: getattr(self, name) for name in ("right", "both", "pairs", "other")}
        names = ("accuracy", "accuracy_plus", "score")
        return {**counts, **{name: getattr(self, name) for name in names}}


def parse(answer: str) -> str:
    """Read an answer as `yes`, `no` or `other` by the official rule."""
    answer = answer.lower()
    if answer in ("yes", "no"):
        return answer
    start = answer[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def score(rows: Iterable[tuple[str, str, str]]) -> MmeScore:
    """Score one task.

    Args:
        rows: image, label (`yes` or `no`) and raw answer of every question, in any order.

    Raises:
        ValueError: an image without exactly one yes and one no question, or no rows at all.
    """
    pairs: dict[str, dict[str, str]] = defaultdict(dict)
    for image, label, answer in rows:
        if label in pairs[image]:
            raise ValueError(f"image {image} has two questions with the label {label!r}")
        pairs[image][label] = parse(answer)
    lonely = [image for image, said in pairs.items() if set(said) != {"yes", "no"}]
    if lonely or not pairs:
        raise ValueError(f"each image needs one yes and one no question; without: {lonely[:5]}")
    right = [[label == said for label, said in pair.items()] for pair in pairs.values()]
    return MmeScore(
        right=sum(map(sum, right)),
        both=sum(map(all, right)),
        pairs=len(pairs),
        other=sum(said == "other" for pair in pairs.values() for said in pair.values()),
    )
