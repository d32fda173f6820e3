"""What is done inside the LLM, as Markdown: one model's numbers in full.

In: scored runs of one model. Out: parts of `table.md`: for each base a table of layer stages with
the tokens and FLOPs that they spend, one of reweightings beside the same run without them, and one
of captions. Runs that are no better than their control stand there like all others.
"""

from collections.abc import Mapping, Sequence

from lvlm_prune.eval.caption import REQUEST, CaptionScore
from lvlm_prune.eval.interval import Interval, paired_bootstrap
from lvlm_prune.eval.results import RunResult
from lvlm_prune.eval.table import difference_cell, markdown

STAGE_LEGEND = (
    "Goes on: visual tokens, or the share of those that enter the LLM, from the layer on (counted "
    "from 0). FLOPs are those of the LLM by the usual formula, as shares of the unpruned LLM's. "
    "° not above and † below random tokens at the same layers on the same base; for a method that "
    "decides itself, that control (`random as ...`) has as many tokens at each layer on average."
)
REWEIGHT_LEGEND = (
    "Minus base: presence accuracy less that of the same run without the reweighting, with the "
    "95 % interval (paired bootstrap over images); ° the interval holds 0, † it lies below. "
    "Changed: POPE answers with other words than that run's."
)
CAPTION_LEGEND = (
    f"Greedy answers to “{REQUEST}”. CHAIR_s: captions with an object that is not there; CHAIR_i: "
    "mentions that are made up; recall: classes of the scene that are named; all in %. Minus base: "
    "the difference to the same run without what is inside the LLM (before the LLM: to the "
    "unpruned model) with its 95 % interval; minus random: to random tokens at the same layers. "
    "Who names less makes up less: read CHAIR beside recall. Next image: the unpruned captions "
    "scored against the next scene, which is what blind guessing of this kind is worth."
)


def inside_parts(results: Sequence[RunResult]) -> list[str]:
    """Sections of `table.md`; none where nothing was done inside the LLM or captioned."""
    parts: list[str] = []
    for base in results:
        runs = [run for run in results if run.inside and stands_on(run, base)]
        staged = [run for run in runs if run.config.layers and not run.config.reweight]
        reweighted = [run for run in runs if run.config.reweight]
        if base.inside:
            continue
        if staged:
            parts += [
                f"## Stages inside the LLM, on {base_name(base)}",
                _stage_table(base, staged),
                STAGE_LEGEND,
            ]
        if reweighted:
            parts += [
                f"## Reweighting of attention, on {base_name(base)}",
                _reweight_table(base, reweighted),
                REWEIGHT_LEGEND,
            ]
    if any(run.captions for run in results):
        parts += ["## Captions", _caption_table(results), CAPTION_LEGEND]
    return parts


def stands_on(run: RunResult, base: RunResult) -> bool:
    """Whether a run has the base's tokens."""
    return (run.base, run.kept) == (base.base, base.kept)


def base_name(run: RunResult) -> str:
    """What reaches the LLM, in words."""
    if run.config.method == "identity":
        return f"the unpruned prompt ({run.total} visual tokens)"
    return f"{run.base} ({run.kept} of {run.total} visual tokens)"


def stage_words(stages: Mapping[int, int | float | None] | None) -> str:
    """A resolved schedule, such as `1: 25%` or `1-3: auto`."""
    if not stages:
        return ""
    if None in stages.values():
        first, last = min(stages), max(stages)
        return f"{first}: auto" if first == last else f"{first}-{last}: auto"
    return ", ".join(
        f"{layer}: {keep}" if isinstance(keep, int) else f"{layer}: {keep:.0%}"
        for layer, keep in stages.items()
        if keep is not None
    )


def _stage_table(base: RunResult, runs: Sequence[RunResult]) -> str:
    """One line for each schedule, the base first."""
    heads = ["stage", "goes on", "enter", "layer average", "last layer", "prefill FLOPs"]
    heads += ["decode FLOPs", "accuracy", "minus random [95 %]", "yes-ratio", "F1"]
    rows = []
    for run in (base, *runs):
        use = run.use
        spent = [""] * 5
        if use is not None:
            spent = [f"{use.entered:.0f}", f"{use.average:.1f}", f"{use.last:.1f}"]
            spent += [f"{use.prefill_share:.1%}", f"{use.decode_share:.1%}"]
        rows.append(
            [
                run.label if run.inside else "none",
                stage_words(run.stages),
                *spent,
                f"{100 * run.accuracy:.1f}",
                difference_cell(run.against_random) if run.inside else "",
                f"{100 * run.yes_ratio:.1f}",
                f"{100 * run.f1:.1f}",
            ]
        )
    return markdown(heads, rows)


def _reweight_table(base: RunResult, runs: Sequence[RunResult]) -> str:
    """One line for each reweighting, the base first."""
    heads = ["reweighting", "accuracy", "minus base [95 %]", "changed", "yes-ratio", "F1"]
    rows = [
        [
            run.label if run.inside else "none",
            f"{100 * run.accuracy:.1f}",
            difference_cell(run.against_base),
            "" if run.changed is None else f"{run.changed:.1%}",
            f"{100 * run.yes_ratio:.1f}",
            f"{100 * run.f1:.1f}",
        ]
        for run in (base, *runs)
    ]
    return markdown(heads, rows)


def _caption_table(results: Sequence[RunResult]) -> str:
    """One line for each run, and one for blind captions."""
    heads = ["base", "inside the LLM", "captions", "CHAIR_s", "minus base [95 %]", "CHAIR_i"]
    heads += ["recall", "minus base [95 %]", "minus random [95 %]", "mentions"]
    rows = []
    for run in results:
        if run.captions is None:
            continue
        score, base = run.captions.score, caption_base(run, results)
        made_up, found = (None, None) if base is None else caption_differences(run, base)
        control = stage_control(run, results)
        level = None if control is None else caption_differences(run, control)[1]
        rows.append([f"{run.base} {run.kept}", run.label if run.inside else "none"])
        rows[-1] += _caption_cells(score, made_up, found, level)
    blind = next(run.captions.blind for run in results if run.captions)
    rows.append(["next image", "", *_caption_cells(blind)])
    return markdown(heads, rows)


def _caption_cells(
    score: CaptionScore,
    made_up: Interval | None = None,
    found: Interval | None = None,
    against_random: Interval | None = None,
) -> list[str]:
    """The numbers of one line."""
    return [
        str(score.count),
        f"{100 * score.chair_s:.1f}",
        difference_cell(made_up, marked=False),
        f"{100 * score.chair_i:.1f}",
        f"{100 * score.recall:.1f}",
        difference_cell(found, marked=False),
        difference_cell(against_random),
        f"{score.mean_mentions:.2f}",
    ]


def caption_base(run: RunResult, results: Sequence[RunResult]) -> RunResult | None:
    """The run that a run's captions are compared with."""
    if run.unpruned:
        return None
    if not run.inside:
        return results[0]
    return next(base for base in results if not base.inside and stands_on(run, base))


def stage_control(run: RunResult, results: Sequence[RunResult]) -> RunResult | None:
    """The run of random tokens at the same layers, where the run was compared with one."""
    if run.against_random is None or not run.inside:
        return None
    for control in results:
        schedule = control.config.layers
        random = schedule is not None and schedule.method == "random"
        if random and control.config.reweight is None and stands_on(run, control):
            measured = control.control_of == run.label
            if measured or (control.control_of is None and control.stages == run.stages):
                return control
    return None


def caption_differences(ours: RunResult, theirs: RunResult) -> tuple[Interval, Interval]:
    """CHAIR_s and recall less another run's, with intervals over images."""
    if ours.captions is None or theirs.captions is None:
        raise ValueError(f"{ours.name} or {theirs.name} has no captions to compare")
    mine, other = ours.captions.score, theirs.captions.score
    column = (slice(None), None)
    one = (mine.present[column] > 0).astype("int64")
    made_up = paired_bootstrap(
        (mine.made_up[column] > 0).astype("int64"), (other.made_up[column] > 0).astype("int64"), one
    )
    found = paired_bootstrap(mine.found[column], other.found[column], mine.present[column])
    return made_up, found
