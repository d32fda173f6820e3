"""Check a layer schedule against an LLM, at attach, and what only a pass can show.

In: a schedule and a decoder. Out: the method, its options, and for each layer how many tokens go
on. Every refusal is a sentence with the value, what is allowed, and the next step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from lvlm_prune.decoder import Decoder
from lvlm_prune.decoder_call import DecoderCall, whole_prompt
from lvlm_prune.errors import UnsupportedModelError
from lvlm_prune.layers.contract import LayerMethod
from lvlm_prune.layers.registry import layer_method_named
from lvlm_prune.layers.schedule import LayerSchedule


@dataclass(frozen=True)
class LayerPlan:
    """A schedule that fits an LLM.

    Args:
        method: of the schedule.
        options: complete.
        stages: for each layer, ascending, how many tokens go on; None: the method decides.
        observed: layers that the method notes something of.
        blind: layers at which text does not see visual keys.
    """

    method: LayerMethod
    options: dict[str, Any]
    stages: dict[int, int | float | None]
    observed: tuple[int, ...]
    blind: tuple[int, ...]


def checked_plan(schedule: LayerSchedule, decoder: Decoder) -> LayerPlan:
    """Resolve a schedule for an LLM.

    Raises:
        UnknownMethodError: no such method.
        UnsupportedModelError: the LLM cannot have layers of different length.
        ValueError: a layer that is out of range or below the DeepStack layers, or options that the
            method does not have.
    """
    method = layer_method_named(schedule.method)
    options = method.complete(schedule.options)
    _check_decoder(decoder)
    stages = dict(schedule.stages or method.stages(decoder.depth))
    if schedule.stages is None:
        stages = _above_deepstack(stages, decoder)
    for layer, keep in stages.items():
        _check_layer(layer, keep, decoder, method)
    stages = dict(sorted(stages.items()))
    observed = method.observed(list(stages), decoder.depth) if method.observed else ()
    blind = method.blind(options, decoder.depth) if method.blind else ()
    if blind and "flash" in decoder.implementation:
        raise UnsupportedModelError(
            f"layer method {method.name!r} hides visual keys from text rows, which "
            f"attn_implementation={decoder.implementation!r} cannot; load the model with 'sdpa'"
        )
    return LayerPlan(method, options, stages, tuple(sorted(observed)), tuple(sorted(blind)))


def _check_decoder(decoder: Decoder) -> None:
    """Refuse LLMs whose layers must all have the same columns."""
    name = type(decoder.model).__name__
    if not decoder.full_attention():
        kinds = getattr(decoder.config, "layer_types", None) or ["sliding_attention"]
        raise UnsupportedModelError(
            f"{name} has decoder layers of other kinds than full attention "
            f"({', '.join(sorted(set(kinds)))}), whose state cannot be cut in the middle of the "
            "LLM; prune before the LLM instead, with method=..."
        )
    if decoder.implementation not in ("sdpa", "eager") and "flash" not in decoder.implementation:
        raise UnsupportedModelError(
            f"stages inside the LLM know the masks of 'sdpa', 'eager' and flash attention, not of "
            f"{decoder.implementation!r}; load the model with attn_implementation='sdpa'"
        )


def _above_deepstack(
    stages: Mapping[int, int | float | None], decoder: Decoder
) -> dict[int, int | float | None]:
    """A method's own schedule, moved up where the LLM adds visual features to its first layers."""
    lowest = decoder.deepstack
    return {max(layer, lowest): keep for layer, keep in sorted(stages.items())}


def _check_layer(layer: int, keep: Any, decoder: Decoder, method: LayerMethod) -> None:
    """Refuse a stage that cannot be."""
    depth, lowest = decoder.depth, max(1, decoder.deepstack)
    if not 1 <= layer < depth:
        raise ValueError(
            f"layer {layer} is out of range: tokens can be dropped before layers 1..{depth - 1} "
            f"of this LLM's {depth} layers (use method=... to drop them before layer 0)"
        )
    if layer < lowest:
        raise ValueError(
            f"layer {layer} is below the DeepStack layers: {type(decoder.model).__name__} adds "
            f"visual features to the first {lowest} layers; use layers {lowest}..{depth - 1}"
        )
    adaptive = all(share is None for share in method.stages(depth).values())
    if keep is None and not adaptive:
        raise ValueError(
            f"layer method {method.name!r} needs a number or share at layer {layer}, got None; "
            f"write {{{layer}: 0.5}} or {method.name}@{layer}:0.5"
        )
    if keep is not None and adaptive:
        raise ValueError(
            f"layer method {method.name!r} decides itself how many tokens go on, got {keep!r} at "
            f"layer {layer}; write {{{layer}: None}} or {method.name}@{layer}, and set its options "
            "instead"
        )


def check_pass(call: DecoderCall) -> None:
    """Refuse caches that cannot get shorter, and images in a prompt that comes in several passes.

    Raises:
        ValueError: see above.
    """
    for layer in getattr(call.cache, "layers", ()):
        if not isinstance(layer, DynamicLayer) or isinstance(layer, DynamicSlidingWindowLayer):
            raise ValueError(
                f"the KV cache has layers of type {type(layer).__name__}, which cannot get "
                "shorter at later decoder layers; use the default dynamic cache, or prune "
                "before the LLM with method=..."
            )
    whole, columns = whole_prompt.get(), call.past + call.length
    if whole is not None and whole.shape[1] > columns and bool(whole[:, call.past :].any()):
        raise ValueError(
            f"the prompt of {whole.shape[1]} columns comes in chunks, and stages inside the LLM "
            "choose visual tokens by its end, which this chunk does not have; leave out "
            "prefill_chunk_size, or prune before the LLM with method=..."
        )
