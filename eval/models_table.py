"""The results of several models side by side, as Markdown.

In: the runs of each model. Out: presence accuracy and yes-ratio by method and budget, and one
sentence a model that names the methods which are no better than drawing tokens at random.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lvlm_prune.eval.results import RunResult
from lvlm_prune.eval.table import budgets, legend, mark_of, markdown, not_above


@dataclass(frozen=True, eq=False)
class ModelResults:
    """The runs of one model.

    Args:
        results: the unpruned run first, then the others.
        about: what holds for all of them: model, benchmark, versions.
    """

    results: Sequence[RunResult]
    about: Mapping[str, Any]

    @property
    def plain(self) -> list[RunResult]:
        """The runs with nothing inside the LLM."""
        return [run for run in self.results if not run.inside]

    @property
    def inside(self) -> list[RunResult]:
        """The other ones."""
        return [run for run in self.results if run.inside]

    @property
    def unpruned(self) -> RunResult:
        """The baseline."""
        return self.results[0]


def models_table(models: Sequence[ModelResults]) -> str:
    """The whole text."""
    about = models[0].about
    names = ", ".join(str(model.about["model"]) for model in models)
    parts = [
        f"# {about['benchmark']} on {names}",
        f"{about['images']} images, {about['questions']} benchmark lines "
        f"({about['asked']} distinct questions), greedy answers of the stock `generate`. "
        + _unpruned(models),
    ]
    if any(len(model.plain) > 1 for model in models):
        parts += _method_parts(models)
    return "\n\n".join(parts) + "\n"


def _method_parts(models: Sequence[ModelResults]) -> list[str]:
    """Accuracy and yes-ratio of the methods before the LLM."""
    return [
        "## Presence accuracy in %, by model and visual tokens",
        _table(models, lambda run: f"{100 * run.accuracy:.1f}{mark_of(run)}"),
        legend(),
        *(f"**{model.about['model']}.** {not_above(model.plain)}" for model in models),
        "## Yes-ratio in %, by model and visual tokens",
        _table(models, lambda run: f"{100 * run.yes_ratio:.1f}"),
        "Half of the questions are to be answered with yes. A lower ratio: objects are overlooked; "
        "a higher one: objects are made up. " + _unpruned(models, "yes_ratio"),
    ]


def _unpruned(models: Sequence[ModelResults], name: str = "accuracy") -> str:
    """What the models reach with all tokens."""
    values = [
        f"{model.about['model']} {100 * getattr(model.unpruned, name):.1f} "
        f"({model.unpruned.total} tokens)"
        for model in models
    ]
    return f"Unpruned: {', '.join(values)}."


def _table(models: Sequence[ModelResults], cell: Callable[[RunResult], str]) -> str:
    """Methods down, models and their budgets across."""
    columns = [(model, kept) for model in models for kept in budgets(model.plain)]
    heads = [
        f"{model.about['model']}<br>{kept} ({kept / model.unpruned.total:.0%})"
        for model, kept in columns
    ]
    cells = [{(run.label, run.kept): cell(run) for run in model.plain} for model in models]
    places = [models.index(model) for model, _ in columns]
    labels = dict.fromkeys(run.label for model in models for run in model.plain if not run.unpruned)
    rows = [
        [
            label,
            *(
                cells[place].get((label, kept), "-")
                for place, (_, kept) in zip(places, columns, strict=True)
            ),
        ]
        for label in labels
    ]
    return markdown(["method", *heads], rows)
