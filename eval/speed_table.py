"""From raw rounds to medians, ratios, the table and one sentence.

In: one row for each variant of each round, times in milliseconds. Out: numbers and Markdown. A
ratio is the median over rounds of the ratio of two runs of the same round, for the ideal two runs
next to each other, so that a slow moment hits both sides; its spread is given by the quartiles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lvlm_prune.eval.speed_clock import MEASURES
from lvlm_prune.eval.speed_report import markdown_table
from lvlm_prune.eval.speed_variants import IDEAL, UNPRUNED

HEADER = (
    "variant",
    "visual tokens",
    "encoder ms",
    "stage ms",
    "prefill ms",
    "decode ms/token",
    "end to end ms",
    "x unpruned",
    "x ideal",
    "encoder x plain",
    "peak MiB",
)


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over the rounds."""

    median: float
    q1: float
    q3: float

    def __str__(self) -> str:
        """The ratio as the table shows it."""
        return f"{self.median:.3f} ({self.q1:.3f}-{self.q3:.3f})"


@dataclass(frozen=True)
class Summary:
    """One variant over all rounds.

    Args:
        visual_tokens: visual tokens in the LLM's KV cache.
        peak_mib: peak memory of the call.
        times: the MEASURES in milliseconds.
        of_unpruned: end to end, as a share of the unpruned model's time.
        of_ideal: end to end, as a share of the ideal's time.
        encoder_of_unpruned: the encoder with the method's taps, as a share of the one without.
    """

    visual_tokens: int
    peak_mib: float
    times: dict[str, Spread]
    of_unpruned: Spread
    of_ideal: Spread
    encoder_of_unpruned: Spread


def summarise(
    rows: Sequence[Mapping[str, Any]], counts: Mapping[str, tuple[float, int]], clock: str
) -> dict[str, Summary]:
    """Reduce the rounds to one summary a variant.

    Args:
        rows: `round`, `block`, `variant` and, for each clock, the MEASURES.
        counts: for each variant, peak MiB and visual tokens.
        clock: `wall` or `cpu`.
    """
    plain = {row["round"]: row[clock] for row in rows if row["variant"] == UNPRUNED}
    ideal = {(row["round"], row["block"]): row[clock] for row in rows if row["variant"] == IDEAL}
    summaries = {}
    for name, (peak, tokens) in counts.items():
        mine = [row for row in rows if row["variant"] == name]
        times = [row[clock] for row in mine]
        rounds = [plain[row["round"]] for row in mine]
        neighbours = [ideal[row["round"], row["block"]] for row in mine]
        summaries[name] = Summary(
            visual_tokens=tokens,
            peak_mib=peak,
            times={measure: spread([each[measure] for each in times]) for measure in MEASURES},
            of_unpruned=paired(times, rounds, "end_to_end"),
            of_ideal=paired(times, neighbours, "end_to_end"),
            encoder_of_unpruned=paired(times, rounds, "encoder"),
        )
    return summaries


def paired(
    mine: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]], measure: str
) -> Spread:
    """Ratio of a measure to that of the partner at the same place in `other`."""
    return spread([a[measure] / b[measure] for a, b in zip(mine, other, strict=True)])


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles, linearly interpolated."""
    q1, median, q3 = np.percentile(values, [25, 50, 75])
    return Spread(float(median), float(q1), float(q3))


def table(summaries: Mapping[str, Summary]) -> str:
    """The summaries as an aligned Markdown table; ratios with their quartiles."""
    return markdown_table([HEADER, *(_cells(name, one) for name, one in summaries.items())])


def sentence(summaries: Mapping[str, Summary], total: int) -> str:
    """What the table means.

    Args:
        summaries: of every variant.
        total: visual tokens N of the unpruned model.
    """
    plain, ideal = summaries[UNPRUNED], summaries[IDEAL]
    pruned = {
        name: summary
        for name, summary in summaries.items()
        if summary.visual_tokens == ideal.visual_tokens < total and name != IDEAL
    }
    if not pruned:
        return "No method dropped a token, so there is nothing to compare."
    slowest = max(pruned, key=lambda name: pruned[name].of_ideal.median)
    worst = pruned[slowest]
    noise = max((s.of_ideal.q3 - s.of_ideal.q1) / 2 for s in pruned.values())
    highest = max(s.peak_mib for s in pruned.values())
    encoder = ideal.times["encoder"].median / ideal.times["end_to_end"].median
    return (
        f"With {ideal.visual_tokens} of {total} visual tokens the slowest method ({slowest}) needs "
        f"{worst.of_unpruned.median:.2f} of the unpruned model's time, {worst.of_ideal.median:.3f} "
        f"times the ideal's (middle half of the rounds within {noise:.3f}), and the methods' "
        f"calls hold {highest:.1f} MiB at most instead of {plain.peak_mib:.1f}; "
        f"{encoder:.0%} of the ideal's time is the vision encoder, which pruning behind it cannot "
        "shorten."
    )


def _cells(name: str, summary: Summary) -> tuple[str, ...]:
    """One line of the table."""
    times = {measure: value.median for measure, value in summary.times.items()}
    return (
        name,
        str(summary.visual_tokens),
        f"{times['encoder']:.1f}",
        f"{times['stage']:.2f}",
        f"{times['prefill']:.1f}",
        f"{times['decode']:.2f}",
        f"{times['end_to_end']:.1f}",
        str(summary.of_unpruned),
        str(summary.of_ideal),
        str(summary.encoder_of_unpruned),
        f"{summary.peak_mib:.1f}",
    )
