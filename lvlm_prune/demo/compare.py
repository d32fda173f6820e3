"""Many ways to prune for one question: all methods at one budget, or one method over budgets.

In: an engine, a question and the settings that stay. Out: generators that say before each step what
comes next, and at the end have every answer; whoever stops asking ends them. The first row is
always the full model. A method that this model cannot run is a row with the reason.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lvlm_prune.budget import tokens_to_keep
from lvlm_prune.config import EVERYTHING
from lvlm_prune.demo.cancelling import CancelledError, Job
from lvlm_prune.demo.engine import Engine
from lvlm_prune.demo.mistakes import told
from lvlm_prune.demo.results import Answered
from lvlm_prune.demo.settings import Asking, Settings, check_budget
from lvlm_prune.demo.words import part
from lvlm_prune.eval.configs import CONTROLS
from lvlm_prune.methods import METHODS

SHARES = (0.5, 0.25, 0.125, 0.06, 0.03)


@dataclass(frozen=True)
class Compared:
    """One way to prune.

    Args:
        label: its name.
        answered: the answer, or None where there is none.
        refusal: why there is none, in a sentence.
        control: whether it is a method that only others are to be better than.
    """

    label: str
    answered: Answered | None
    refusal: str = ""
    control: bool = False


@dataclass(frozen=True)
class Progress:
    """How far a comparison is.

    Args:
        rows: what is known, the full model first.
        total: rows when it is done.
        doing: the label of the next row; empty at the end.
        title: what is compared.
    """

    rows: tuple[Compared, ...]
    total: int
    doing: str
    title: str


def compare_methods(
    engine: Engine, asking: Asking, settings: Settings, job: Job
) -> Iterator[Progress]:
    """Answer with every method at one budget.

    Args:
        engine: the model.
        asking: question and image.
        settings: budget, reweighting and sink policy; the method does not count.
        job: ends the work early.
    """
    total = engine.visual_tokens(asking)
    check_budget(settings.keep, total)
    names = [name for name in METHODS if name != EVERYTHING]
    ways = [(name, replace(settings, method=name)) for name in names]
    title = f"Every method, {settings.keep} of {total} visual tokens: “{asking.question}”"
    return _compare(engine, asking, title, ways, job)


def compare_budgets(
    engine: Engine, asking: Asking, settings: Settings, job: Job
) -> Iterator[Progress]:
    """Answer with one method at budgets from half of the tokens to 3 %, and the one that is set.

    Args:
        engine: the model.
        asking: question and image.
        settings: method, budget, reweighting and sink policy.
        job: ends the work early.
    """
    total = engine.visual_tokens(asking)
    check_budget(settings.keep, total)
    budgets = {tokens_to_keep(share, total) for share in SHARES} | {settings.keep}
    ways = [
        (f"{keep} tokens ({part(keep, total)})", replace(settings, keep=keep))
        for keep in sorted(budgets, reverse=True)
    ]
    title = f"{settings.method} over budgets: “{asking.question}”"
    return _compare(engine, asking, title, ways, job)


def _compare(
    engine: Engine, asking: Asking, title: str, ways: Sequence[tuple[str, Settings]], job: Job
) -> Iterator[Progress]:
    """Answer fully, then in every way."""
    total = len(ways) + 1
    yield Progress((), total, "the full model", title)
    rows = [Compared("full model", engine.full(asking, job))]
    for label, settings in ways:
        yield Progress(tuple(rows), total, label, title)
        rows.append(_row(engine, asking, label, settings, job))
    yield Progress(tuple(rows), total, "", title)


def _row(engine: Engine, asking: Asking, label: str, settings: Settings, job: Job) -> Compared:
    """One way to prune, or why it cannot be gone."""
    control = settings.method in CONTROLS
    try:
        return Compared(label, engine.pruned(asking, settings, job), control=control)
    except CancelledError:
        raise
    except Exception as error:  # one way that fails does not end the others
        return Compared(label, None, told(error), control)
