"""What a method costs between encoder and LLM, as a share of the LLM's prefill.

In: a preset whose LLM has the width of the model it stands for but few layers, methods, a budget.
Out: for each method the time from the encoder's output to the shortened prompt (question, scores,
selection, merging, splicing) over the time of an unpruned prefill of the same prompt. The layers'
time is scaled to the depth of the full model, which the output says; embedding, norm and head are
left out of it, so the share is if anything too large. The encoder runs once a method and is not
timed. Each round times the prefill and every method once, in an order that is shuffled anew.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lvlm_prune.adapters import Encoded
from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.config import PruneConfig
from lvlm_prune.errors import MissingSignalError
from lvlm_prune.eval.speed_clock import Stopwatch
from lvlm_prune.eval.speed_models import build_model, make_prompt
from lvlm_prune.eval.speed_presets import SpeedPreset
from lvlm_prune.eval.speed_report import (
    clock_for,
    command,
    environment,
    limited_threads,
    machine,
    markdown_table,
    write,
)
from lvlm_prune.eval.speed_table import Spread, spread
from lvlm_prune.methods import METHODS

PREFILL = "prefill"
LIMIT = 0.03
HEADER = ("method", "visual tokens", "selection ms", "% of prefill (quartiles)")

Milliseconds = dict[str, float]


def measure_selection(
    preset: SpeedPreset,
    methods: Sequence[str],
    keep: int | float,
    repeats: int,
    threads: int | None,
    out: Path,
    device: str,
) -> dict[str, Any]:
    """Time the methods and the prefill, and write the results.

    Args:
        preset: shapes.
        methods: names of pruning methods; those that the model cannot run are named in the output.
        keep: tokens per image or share of them.
        repeats: interleaved rounds that count; one more goes first to warm up.
        threads: CPU threads of torch.
        out: folder for `speed.json` and `speed.md`.
        device: torch device.
    """
    with limited_threads(threads), torch.inference_mode():
        model = build_model(preset, device)
        prompt = make_prompt(preset, device, preset.placeholders)
        stages, refused = _stages(model, methods, keep)
        kept = {name: _encode_once(stage, prompt) for name, stage in stages.items()}
        tasks: dict[str, Callable[[], Any]] = {
            name: partial(stage.rewrite, prompt) for name, stage in stages.items()
        }
        tasks[PREFILL] = partial(_prefill, model, preset, device)
        clock, facts = clock_for(device), environment(torch.device(device))
        rounds = time_rounds(tasks, torch.device(device), repeats)
    scale = preset.llm_depth / preset.llm.depth
    shares = {name: share_of(rounds, name, PREFILL, clock, scale) for name in stages}
    times = {name: spread([one[name][clock] for one in rounds]) for name in (*stages, PREFILL)}
    results = {
        "settings": {
            "preset": preset.name,
            "method": ",".join(methods),
            "keep": keep,
            "repeats": repeats,
            "threads": threads,
            "device": device,
        },
        "preset": asdict(preset),
        "clock": clock,
        "environment": facts,
        "refused": refused,
        "kept": kept,
        "milliseconds": {name: asdict(value) for name, value in times.items()},
        "share_of_prefill": {name: asdict(value) for name, value in shares.items()},
        "rounds": rounds,
    }
    write(results, _page(results, preset, times, shares), out)
    return results


def time_rounds(
    tasks: Mapping[str, Callable[[], Any]], device: torch.device, repeats: int
) -> list[dict[str, Milliseconds]]:
    """Time every task once a round, after a round that warms up.

    Args:
        tasks: by name; what a task returns as `Stopwatch` replaces its own times.
        device: where they run.
        repeats: rounds that count.

    Returns:
        For each round, milliseconds of each task on each clock.
    """
    draw, rounds = random.Random(0), []
    names = list(tasks)
    with tqdm(total=(repeats + 1) * len(names), unit="call", disable=None) as bar:
        for _ in range(repeats + 1):
            times = {}
            draw.shuffle(names)
            for name in names:
                bar.set_postfix_str(name)
                times[name] = _timed(tasks[name], device)
                bar.update()
            rounds.append(times)
    return rounds[1:]


def share_of(
    rounds: Sequence[Mapping[str, Milliseconds]], name: str, whole: str, clock: str, scale: float
) -> Spread:
    """A task's time over that of another one, which is scaled, round by round."""
    return spread([one[name][clock] / (one[whole][clock] * scale) for one in rounds])


def _timed(task: Callable[[], Any], device: torch.device) -> Milliseconds:
    """Milliseconds of a task on each clock."""
    stopwatch = Stopwatch(device)
    _wait(device)
    stopwatch.mark("start")
    own = task()
    stopwatch.mark("end")
    _wait(device)
    return (own if isinstance(own, Stopwatch) else stopwatch).between("start", "end")


def _wait(device: torch.device) -> None:
    """Let a GPU finish what it has been given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _stages(
    model: Any, methods: Sequence[str], keep: int | float
) -> tuple[dict[str, BoundaryStage], dict[str, str]]:
    """A stage for each method, and why the others cannot run on this model."""
    stages, refused = {}, {}
    for name in methods:
        try:
            stages[name] = BoundaryStage(model, PruneConfig(method=name, keep=keep))
        except MissingSignalError as error:
            refused[name] = str(error)
    return stages, refused


def _encode_once(stage: BoundaryStage, prompt: dict[str, Tensor]) -> int:
    """Encode now, let the stage take that from here on, and return how many tokens it keeps."""
    encode, encoded = stage.adapter.encode, list[Encoded]()

    def remembered(*arguments: Any) -> Encoded:
        if not encoded:
            encoded.append(encode(*arguments))
        return encoded[0]

    stage.adapter.__dict__["encode"] = remembered
    return sum(len(rows) for rows in stage.rewrite(prompt).plan.kept)


def _prefill(model: Any, preset: SpeedPreset, device: str) -> Stopwatch:
    """Run the LLM's layers over as many rows as the unpruned prompt has."""
    stopwatch = Stopwatch(torch.device(device))
    layers = model.base_model.language_model.layers
    first = layers[0].register_forward_pre_hook(lambda *_: stopwatch.mark("start"))
    last = layers[-1].register_forward_hook(lambda *_: stopwatch.mark("end"))
    length = preset.placeholders + preset.text_tokens
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1, length, preset.llm.width, generator=generator)
    try:
        model.base_model.language_model(inputs_embeds=rows.to(device, model.dtype), use_cache=True)
    finally:
        first.remove()
        last.remove()
    return stopwatch


def _page(
    results: Mapping[str, Any],
    preset: SpeedPreset,
    times: Mapping[str, Spread],
    shares: Mapping[str, Spread],
) -> str:
    """What was run, the table, and what it means."""
    rows = [HEADER]
    for name in sorted(shares, key=lambda name: shares[name].median):
        share = shares[name]
        cell = f"{share.median:.3%} ({share.q1:.3%}-{share.q3:.3%})".replace("%", "")
        rows.append((name, str(results["kept"][name]), f"{times[name].median:.1f}", cell))
    depth = preset.llm.depth
    measured = times[PREFILL].median / 1000
    lines = [
        command(results["settings"]),
        "",
        f"Random weights ({preset.dtype}) in the shape of {preset.kind}: "
        f"{preset.visual_tokens} visual and {preset.text_tokens} text tokens. Prefill: "
        f"{depth} LLM layer(s) of width {preset.llm.width} took {measured:.2f} s, "
        f"{measured * preset.llm_depth / depth:.1f} s scaled to {preset.llm_depth} layers. "
        "Selection: from the encoder's output to the shortened prompt. "
        f"{machine(results['environment'], results['clock'])}; medians of "
        f"{len(results['rounds'])} interleaved rounds.",
        "",
        markdown_table(rows),
        "",
        sentence(shares, preset),
    ]
    if results["refused"]:
        lines.append(f"Not possible with this model: {', '.join(results['refused'])}.")
    inside = [name for name in shares if METHODS[name].step is not None]
    if inside:
        lines.append(f"Works inside the encoder, which is not in these times: {', '.join(inside)}.")
    return "\n".join(lines)


def sentence(shares: Mapping[str, Spread], preset: SpeedPreset) -> str:
    """What the table means."""
    slowest = max(shares, key=lambda name: shares[name].median)
    over = [name for name, share in shares.items() if share.median > LIMIT]
    text = (
        f"The slowest of {len(shares)} methods ({slowest}) takes {shares[slowest].median:.2%} of "
        f"the prefill of {preset.visual_tokens} visual tokens; "
    )
    if over:
        return text + f"more than {LIMIT:.0%} take {', '.join(over)}."
    return text + f"none takes more than {LIMIT:.0%}."
