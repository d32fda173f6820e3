"""What reweighting costs: `lvlm-prune speed --reweight`.

In: cases (an LLM and a prompt length) and reweighters. Out: for each case the prefill of the plain
model (SDPA), of each reweighter under its row split, and of VAR with all rows in eager attention,
beside a decode step. Every variant runs next to a plain run. On a CPU the LLM is one layer with the
attention of a 7B model and a narrow MLP; it is edited, although a reweighter spares some of 32. So
the ratios are above those of the whole model.

Nothing is timed that changes nothing: in a run before, the edits are watched and must move
attention or scale heads, at prefill or while decoding. Passes of the LLM are all that is timed, so
what `generate` runs beside the answer would be missing: methods with a first answer (ILVAD) or a
contrast (VCD, PAI with gamma) are left out, and the page says so. Marks that the encoder would give
(PAINT, RESTORE) are drawn at random.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lvlm_prune.decoder_call import coming_marks
from lvlm_prune.eval.speed_eager import EagerReweighting
from lvlm_prune.eval.speed_edits import watched
from lvlm_prune.eval.speed_llm import RULE, Case, LlmWork, llm_preset_named, make_llm_work
from lvlm_prune.eval.speed_memory import peak_of
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
from lvlm_prune.report import MIB
from lvlm_prune.reweight.config import ReweightConfig
from lvlm_prune.reweight.engine import Reweighting
from lvlm_prune.reweight.registry import reweighter_named

PLAIN, EAGER = "plain SDPA", "var, all rows eager"
HEADER = (
    "LLM layer, T",
    "variant",
    "rows edited",
    "prefill ms",
    "prefill x plain",
    "attention ms",
    "attention x plain",
    "decode ms/token",
    "decode x plain",
    "peak MiB",
)


def measure_reweighting(
    preset: str,
    names: Sequence[str] | None,
    repeats: int,
    new_tokens: int,
    threads: int | None,
    out: Path,
    device: str,
) -> dict[str, Any]:
    """Time the reweighters of a preset's cases, and write the results.

    Args:
        preset: name, see `speed_llm`.
        names: reweighters, `METHOD` or `METHOD:PRESET`; None is the preset's own choice.
        repeats: interleaved rounds that count; every variant runs before them, to warm up.
        new_tokens: decode steps.
        threads: CPU threads of torch.
        out: folder for `speed.json` and `speed.md`.
        device: torch device.

    Returns:
        What `speed.json` holds.

    Raises:
        ValueError: a preset or device that cannot be run, or no reweighter that can be timed.
        UnknownMethodError: no such reweighter.
    """
    chosen = llm_preset_named(preset, "reweight", device)
    names = list(dict.fromkeys(chosen.methods.split(",") if names is None else names))
    left_out = _beside(names)
    cases = {}
    with limited_threads(threads):
        clock, facts = clock_for(device), environment(torch.device(device))
        for case in chosen.cases:
            left = [name for name in names if name not in left_out]
            work = make_llm_work(case, device, new_tokens)
            cases[case.name] = _measure_case(work, left, left_out, repeats, clock)
    results = {
        "settings": {
            "preset": preset,
            "reweight": ",".join(names),
            "repeats": repeats,
            "new_tokens": new_tokens,
            "threads": threads,
            "device": device,
        },
        "clock": clock,
        "environment": facts,
        "cases": cases,
        "left_out": left_out,
        "meaning": sentence(cases),
    }
    write(results, _page(results), out)
    return results


def _beside(names: Sequence[str]) -> dict[str, str]:
    """For each reweighter that passes of the LLM do not show in full, why."""
    beside = {name: ReweightConfig.of(name).beside() for name in names}
    return {
        name: f"generate runs {what} as well, and only passes of the answer itself are timed here"
        for name, what in beside.items()
        if what is not None
    }


def _measure_case(
    work: LlmWork, names: Sequence[str], left_out: dict[str, str], repeats: int, clock: str
) -> dict[str, Any]:
    """Watch, measure memory and time one LLM; what changes nothing is added to `left_out`."""
    moved: dict[str, dict[str, float]] = {}
    for name in names:
        try:
            moved[name] = watched(work, partial(reweighted, work, name))
        except ValueError as error:
            left_out[name] = str(error)
    if not moved:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ValueError(f"no reweighter is left to time ({reasons}); name others, such as var")
    variants: dict[str, Variant] = {PLAIN: partial(_plain, work)}
    variants |= {name: partial(reweighted, work, name) for name in moved}
    if "var" in moved:
        variants[EAGER] = partial(eager, work, "var")
        moved[EAGER] = watched(work, variants[EAGER])
    peaks = {name: _peak(work, variant) for name, variant in variants.items()}
    timed = [name for name in variants if name not in (PLAIN, EAGER)]
    blocks = [[PLAIN, name, EAGER] if name == "var" else [PLAIN, name] for name in timed]
    rows = run_passes(work, variants, blocks, repeats)
    return {
        "case": asdict(work.case),
        "variants": {
            name: _summary(rows, name, clock, peaks[name], moved.get(name)) for name in variants
        },
        "rounds": rows,
    }


def _summary(
    rows: Sequence[Row], name: str, clock: str, peak: float, moved: dict[str, float] | None
) -> dict[str, Any]:
    """One variant over all rounds."""
    times = median_times(rows, name, clock)
    ratios = {measure: paired_ratio(rows, name, PLAIN, measure, clock) for measure in PASSES}
    return {
        "times": {measure: asdict(value) for measure, value in times.items()},
        "of_plain": {measure: asdict(value) for measure, value in ratios.items()},
        "peak_mib": peak,
        "edits": moved,
    }


def edited_layers(case: Case, name: str) -> set[int]:
    """The decoder layers that are edited."""
    config, depth = ReweightConfig.of(name), case.llm.depth
    if case.every_layer:
        return set(range(depth))
    return set(reweighter_named(config.method).layers(config.complete(), depth))


@contextmanager
def reweighted(work: LlmWork, name: str) -> Iterator[Any]:
    """The model under a reweighter's row split."""
    config = ReweightConfig.of(name)
    generator = torch.Generator().manual_seed(0)
    drawn = {
        mark: torch.randint(0, 2, work.ids.shape, generator=generator).to(work.ids.device)
        for mark in reweighter_named(config.method).encoder
    }
    # RESTORE reads sizes, of which 1 means unmerged.
    marks = {mark: values.float() + (mark == "size") for mark, values in drawn.items()}
    token = coming_marks.set(marks or None)
    try:
        with Reweighting(work.model, config, RULE) as reweighting:
            reweighting.edited = edited_layers(work.case, name)
            yield reweighting
    finally:
        coming_marks.reset(token)


@contextmanager
def eager(work: LlmWork, name: str) -> Iterator[Any]:
    """The same edits with all rows in eager attention."""
    layers = edited_layers(work.case, name)
    with EagerReweighting(work.model, name, layers, RULE) as reweighting:
        yield reweighting


@contextmanager
def _plain(work: LlmWork) -> Iterator[None]:
    """The model as it is."""
    yield


def _peak(work: LlmWork, variant: Variant) -> float:
    """Peak memory of a prefill beyond weights and inputs, MiB; the KV cache is in it."""
    with variant(), torch.inference_mode():
        return peak_of(work.prefill, work.ids.device)[0] / MIB


def _ratio(value: dict[str, float]) -> str:
    """A ratio with its quartiles."""
    return f"{value['median']:.3f} ({value['q1']:.3f}-{value['q3']:.3f})"


def _cells(case: str, name: str, one: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    cells = [case, name, "-" if one["edits"] is None else str(one["edits"]["rows"])]
    for measure, digits in (("prefill", 0), ("attention", 0), ("decode", 1)):
        cells.append(f"{one['times'][measure]['median']:.{digits}f}")
        cells.append(_ratio(one["of_plain"][measure]))
    return (*cells, f"{one['peak_mib']:.0f}")


def sentence(cases: dict[str, Any]) -> str:
    """What the table means."""
    found = [
        (one["of_plain"]["prefill"]["median"], name, case)
        for case, results in cases.items()
        for name, one in results["variants"].items()
        if name not in (PLAIN, EAGER)
    ]
    highest, name, case = max(found)
    text = f"A reweighted prefill takes at most {highest:.3f} of plain SDPA's ({name}, {case})"
    slow = [
        one["variants"][EAGER]["of_plain"]["prefill"]["median"]
        for one in cases.values()
        if EAGER in one["variants"]
    ]
    if slow:
        text += f", with all rows in eager attention {min(slow):.2f} to {max(slow):.2f}"
    edits = [one["variants"]["var"]["edits"] for one in cases.values() if "var" in one["variants"]]
    if edits:
        text += (
            f". VAR's gates are open for {min(one['changed'] for one in edits):.0%} of the heads "
            f"and rows or more, each of which moves {min(one['moved'] for one in edits):.1%} of "
            "its attention or more"
        )
    return text + "."


def _page(results: dict[str, Any]) -> str:
    """What was run, the table, and what it means."""
    table: list[tuple[str, ...]] = [HEADER]
    lines = []
    for name, results_of_case in results["cases"].items():
        case = results_of_case["case"]
        lines.append(
            f"{name}: {case['llm']['depth']} layer(s) of width {case['llm']['width']}, MLP "
            f"{case['llm']['mlp']}, {case['visual']} visual and {case['text']} text tokens, half "
            "of them behind the image."
        )
        for variant, one in results_of_case["variants"].items():
            table.append(_cells(name, variant, one))
    dtype = next(iter(results["cases"].values()))["case"]["dtype"]
    return "\n".join(
        [
            command(results["settings"]),
            "",
            f"Random weights ({dtype}), sinks planted. "
            f"{machine(results['environment'], results['clock'])}; medians of the rounds; ratios "
            "to the plain run next to it, with their quartiles; attention is the part of the "
            "prefill inside attention modules. Where the MLP is narrower than in the model of that "
            "shape, the ratios are above those of the whole model.",
            *lines,
            "",
            markdown_table(table),
            "",
            *(f"Left out: {name}, {reason}." for name, reason in results["left_out"].items()),
            results["meaning"],
        ]
    )
