"""The rows of one layer in one pass: which may change, and which are computed together.

Rows of the prompt's text are one group. Rows of the answer are computed one by one with the keys
that a decode step would have, so that speculation and passes without a cache give what decode steps
give. Rows before the first group are the kernel's. Knows nothing about methods.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lvlm_prune.decoder_call import DecoderCall
from lvlm_prune.errors import UnsupportedModelError
from lvlm_prune.reweight.contract import AttentionRows
from lvlm_prune.reweight.rows import explicit_logits, repeated_values
from lvlm_prune.tap import AttentionCall


@dataclass(frozen=True)
class ChangedRows:
    """The rows of a layer that may change.

    Args:
        changed: `[B, T]` bool.
        groups: first row of each group and the row behind its last one.
        complete: whether every row of every group may change, in all prompts.
    """

    changed: Tensor
    groups: list[tuple[int, int]]
    complete: bool


@dataclass(frozen=True)
class LayerRows:
    """The rows of one layer in one pass.

    Args:
        call: the pass.
        layer: number of the layer.
        attention: its query, key and value.
        past: keys in front of the first row's own.
        answer: first row that is an answer's.
    """

    call: DecoderCall
    layer: int
    attention: AttentionCall
    past: int
    answer: int

    @classmethod
    def of(cls, call: DecoderCall, layer: int, attention: AttentionCall) -> "LayerRows":
        """The rows of a layer."""
        check_kernel(attention)
        keys, count = call.memory.keys[layer], attention.query.shape[2]
        total = call.memory.length if keys is None else keys.shape[1]
        return cls(call, layer, attention, total - count, count - (call.length - call.answer))

    def found(self, which: str, seen: Tensor, ends: Tensor) -> ChangedRows:
        """The rows that may change and their groups; the arguments are those of `changed`."""
        changed = self.changed(which, seen, ends)
        groups = self.groups(changed)
        return ChangedRows(
            changed, groups, all(bool(changed[:, start:stop].all()) for start, stop in groups)
        )

    def changed(self, which: str, seen: Tensor, ends: Tensor) -> Tensor:
        """The rows that may change, `[B, T]` bool.

        Args:
            which: `text` for all text behind the images, `last` for the prompt's last row and those
                of the answer.
            seen: `[B]` bool, prompts that count.
            ends: `[B]`, each prompt's last column, -1 for none.
        """
        own = self.call.rows(self.layer)
        behind = self.call.behind.gather(1, own.clamp(min=0))
        if which == "last":
            behind = (own == ends[:, None]) | (behind & (own >= self.call.answer))
        return behind & (own >= 0) & seen[:, None]

    def groups(self, changed: Tensor) -> list[tuple[int, int]]:
        """First and last rows that are explicit together, without gaps; none if nothing changes.

        Args:
            changed: `[B, T]` bool.
        """
        places = changed[:, : self.answer].any(dim=0).nonzero()
        groups = [(int(places[0]), self.answer)] if len(places) else []
        if self.answer < changed.shape[1] and bool(changed.any()):
            groups += [(row, row + 1) for row in range(self.answer, changed.shape[1])]
        return groups

    def explicit(
        self, changed: Tensor, start: int, stop: int, depth: int, sinks: bool, values: bool
    ) -> AttentionRows:
        """What a method sees of a group.

        Args:
            changed: `[B, T]` bool.
            start: first row.
            stop: the row behind the last one.
            depth: number of decoder layers.
            sinks: whether the method needs LLM sinks.
            values: whether it reads values.
        """
        memory, value = self.call.memory, self.attention.value
        logits = explicit_logits(self.attention, start, stop, self.past)
        count = logits.shape[-1]
        value = value[:, :, :count]
        marked = memory.sinks.get(self.layer, torch.zeros_like(memory.visual))
        own = torch.arange(self.past + start, self.past + stop, device=logits.device)
        return AttentionRows(
            logits=logits,
            value=repeated_values(value, logits.shape[1]) if values else value,
            visual=self._at_keys(memory.visual, count),
            layer=self.layer,
            depth=depth,
            decoding=start >= self.answer,
            edited=changed[:, start:stop],
            sinks=self._at_keys(marked, count) if sinks else None,
            ends=not self.call.goes_on,
            marks={name: self._at_keys(mark, count) for name, mark in memory.marks.items()},
            own=own.expand(len(logits), -1),
        )

    def note(self, marks: Mapping[str, Tensor]) -> None:
        """Keep what a method has noted, by column."""
        for name, values in marks.items():
            self.call.note(self.layer, name, values)

    def _at_keys(self, values: Tensor, count: int) -> Tensor:
        """Numbers of the columns, `[B, S]`, at the layer's first keys, `[B, count]`."""
        return self.call.at_keys(self.layer, values, count)[:, :count]


def check_kernel(attention: AttentionCall) -> None:
    """Refuse attention that is more than a softmax over its keys.

    Raises:
        UnsupportedModelError: it caps its logits, has sinks of its own, or looks ahead unmasked.
    """
    causal = attention.settings.get("is_causal")
    causal = getattr(attention.module, "is_causal", True) if causal is None else causal
    if attention.mask is None and not causal and attention.query.shape[2] > 1:
        raise UnsupportedModelError(
            f"{type(attention.module).__name__} attends in both directions, and explicit rows see "
            "what came before them; reweighting is not possible here"
        )
    for name in ("softcap", "s_aux"):
        if attention.settings.get(name) is not None:
            raise UnsupportedModelError(
                f"{type(attention.module).__name__} passes {name} to its attention, which explicit "
                "rows do not follow; reweighting is not possible here"
            )
