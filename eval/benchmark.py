"""What a benchmark is to everyone else: questions, image files, and counts that add up.

In: nothing. Out: the types that loaders make and that the runner, `score` and the report use.
Every official metric here is a function of counts that are summed over questions, so a scoring rule
is two pure functions: `tally` counts for each unit (an image, or what else belongs together), and
`metrics` turns summed counts into numbers. Whoever wants an interval sums other units, drawn with
replacement, and asks for the same metrics. Nothing here knows a model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Text = str | None  # a raw answer; None is a failed call, which no rule may read as an answer
OFFICIAL = "official"


@dataclass(frozen=True)
class Item:
    """One line of a benchmark file.

    Args:
        id: unique name of the line, such as `pope/random/12`.
        image: file name of the image; None is a question without one.
        question: text of the question, as the benchmark has it.
        label: the right answer in the words of the scoring rule, such as `yes`; empty for captions.
        benchmark: key of its scoring rule, such as `pope`.
        split: POPE split, MME task, AMBER dimension.
        facts: whatever else its scoring rule reads.
    """

    id: str
    image: str | None
    question: str
    label: str
    benchmark: str
    split: str
    facts: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Tally:
    """Counts of a run's answers.

    Args:
        columns: what was counted, such as `random/tp`.
        units: what belongs together and is drawn together, usually images, `[U]`.
        counts: `[U, C]` int64.
    """

    columns: tuple[str, ...]
    units: tuple[str, ...]
    counts: NDArray[np.int64]

    @property
    def total(self) -> NDArray[np.int64]:
        """Counts of all units together, `[C]`."""
        return np.asarray(self.counts.sum(axis=0), dtype=np.int64)


class Metrics(Protocol):
    """From summed counts to numbers."""

    def __call__(
        self,
        columns: tuple[str, ...],
        counts: NDArray[Any],
        parser: str = OFFICIAL,
        nothing: float = 0.0,
    ) -> dict[str, NDArray[np.float64]]:
        """Every number of a rule.

        Args:
            columns: of a `Tally`.
            counts: sums of its counts, `[..., columns]`.
            parser: what the answers were read with.
            nothing: the number where there is nothing to divide by.
        """


@dataclass(frozen=True)
class Scoring:
    """The scoring rule of a benchmark, with its named variants.

    Args:
        name: of the benchmark.
        parsers: names of the variants, `official` first.
        headline: name of the metric that plots and comparisons show, such as `f1`.
        parse: item, raw answer and parser to what the answer says: `yes`, `no`, another short word
            of the rule, or `unparsed`; an empty answer is `empty` unless the rule reads it.
        right: item, raw answer and parser to whether it is right; None where answers are not right
            or wrong one by one, such as captions.
        tally: items, raw answers (the same number) and parser to counts. Failed calls are left out.
        metrics: columns, counts `[..., C]` and parser to named numbers, `[...]` each. A number over
            all splits has a plain name (`f1`), one of a split is written `random/f1`. Where the
            official script divides by zero the number is 0, and NaN for whoever asks for that, as
            a bootstrap does: such a draw says nothing about the number.
        layout: the numbers of one run, in the nesting and the names of the official script.
        lower_is_better: whether a lower headline is better.
        scale: the largest value of the headline, such as 1, 100 or 2000.
        ready: raises an ImportError where a package that `official` needs is missing.
    """

    name: str
    parsers: tuple[str, ...]
    headline: str
    parse: Callable[[Item, str, str], str]
    right: Callable[[Item, str, str], bool] | None
    tally: Callable[[Sequence[Item], Sequence[Text], str], Tally]
    metrics: Metrics
    layout: Callable[[Mapping[str, float]], dict[str, Any]]
    lower_is_better: bool = False
    scale: float = 1.0
    ready: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that was read from files.

    Args:
        name: its name on the command line.
        items: all lines, in file order.
        files: image file of every image name; it may not exist (`missing_images` looks).
        scorings: the scoring rule of each `Item.benchmark`.
        longest: most new tokens of an answer, for each `Item.benchmark` that there may be.
        version: first 16 hex digits of the SHA-256 of each file that was read, by file name, and
            what else makes it another benchmark, such as `subset`.
        source: one sentence: what was read from where.
        growing: what of the version says no more than which of the lines are asked, so that answers
            of one value stay those of another.
    """

    name: str
    items: tuple[Item, ...]
    files: Mapping[str, Path]
    scorings: Mapping[str, Scoring]
    longest: Mapping[str, int]
    version: Mapping[str, str]
    source: str
    growing: frozenset[str] = frozenset({"limit"})

    @property
    def images(self) -> list[str]:
        """Image names in order of first appearance."""
        return list(dict.fromkeys(item.image for item in self.items if item.image is not None))
