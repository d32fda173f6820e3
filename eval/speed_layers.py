"""What stages inside the LLM cost and save: `lvlm-prune speed --layers`.

In: cases (an LLM and a prompt), layer methods, and a budget. Out: prefill and decode step of the
unpruned model, of each method, and of the ideal of each method: a model cut by hand to as many
tokens at each layer, without any selection. The three run next to each other. A method with a
budget of its own choice (None in its schedule) follows its own schedule; every other one keeps K
visual tokens from one stated layer on. FLOPs follow from the counts, see `layers.cost`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from lvlm_prune.eval.speed_hand_cut import hand_cut
from lvlm_prune.eval.speed_llm import (
    RULE,
    Case,
    LlmWork,
    llm_preset_named,
    make_llm_work,
    with_keep,
)
from lvlm_prune.eval.speed_passes import (
    PASSES,
    Row,
    Variant,
    median_times,
    paired_ratio,
    run_passes,
)
from lvlm_prune.eval.speed_report import (
    clock_for,
    command,
    environment,
    limited_threads,
    machine,
    markdown_table,
    write,
)
from lvlm_prune.layers.registry import layer_method_named
from lvlm_prune.layers.report import LayerReport
from lvlm_prune.layers.schedule import LayerSchedule
from lvlm_prune.layers.stage import LayerStage

UNPRUNED = "unpruned"
HEADER = (
    "LLM",
    "variant",
    "visual tokens x layers",
    "prefill FLOPs %",
    "prefill ms",
    "prefill x unpruned",
    "prefill x ideal",
    "decode ms/token",
    "decode x unpruned",
    "decode x ideal",
)


def measure_layers(
    preset: str,
    names: Sequence[str] | None,
    keep: int | float | None,
    repeats: int,
    new_tokens: int,
    threads: int | None,
    out: Path,
    device: str,
) -> dict[str, Any]:
    """Time the layer methods of a preset's cases, and write the results.

    Args:
        preset: name, see `speed_llm`.
        names: layer methods; None is the preset's own choice.
        keep: visual tokens that go on from the stage (int); None is the preset's own budget.
        repeats: interleaved rounds that count; every variant runs before them, to warm up.
        new_tokens: decode steps.
        threads: CPU threads of torch.
        out: folder for `speed.json` and `speed.md`.
        device: torch device.

    Returns:
        What `speed.json` holds.

    Raises:
        ValueError: a preset, device or budget that cannot be run.
        UnknownMethodError: no such layer method.
    """
    chosen = llm_preset_named(preset, "layers", device)
    if isinstance(keep, float):
        raise ValueError(f"--layers counts tokens; pass --keep as a whole number, got {keep}")
    names = list(dict.fromkeys(chosen.methods.split(",") if names is None else names))
    for name in names:
        layer_method_named(name)
    cases = {}
    with limited_threads(threads):
        clock, facts = clock_for(device), environment(torch.device(device))
        for case in chosen.cases:
            work = make_llm_work(with_keep(case, keep), device, new_tokens)
            cases[case.name] = _measure_case(work, names, repeats, clock)
    results = {
        "settings": {
            "preset": preset,
            "layers": ",".join(names),
            "keep": keep,
            "repeats": repeats,
            "new_tokens": new_tokens,
            "threads": threads,
            "device": device,
        },
        "clock": clock,
        "environment": facts,
        "cases": cases,
        "meaning": sentence(cases),
    }
    write(results, _page(results), out)
    return results


def schedule_for(name: str, case: Case) -> LayerSchedule:
    """K tokens from the case's stage on, or the own schedule of a method that decides itself."""
    own = layer_method_named(name).stages(case.llm.depth)
    if all(keep is None for keep in own.values()):
        return LayerSchedule(method=name)
    return LayerSchedule(method=name, stages={case.stage: case.keep})


def ideal_of(name: str) -> str:
    """What the ideal of a method is called in the rounds."""
    return f"ideal of {name}"


def _measure_case(work: LlmWork, names: Sequence[str], repeats: int, clock: str) -> dict[str, Any]:
    """Count and time one LLM."""
    variants: dict[str, Variant] = {UNPRUNED: partial(_plain, work)}
    reports = {}
    for name in names:
        variants[name] = partial(_staged, work, name)
        reports[name] = _warmed_up(work, name)
        variants[ideal_of(name)] = partial(hand_cut, work, reports[name].tokens[0])
    blocks = [[UNPRUNED, name, ideal_of(name)] for name in names]
    run_passes(work, variants, [[UNPRUNED, *map(ideal_of, names)]], 1)
    rows = run_passes(work, variants, blocks, repeats)
    unpruned = median_times(rows, UNPRUNED, clock)
    return {
        "case": asdict(work.case),
        "unpruned": {measure: asdict(value) for measure, value in unpruned.items()},
        "variants": {name: _summary(rows, name, clock, reports[name]) for name in names},
        "rounds": rows,
    }


def _warmed_up(work: LlmWork, name: str) -> LayerReport:
    """Run once and return how many tokens each layer had."""
    with _staged(work, name) as stage, torch.inference_mode():
        work.decode(work.prefill().past_key_values)
        report: LayerReport = stage.report
    return report


def _summary(rows: Sequence[Row], name: str, clock: str, report: LayerReport) -> dict[str, Any]:
    """One method over all rounds, beside its ideal."""
    ideal = ideal_of(name)
    return {
        "schedule": report.schedule.to_dict(),
        "tokens": report.tokens[0],
        "prefill_flops": report.prefill_share,
        "decode_flops": report.decode_share,
        **{
            key: {measure: asdict(value) for measure, value in values.items()}
            for key, values in {
                "times": median_times(rows, name, clock),
                "ideal_times": median_times(rows, ideal, clock),
                "of_unpruned": _ratios(rows, name, UNPRUNED, clock),
                "of_ideal": _ratios(rows, name, ideal, clock),
                "ideal_of_unpruned": _ratios(rows, ideal, UNPRUNED, clock),
            }.items()
        },
    }


def _ratios(rows: Sequence[Row], name: str, other: str, clock: str) -> dict[str, Any]:
    """Ratios of every measure."""
    return {measure: paired_ratio(rows, name, other, measure, clock) for measure in PASSES}


@contextmanager
def _staged(work: LlmWork, name: str) -> Iterator[LayerStage]:
    """The model with a stage inside."""
    with LayerStage(work.model, schedule_for(name, work.case), RULE) as stage:
        yield stage


@contextmanager
def _plain(work: LlmWork) -> Iterator[None]:
    """The model as it is."""
    yield


def lengths(tokens: Sequence[int]) -> str:
    """Visual tokens and how many layers in a row have them, such as `576 x 2, 64 x 10`."""
    return ", ".join(f"{count} x {len(list(group))}" for count, group in groupby(tokens))


def _cell(value: dict[str, float]) -> str:
    """A ratio with its quartiles."""
    return f"{value['median']:.3f} ({value['q1']:.3f}-{value['q3']:.3f})"


def _lines(case: str, results: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table's lines of one LLM."""
    unpruned, depth = results["unpruned"], results["case"]["llm"]["depth"]
    whole = lengths([results["case"]["visual"]] * depth)
    prefill, decode = (f"{unpruned[key]['median']:.1f}" for key in ("prefill", "decode"))
    lines: list[tuple[str, ...]]
    lines = [(case, UNPRUNED, whole, "100.0", prefill, "1", "-", decode, "1", "-")]
    for name, one in results["variants"].items():
        line = [case, name, lengths(one["tokens"]), f"{one['prefill_flops']:.1%}".rstrip("%")]
        for key in ("prefill", "decode"):
            line.append(f"{one['times'][key]['median']:.1f}")
            line += [_cell(one["of_unpruned"][key]), _cell(one["of_ideal"][key])]
        lines.append(tuple(line))
    return lines


def sentence(cases: dict[str, Any]) -> str:
    """What the table means."""
    found = [
        (one["of_ideal"]["prefill"]["median"], name, one)
        for results in cases.values()
        for name, one in results["variants"].items()
    ]
    ratio, name, one = max(found, key=lambda each: each[0])
    return (
        f"The slowest prefill beside its ideal is {name}'s: {ratio:.3f} times the model that is "
        f"cut by hand to the same lengths, {one['of_unpruned']['prefill']['median']:.2f} of the "
        f"unpruned prefill's time with {one['prefill_flops']:.2f} of its FLOPs."
    )


def _page(results: dict[str, Any]) -> str:
    """What was run, the table, and what it means."""
    table: list[tuple[str, ...]] = [HEADER]
    shapes = []
    for name, one in results["cases"].items():
        case = one["case"]
        table += _lines(name, one)
        shapes.append(
            f"{name}: width {case['llm']['width']}, {case['llm']['heads']} heads, MLP "
            f"{case['llm']['mlp']} ({case['dtype']}), {case['visual']} visual and {case['text']} "
            f"text tokens; {case['keep']} go on from layer {case['stage']}."
        )
    return "\n".join(
        [
            command(results["settings"]),
            "",
            "Random weights. "
            f"{machine(results['environment'], results['clock'])}; medians of the rounds; ratios "
            "to the unpruned run and to the ideal, cut by hand to the same tokens at each layer, "
            "next to it, with their quartiles.",
            *shapes,
            "",
            markdown_table(table),
            "",
            results["meaning"],
        ]
    )
