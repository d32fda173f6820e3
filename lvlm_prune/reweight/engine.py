"""Reweighting: change explicit attention rows of chosen decoder layers, under any kernel.

While it is attached, a chosen layer's attention is split by rows: those up to the end of the last
image stay in the layer's own kernel, text rows behind it and decode rows are computed explicitly
and handed to the method. Which keys are visual, which are sinks, and what a method has noted are
kept on the KV cache, so beams, turns and conversations do not mix. Prompts without an image are
untouched. Without a cache only the rows of each pass are known: a method that edits the last row
then edits that row alone.
"""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.decoder import Decoder
from lvlm_prune.decoder_call import DecoderCall
from lvlm_prune.decoder_hooks import DecoderHooks, Output, join, leave
from lvlm_prune.errors import AlreadyAttachedError, UnsupportedModelError
from lvlm_prune.llm_sinks import SinkRule, check_dims
from lvlm_prune.reweight.config import ReweightConfig
from lvlm_prune.reweight.contract import AttentionRows
from lvlm_prune.reweight.registry import reweighter_named
from lvlm_prune.reweight.rows import (
    explicit_logits,
    kernel_rows,
    repeated_values,
    weighted_values,
)
from lvlm_prune.tap import AttentionCall

_ATTRIBUTE = "_lvlm_prune_reweight"


@dataclass
class ReweightPass:
    """What a reweighting keeps during one pass.

    Args:
        seen: `[B]` bool, prompts with a visual token so far.
        any_seen: whether there is one.
        decoding: whether the pass is one new token behind a cache.
        finished: `[B]` bool, prompts whose answer has ended, in a pre-run; None outside of one.
        rows: for each segment of layers, the rows that may change and the first of them.
    """

    seen: Tensor
    any_seen: bool
    decoding: bool
    finished: Tensor | None = None
    rows: dict[Any, tuple[Tensor, int | None]] = field(default_factory=dict)


class Reweighting:
    """Reweighted attention of one model's LLM, until it is detached.

    Args:
        model: a whole transformers model, unwrapped.
        config: what to change; its dict or the name of a method will do.
        sink_rule: how LLM sinks are told, see `lvlm-prune calibrate`; None for the norm rule.

    Raises:
        AlreadyAttachedError, UnsupportedModelError, UnknownMethodError, ValueError, TypeError: see
            the message; nothing is changed then.
    """

    def __init__(
        self,
        model: Any,
        config: ReweightConfig | dict[str, Any] | str,
        sink_rule: SinkRule | None = None,
    ) -> None:
        current = model.__dict__.get(_ATTRIBUTE)
        if current is not None:
            raise AlreadyAttachedError(
                f"this model's attention is already reweighted by {current.config.label()!r}; call "
                "detach() on that first"
            )
        self.model = model
        self.config = ReweightConfig.of(config)
        self.method = reweighter_named(self.config.method)
        self.options = self.config.complete()
        self.sink_rule = sink_rule or SinkRule()
        decoder = Decoder(model)
        self._check(decoder)
        attends = set(decoder.attends())
        self.depth = decoder.depth
        self.edited = attends & set(self.method.layers(self.options, decoder.depth))
        observed = self.method.observed(self.options, decoder.depth) if self.method.observed else ()
        self.observed = attends & set(observed)
        self._hooks: DecoderHooks = join(model, self)
        model.__dict__[_ATTRIBUTE] = self

    def detach(self) -> None:
        """Undo everything. Calling it again does nothing."""
        if self.model.__dict__.get(_ATTRIBUTE) is not self:
            return
        del self.model.__dict__[_ATTRIBUTE]
        leave(self.model, self)

    def __enter__(self) -> "Reweighting":
        if self.model.__dict__.get(_ATTRIBUTE) is not self:
            raise RuntimeError("this reweighting is detached; attach it again")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def begin(self, call: DecoderCall) -> None:
        """See whether there is anything to change."""
        seen = call.memory.visual.any(dim=1)
        decoding = call.length == 1 and call.past > 0
        call.scratch[self] = ReweightPass(seen, bool(seen.any()), decoding)

    def before_layer(self, call: DecoderCall, layer: int, arguments: dict[str, Any]) -> None:
        """Find the LLM sinks among a layer's new columns."""
        wanted = self.method.sinks and layer in self.edited | self.observed
        if not wanted or call.length < 2 or not call.scratch[self].any_seen:
            return
        own = call.rows(layer)
        places = own.clamp(min=0)
        visual = call.visual.gather(1, places)
        real = call.real.gather(1, places) & (own >= 0)
        marked = self.sink_rule.marks(arguments["hidden_states"].detach(), visual, real, layer)
        # Padding is written to an extra column that is cut off.
        new = torch.zeros_like(torch.cat([call.visual, call.visual[:, :1]], 1))
        new = new.scatter(1, own.masked_fill(own < 0, call.length), marked)[:, : call.length]
        old = call.memory.sinks.get(layer, torch.zeros_like(call.memory.visual))
        call.memory.sinks[layer] = torch.cat([old[:, : call.past], new], 1)

    def attention(self, call: DecoderCall, layer: int, attention: AttentionCall) -> Output | None:
        """Split a layer's rows."""
        state: ReweightPass = call.scratch[self]
        edits = layer in self.edited and (self.method.prefill or state.decoding)
        observes = layer in self.observed and not state.decoding
        if not state.any_seen or not (edits or observes):
            return None
        _check_kernel(attention)
        last = self.method.rows == "last" and not observes
        changed, start = self._rows(call, layer, state, last)
        if start is None:
            return None
        past = call.memory.length - call.length
        keys = call.memory.keys[layer]
        if keys is not None:
            past = keys.shape[1] - attention.query.shape[2]
        rows = self._explicit(call, layer, attention, changed, start, past)
        if observes and self.method.observe is not None:
            with torch.no_grad():
                self._note(call, layer, self.method.observe(rows, **self.options))
        if not edits:
            return None
        if observes and self.method.rows == "last":
            changed, start = self._rows(call, layer, state, True)
            if start is None:
                return None
            rows = self._explicit(call, layer, attention, changed, start, past)
        edited = self.method.edit(rows, **self.options)
        self._note(call, layer, edited.marks)
        stays = ~rows.edited[:, None, :, None]
        weights = torch.where(stays, rows.weights, edited.weights)
        output = weighted_values(weights, attention.value)
        if edited.heads is not None:
            factors = edited.heads.masked_fill(stays[..., 0], 1)
            output = output * factors.transpose(1, 2)[..., None].to(output)
        before = kernel_rows(attention, start, past)
        return output if before is None else torch.cat([before, output], 1), None

    def before_norm(self, call: DecoderCall, hidden: Tensor) -> Tensor:
        """The last states are not touched."""
        return hidden

    def _explicit(
        self,
        call: DecoderCall,
        layer: int,
        attention: AttentionCall,
        changed: Tensor,
        start: int,
        past: int,
    ) -> AttentionRows:
        """What a method sees of a layer."""
        count = attention.key.shape[2]
        memory = call.memory
        sinks = memory.sinks.get(layer) if self.method.sinks else None
        value = attention.value
        if self.method.values:
            value = repeated_values(value, attention.query.shape[1])
        return AttentionRows(
            logits=explicit_logits(attention, start, past),
            value=value,
            visual=call.at_keys(layer, memory.visual, count),
            layer=layer,
            depth=self.depth,
            decoding=call.scratch[self].decoding,
            edited=changed[:, start:],
            sinks=None if sinks is None else call.at_keys(layer, sinks, count),
            marks={name: call.at_keys(layer, mark, count) for name, mark in memory.marks.items()},
        )

    def _note(self, call: DecoderCall, layer: int, marks: Any) -> None:
        """Keep what a method has noted, by column."""
        for name, values in marks.items():
            call.memory.marks[name] = call.from_keys(layer, values)

    def _rows(
        self, call: DecoderCall, layer: int, state: ReweightPass, last: bool
    ) -> tuple[Tensor, int | None]:
        """The rows that may change, `[B, T]` bool, and the first of them, or None."""
        key = (id(call.own[layer]), last)
        if key not in state.rows:
            own = call.rows(layer)
            if last:
                changed = (own == call.ends[:, None]) & (own >= 0) & state.seen[:, None]
            else:
                changed = call.behind.gather(1, own.clamp(min=0)) & (own >= 0)
            places = changed.any(dim=0).nonzero()
            state.rows[key] = changed, int(places[0]) if len(places) else None
        return state.rows[key]

    def _check(self, decoder: Decoder) -> None:
        """Refuse what cannot be reweighted."""
        name = type(decoder.model).__name__
        if decoder.implementation not in ("sdpa", "eager") and (
            "flash" not in decoder.implementation
        ):
            raise UnsupportedModelError(
                f"reweighting knows the masks of 'sdpa', 'eager' and flash attention, not of "
                f"{decoder.implementation!r}; load the model with attn_implementation='sdpa'"
            )
        if getattr(decoder.config, "attn_logit_softcapping", None) is not None:
            raise UnsupportedModelError(
                f"{name} caps its attention logits, which explicit rows do not follow; reweighting "
                "is not possible here"
            )
        if self.sink_rule.dims:
            check_dims(self.sink_rule.dims, decoder.config.hidden_size)


def _check_kernel(attention: AttentionCall) -> None:
    """Refuse attention that is more than a softmax over its keys."""
    for name in ("softcap", "s_aux"):
        if attention.settings.get(name) is not None:
            raise UnsupportedModelError(
                f"{type(attention.module).__name__} passes {name} to its attention, which explicit "
                "rows do not follow; reweighting is not possible here"
            )
