"""Numbers with 95 % intervals from counts that add up: the percentile bootstrap over units.

In: a tally, `[U, C]` counts of U units, and the rule that turns summed counts into numbers. Out:
each number with its interval. Units (images, or what else belongs together) are drawn with
replacement, so a draw is a row of U multinomial weights, and all draws together are one product
`[D, U] @ [U, C]` (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13). The same
seed and the same number of units give the same draws, which is what makes a comparison paired.

A draw may miss what a number is about: all images of an MME task, every answer that says yes. Such
a draw says nothing about the number (the official 0 there is a convention, not a measurement), so
it is left out of that number's interval, and of those of means and sums over it. What has the same
score in every unit therefore has an interval of width zero. Where fewer than `LEAST` draws are
left, as with one image a task, no interval is given. Drawing within each task instead would never
miss one, but gives a task with one image an interval of width zero, and images that several splits
share (POPE, AMBER, MME's from COCO) belong to no single one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lvlm_prune.eval.benchmark import Metrics, Tally

DRAWS = 2000
LEAST = 200  # draws behind an interval: five of them lie beyond each end
LEVELS = (0.025, 0.975)


@dataclass(frozen=True)
class Number:
    """A number and its 95 % interval.

    Args:
        value: of the whole sample.
        low: lower end; None where no interval is meant (a plain count, fewer than two units, or
            hardly a draw that says anything about it).
        high: upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Values for a result file."""
        return {"value": self.value, "low": self.low, "high": self.high}

    @classmethod
    def from_dict(cls, values: Mapping[str, float | None]) -> "Number":
        """Read `to_dict`'s values."""
        value = values["value"]
        if value is None:
            raise ValueError(f"a number without a value: {dict(values)}")
        return cls(value, values.get("low"), values.get("high"))


def draw_weights(units: int, seed: int) -> NDArray[np.float64]:
    """How often each unit is drawn, `[DRAWS, U]`; none with fewer than two units.

    Args:
        units: number of units, U.
        seed: of the draws.
    """
    if units < 2:
        return np.empty((0, units))
    rng = np.random.default_rng(seed)
    return rng.multinomial(units, np.full(units, 1 / units), size=DRAWS).astype(np.float64)


def numbers_of(
    metrics: Metrics, tally: Tally, parser: str, weights: NDArray[np.float64]
) -> dict[str, Number]:
    """Every number of a rule, with intervals for those that are not plain counts.

    Args:
        metrics: columns, counts `[..., C]` and parser to named numbers `[...]`.
        tally: counts of each unit.
        parser: variant of the rule.
        weights: of `draw_weights`.
    """
    values = metrics(tally.columns, tally.total, parser)
    plain = plain_counts(metrics, tally, parser)
    drawn = drawn_numbers(metrics, tally, parser, weights)
    return {
        name: Number(float(value)) if name in plain else with_ends(float(value), drawn.get(name))
        for name, value in values.items()
    }


def drawn_numbers(
    metrics: Metrics, tally: Tally, parser: str, weights: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """The numbers of every draw, `[D]` each, NaN in draws without anything to divide by.

    Nothing is returned where nothing was drawn.
    """
    if not len(weights):
        return {}
    # Sums of counts are exact in float64, whose product is far faster than that of integers.
    sums = np.rint(weights @ tally.counts.astype(np.float64)).astype(np.int64)
    found = metrics(tally.columns, sums, parser, np.nan)
    return {name: np.broadcast_to(value, len(sums)) for name, value in found.items()}


def plain_counts(metrics: Metrics, tally: Tally, parser: str) -> frozenset[str]:
    """Names of the numbers that double when all counts double; shares and scores do not."""
    counts = tally.total + np.arange(1, len(tally.columns) + 1)
    once = metrics(tally.columns, counts, parser)
    twice = metrics(tally.columns, 2 * counts, parser)
    return frozenset(
        name for name in once if once[name] != 0 and np.isclose(twice[name], 2 * once[name])
    )


def with_ends(value: float, drawn: NDArray[np.float64] | None) -> Number:
    """A value with the 2.5 % and 97.5 % points over the draws that are not NaN."""
    known = np.empty(0) if drawn is None else drawn[~np.isnan(drawn)]
    if len(known) < LEAST:
        return Number(value)
    low, high = np.quantile(known, LEVELS)
    return Number(value, float(low), float(high))
