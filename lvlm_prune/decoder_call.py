"""One pass of the LLM: which columns it has, and which of them a prompt's or an answer's are.

Columns are counted as layer 0 sees them: first those of the cache, then the new ones. A layer that
has lost tokens knows for each of its keys the column it stands for (-1: padding). What a pass by
itself cannot know (where the prompt ends, marks of the vision encoder) is told through context
variables. Knows nothing about methods.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.decoder_memory import DecoderMemory, keep_memory, memory_of, padded


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

    @property
    def has_images(self) -> bool:
        """Whether there is an image in the prompts so far, or in what passes to come bring."""
        whole = whole_prompt.get()
        later = whole is not None and bool(whole.any())
        return later or bool(self.memory.visual.any())

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
        return padded(values, count - values.shape[1]) if values.shape[1] < count else values

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
            keep_memory(self.cache, self.memory)


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
