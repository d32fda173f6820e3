"""Set runs beside their controls: who is above, level or below, by a paired bootstrap.

In: scored runs. Out: the same with their differences noted: methods before the LLM to `random` at
the same budget, stages inside it to random tokens at the same layers on the same base, and
everything inside the LLM to the same run without it. Only runs over the same questions are
compared.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

from lvlm_prune.config import PruneConfig
from lvlm_prune.decoder import Decoder
from lvlm_prune.eval.interval import Interval, paired_bootstrap
from lvlm_prune.eval.layer_use import matched_stages
from lvlm_prune.eval.results import RunResult
from lvlm_prune.layers.checks import checked_plan
from lvlm_prune.layers.schedule import LayerSchedule

PRESENCE = "pope"


def difference(ours: RunResult, theirs: RunResult, images: Sequence[str], seed: int) -> Interval:
    """Presence accuracy of one run less that of another."""
    both = {item.id for item in ours.items}.intersection(item.id for item in theirs.items)
    right, asked = ours.right(images, both)
    return paired_bootstrap(right, theirs.right(images, both)[0], asked, seed)


def compare_with_random(results: Sequence[RunResult], images: Sequence[str], seed: int) -> None:
    """Note the difference to `random` at the same budget, where that was run.

    Args:
        results: runs without anything inside the LLM.
        images: all images.
        seed: of the bootstrap.
    """
    controls = {
        result.kept: result
        for result in results
        if result.config.method == "random" and result.config.sinks == "ignore"
    }
    for result in results:
        control = controls.get(result.kept)
        if control is not None and control is not result:
            result.against_random = difference(result, control, images, seed)


def inside_key(config: PruneConfig, decoder: Decoder | None) -> Hashable:
    """What makes a run inside the LLM another run on the same base.

    Args:
        config: of the run.
        decoder: the model's LLM; None where no run has layer stages.
    """
    layers: Hashable = None
    if config.layers is not None and decoder is not None:
        plan = checked_plan(config.layers, decoder)
        options = tuple(sorted(map(str, plan.options.items())))
        layers = plan.method.name, tuple(plan.stages.items()), options, config.layers.sinks
    reweight: Hashable = None
    if config.reweight is not None:
        options = tuple(sorted(map(str, config.reweight.complete().items())))
        reweight = config.reweight.method, options
    return layers, reweight


def control_config(result: RunResult) -> PruneConfig | None:
    """The run of random tokens at the same layers, or None for what has none.

    Args:
        result: a run with layer stages, scored.
    """
    schedule = result.config.layers
    if schedule is None or result.use is None or result.stages is None:
        return None
    if schedule.method == "random" or result.config.reweight is not None:
        return None
    stages = matched_stages(result.use, dict(result.stages))
    if stages is None:
        return None
    random = LayerSchedule("random", stages, {"seed": result.config.seed})
    return replace(result.config, layers=random)


def compare_inside(
    found: Mapping[Hashable, RunResult],
    controls: Mapping[Hashable, Hashable],
    decoder: Decoder | None,
    images: Sequence[str],
    seed: int,
) -> None:
    """Note the differences of the runs on one base.

    Args:
        found: runs by `inside_key`; that of the base is `(None, None)`.
        controls: keys of the runs that have a control, with the control's.
        decoder: the model's LLM.
        images: all images.
        seed: of the bootstrap.
    """
    for key, result in found.items():
        if not result.inside:
            continue
        config = result.config
        layers = None if config.reweight is None else config.layers
        less = replace(config, layers=layers, reweight=None)
        base = found[inside_key(less, decoder)]
        result.against_base = difference(result, base, images, seed)
        result.changed = changed_share(result, base)
        if key in controls:
            result.against_random = difference(result, found[controls[key]], images, seed)


def changed_share(ours: RunResult, theirs: RunResult) -> float:
    """Share of the POPE answers that are other words than another run's."""
    said = {
        item.id: answer.strip()
        for item, answer in zip(theirs.items, theirs.answers, strict=True)
        if item.benchmark == PRESENCE
    }
    changed = [
        said[item.id] != answer.strip()
        for item, answer in zip(ours.items, ours.answers, strict=True)
        if item.benchmark == PRESENCE and item.id in said
    ]
    return sum(changed) / max(len(changed), 1)
