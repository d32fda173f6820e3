"""Read what enters each decoder layer of an LLM for a prompt of text.

In: a causal LLM, or a vision-language model around one, and token ids. Out: states `[T, D]`, one
for each layer. The model reports them itself (`output_hidden_states`), wherever its modules are.
"""

from typing import Any

import torch
from torch import Tensor

from lvlm_prune.errors import QuantizedModelError, UnsupportedModelError


def check_measurable(model: Any) -> None:
    """Say so if a model's residual stream cannot be measured, or would mislead."""
    name = type(model).__name__
    signs = (
        getattr(model, "is_quantized", False),
        getattr(model, "hf_quantizer", None),
        getattr(model.config, "quantization_config", None),
    )
    if any(sign not in (None, False) for sign in signs):
        raise QuantizedModelError(
            f"this {name} is quantised, which changes the outliers that are measured; calibrate "
            "the model it was made from, and pass its dims and tau to SinkRule"
        )
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{name} encodes its text; LLM sinks are those of causal LLMs, pass one"
        )


def measured_layers(depth: int) -> range:
    """Layers 2..L-2, or the last one of an LLM that has no such layer."""
    first = min(2, depth - 1)
    return range(first, max(first, depth - 2) + 1)


def residual_stream(model: Any, ids: Tensor) -> list[Tensor]:
    """What enters each decoder layer.

    Args:
        model: a transformers model.
        ids: one prompt of text, `[1, T]`.

    Returns:
        `[T, D]` for each layer.

    Raises:
        UnsupportedModelError: the model gives no hidden states of this shape.
    """
    states = model.base_model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        use_cache=False,
        output_hidden_states=True,
    ).hidden_states
    depth = model.config.get_text_config().num_hidden_layers
    if states is None or len(states) <= depth or states[0].dim() != 3:
        raise UnsupportedModelError(
            f"{type(model).__name__} gives no hidden states [B, T, D] for each of {depth} layers; "
            "pass a SinkRule with dims and tau instead"
        )
    return [state[0] for state in states[:depth]]
