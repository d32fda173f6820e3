"""Measure what pruning costs and saves: `lvlm-prune speed`.

In: a preset of shapes, methods and a budget. Out: `speed.json` (every round, the summary and the
environment), `speed.md` (the table) and the same table on the terminal. Presets measure whole
answers, here, the share of selection (`speed_selection`) or of signals (`speed_signals`), or what
works inside the LLM (`speed_reweight`, `speed_layers`).

For whole answers, every round runs the
unpruned model and each method once, each next to a run of the ideal, in an order that is shuffled
anew, so that a busy moment hits all of them; `speed_clock` says how each time is measured,
`speed_memory` the peak, `speed_variants` what the ideal is. Attaching is not timed: it happens
once, not once a call.

With one thread on the CPU the ratios use the CPU time of the process, which other programs disturb
least. With more threads that clock would count waiting threads, so the wall clock is used, as on a
GPU. How good the answers are is another question.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lvlm_prune.eval.speed_clock import time_answer
from lvlm_prune.eval.speed_layers import measure_layers
from lvlm_prune.eval.speed_llm import LLM_PRESETS
from lvlm_prune.eval.speed_memory import peak_and_tokens
from lvlm_prune.eval.speed_passes import shuffled_blocks
from lvlm_prune.eval.speed_presets import SpeedPreset, preset_named
from lvlm_prune.eval.speed_report import (
    clock_for,
    command,
    environment,
    limited_threads,
    machine,
    write,
)
from lvlm_prune.eval.speed_reweight import measure_reweighting
from lvlm_prune.eval.speed_selection import measure_selection
from lvlm_prune.eval.speed_signals import SIGNALS, measure_signals
from lvlm_prune.eval.speed_table import sentence, summarise, table
from lvlm_prune.eval.speed_variants import IDEAL, UNPRUNED, Workload, make_workload, prepared


def measure_speed(
    preset: str | None,
    methods: Sequence[str] | None,
    keep: int | float | None,
    repeats: int,
    new_tokens: int,
    threads: int | None,
    out: Path,
    device: str,
    reweight: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Measure what a preset is for, and write the results.

    Args:
        preset: name of the shapes, see `speed_presets` and `speed_llm`, or `signals`; None is
            `cpu`, or `reweight` or `layers` where such methods are named.
        methods: names of pruning methods; None is the preset's own choice.
        keep: tokens per image (int) or share of them (float); None is the preset's own budget.
        repeats: interleaved rounds that count; one more goes first to warm up.
        new_tokens: tokens to decode, at least 2.
        threads: CPU threads of torch; None is one on the CPU and torch's own choice for a GPU.
        out: folder for `speed.json` and `speed.md`.
        device: `cpu`, `cuda` or `cuda:NUMBER`.
        reweight: names of reweighters, with a preset for them.
        layers: names of layer methods, with a preset for them.

    Returns:
        What `speed.json` holds.

    Raises:
        ValueError: a preset, device, method or budget that cannot be run; see the message.
    """
    if threads is None and device == "cpu":
        threads = 1
    preset, measures = _what_is_measured(preset, methods, keep, reweight, layers)
    if measures == "reweight":
        return measure_reweighting(preset, reweight, repeats, new_tokens, threads, out, device)
    if measures == "layers":
        return measure_layers(preset, layers, keep, repeats, new_tokens, threads, out, device)
    if preset == SIGNALS:
        return measure_signals(repeats, threads, out, device)
    shapes = preset_named(preset, device)
    names = list(dict.fromkeys(shapes.method_names() if methods is None else methods))
    budget = shapes.keep if keep is None else keep
    if shapes.measures == "selection":
        return measure_selection(shapes, names, budget, repeats, threads, out, device)
    return _measure_answers(shapes, names, budget, repeats, new_tokens, threads, out, device)


def _what_is_measured(
    preset: str | None,
    methods: Sequence[str] | None,
    keep: int | float | None,
    reweight: Sequence[str] | None,
    layers: Sequence[str] | None,
) -> tuple[str, str]:
    """The preset, and what it is for: `reweight`, `layers` or `answer`.

    Raises:
        ValueError: methods of another kind than the preset's.
    """
    if reweight is not None and layers is not None:
        raise ValueError("reweight and layers are measured one at a time; name one of them")
    named = {"reweight": reweight, "layers": layers}
    asked = [kind for kind, names in named.items() if names is not None]
    if preset is None:
        preset = asked[0] if asked else "cpu"
    measures = LLM_PRESETS[preset].measures if preset in LLM_PRESETS else "answer"
    if asked and measures != asked[0]:
        raise ValueError(
            f"preset {preset!r} does not measure --{asked[0]}; leave --preset out, or choose one "
            f"of {', '.join(p.name for p in LLM_PRESETS.values() if p.measures == asked[0])}"
        )
    if measures != "answer" and methods is not None:
        raise ValueError(
            f"preset {preset!r} runs no vision encoder; name what is measured with --{measures} "
            "instead of --method"
        )
    if measures == "reweight" and keep is not None:
        raise ValueError(f"preset {preset!r} drops no tokens; leave --keep out")
    return preset, measures


def _measure_answers(
    shapes: SpeedPreset,
    methods: Sequence[str],
    keep: int | float,
    repeats: int,
    new_tokens: int,
    threads: int | None,
    out: Path,
    device: str,
) -> dict[str, Any]:
    """Time every method beside the unpruned model and the ideal; see `measure_speed`."""
    names = [UNPRUNED, IDEAL, *methods]
    with limited_threads(threads):
        work = make_workload(shapes, device, keep, new_tokens)
        for name in names:
            with prepared(work, name):
                pass  # a method that cannot be attached is refused before anything is measured
        clock, facts = clock_for(device), environment(work.device)
        counts, rows = run_rounds(work, names, repeats)
    summaries = summarise(rows, counts, clock)
    results = {
        "settings": {
            "preset": shapes.name,
            "method": ",".join(methods),
            "keep": keep,
            "repeats": repeats,
            "new_tokens": new_tokens,
            "threads": threads,
            "device": device,
        },
        "preset": asdict(shapes),
        "clock": clock,
        "environment": facts,
        "variants": {name: asdict(summary) for name, summary in summaries.items()},
        "meaning": sentence(summaries, shapes.visual_tokens),
        "rounds": rows,
    }
    write(results, _page(results, table(summaries)), out)
    return results


def run_rounds(
    work: Workload, names: Sequence[str], repeats: int, seed: int = 0
) -> tuple[dict[str, tuple[float, int]], list[dict[str, Any]]]:
    """Warm up with one round, measure memory once, and time the interleaved rounds.

    Args:
        work: model and question.
        names: the variants.
        repeats: rounds that count.
        seed: seed of the order inside the rounds.

    Returns:
        For each variant, peak MiB and visual tokens; and one row for each variant of each round.
    """
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    calls = 2 * len(names) + len(adjacent_order(names, draw)) * repeats
    with tqdm(total=calls, unit="call", disable=None) as bar:
        # A GPU allocates the workspace of its BLAS on first use, which is no variant's memory.
        _run_round(work, list(enumerate(names)), "warm-up", bar)
        counts = {}
        for name in names:
            bar.set_postfix_str(f"memory: {name}")
            with prepared(work, name) as answer:
                counts[name] = peak_and_tokens(work, answer)
            bar.update()
        for number in range(repeats):
            order = adjacent_order(names, draw)
            timed = _run_round(work, order, f"round {number + 1}/{repeats}", bar)
            rows += [{"round": number, **row} for row in timed]
    return counts, rows


def adjacent_order(names: Sequence[str], draw: random.Random) -> list[tuple[int, str]]:
    """The order of one round: every variant next to a run of the ideal of its own.

    A shared machine speeds up and slows down within seconds; neighbours see the same machine.

    Args:
        names: the variants.
        draw: source of the order, of the blocks and inside them.

    Returns:
        (block, variant) pairs; a block is the ideal and one other variant.
    """
    return shuffled_blocks([[IDEAL, name] for name in names if name != IDEAL], draw)


def _run_round(
    work: Workload, order: Sequence[tuple[int, str]], label: str, bar: "tqdm[Any]"
) -> list[dict[str, Any]]:
    """Time the variants in order."""
    rows = []
    for place, (block, name) in enumerate(order):
        bar.set_postfix_str(f"{label}: {name}")
        with prepared(work, name) as answer:
            times = time_answer(work, answer)
            rows.append({"place": place, "block": block, "variant": name, **times})
        bar.update()
    return rows


def _page(results: dict[str, Any], rows: str) -> str:
    """What was run, the table, and what it means."""
    preset = results["preset"]
    encoder, llm = (f"{preset[k]['depth']} x {preset[k]['width']}" for k in ("vision", "llm"))
    return "\n".join(
        [
            command(results["settings"]),
            "",
            f"Random weights ({preset['dtype']}): {preset['kind']}, encoder {encoder}, LLM {llm}, "
            f"{preset['text_tokens']} text tokens. "
            f"{machine(results['environment'], results['clock'])}; medians of the rounds; "
            "ratios of end to end times, to the ideal run next to it and to the unpruned run of "
            "the same round, with their quartiles.",
            "",
            rows,
            "",
            results["meaning"],
        ]
    )
