"""The row split: explicit attention rows from one row on, the fused kernel for those before.

In: one call of an attention function and the first explicit row. Out: logits of those rows, the
kernel's output of the others, and the outputs of edited weights. Queries of grouped heads stand
side by side, so keys and values are never repeated. Logits and weights are float32 (float64 for
float64 models); products with low-precision keys and values stay in their own precision, as in
transformers' eager attention. The cost of R of T rows is that of R rows of eager attention.

A mask of rows and keys decides alone what a row sees, since prompts and images may be read in both
directions (PaliGemma, Gemma 3): under one no key is cut off. Other rows see what came before them.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.tap import AttentionCall

# Products of query and key stay below the logits by this power of two.
HEADROOM = 6


def explicit_logits(call: AttentionCall, start: int, stop: int, past: int) -> Tensor:
    """Attention logits of some rows, masked.

    Args:
        call: query `[B, H, T, d]`, key `[B, Hk, S, d]`, and the mask in any form.
        start: first explicit row.
        stop: the row behind the last explicit one.
        past: keys in front of the first row's own.

    Returns:
        `[B, H, stop - start, S']`; -inf where a row does not see a key. Rows that see nothing,
        which are padding, see everything alike. Keys behind the last explicit row are left out if
        rows follow it and the mask is not one of rows and keys.
    """
    cut = stop < call.query.shape[2] and not _by_row(call.mask)
    keys = past + stop if cut else call.key.shape[2]
    # A power of two in front of the product costs no precision, and float16 does not overflow.
    fraction, exponent = math.frexp(call.scale)
    query = call.query[:, :, start:stop] * 2.0 ** (exponent - HEADROOM)
    batch, heads, rows, width = query.shape
    kv_heads = call.key.shape[1]
    grouped = query.reshape(batch, kv_heads, heads // kv_heads * rows, width)
    logits = grouped @ call.key[:, :, :keys].transpose(-1, -2)
    logits = logits.view(batch, heads, rows, keys)
    # In place: at thousands of keys new memory costs more than the arithmetic.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).mul_(
        fraction * 2**HEADROOM
    )
    seen = _seen(call.mask, start, past, rows, keys, query.device)
    if seen is None:
        return logits
    logits = logits.masked_fill_(~seen, -torch.inf)
    # Without a mask every row sees itself.
    return logits if call.mask is None else logits.masked_fill_(~seen.any(-1, keepdim=True), 0)


def _by_row(mask: Any) -> bool:
    """Whether a mask says of each row which keys it sees, and not only which are padding."""
    return mask is not None and mask.dim() == 4


def _seen(
    mask: Any, start: int, past: int, rows: int, keys: int, device: torch.device
) -> Tensor | None:
    """Which keys the explicit rows see, broadcastable to `[B, H, R, S]`; None for all."""
    if _by_row(mask):
        mask = mask[:, :, start : start + rows, :keys]
        return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    own = torch.arange(start, start + rows, device=device)[:, None] + past
    if mask is None and rows == 1 and keys == start + past + 1:
        return None
    causal = torch.arange(keys, device=device) <= own
    return causal if mask is None else causal & (mask[:, None, None, :keys] != 0)


def kernel_rows(call: AttentionCall, start: int, past: int) -> Tensor | None:
    """The kernel's output of the rows before `start`, `[B, start, H, d]`; None if there are none.

    Without a mask for each row, keys behind the last of these rows are cut off, so that causality
    stays what it was.
    """
    if start == 0:
        return None
    mask, end = call.mask, past + start
    if _by_row(mask):
        mask, end = mask[:, :, :start], call.key.shape[2]
    elif mask is not None:
        mask = mask[:, :end]
    settings = dict(call.settings)
    if settings.get("position_ids") is not None:
        settings["position_ids"] = settings["position_ids"][..., :start]
    short = replace(
        call,
        query=call.query[:, :, :start],
        key=call.key[:, :, :end],
        value=call.value[:, :, :end],
        mask=mask,
        settings=settings,
    )
    return short.run()[0]


def weighted_values(weights: Tensor, value: Tensor) -> Tensor:
    """Outputs of explicit rows.

    Args:
        weights: `[B, H, R, S]`.
        value: `[B, Hk, S, d]`.

    Returns:
        `[B, R, H, d]` in the value's dtype.
    """
    batch, heads, rows, keys = weights.shape
    grouped = weights.to(value.dtype).reshape(batch, value.shape[1], -1, keys)
    return (grouped @ value).view(batch, heads, rows, -1).transpose(1, 2)


def repeated_values(value: Tensor, heads: int) -> Tensor:
    """Values `[B, Hk, S, d]` for each query head, `[B, H, S, d]`, in float32."""
    times = heads // value.shape[1]
    return value.repeat_interleave(times, 1).float() if times > 1 else value.float()
