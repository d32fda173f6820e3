"""What the page's buttons do, as plain functions: values in, views out; no page is needed.

In: the path of an upload, the values of the controls and the session that asks. Out: generators of
`AskView` and `CompareView`, in which None means that a part of the page stays as it is. Nothing is
kept between calls but the engine's results and the running jobs, so users never see each other.
Every mistake comes out as a sentence.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lvlm_prune.budget import tokens_to_keep
from lvlm_prune.config import KEEP
from lvlm_prune.demo import cards, figures
from lvlm_prune.demo.cancelling import CancelledError, Job, Jobs
from lvlm_prune.demo.compare import Progress, compare_budgets, compare_methods
from lvlm_prune.demo.engine import Engine
from lvlm_prune.demo.memory import give_back
from lvlm_prune.demo.mistakes import told
from lvlm_prune.demo.numbers import asked_numbers, compared_numbers
from lvlm_prune.demo.pictures import kept_pair, merged_groups, score_map, small_picture
from lvlm_prune.demo.results import Asked
from lvlm_prune.demo.settings import Asking, Settings, check_budget, whole_tokens
from lvlm_prune.demo.uploads import LargeImages, read_upload
from lvlm_prune.demo.words import part


@dataclass(frozen=True)
class AskView:
    """What `ask` shows; None leaves a part as it is.

    Args:
        message: HTML of the line about what is going on.
        answers: HTML of both answers.
        kept: HTML of the whole image and the kept tokens, with a slider between them.
        scores: HTML of the score map, and of what was merged.
        note: HTML of the legend.
        numbers: everything as numbers.
    """

    message: str
    answers: str | None = None
    kept: str | None = None
    scores: str | None = None
    note: str | None = None
    numbers: dict[str, Any] | None = None


@dataclass(frozen=True)
class CompareView:
    """What a comparison shows; None leaves a part as it is."""

    progress: str
    grid: str | None = None
    numbers: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Budget:
    """The visual tokens of an image, for the slider."""

    total: int
    keep: int
    text: str


class Handlers:
    """The page's functions for one engine.

    Args:
        engine: the model.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.jobs = Jobs()
        self.large = LargeImages()
        self.refused = engine.refused_methods()

    def ask(
        self,
        path: str | None,
        question: str,
        method: str,
        keep: float,
        reweight: str,
        sinks: str,
        session: str = "",
    ) -> Iterator[AskView]:
        """Answer with all visual tokens and with the kept ones, and measure both.

        Args:
            path: of an upload that the server has stored itself.
            question: about the image.
            method: name of a method.
            keep: visual tokens to keep.
            reweight: a reweighting, or `none`.
            sinks: sink policy.
            session: who asks, so that it can be cancelled.
        """
        said: list[str] = []
        with (
            self._sentences(said),
            self.jobs.job(session) as job,
            self.large.one_at_a_time(path, job),
        ):
            asking, settings = _read(path, question, method, keep, reweight, sinks)
            yield AskView(cards.working("Answering with all visual tokens…"))
            full = self.engine.full(asking, job)
            check_budget(settings.keep, full.choice.candidates)
            yield AskView(cards.working(f"Answering with {settings.keep} visual tokens…"))
            pruned = self.engine.pruned(asking, settings, job)
            yield AskView(cards.working("Measuring both in turn…"))
            measured = self.engine.measured(asking, settings, job)
            yield self.shown(asking, settings, Asked(full, pruned, measured))
        if said:
            yield AskView(said[0])
        give_back()

    def shown(self, asking: Asking, settings: Settings, asked: Asked) -> AskView:
        """Draw what was found."""
        rows = self.engine.views(asking, asked.pruned.choice)
        return AskView(
            message=cards.message("Done."),
            answers=cards.answers(asking, settings, asked),
            kept=figures.split(kept_pair(rows, asked.pruned, asked.full.sinks), asked.pruned),
            scores=figures.scores(score_map(rows, asked.pruned), settings.method, asked.pruned)
            + figures.merged(merged_groups(rows, asked.pruned), asked.pruned),
            note=figures.legend(asked.full.sinks, asked.pruned),
            numbers=asked_numbers(self.engine.loaded.label, asking, settings, asked),
        )

    def compare_methods(self, *values: Any, session: str = "") -> Iterator[CompareView]:
        """All methods at one budget; see `ask` for the values."""
        return self._compare(compare_methods, values, session)

    def compare_budgets(self, *values: Any, session: str = "") -> Iterator[CompareView]:
        """One method over budgets; see `ask` for the values."""
        return self._compare(compare_budgets, values, session)

    def _compare(
        self, compare: Callable[..., Iterator[Progress]], values: tuple[Any, ...], session: str
    ) -> Iterator[CompareView]:
        """Show a comparison as it goes on."""
        said: list[str] = []
        pictures: list[str] = []
        with (
            self._sentences(said),
            self.jobs.job(session) as job,
            self.large.one_at_a_time(values[0], job),
        ):
            asking, settings = _read(*values)
            for step in compare(self.engine, asking, settings, job):
                for row in step.rows[len(pictures) :]:
                    pictures.append(self._small(asking, row.answered, step))
                numbers = None if step.doing else compared_numbers(step.rows)
                grid = figures.grid(step.title, step.rows, pictures)
                yield CompareView(cards.progress(step), grid, numbers)
        if said:
            yield CompareView(said[0])
        give_back()

    def _small(self, asking: Asking, answered: Any, step: Progress) -> str:
        """The picture of a row, if it has an answer."""
        if answered is None:
            return ""
        full = step.rows[0].answered
        rows = self.engine.views(asking, answered.choice)
        return small_picture(rows, answered, None if full is None else full.sinks)

    def cancel(self, session: str) -> str:
        """End what runs for a session."""
        count = self.jobs.cancel(session)
        return cards.message("Cancelled." if count else "Nothing is running.")

    def budget(self, path: str | None, keep: object, total: int) -> Budget:
        """The slider for a new image: as large a share of its visual tokens as before.

        Args:
            path: of the upload, or None where it was taken away.
            keep: tokens that the slider says; where that is no number, the page's own share counts.
            total: tokens of the image before.
        """
        try:
            with self.large.one_at_a_time(path, Job()):
                found = self.engine.visual_tokens(Asking(*read_upload(path), "?"))
        except ValueError:
            found = total  # the sentence comes when something is asked
        try:
            before = min(whole_tokens(keep), total)
        except ValueError:
            before = tokens_to_keep(KEEP, total)
        share = max(1, min(found, round(before / total * found)))
        return Budget(found, share, budget_text(share, found))

    @contextmanager
    def _sentences(self, said: list[str]) -> Iterator[None]:
        """Turn what goes wrong inside the block into HTML."""
        try:
            yield
        except CancelledError as error:
            said.append(cards.message(str(error)))
        except Exception as error:
            said.append(cards.mistake(told(error)))


def budget_text(keep: int, total: int) -> str:
    """A budget in words."""
    return f"{keep} of {total} visual tokens = {part(keep, total)}"


def budget_line(keep: object, total: int) -> str:
    """What was typed as a budget, in words, or what can be typed."""
    try:
        tokens = whole_tokens(keep)
        check_budget(tokens, total)
    except ValueError:
        return f"Choose a whole number from 1 to {total}."
    return budget_text(tokens, total)


def _read(
    path: str | None, question: str, method: str, keep: float, reweight: str, sinks: str
) -> tuple[Asking, Settings]:
    """The values of the controls, checked."""
    image, digest = read_upload(path)
    settings = Settings(method, whole_tokens(keep), reweight, sinks)
    settings.config()
    return Asking(image, digest, question), settings
