"""Remember which columns of a conversation a shortened KV cache holds.

A pruned cache is shorter than the conversation that the caller sees. Its owner is the cache object
itself, so nothing is kept on the model and two conversations cannot mix. Tokens that were generated
after the prompt stand in both in the same order, so the columns of a decode step need no update.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_ATTRIBUTE = "_lvlm_prune_columns"
_DELTA = "_lvlm_prune_delta"


@dataclass(frozen=True)
class CacheColumns:
    """The columns that a cache was filled with.

    Args:
        index: `[B, S]` int64, original column of each cached column, -1 for padding.
        length: columns of the conversation that these stand for.
        delta: next rotary position less the number of real tokens so far, `[B]`; not 0 with
            M-RoPE, where an image takes fewer positions than it has tokens.
    """

    index: Tensor
    length: int
    delta: Tensor

    def extended(self, cached: int) -> "CacheColumns":
        """Add the generated tokens of a cache that now holds `cached` columns."""
        extra = cached - self.index.shape[1]
        new = torch.arange(self.length, self.length + extra, device=self.index.device)
        index = torch.cat([self.index, new.expand(self.index.shape[0], -1)], dim=1)
        return CacheColumns(index, self.length + extra, self.delta)


def carries_columns(cache: Any) -> bool:
    """Whether a cache (or None) was shortened by an attachment."""
    return getattr(cache, _ATTRIBUTE, None) is not None


def columns_in(
    cache: Any, batch: int, device: torch.device, unmarked: Callable[[], Tensor | None]
) -> CacheColumns:
    """The columns that a cache holds now; an unmarked cache holds all it has seen.

    Args:
        cache: a transformers cache, or None.
        batch: rows B of the call.
        device: device of the index.
        unmarked: the delta `[B]` of a conversation that was not shortened and not remembered, or
            None for 0.
    """
    cached = 0 if cache is None else int(cache.get_seq_length())
    if not cached:  # new, reset(), or its first call failed
        unmark(cache)
    if carries_columns(cache):
        columns: CacheColumns = getattr(cache, _ATTRIBUTE)
        rows, held = columns.index.shape
        if batch % rows or cached < held:
            raise ValueError(
                f"the cache was filled with {rows} prompt(s) of {held} columns but now holds "
                f"{cached} columns for {batch}; start with a new cache after cutting a prompt"
            )
        index = columns.index.repeat_interleave(batch // rows, 0)
        delta = columns.delta.repeat_interleave(batch // rows, 0)
        return CacheColumns(index, columns.length, delta).extended(cached)
    index = torch.arange(cached, device=device).expand(batch, -1)
    if not cached:
        return CacheColumns(index, cached, index.new_zeros(batch))
    remembered: Tensor | None = getattr(cache, _DELTA, None)
    remembered = unmarked() if remembered is None else remembered
    delta = index.new_zeros(batch) if remembered is None else remembered
    if batch % len(delta):
        raise ValueError(
            f"the cache holds {batch} conversation(s), but rotary positions are remembered of "
            f"{len(delta)}, because the model was used for others since; pass the whole "
            "conversation without the cache"
        )
    return CacheColumns(index, cached, delta.to(index).repeat_interleave(batch // len(delta)))


def mark(cache: Any, columns: CacheColumns) -> None:
    """Write onto a cache which columns it will hold after the call."""
    setattr(cache, _ATTRIBUTE, columns)


def cut_columns(cache: Any) -> None:
    """Forget the newest columns of a cache that was cropped; they must be generated tokens."""
    columns: CacheColumns | None = getattr(cache, _ATTRIBUTE, None)
    held = int(cache.get_seq_length())
    if columns is None or columns.index.shape[1] <= held:
        return
    length = columns.length - (columns.index.shape[1] - held)
    mark(cache, CacheColumns(columns.index[:, :held], length, columns.delta))


def remember_delta(cache: Any, delta: Tensor) -> None:
    """Write onto a cache that was not shortened where its conversations go on, `[B]` or `[1]`."""
    setattr(cache, _DELTA, delta)


def remember_text(arguments: Mapping[str, Any]) -> None:
    """Note on the empty cache of a call that its conversation begins with text alone."""
    ids, cache = arguments.get("input_ids"), arguments.get("past_key_values")
    # Decode steps go by first: they may be compiled, and a cache's length is no part of a graph.
    if ids is None or ids.shape[1] < 2 or cache is None:
        return
    if arguments.get("mm_encoder_outputs") is None and not int(cache.get_seq_length()):
        remember_delta(cache, torch.zeros(1))


def unmark(cache: Any) -> CacheColumns | None:
    """Take the mark off a cache, so that the decode steps of `generate` do not see it."""
    return None if cache is None else cache.__dict__.pop(_ATTRIBUTE, None)
