"""What passes of the LLM leave on the KV cache for later ones.

Which columns are visual, which keys each layer holds, marks and sinks of reweighting: all of it is
kept on the cache object, so that two conversations cannot mix, and follows the cache when it is
cut, repeated or reordered. Knows nothing about passes and methods.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_MEMORY = "_lvlm_prune_decoder"


@dataclass
class DecoderMemory:
    """What a cache remembers of the passes that filled it.

    Args:
        visual: `[B, S]` bool, visual tokens among the columns of layer 0.
        real: `[B, S]` bool, no padding.
        keys: for each layer the columns of its keys `[B, S_l]`, or None where it holds all.
        marks: named numbers for each column, `[B, S]` float32.
        sinks: for each layer that was looked at, LLM sinks among the columns, `[B, S]` bool.
    """

    visual: Tensor
    real: Tensor
    keys: list[Tensor | None]
    marks: dict[str, Tensor] = field(default_factory=dict)
    sinks: dict[int, Tensor] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Columns S of layer 0."""
        return self.visual.shape[1]

    def cut(self, length: int) -> "DecoderMemory":
        """Forget the newest columns, as a cache does that is cropped to `length`.

        Raises:
            ValueError: a layer that lost tokens was cropped into its prompt.
        """
        extra = self.length - length
        if extra <= 0:
            return self
        for keys in {id(keys): keys for keys in self.keys if keys is not None}.values():
            gone = keys[:, max(keys.shape[1] - extra, 0) :]
            if gone.shape[1] < extra or bool(((gone >= 0) & (gone < length)).any()):
                raise ValueError(
                    f"the cache was cropped by {extra} columns, into a prompt whose visual tokens "
                    "were dropped inside the LLM: its layers no longer hold the same columns; "
                    "start with a new cache"
                )
        return DecoderMemory(
            self.visual[:, :length],
            self.real[:, :length],
            # Only generated tokens are taken back, and every layer holds all of those.
            [None if keys is None else keys[:, : keys.shape[1] - extra] for keys in self.keys],
            {name: mark[:, :length] for name, mark in self.marks.items()},
            {layer: sinks[:, :length] for layer, sinks in self.sinks.items()},
        )

    def repeated(self, batch: int) -> "DecoderMemory":
        """The memory of every prompt's copies, for a cache that was repeated."""
        rows = self.visual.shape[0]
        if rows == batch:
            return self
        if batch % rows:
            raise ValueError(
                f"the cache was filled with {rows} prompt(s) and now serves {batch}; start with a "
                "new cache"
            )
        each = torch.arange(rows, device=self.visual.device)
        return self.rows(each.repeat_interleave(batch // rows))

    def rows(self, index: Tensor) -> "DecoderMemory":
        """The memory of some of the prompts, in the order of `[n]` indices."""
        return DecoderMemory(
            self.visual[index],
            self.real[index],
            [None if keys is None else keys[index] for keys in self.keys],
            {name: mark[index] for name, mark in self.marks.items()},
            {layer: sinks[index] for layer, sinks in self.sinks.items()},
        )


def keep_memory(cache: Any, memory: DecoderMemory) -> None:
    """Leave a memory on a cache."""
    setattr(cache, _MEMORY, memory)


def memory_of(cache: Any, batch: int, depth: int, device: torch.device) -> DecoderMemory:
    """What a cache remembers now; an unknown one holds text alone.

    Args:
        cache: a transformers cache, or None.
        batch: prompts B of the call.
        depth: decoder layers.
        device: of the call.
    """
    held = 0 if cache is None else int(cache.get_seq_length())
    remembered: DecoderMemory | None = getattr(cache, _MEMORY, None)
    if remembered is not None and held:
        memory = remembered.cut(held).repeated(batch)
        extra = held - memory.length
        if not extra:
            return memory
    else:
        empty = torch.zeros(batch, 0, dtype=torch.bool, device=device)
        memory, extra = DecoderMemory(empty, empty, [None] * depth), held
    # Columns that others put into the cache: text, as far as is known.
    return extended(memory, torch.zeros(batch, extra, dtype=torch.bool, device=device))


def extended(memory: DecoderMemory, visual: Tensor, real: Tensor | None = None) -> DecoderMemory:
    """Add columns that every layer holds.

    Args:
        memory: what was there.
        visual: `[B, n]` bool of the new columns.
        real: `[B, n]` bool; None for all.
    """
    batch, count = visual.shape
    real = torch.ones_like(visual) if real is None else real
    new = torch.arange(memory.length, memory.length + count, device=visual.device)
    new = new.expand(batch, -1)
    return DecoderMemory(
        torch.cat([memory.visual, visual], 1),
        torch.cat([memory.real, real], 1),
        [None if keys is None else torch.cat([keys, new], 1) for keys in memory.keys],
        {name: padded(mark, count) for name, mark in memory.marks.items()},
        {layer: padded(sinks, count) for layer, sinks in memory.sinks.items()},
    )


def padded(values: Tensor, count: int) -> Tensor:
    """Add columns of zeros, `[B, S]` to `[B, S + n]`."""
    return torch.cat([values, values.new_zeros(values.shape[0], count)], 1)


def follow_beams(cache: Any) -> None:
    """Let what a cache remembers change places with its rows, until `unfollow_beams`."""
    cache.reorder_cache = _Reordering(cache)


def unfollow_beams(cache: Any) -> None:
    """Give a cache its own `reorder_cache` back."""
    cache.__dict__.pop("reorder_cache", None)


class _Reordering:
    """Stands in for `cache.reorder_cache`."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def __call__(self, beam_idx: Tensor) -> None:
        """Reorder the cache's rows and the memory's."""
        type(self.cache).reorder_cache(self.cache, beam_idx)
        memory: DecoderMemory | None = getattr(self.cache, _MEMORY, None)
        if memory is not None:
            keep_memory(self.cache, memory.rows(beam_idx.to(memory.visual.device)))
