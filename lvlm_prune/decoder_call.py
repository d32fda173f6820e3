"""One pass of the LLM: which columns it has, and what earlier passes left on the cache.

Columns are counted as layer 0 sees them: first those of the cache, then the new ones. A layer that
has lost tokens knows for each of its keys the column it stands for (-1: padding). What must outlive
a pass (which columns are visual, which keys each layer holds, marks and sinks of reweighting) is
kept on the cache object, so that two conversations cannot mix. Knows nothing about methods.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
            setattr(self.cache, _MEMORY, memory.rows(beam_idx.to(memory.visual.device)))


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
        answer: place of the first new column that is an answer's, L if none is. Unless a prompt was
            announced, one new column behind a cache is an answer's, any others are a prompt's.
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
    answer: int
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

    @property
    def goes_on(self) -> bool:
        """Whether more passes bring the rest of the prompt."""
        return _goes_on(self.past + self.length)

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

    def note(self, layer: int, name: str, values: Tensor) -> None:
        """Keep numbers of a layer's first n keys, `[B, n]`, as a mark; others stay as they were."""
        old = self.memory.marks.get(name)
        if old is None:
            old = torch.zeros(self.memory.visual.shape, device=values.device)
        keys = self.memory.keys[layer]
        if keys is None:
            count = min(values.shape[1], old.shape[1])
            self.memory.marks[name] = torch.cat([values[:, :count].to(old), old[:, count:]], 1)
            return
        # Padding is written to an extra column that is cut off.
        keys = keys[:, : values.shape[1]]
        places = keys.masked_fill(keys < 0, old.shape[1])
        full = torch.cat([old, old.new_zeros(old.shape[0], 1)], 1)
        full = full.scatter(1, places, values[:, : keys.shape[1]].to(old))
        self.memory.marks[name] = full[:, :-1]

    def remember(self) -> None:
        """Leave the memory on the cache."""
        if self.cache is not None:
            setattr(self.cache, _MEMORY, self.memory)


# Marks of the prompt that the coming passes bring, `[B, L]` each, as far as it has not come yet.
coming_marks: ContextVar[Mapping[str, Tensor] | None] = ContextVar(
    "lvlm_prune_coming_marks", default=None
)


def marked(memory: DecoderMemory, past: int, again: bool = False) -> DecoderMemory:
    """Write the coming marks to the new columns, and leave those of later passes.

    Args:
        memory: with the new columns; changed in place.
        past: columns that were cached before.
        again: whether later passes bring the same columns again, as without a cache.
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
    if not again:
        coming_marks.set(later if next(iter(later.values())).shape[1] else None)
    return memory


# The prompt that `generate` answers: `[B, P]` bool, its visual tokens, those of the cache included.
whole_prompt: ContextVar[Tensor | None] = ContextVar("lvlm_prune_whole_prompt", default=None)


def _goes_on(columns: int) -> bool:
    """Whether the announced prompt has more columns."""
    whole = whole_prompt.get()
    return whole is not None and whole.shape[1] > columns


@contextmanager
def announced_prompt(visual: Tensor | None) -> Iterator[None]:
    """Say where the prompt of the coming passes ends; the innermost announcement counts.

    Args:
        visual: `[B, P]` bool, visual tokens among the columns of the whole prompt, those that the
            cache holds included; None where nothing is known. See `whole_conversation`.
    """
    token = whole_prompt.set(visual)
    try:
        yield
    finally:
        whole_prompt.reset(token)


def whole_conversation(
    arguments: Mapping[str, Any], placeholders: set[int], depth: int
) -> Tensor | None:
    """What `generate` is about to answer, `[B, P]` bool, or None for a call without token ids.

    Args:
        arguments: of `generate`, by name; `input_ids` may repeat the cached columns.
        placeholders: ids of placeholder tokens.
        depth: decoder layers.
    """
    ids, mask = arguments.get("input_ids"), arguments.get("attention_mask")
    if not isinstance(ids, Tensor) or ids.dim() != 2:
        return None
    past = memory_of(arguments.get("past_key_values"), ids.shape[0], depth, ids.device).visual
    # As transformers does: without a mask the ids are the whole conversation.
    if mask is None or mask.shape[-1] == ids.shape[1]:
        ids = ids[:, past.shape[1] :]
    visual = torch.zeros_like(ids, dtype=torch.bool)
    for token_id in placeholders:
        visual |= ids == token_id
    return torch.cat([past, visual], 1)


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
