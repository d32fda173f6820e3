"""Compute a decoder layer's query, key and value before the layer runs.

In: the arguments that the layer is about to get. Out: what its attention function would be given.
The layer's own norm and attention module run up to the place of the kernel, so rotary embeddings
and query-key norms are the family's own; the cost is that of the three projections before it.
"""

from contextlib import suppress
from typing import Any, NoReturn

import torch

from lvlm_prune.decoder import Decoder
from lvlm_prune.tap import AttentionCall, handling


class SeenError(Exception):
    """Leaves an attention module once its query, key and value are known."""


def projected_ahead(
    decoder: Decoder, layer: int, arguments: dict[str, Any], cache: Any
) -> AttentionCall:
    """Ask a layer's attention module for its query, key and value.

    Args:
        decoder: the LLM.
        layer: number of the layer.
        arguments: of the layer; its cache is read, not filled.
        cache: the KV cache, or None.

    Returns:
        The call of its attention function, keys of the cache in front.
    """
    found: list[AttentionCall] = []

    def look(call: AttentionCall) -> NoReturn:
        found.append(call)
        raise SeenError

    module: Any = decoder.attention(layer)
    token = handling({id(module): look})
    try:
        with torch.no_grad(), suppress(SeenError):
            normed = decoder.layers[layer].input_layernorm(arguments["hidden_states"])
            module(
                hidden_states=normed,
                attention_mask=None,
                position_embeddings=arguments["position_embeddings"],
                position_ids=arguments.get("position_ids"),
                past_key_values=None,
            )
    finally:
        token.var.reset(token)
    call = found[0]
    layers = getattr(cache, "layers", ())
    if len(layers) <= layer or not layers[layer].get_seq_length():
        return call
    past = layers[layer]
    return AttentionCall(
        call.module,
        call.query,
        torch.cat([past.keys, call.key], 2),
        torch.cat([past.values, call.value], 2),
        None,
        call.settings,
    )
