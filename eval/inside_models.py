"""What is done inside the LLM, as Markdown: several models and bases side by side.

In: the runs of each model. Out: the text of `inside.md`: layer stages and reweightings down, models
and their bases across; presence accuracy, tokens and FLOPs, yes-ratio and captions.
"""

from collections.abc import Callable, Mapping, Sequence

from lvlm_prune.eval.inside_table import (
    caption_base,
    caption_differences,
    stage_control,
    stage_words,
    stands_on,
)
from lvlm_prune.eval.models_table import ModelResults
from lvlm_prune.eval.results import RunResult
from lvlm_prune.eval.table import MARKS, mark_of, markdown

Column = tuple[ModelResults, RunResult]
Cell = Callable[[RunResult, ModelResults], str]


def inside_text(models: Sequence[ModelResults]) -> str:
    """The whole text; empty where nothing was done inside the LLM."""
    columns = [
        (model, base)
        for model in models
        for base in model.plain
        if any(stands_on(run, base) for run in model.inside)
    ]
    if not columns:
        return ""
    about = models[0].about
    names = ", ".join(str(model.about["model"]) for model in models)
    parts = [f"# Inside the LLM: {about['benchmark']} on {names}"]
    if any(_staged(run) for model in models for run in model.inside):
        parts += _stage_parts(columns)
    if any(run.config.reweight for model in models for run in model.inside):
        parts += _reweight_parts(columns)
    if all(run.captions for model in models for run in model.results):
        parts += _caption_parts(columns)
    return "\n\n".join(parts) + "\n"


def _staged(run: RunResult) -> bool:
    """Whether a run has layer stages alone, and is no control of another one."""
    alone = run.config.layers is not None and run.config.reweight is None
    return alone and run.control_of is None


def _reweighted(run: RunResult) -> bool:
    """Whether a run has a reweighting."""
    return run.config.reweight is not None


def _stage_parts(columns: Sequence[Column]) -> list[str]:
    """Answers, tokens and FLOPs of the layer stages."""
    words = {
        run.label: stage_words(run.stages)
        for model, _ in columns
        for run in model.inside
        if run.stages
    }
    return [
        "## Stages inside the LLM: presence accuracy / yes-ratio / F1 in %",
        _table(columns, _staged, lambda run, _: _answers(run), ("stage", words)),
        "Goes on: visual tokens, or the share of those that enter the LLM, from the layer on "
        "(counted from 0). ° not above and † below random tokens at the same layers on the same "
        "base (95 % interval of a paired bootstrap over images; a method that decides itself is "
        "compared with as many random tokens at each layer, on average). Unmarked: above, or "
        "nothing was dropped; `random` and `none` have no mark.",
        "## Stages inside the LLM: visual tokens of a layer on average / prefill FLOPs",
        _table(columns, _staged, lambda run, _: _spent(run), ("stage", words)),
        "FLOPs of the LLM by the usual formula, as a share of the unpruned LLM's.",
    ]


def _reweight_parts(columns: Sequence[Column]) -> list[str]:
    """Answers of the reweightings."""
    return [
        "## Reweighting: presence accuracy less that of the base / changed answers / yes-ratio",
        _table(columns, _reweighted, lambda run, _: _moved(run)),
        "The difference in points, the others in %. ° its 95 % interval (paired bootstrap over "
        "images) holds 0, † it lies below; unmarked: above. `none` is the base's own accuracy. "
        "Changed: POPE answers with other words than without it.",
    ]


def _caption_parts(columns: Sequence[Column]) -> list[str]:
    """CHAIR of everything."""
    blind = [
        f"{model.about['model']} {_chair(model.unpruned, blind=True)}"
        for model in dict.fromkeys(model for model, _ in columns)
    ]
    return [
        "## Captions: CHAIR_s / CHAIR_i / recall in %",
        _table(columns, lambda run: run.inside and run.control_of is None, _chair_cell),
        "CHAIR_s: captions with an object that is not there; CHAIR_i: mentions that are made up; "
        "recall: classes of the scene that are named. ↑ CHAIR_s above and ↓ below the base's "
        "beyond the 95 % interval; who names less makes up less, so read it beside recall. Of "
        "stages: ° recall not above and † below that of random tokens at the same layers. Captions "
        f"scored against the next scene: {', '.join(blind)}.",
    ]


def _table(
    columns: Sequence[Column],
    shown: Callable[[RunResult], bool],
    cell: Cell,
    words: tuple[str, Mapping[str, str]] | None = None,
) -> str:
    """Runs down, models and bases across; the bases first.

    Args:
        columns: models with their bases.
        shown: which runs are lines.
        cell: text of one run.
        words: head of the lines, and for each label its schedule in words.
    """
    head, schedules = words or ("inside the LLM", {})
    heads = [head, *(["goes on"] if schedules else [])]
    heads += [f"{model.about['model']}<br>{_short(base)}" for model, base in columns]
    labels = dict.fromkeys(run.label for model, _ in columns for run in model.inside if shown(run))
    rows = [["none", *([""] if schedules else []), *(cell(base, model) for model, base in columns)]]
    for label in labels:
        name = label.split()[0] if label in schedules else label
        row = [name, *([schedules.get(label, "")] if schedules else [])]
        for model, base in columns:
            runs = (run for run in model.inside if run.label == label and stands_on(run, base))
            run = next(runs, None)
            row.append("-" if run is None else cell(run, model))
        rows.append(row)
    return markdown(heads, rows)


def _short(base: RunResult) -> str:
    """A base as the head of a column."""
    return f"all {base.total}" if base.unpruned else f"{base.base} {base.kept}"


def _spent(run: RunResult) -> str:
    """Tokens and FLOPs."""
    use = run.use
    return "" if use is None else f"{use.average:.0f} / {use.prefill_share:.0%}"


def _answers(run: RunResult) -> str:
    """Accuracy with its mark, yes-ratio and F1."""
    mark = mark_of(run) if run.inside else ""
    return f"{100 * run.accuracy:.1f}{mark} / {100 * run.yes_ratio:.1f} / {100 * run.f1:.1f}"


def _moved(run: RunResult) -> str:
    """Difference to the base with its mark, changed answers and yes-ratio."""
    against = run.against_base
    if against is None or run.changed is None:
        return f"{100 * run.accuracy:.1f} / - / {100 * run.yes_ratio:.1f}"
    moved = f"{100 * against.difference:+.1f}{MARKS[against.verdict]}"
    return f"{moved} / {100 * run.changed:.1f} / {100 * run.yes_ratio:.1f}"


def _chair(run: RunResult, blind: bool = False) -> str:
    """The three numbers of a run's captions."""
    if run.captions is None:
        return "-"
    score = run.captions.blind if blind else run.captions.score
    return f"{100 * score.chair_s:.1f} / {100 * score.chair_i:.1f} / {100 * score.recall:.1f}"


def _chair_cell(run: RunResult, model: ModelResults) -> str:
    """The three numbers: how CHAIR_s stands to the base's, and recall to the control's."""
    base, control = caption_base(run, model.results), stage_control(run, model.results)
    if base is None or not run.inside or run.captions is None:
        return _chair(run)
    arrow = {"above": " ↑", "below": " ↓", "level": ""}[caption_differences(run, base)[0].verdict]
    mark = "" if control is None else MARKS[caption_differences(run, control)[1].verdict]
    score = run.captions.score
    return (
        f"{100 * score.chair_s:.1f}{arrow} / {100 * score.chair_i:.1f} / "
        f"{100 * score.recall:.1f}{mark}"
    )
