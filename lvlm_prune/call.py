"""A call's columns: which of them are new, and how they join those of the cache.

In: keyword arguments of `forward` or `generate`, with or without a cache. Out: the tensors of the
new columns `[B, L]`, and, once they were shortened, the arguments for the stock model. Columns that
a shortened cache holds stand in front, in its order. Knows nothing about methods.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.adapters import Adapter
from lvlm_prune.cache_columns import CacheColumns, carries_columns, columns_in
from lvlm_prune.report import PruneReport
from lvlm_prune.splice import Plan, gather_columns, positions_of

# Arguments of forward with one column a token, besides input_ids and attention_mask.
TOKEN_ARGUMENTS = (
    "position_ids",
    "labels",
    "token_type_ids",
    "mm_token_type_ids",
    "moe_mm_token_type_ids",
)
# Arguments of generate that have columns of their own.
OTHER_PROMPTS = ("negative_prompt_ids", "negative_prompt_attention_mask")


@dataclass(frozen=True)
class Rewritten:
    """A call for the stock model.

    Args:
        arguments: the keyword arguments, shortened.
        plan: the plan of the new columns.
        columns: what the cache will hold after the call.
        report: counts and times, or None for a call without images.
        marks: numbers of the new columns for stages inside the LLM, `[B, L']` each.
    """

    arguments: dict[str, Any]
    plan: Plan
    columns: CacheColumns
    report: PruneReport | None
    marks: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """A call on its way to the stock model.

    Args:
        arguments: its keyword arguments.
        past: the columns of its cache.
        mask: mask of the conversation, `[B, past + L]`.
        delta: next rotary position less the number of real tokens, `[B]`.
        ids_hold_past: whether `input_ids` repeats the columns that the cache holds.
        adapter: of the model.
    """

    arguments: Mapping[str, Any]
    past: CacheColumns
    mask: Tensor
    delta: Tensor
    ids_hold_past: bool
    adapter: Adapter


def new_call(
    arguments: Mapping[str, Any], adapter: Adapter, ids_hold_past: bool
) -> tuple[Call, dict[str, Tensor]]:
    """Find the columns that are not cached yet.

    Args:
        arguments: keyword arguments with `input_ids` `[B, L]`.
        adapter: of the model, for positions that are more than a count.
        ids_hold_past: whether `input_ids` repeats the cached columns.

    Returns:
        The call, and the tensors of its new columns.
    """
    ids = arguments["input_ids"]
    past = columns_in(
        arguments.get("past_key_values"), ids.shape[0], ids.device, adapter.past_delta
    )
    count = ids.shape[1] - (past.length if ids_hold_past else 0)
    if count < 1:
        raise ValueError(
            f"input_ids has {ids.shape[1]} columns but the cache already holds {past.length} "
            "columns of this conversation; pass the whole conversation or only new tokens with "
            "the whole attention_mask"
        )
    mask = arguments.get("attention_mask")
    if mask is None:
        mask = ids.new_ones(ids.shape[0], past.length + count)
    if mask.dim() != 2 or mask.shape[1] != past.length + count:
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}; with pruning it must be 2-D and "
            f"cover the conversation, {past.length} past + {count} new columns"
        )
    _check_columns(arguments, adapter)
    new = {"input_ids": ids[:, -count:], "attention_mask": mask[:, past.length :]}
    for name in TOKEN_ARGUMENTS:
        if arguments.get(name) is not None:
            value = arguments[name][..., -count:]
            new[name] = value if value.dim() > 2 else value.expand_as(new["input_ids"])
    places = adapter.positions(arguments, new["input_ids"], mask, past.delta)
    if places is None:
        if "position_ids" not in new and past.length:
            new["position_ids"] = positions_of(mask)[:, past.length :]
        return Call(arguments, past, mask, past.delta, ids_hold_past, adapter), new
    positions, delta = places
    new.setdefault("position_ids", positions)
    return Call(arguments, past, mask, delta, ids_hold_past, adapter), new


def _check_columns(arguments: Mapping[str, Any], adapter: Adapter) -> None:
    """Refuse arguments with one column a token that are not known here, and would stay long."""
    known = {"input_ids", "attention_mask", *TOKEN_ARGUMENTS, *OTHER_PROMPTS}
    for modality in adapter.modalities(arguments):
        known |= set(adapter.encoder_arguments(arguments, modality))
    for name, value in arguments.items():
        if name in known or not isinstance(value, Tensor) or value.is_floating_point():
            continue
        if value.shape == arguments["input_ids"].shape:
            raise ValueError(
                f"{name} has one column a token, like input_ids, and is not known to pruning, so "
                f"it would not fit the shortened prompt; known: {', '.join(TOKEN_ARGUMENTS)}"
            )


def joined(call: Call, short: dict[str, Tensor], plan: Plan, compact: bool) -> Rewritten:
    """Put the cached columns, in cache order, before the new ones.

    Args:
        call: the call, with features in place of pixels.
        short: the tensors of the new columns, shortened.
        plan: how they were shortened.
        compact: whether positions are renumbered.

    Raises:
        ValueError: the model cannot read such columns behind a cache.
    """
    past, mask = call.past, call.mask
    added = torch.where(plan.index >= 0, plan.index + past.length, -1)
    index = torch.cat([past.index, added], dim=1)
    columns = CacheColumns(index, past.length + plan.length, call.delta)
    # Not by width: a row that lost tokens may be padded back to the width it had.
    changed = plan.dropped or carries_columns(call.arguments.get("past_key_values"))
    # M-RoPE positions come from grids, which are gone with the pixels.
    if not changed and short.get("position_ids", mask).dim() == 2:
        return Rewritten(dict(call.arguments), plan, columns, None)
    both = {**call.arguments, **short}
    held = gather_columns(mask[:, : past.length], past.index)
    both["attention_mask"] = torch.cat([held, short["attention_mask"]], dim=1)
    positions = short["position_ids"]
    # What cached columns stood at is read no more; generate only wants a column for each.
    before = gather_columns(positions_of(mask)[:, : past.length], past.index)
    before = before.expand(*positions.shape[:-1], before.shape[-1])
    positions = torch.cat([before, positions], dim=-1)
    if compact:
        positions = positions_of(both["attention_mask"])
    elif positions.dim() == 3 and len(positions) == 4:
        # Row 0 only tells packed sequences apart, so it must have no gaps.
        positions = torch.cat([positions_of(both["attention_mask"])[None], positions[1:]])
    if call.ids_hold_past:
        ids = gather_columns(call.arguments["input_ids"][:, : past.length], past.index)
        both["input_ids"] = torch.cat([ids, short["input_ids"]], dim=1)
        for name in ("mm_token_type_ids", "moe_mm_token_type_ids"):
            if name in short and past.length:
                # generate cuts the new columns off the end by itself
                text = torch.zeros_like(ids).to(short[name].dtype)
                both[name] = torch.cat([text, short[name]], dim=1)
    # `forward` reads the new columns only; `generate` cuts them off the end by itself.
    count = both["input_ids"].shape[1]
    both["position_ids"] = positions[..., -count:]
    if past.length:
        _check_later_turn(call, plan, positions[..., -plan.index.shape[1] :])
    return Rewritten(both, plan, columns, None)


def _check_later_turn(call: Call, plan: Plan, positions: Tensor) -> None:
    """Refuse new columns that a model would misread behind cached ones.

    Args:
        call: the call.
        plan: how its new columns were shortened.
        positions: theirs, `[B, L']` or with M-RoPE rows.
    """
    padded = bool((plan.index < 0).any()) and bool(call.mask[:, call.past.length :].all())
    if call.adapter.recurrent and padded:
        raise ValueError(
            "the prompts of this turn lose different numbers of visual tokens, and the model's "
            "recurrent layers cannot skip padding behind a cache; keep the same number of tokens "
            "in each prompt, or go on with one conversation at a time"
        )
    # Row 0 of four is a plain count; with three, transformers hands kernels none.
    gaps = positions.dim() == 2 and bool((positions.diff(dim=-1) != 1).any())
    if call.adapter.flash and len(positions) == 1 and gaps:
        raise ValueError(
            "this turn brings an image behind a cache, and flash attention takes the gaps that "
            "pruning leaves in its positions for borders between packed sequences; load the model "
            "with attn_implementation='sdpa', or pass the whole conversation without the cache"
        )
