"""The results of a grid as Markdown.

In: scored runs with nothing inside the LLM. Out: the text of `table.md` about them: presence
accuracy by method and budget, every number of every run, and where they were asked the MME pairs
and the ViT sinks. Runs that are no better than the controls stand there like all others, and are
named.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lvlm_prune.eval.configs import CONTROLS
from lvlm_prune.eval.interval import RESAMPLES, Interval
from lvlm_prune.eval.prefill import StageTimes
from lvlm_prune.eval.results import RunResult

MARKS = {"above": "", "level": " °", "below": " †"}


def table_text(
    results: Sequence[RunResult],
    about: Mapping[str, Any],
    base: StageTimes,
    more: Sequence[str] = (),
) -> str:
    """The whole file.

    Args:
        results: the unpruned run first, then the others.
        about: model, benchmark, number of images and questions, timing batch.
        base: stage times of the unpruned model.
        more: parts to add.
    """
    parts = [
        f"# {about['benchmark']} on {about['model']}",
        f"{about['images']} images, {about['questions']} benchmark lines "
        f"({about['asked']} distinct questions), greedy answers of the stock `generate`.",
        "## Presence accuracy in %, by visual tokens",
        _accuracy_table(results),
        legend(),
        not_above(results),
        "## Every run",
        _run_table(results),
        _timing_note(about, base),
        *_same_note(results),
        *_odd_note(results),
    ]
    if any(result.mme for result in results):
        parts += ["## MME pairs: accuracy + accuracy+ (0..200, guessing 50)", _mme_table(results)]
    if any(result.sinks for result in results):
        parts += ["## ViT sink tokens", _sink_table(results)]
    return "\n\n".join([*parts, *more]) + "\n"


def legend() -> str:
    """What an accuracy is, and its mark."""
    return (
        "Mean of the three POPE splits (balanced: 50 % is guessing). ° not above and † below "
        "`random` at the same budget: the 95 % interval of the difference (paired bootstrap over "
        f"images, {RESAMPLES} draws) holds 0, or lies below it. Unmarked: above."
    )


def not_above(results: Sequence[RunResult]) -> str:
    """Name the selectors that are no better than random tokens, at each budget."""
    clauses = []
    for kept in budgets(results):
        compared = [
            run
            for run in results
            if run.kept == kept and run.against_random and run.config.method not in CONTROLS
        ]
        names = [
            run.label
            for run in compared
            if run.against_random and run.against_random.verdict != "above"
        ]
        if names:
            clauses.append(f"at {kept} tokens {', '.join(names)}")
        elif compared:
            clauses.append(f"at {kept} tokens none of {len(compared)}")
    if not clauses:
        return "No selector was compared with `random`."
    return f"Selectors that do not stand above `random`: {'; '.join(clauses)}."


def budgets(results: Sequence[RunResult]) -> list[int]:
    """Visual tokens of all pruned runs, most first."""
    return sorted({result.kept for result in results if not result.unpruned}, reverse=True)


def _accuracy_table(results: Sequence[RunResult]) -> str:
    """Methods down, budgets across."""
    total = results[0].total
    columns = budgets(results)
    cells = {(result.label, result.kept): result for result in results}
    labels = list(dict.fromkeys(result.label for result in results))
    rows = []
    for label in labels:
        row = [label]
        for kept in dict.fromkeys([total, *columns]):
            found = cells.get((label, kept))
            row.append("" if found is None else _accuracy(found))
        rows.append(row)
    heads = [f"{kept} ({kept / total:.0%})" for kept in dict.fromkeys([total, *columns])]
    return markdown(["method", *heads], rows)


def _accuracy(result: RunResult) -> str:
    """An accuracy with its mark."""
    return f"{100 * result.accuracy:.1f}{mark_of(result)}"


def mark_of(result: RunResult) -> str:
    """The mark of a run that does not stand above `random`."""
    against = result.against_random
    return "" if against is None else MARKS[against.verdict]


def _run_table(results: Sequence[RunResult]) -> str:
    """One line for each run."""
    heads = ["method", "tokens", "accuracy", "minus random [95 %]", "F1", "yes-ratio"]
    heads += ["LLM prefill", "with encoder"]
    rows = []
    for result in results:
        timing = result.timing
        rows.append(
            [
                result.label,
                f"{result.kept} of {result.total}",
                f"{100 * result.accuracy:.1f}",
                difference_cell(result.against_random),
                f"{100 * result.f1:.1f}",
                f"{100 * result.yes_ratio:.1f}",
                "1.00" if timing is None else f"{timing.llm_ratio:.2f}",
                "1.00" if timing is None else f"{timing.total_ratio:.2f}",
            ]
        )
    return markdown(heads, rows)


def difference_cell(against: Interval | None, marked: bool = True) -> str:
    """A difference in percentage points with its interval, and its mark."""
    if against is None:
        return ""
    low, high = 100 * against.low, 100 * against.high
    mark = MARKS[against.verdict] if marked else ""
    return f"{100 * against.difference:+.1f} [{low:+.1f}, {high:+.1f}]{mark}"


def _timing_note(about: Mapping[str, Any], base: StageTimes) -> str:
    """What the two ratios are."""
    return (
        "F1 (class yes) and yes-ratio in %, means of the splits. LLM prefill: selection, splice "
        "and the LLM up to the first token, as a share of the unpruned LLM prefill "
        f"({base.after_encoder:.1f} ms); with encoder: time to the first token as a share of the "
        f"unpruned one ({base.total:.1f} ms). Measured in this run on {about['timing']}, "
        "stages interleaved, medians of the ratios of each round."
    )


def _same_note(results: Sequence[RunResult]) -> list[str]:
    """Which runs kept exactly the rows of another one, so that nobody reads much into it."""
    same = [f"{result.name} = {result.same_as}" for result in results if result.same_as]
    return [f"Exactly the same rows on this model: {', '.join(same)}."] if same else []


def _odd_note(results: Sequence[RunResult]) -> list[str]:
    """How many answers said neither yes nor no, which the official rule takes for yes."""
    odd = [
        f"{result.name} {count}"
        for result in results
        if (count := sum(score.unparsed + score.empty for score in result.pope.values()))
    ]
    return [f"POPE answers without a yes or a no, counted as yes: {', '.join(odd)}."] if odd else []


def _mme_table(results: Sequence[RunResult]) -> str:
    """One line for each run that answered the pairs."""
    asked = [result for result in results if result.mme]
    tasks = list(asked[0].mme)
    rows = [
        [result.label, f"{result.kept} of {result.total}"]
        + [f"{result.mme[task].score:.1f}" for task in tasks]
        for result in asked
    ]
    return markdown(["method", "tokens", *tasks], rows)


def _sink_table(results: Sequence[RunResult]) -> str:
    """How many sinks there are and how many of them each run kept."""
    rows = []
    for result in results:
        found = result.sinks
        if found is not None:
            share = found.kept / found.found if found.found else 0.0
            rows.append(
                [
                    result.label,
                    f"{result.kept} of {result.total}",
                    f"{100 * result.accuracy:.1f}",
                    f"{found.found} in {found.images} images",
                    f"{found.kept} ({share:.0%})",
                ]
            )
    return markdown(["method", "tokens", "accuracy", "sinks found", "sinks kept"], rows)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns: text left, numbers right."""
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        for row in (heads, *rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))
