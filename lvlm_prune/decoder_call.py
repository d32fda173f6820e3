"""One pass of the LLM: which columns it has, and what earlier passes left on the cache.

Columns are counted as layer 0 sees them: first those of the cache, then the new ones. A layer that
has lost tokens knows for each of its keys the column it stands for (-1: padding). What must outlive
a pass (which columns are visual, which keys each layer holds, marks and sinks of reweighting) is
kept on the cache object, so that two conversations cannot mix. Knows nothing about methods.
"""

from collections.abc import Mapping
from contextvars import ContextVar
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
        """Forget the newest columns, as a cache does that is cropped to `length`."""
        extra = self.length - length
        if extra <= 0:
            return self
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
        times = batch // rows
        return DecoderMemory(
            self.visual.repeat_interleave(times, 0),
            self.real.repeat_interleave(times, 0),
            [None if keys is None else keys.repeat_interleave(times, 0) for keys in self.keys],
            {name: mark.repeat_interleave(times, 0) for name, mark in self.marks.items()},
            {layer: sinks.repeat_interleave(times, 0) for layer, sinks in self.sinks.items()},
        )


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
        {name: _padded(mark, count) for name, mark in memory.marks.items()},
        {layer: _padded(sinks, count) for layer, sinks in memory.sinks.items()},
    )


def _padded(values: Tensor, count: int) -> Tensor:
    """Add columns of zeros, `[B, S]` to `[B, S + n]`."""
    return torch.cat([values, values.new_zeros(values.shape[0], count)], 1)


@dataclass
class DecoderCall:
    """One pass of the LLM.

    Args:
        cache: the cache that it fills, or None.
        past: columns of layer 0 that were cached before.
        length: new columns L.
        memory: of the cache, with the new columns added as if no layer dropped any.
        behind: `[B, L]` bool, new text behind the last image of its prompt.
        ends: `[B]` place of each prompt's last real new column; -1 where the prompt goes on in
            another pass.
        own: for each layer the new columns `[B, T]` it has, 0..L-1 and -1 for padding, or None for
            all of them.
        scratch: what stages and reweighting keep during the pass.
    """

    cache: Any
    past: int
    length: int
    memory: DecoderMemory
    behind: Tensor
    ends: Tensor
    own: list[Tensor | None]
    scratch: dict[Any, Any] = field(default_factory=dict)

    @property
    def visual(self) -> Tensor:
        """Visual tokens among the new columns, `[B, L]` bool."""
        return self.memory.visual[:, self.past :]

    @property
    def real(self) -> Tensor:
        """Real tokens among the new columns, `[B, L]` bool."""
        return self.memory.real[:, self.past :]

    def rows(self, layer: int) -> Tensor:
        """New columns that a layer has, `[B, T]`, -1 for padding."""
        own = self.own[layer]
        if own is not None:
            return own
        batch, length = self.visual.shape
        return torch.arange(length, device=self.visual.device).expand(batch, -1)

    def at_keys(self, layer: int, values: Tensor, count: int) -> Tensor:
        """Bring numbers of the columns, `[B, S]`, to a layer's keys, `[B, count]`; 0 elsewhere."""
        keys = self.memory.keys[layer]
        if keys is not None:
            values = values.gather(1, keys.clamp(min=0)).masked_fill(keys < 0, 0)
        return _padded(values, count - values.shape[1]) if values.shape[1] < count else values

    def from_keys(self, layer: int, values: Tensor) -> Tensor:
        """Bring numbers of a layer's keys, `[B, n]`, to all columns, `[B, S]`; 0 elsewhere."""
        total = self.memory.length
        keys = self.memory.keys[layer]
        if keys is None:
            return values[:, :total]
        # Padding is written to an extra column that is cut off.
        places = keys.masked_fill(keys < 0, total)
        full = values.new_zeros(values.shape[0], total + 1)
        return full.scatter(1, places, values[:, : keys.shape[1]])[:, :total]

    def remember(self) -> None:
        """Leave the memory on the cache."""
        if self.cache is not None:
            setattr(self.cache, _MEMORY, self.memory)


# Marks of the prompt that the coming passes bring, `[B, L]` each, as far as it has not come yet.
coming_marks: ContextVar[Mapping[str, Tensor] | None] = ContextVar(
    "lvlm_prune_coming_marks", default=None
)


def marked(memory: DecoderMemory, past: int) -> DecoderMemory:
    """Write the coming marks to the new columns, and leave those of later passes.

    Args:
        memory: with the new columns; changed in place.
        past: columns that were cached before.
    """
    marks = coming_marks.get()
    if not marks:
        return memory
    batch, count = memory.visual.shape[0], memory.length - past
    rows = next(iter(marks.values())).shape[0]
    if batch % rows:  # of a call that failed before it came this far
        coming_marks.set(None)
        return memory
    later: dict[str, Tensor] = {}
    for name, values in marks.items():
        full = memory.marks.get(name)
        if full is None:
            full = torch.zeros(memory.visual.shape, device=memory.visual.device)
        values = values.repeat_interleave(batch // rows, 0)
        new = values[:, :count].to(full)
        memory.marks[name] = torch.cat([full[:, :past], new, full[:, past + new.shape[1] :]], 1)
        later[name] = values[:, count:]
    coming_marks.set(later if next(iter(later.values())).shape[1] else None)
    return memory


# The prompt that `generate` is cut into chunks of: `[B, L]` bool, its visual tokens.
whole_prompt: ContextVar[Tensor | None] = ContextVar("lvlm_prune_whole_prompt", default=None)


def text_behind_images(visual: Tensor, real: Tensor, past: int, whole: Tensor | None) -> Tensor:
    """New text behind the last image of its prompt.

    Args:
        visual: `[B, S]` bool, all columns so far.
        real: `[B, S]` bool.
        past: columns that were cached before.
        whole: `[B, P]` bool, visual tokens of the whole prompt if passes follow that bring more of
            it; it ends where the last of them ends.

    Returns:
        `[B, L]` bool; False for prompts without an image.
    """
    all_visual = visual if whole is None else torch.cat([visual, whole[:, visual.shape[1] :]], 1)
    later = all_visual.flip(1).cumsum(1).flip(1) > 0
    seen = visual.any(dim=1, keepdim=True)
    return (real & ~later[:, : visual.shape[1]] & seen)[:, past:]
