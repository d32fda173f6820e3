"""The table of the `run` command: two answers with what they cost.

In: both answers with their numbers, and how they were timed. Out: aligned text. It knows nothing
about models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lvlm_prune.report import MIB
from lvlm_prune.show_figure import Shown

SURE = 0.5  # yes and no together are at least this probable where a question asks for one of them
HEADS = ("", "visual tokens", "encode", "select", "prefill", "total", "KV MiB")


@dataclass(frozen=True)
class Timed:
    """How the times were measured.

    Args:
        device: type of the torch device.
        threads: CPU threads.
        rounds: interleaved rounds.
    """

    device: str
    threads: int
    rounds: int


def asks_yes_no(shown: Sequence[Shown]) -> bool:
    """Whether any of the answers is most probably a yes or a no."""
    return any(each.yes_no is not None and sum(each.yes_no) >= SURE for each in shown)


def table(shown: Sequence[Shown], timed: Timed) -> str:
    """Both answers with their numbers; p(yes) and p(no) where the question is a yes/no one.

    Args:
        shown: the unpruned answer and the pruned one.
        timed: how the times were measured.
    """
    judged = asks_yes_no(shown)
    rows = [[*HEADS, *(("p(yes)", "p(no)") if judged else ())]]
    rows += [_cells(each, judged) for each in shown]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    ends = ["answer", *(each.text for each in shown)]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + f"  {end}"
        for row, end in zip(rows, ends, strict=True)
    ]
    threads = f", {timed.threads} thread(s)" if timed.device == "cpu" else ""
    dropped = any(each.last < each.tokens for each in shown)
    note = "; a -> b: tokens that enter the LLM, and those at its last layer" if dropped else ""
    return "\n".join(
        [
            *lines,
            f"ms up to the first token, medians of {timed.rounds} interleaved rounds after a "
            f"warm-up ({timed.device}{threads}); select includes shortening the prompt; KV: the "
            f"prompt's cache, measured{note}",
        ]
    )


def _cells(shown: Shown, judged: bool) -> list[str]:
    """One row of the table, without the answer."""
    times = shown.times
    values = (times.encode, times.select + times.splice, times.prefill, times.total)
    tokens = str(shown.tokens)
    if shown.last != shown.tokens:
        tokens = f"{shown.tokens} -> {shown.last}"
    chances = ("-", "-") if shown.yes_no is None else [f"{p:.3f}" for p in shown.yes_no]
    return [
        shown.name,
        tokens,
        *(f"{value:.1f}" for value in values),
        f"{shown.kv_bytes / MIB:.2f}",
        *(chances if judged else ()),
    ]
