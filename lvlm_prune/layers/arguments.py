"""A decoder layer's arguments at the columns that it still has.

In: the running pass, a layer and its keyword arguments, which transformers prepared for all
columns. Out: the same with masks, rotary embeddings and positions of the layer's own columns. What
layers of one segment share is made once. Knows nothing about methods.
"""

from typing import Any

from torch import Tensor

from lvlm_prune.decoder_call import DecoderCall
from lvlm_prune.layers.columns import blind_text, gather_mask, gather_positions, gather_rows


def bring_to_columns(
    call: DecoderCall,
    layer: int,
    arguments: dict[str, Any],
    made: dict[Any, Any],
    implementation: str,
) -> None:
    """Change a layer's arguments in place.

    Args:
        call: the pass.
        layer: number of the layer.
        arguments: of the layer; its hidden states are left alone.
        made: what was made for layers before, in the same pass.
        implementation: attention implementation.
    """
    own, keys = call.own[layer], call.memory.keys[layer]
    mask = arguments.get("attention_mask")
    if keys is not None:
        key = ("mask", id(keys), id(mask))
        if key not in made:
            short = gather_mask(mask, call.rows(layer), keys, call.past, implementation)
            # What the key names is kept, so that no other tensor gets its id.
            made[key] = (short, mask, keys)
        arguments["attention_mask"] = made[key][0]
    if own is None:
        return
    place = ("rotary", id(own))
    if place not in made:
        tables = tuple(gather_rows(one, own) for one in arguments["position_embeddings"])
        made[place] = (tables, _positions(arguments, own, implementation), own)
    arguments["position_embeddings"], positions, _ = made[place]
    if "position_ids" in arguments:
        arguments["position_ids"] = positions


def _positions(arguments: dict[str, Any], own: Tensor, implementation: str) -> Tensor | None:
    """Positions of a layer's columns."""
    positions: Tensor | None = arguments.get("position_ids")
    # Flash attention takes gaps in positions for borders between packed sequences.
    if positions is None or "flash" in implementation:
        return None
    return gather_positions(positions, own)


def blind_mask(call: DecoderCall, layer: int, mask: Any, implementation: str) -> Any:
    """The mask of a layer at which text rows do not see visual keys.

    Args:
        call: the pass.
        layer: number of the layer.
        mask: at the layer's columns.
        implementation: attention implementation.
    """
    visual = call.memory.visual
    rows = ~call.visual.gather(1, call.rows(layer).clamp(min=0))
    keys = call.at_keys(layer, visual, visual.shape[1])
    return blind_text(mask, rows, keys, implementation)


def rotary_tables(arguments: dict[str, Any], batch: int) -> tuple[Tensor, Tensor] | None:
    """Cosine and sine at a layer's columns, `[B, T, d]`, or None where columns have no one angle.

    Args:
        arguments: at the layer's columns.
        batch: prompts B.
    """
    cosine, sine = arguments["position_embeddings"]
    # Three axes of M-RoPE that are not joined yet have no one angle a column.
    if cosine.dim() != 3:
        return None
    return cosine.expand(batch, -1, -1), sine.expand(batch, -1, -1)
