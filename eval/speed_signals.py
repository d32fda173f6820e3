"""What reading attention costs, as a share of the vision encoder.

In: nothing but the number of rounds. Out: for encoders in the shapes of CLIP-L/14-336 (which has a
CLS token), SigLIP-so400m/14-384 and Qwen2.5-VL (which have none), the time to compute each signal
from query and key of one layer, over the time of the encoder without a tap; and the encoder with a
tap over the one without, which shows that nothing else was added. An encoder with fewer layers than
the one it stands for has its time scaled, which the output says. Each round times everything once,
in an order that is shuffled anew.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.adapters import Adapter, adapter_for
from lvlm_prune.attention import cls_row, joint_cls_row, received_attention, sink_rows
from lvlm_prune.eval.speed_models import build_model, make_prompt
from lvlm_prune.eval.speed_presets import SIGNAL_PRESETS, SpeedPreset, check_device
from lvlm_prune.eval.speed_report import (
    clock_for,
    command,
    environment,
    limited_threads,
    machine,
    markdown_table,
    write,
)
from lvlm_prune.eval.speed_selection import Milliseconds, share_of, time_rounds
from lvlm_prune.eval.speed_table import Spread, spread
from lvlm_prune.methods.contract import attention_request
from lvlm_prune.signals import SignalRequest
from lvlm_prune.tap import recording

SIGNALS = "signals"
ENCODER, TAPPED = "encoder", "encoder with tap"
SAMPLED_ROWS = 64
SINK_SHARE = 0.01
HEADER = ("encoder", "signal of one layer", "ms", "% of encoder (quartiles)")

Layer = tuple[Tensor, Tensor, float]
Reading = Callable[[Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class EncoderCosts:
    """What was measured on one encoder.

    Args:
        patches: queries of a layer, without a CLS token.
        rounds: milliseconds of each task on each clock.
        scale: layers of the encoder that it stands for, over its own.
    """

    patches: int
    rounds: list[dict[str, Milliseconds]]
    scale: float

    def share(self, name: str, clock: str) -> Spread:
        """A signal's time as a share of the encoder's."""
        return share_of(self.rounds, name, ENCODER, clock, self.scale)

    def milliseconds(self, name: str, clock: str) -> float:
        """Median time of a task."""
        return spread([one[name][clock] for one in self.rounds]).median


def measure_signals(
    repeats: int,
    threads: int | None,
    out: Path,
    device: str,
    presets: Sequence[SpeedPreset] = SIGNAL_PRESETS,
) -> dict[str, Any]:
    """Time encoders and signals, and write the results.

    Args:
        repeats: interleaved rounds that count; one more goes first to warm up.
        threads: CPU threads of torch.
        out: folder for `speed.json` and `speed.md`.
        device: torch device.
        presets: shapes of the encoders.
    """
    check_device(device)
    with limited_threads(threads), torch.inference_mode():
        clock, facts = clock_for(device), environment(torch.device(device))
        costs = {preset.name: _costs(preset, device, repeats) for preset in presets}
    results = {
        "settings": {
            "preset": SIGNALS,
            "repeats": repeats,
            "threads": threads,
            "device": device,
        },
        "presets": [asdict(preset) for preset in presets],
        "clock": clock,
        "environment": facts,
        "share_of_encoder": {
            encoder: {name: asdict(cost.share(name, clock)) for name in _signals(cost)}
            for encoder, cost in costs.items()
        },
        "rounds": {encoder: cost.rounds for encoder, cost in costs.items()},
    }
    write(results, _page(results, presets, costs), out)
    return results


def _costs(preset: SpeedPreset, device: str, repeats: int) -> EncoderCosts:
    """Measure one encoder."""
    model = build_model(preset, device)
    prompt = make_prompt(preset, device, preset.placeholders)
    adapter = adapter_for(model)
    layer = adapter.shape.global_layer(adapter.shape.feature_layer)
    query, key, scale = _layer(adapter, prompt, layer)
    tasks: dict[str, Callable[[], Any]] = {
        name: partial(read, query, key, scale)
        for name, read in readings(adapter.shape.has_cls).items()
    }
    tasks[ENCODER] = partial(adapter.encode, prompt, SignalRequest())
    tasks[TAPPED] = partial(_encode_tapped, adapter, prompt, layer)
    rounds = time_rounds(tasks, torch.device(device), repeats)
    patches = query.shape[2] - int(adapter.shape.has_cls)
    depth = preset.vision_depth or preset.vision.depth
    return EncoderCosts(patches, rounds, depth / preset.vision.depth)


def readings(has_cls: bool) -> dict[str, Reading]:
    """The signals that an encoder offers, by name, as functions of query, key and scale."""
    received: dict[str, Reading] = {
        "received attention, all rows": received_attention,
        f"received attention, {SAMPLED_ROWS} rows": partial(received_attention, rows=SAMPLED_ROWS),
        f"rows of ViT sinks ({SINK_SHARE:.0%} of patches)": _sink_rows,
    }
    if not has_cls:
        return received
    return {"CLS row": cls_row, "CLS row over heads": joint_cls_row, **received}


def _sink_rows(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Attention that some of the tokens give."""
    sinks = torch.zeros(query.shape[0], query.shape[2], dtype=torch.bool, device=query.device)
    sinks[:, :: round(1 / SINK_SHARE)] = True
    return sink_rows(query, key, scale, sinks)


def _layer(adapter: Adapter, prompt: dict[str, Tensor], layer: int) -> Layer:
    """Query and key of a layer as its kernel gets them, and the scale."""
    seen: list[Layer] = []
    request = SignalRequest(keys_layer=layer)
    (module,) = adapter.attention_modules(request).values()
    with (
        adapter.taps(request),
        recording({module: lambda q, k, v, scale: seen.append((q, k, scale))}),
    ):
        adapter.model.base_model.get_image_features(**adapter.encoder_arguments(prompt, "image"))
    return seen[0]


def _encode_tapped(adapter: Adapter, prompt: dict[str, Tensor], layer: int) -> None:
    """Encode and read what `cls` reads, as an attachment does; its taps stay installed."""
    request = attention_request(adapter.shape, [layer])
    with adapter.taps(request):
        adapter.encode(prompt, request)


def _signals(cost: EncoderCosts) -> list[str]:
    """Names of the signals that were timed, in the order of `readings`."""
    return [name for name in readings(has_cls=True) if name in cost.rounds[0]]


def _page(
    results: Mapping[str, Any], presets: Sequence[SpeedPreset], costs: Mapping[str, EncoderCosts]
) -> str:
    """What was run, the table, and what it means."""
    clock = results["clock"]
    rows = [HEADER]
    for preset in presets:
        cost = costs[preset.name]
        for name in _signals(cost):
            share = cost.share(name, clock)
            cell = f"{share.median:.3%} ({share.q1:.3%}-{share.q3:.3%})".replace("%", "")
            rows.append((preset.name, name, f"{cost.milliseconds(name, clock):.2f}", cell))
    return "\n".join(
        [
            command(results["settings"]),
            "",
            f"Random weights. {machine(results['environment'], clock)}; medians of interleaved "
            "rounds.",
            *(_encoder_line(preset, costs[preset.name], clock) for preset in presets),
            "",
            markdown_table(rows),
        ]
    )


def _encoder_line(preset: SpeedPreset, cost: EncoderCosts, clock: str) -> str:
    """One encoder: its size, its time and what a tap does to it."""
    tap = spread([one[TAPPED][clock] / one[ENCODER][clock] for one in cost.rounds])
    layers = f"{preset.vision.depth} layers"
    if cost.scale != 1:
        layers += f", time scaled to {preset.vision_depth}"
    return (
        f"{preset.name} ({layers}, {cost.patches} patches): "
        f"{cost.milliseconds(ENCODER, clock):.0f} ms; with one tap {tap} times that."
    )
