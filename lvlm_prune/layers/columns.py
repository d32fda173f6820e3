"""Bring a decoder layer's arguments to the columns that it still has.

In: what transformers prepared for all columns (masks, rotary embeddings, positions) and the columns
that a layer has (`own` `[B, T]`, keys `[B, S]`, -1 for padding). Out: the same for those columns.
Handles every mask that SDPA, eager and flash attention take: None, 4-D bool, 4-D float, 2-D.
"""

from typing import Any

import torch
from torch import Tensor


def gather_rows(values: Tensor, own: Tensor) -> Tensor:
    """Rows of `[.., B or 1, L, d]` at `[B, T]`, `[.., B, T, d]`; padding gets row 0."""
    batch, width = own.shape
    values = values.expand(*values.shape[:-3], batch, *values.shape[-2:])
    places = own.clamp(min=0)[..., None].expand(*values.shape[:-2], width, values.shape[-1])
    return values.gather(-2, places)


def gather_positions(positions: Tensor, own: Tensor) -> Tensor:
    """Positions `[.., B or 1, L]` at `[B, T]`."""
    positions = positions.expand(*positions.shape[:-2], own.shape[0], positions.shape[-1])
    places = own.clamp(min=0).expand(*positions.shape[:-1], own.shape[1])
    return positions.gather(-1, places)


def scatter_rows(full: Tensor, own: Tensor, hidden: Tensor) -> Tensor:
    """Write states `[B, T, D]` to their columns of `[B, L, D]`; padding is left out."""
    length = full.shape[1]
    places = own.masked_fill(own < 0, length)[..., None].expand_as(hidden)
    extra = torch.cat([full, full[:, :1]], 1)
    return extra.scatter(1, places, hidden)[:, :length]


def gather_mask(mask: Any, own: Tensor, keys: Tensor, past: int, implementation: str) -> Any:
    """A layer's mask.

    Args:
        mask: of layer 0: 4-D `[B or 1, 1, L, S]` bool or float, 2-D `[B, S]`, or None, which is
            causal.
        own: new columns of the layer, `[B, T]`, 0..L-1.
        keys: columns of its keys, `[B, S']`, 0..S-1; the last T are its own.
        past: columns of layer 0 that were cached before.
        implementation: attention implementation, which says what a missing mask must become.

    Returns:
        The same kind of mask for `[T, S']`; None stays None where causality is all there is.
    """
    padded = bool((keys < 0).any())
    if mask is None:
        if not padded:
            return None
        return _causal_mask(own, keys, past, implementation)
    if mask.dim() == 2:
        places = keys.clamp(min=0)
        return mask.expand(keys.shape[0], -1).gather(1, places).masked_fill(keys < 0, 0)
    batch, heads = keys.shape[0], mask.shape[1]
    mask = mask.expand(batch, -1, -1, -1)
    rows = own.clamp(min=0)[:, None, :, None].expand(-1, heads, -1, mask.shape[-1])
    columns = keys.clamp(min=0)[:, None, None].expand(-1, heads, own.shape[1], -1)
    short = mask.gather(2, rows).gather(3, columns)
    if not padded:
        return short
    hidden = ((keys < 0)[:, None] | (own < 0)[:, :, None]) & ~_itself(own, keys)
    nothing = False if short.dtype == torch.bool else torch.finfo(short.dtype).min
    seen = True if short.dtype == torch.bool else 0
    short = short.masked_fill(hidden[:, None], nothing)
    # A row of padding sees itself, so that no softmax is empty.
    return short.masked_fill((_itself(own, keys) & (own < 0)[:, :, None])[:, None], seen)


def _causal_mask(own: Tensor, keys: Tensor, past: int, implementation: str) -> Tensor:
    """The mask of a causal layer that has padding."""
    if "flash" in implementation:
        return (keys >= 0).long()
    seen = (keys >= 0)[:, None] & (keys[:, None] <= (own + past)[:, :, None])
    seen = (seen & (own >= 0)[:, :, None]) | _itself(own, keys)
    if implementation == "sdpa":
        return seen[:, None]
    least = torch.finfo(torch.float32).min
    return torch.zeros_like(seen, dtype=torch.float32).masked_fill(~seen, least)[:, None]


def _itself(own: Tensor, keys: Tensor) -> Tensor:
    """Where a row meets its own key, `[1, T, S']` bool."""
    rows, columns = own.shape[1], keys.shape[1]
    places = torch.arange(rows, device=own.device)[:, None] + columns - rows
    return (places == torch.arange(columns, device=own.device))[None]


def blind_text(mask: Any, rows: Tensor, keys: Tensor, implementation: str) -> Any:
    """Hide visual keys from text rows.

    Args:
        mask: of the layer, see `gather_mask`; None is causal.
        rows: `[B, T]` bool, text rows.
        keys: `[B, S]` bool, visual keys; the last T are the rows' own.
        implementation: attention implementation.

    Returns:
        A 4-D mask, bool for SDPA and float for eager attention.

    Raises:
        ValueError: flash attention takes no such mask.
    """
    if "flash" in implementation:
        raise ValueError(
            f"attn_implementation={implementation!r} cannot hide keys from single rows; use 'sdpa'"
        )
    hidden = (rows[:, :, None] & keys[:, None])[:, None]
    if mask is None:
        count, total = rows.shape[1], keys.shape[1]
        places = torch.arange(total, device=rows.device)
        own = torch.arange(count, device=rows.device) + total - count
        mask = (places <= own[:, None])[None, None]
        if implementation != "sdpa":
            least = torch.finfo(torch.float32).min
            mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, least)
    nothing = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    return mask.expand(rows.shape[0], -1, -1, -1).masked_fill(hidden, nothing)
