"""POPE's official scores (Li et al., EMNLP 2023; RUCAIBox/POPE, evaluate.py at 3df3ba1).

In: labels and raw answers, paired by the caller through question ids, never by line. Out: counts
and the five numbers, positive class "yes". An answer counts as "no" if, in its first sentence
and without commas, one word is exactly `No`, `no` or `not`; everything else counts as "yes", also
an empty answer, so how many answers name neither word is counted too. Where the official script
divides by zero (no answer says yes), the number is 0 here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

NO_WORDS = frozenset({"No", "no", "not"})


@dataclass(frozen=True)
class PopeScore:
    """Scores of one split; shares are in 0..1.

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
        return _share(self.tp + self.tn, self.count)

    @property
    def precision(self) -> float:
        """Share of right answers among those that say yes."""
        return _share(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of the yes labels that were answered yes."""
        return _share(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return _share(2 * self.precision * self.recall, self.precision + self.recall)

    @property
    def yes_ratio(self) -> float:
        """Share of answers that say yes."""
        return _share(self.tp + self.fp, self.count)

    def to_dict(self) -> dict[str, int | float]:
        """Counts and shares for a result file."""
        counts = {name: getattr(self, name) for name in ("tp", "fp", "tn", "fn")}
        says = {"yes": self.tp + self.fp, "no": self.tn + self.fn}
        odd = {"unparsed": self.unparsed, "empty": self.empty}
        names = ("accuracy", "precision", "recall", "f1", "yes_ratio")
        return {**counts, **says, **odd, **{name: getattr(self, name) for name in names}}


def parse(answer: str) -> str:
    """Read an answer as `yes` or `no` by the official rule."""
    return "no" if NO_WORDS.intersection(_words(answer)) else "yes"


def score(labels: Sequence[str], answers: Sequence[str]) -> PopeScore:
    """Score one split.

    Args:
        labels: `yes` or `no`.
        answers: raw answers, one for each label.

    Raises:
        ValueError: different numbers of labels and answers, or an unknown label.
        TypeError: an answer that is no text, such as None for a failed call.
    """
    if len(labels) != len(answers):
        raise ValueError(f"{len(labels)} labels but {len(answers)} answers; join them by id first")
    cells = {(label, said): 0 for label in ("yes", "no") for said in ("yes", "no")}
    unparsed = empty = 0
    for number, (label, answer) in enumerate(zip(labels, answers, strict=True)):
        if not isinstance(answer, str):
            raise TypeError(f"answer {number} is {answer!r}; a failed call cannot be scored")
        if label not in ("yes", "no"):
            raise ValueError(f"label {number} is {label!r}; allowed: yes, no")
        cells[label, parse(answer)] += 1
        empty += not answer.strip()
        unparsed += bool(answer.strip()) and not _names_an_answer(answer)
    return PopeScore(
        tp=cells["yes", "yes"],
        fp=cells["no", "yes"],
        tn=cells["no", "no"],
        fn=cells["yes", "no"],
        unparsed=unparsed,
        empty=empty,
    )


def _words(answer: str) -> list[str]:
    """Words of the first sentence, split as the official script does, at single spaces."""
    return answer.split(".", 1)[0].replace(",", "").split(" ")


def _names_an_answer(answer: str) -> bool:
    """Whether the official words hold a yes in any case, or a no word."""
    words = _words(answer)
    return bool(NO_WORDS.intersection(words)) or "yes" in (word.lower() for word in words)


def _share(part: float, whole: float) -> float:
    """A quotient, 0 where there is nothing to divide by."""
    return part / whole if whole else 0.0
