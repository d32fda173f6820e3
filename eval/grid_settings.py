"""How a grid of runs is made, whatever is run.

In: nothing. Out: one frozen value that `evaluate` makes of the command line and `Grid` follows.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lvlm_prune.eval.processes import Processes
from lvlm_prune.eval.questions import PLAIN


@dataclass(frozen=True)
class GridSettings:
    """How a grid is run.

    Args:
        out: folder for the answers; None keeps them in memory.
        batch_size: questions in one batch, halved when memory runs out.
        seed: of the bootstrap.
        pairs: methods that answer the probe's MME pairs too, as the unpruned model always does;
            runs with something inside the LLM do not. None is every run.
        template: what a prompt asks, with `{question}` in it.
        longest: new tokens of an answer at most, in place of the benchmark's.
        restart: answer everything anew.
        processes: who shares the work.
    """

    out: Path | None = None
    batch_size: int = 64
    seed: int = 0
    pairs: Collection[str] | None = None
    template: str = PLAIN
    longest: int | None = None
    restart: bool = False
    processes: Processes = Processes()


DEFAULT = GridSettings()
