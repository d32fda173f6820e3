"""Reweighting: change explicit attention rows of chosen decoder layers, under any kernel.

While it is attached, a chosen layer's attention is split by rows: those up to the end of the last
image stay in the layer's own kernel, text rows behind it and decode rows are computed explicitly
and handed to the method. Which keys are visual, which are sinks, and what a method has noted are
kept on the KV cache, so beams, turns and conversations do not mix. Prompts without an image are
untouched. Around `generate` the wrapper of `generation` says where the prompt ends, so that every
row of the answer is edited whatever the passes are. In a hand-written loop a pass of one token
behind a cache is taken for the answer's, any other one for a prompt's: without a cache a method
that edits the last row then edits that row alone, and a method with a pre-run edits nothing. LLM
sinks under the norm rule are told by the median of the columns that a pass brings: a prompt comes
in one pass, and in a later turn the new columns are measured among themselves.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.decoder import Decoder
from lvlm_prune.decoder_call import DecoderCall
from lvlm_prune.decoder_hooks import DecoderHooks, Output, join, leave
from lvlm_prune.detachable import Detachable
from lvlm_prune.errors import AlreadyAttachedError, UnsupportedModelError
from lvlm_prune.generate_chain import unwrap_generate, wrap_generate
from lvlm_prune.llm_sinks import SinkRule, sink_rule_for
from lvlm_prune.reweight.config import ReweightConfig
from lvlm_prune.reweight.contract import AttentionRows
from lvlm_prune.reweight.generation import ReweightedGenerate
from lvlm_prune.reweight.layer_rows import ChangedRows, LayerRows
from lvlm_prune.reweight.options import OF_LAYERS
from lvlm_prune.reweight.registry import reweighter_named
from lvlm_prune.reweight.rows import kernel_rows, weighted_values
from lvlm_prune.reweight.run import OBSERVE, current_run
from lvlm_prune.tap import AttentionCall


@dataclass
class ReweightPass:
    """What a reweighting keeps during one pass.

    Args:
        active: whether there is anything to look at.
        alone: whether this is a second branch, which is left alone.
        observing: whether this is a first answer, which is observed and not edited.
        seen: `[B]` bool, prompts with a visual token so far, whose answer has not ended.
        ends: `[B]` place of each prompt's last column, -1 where it is in another pass.
        rows: for each segment of layers, the rows that may change.
    """

    active: bool
    alone: bool
    observing: bool
    seen: Tensor
    ends: Tensor
    rows: dict[Any, ChangedRows] = field(default_factory=dict)


class Reweighting(Detachable):
    """Reweighted attention of one model's LLM, until it is detached.

    Args:
        model: a whole transformers model, unwrapped.
        config: what to change; its dict or the name of a method will do.
        sink_rule: how LLM sinks are told, see `lvlm-prune calibrate`; None for the norm rule.

    Raises:
        AlreadyAttachedError, UnsupportedModelError, UnknownMethodError, ValueError, TypeError: see
            the message; nothing is changed then.
    """

    mark = "_lvlm_prune_reweight"
    called = "reweighting"

    def __init__(
        self,
        model: Any,
        config: ReweightConfig | dict[str, Any] | str,
        sink_rule: SinkRule | None = None,
    ) -> None:
        current = model.__dict__.get(self.mark)
        if current is not None:
            raise AlreadyAttachedError(
                f"this model's attention is already reweighted by {current.config.label()!r}; call "
                "detach() on that first"
            )
        super().__init__(model)
        self.config = ReweightConfig.of(config)
        self.method = reweighter_named(self.config.method)
        self.options = self.config.complete()
        decoder = Decoder(model, "reweighting is not possible here")
        width = decoder.config.hidden_size
        self.sink_rule = sink_rule_for(sink_rule, decoder.depth, width)
        self.depth = decoder.depth
        attends = set(decoder.attends())
        self.edited = self._attending(attends, self.method.layers, "edits")
        self.observed = self._attending(attends, self.method.observed, "observes")
        # A method that only contrasts logits has no rows whose masks it must know.
        if self.edited or self.observed:
            self._check(decoder)
        self.tokens = self.method.pre_run(self.options) if self.method.pre_run else 0
        self.contrast = self.method.contrast(self.options) if self.method.contrast else None
        self.placeholders = decoder.placeholders
        self._hooks: DecoderHooks = join(model, self)
        self._generate = ReweightedGenerate(self)
        wrap_generate(model, self._generate)
        model.__dict__[self.mark] = self

    def detach(self) -> None:
        """Undo everything. Calling it again does nothing."""
        if not self.attached:
            return
        del self.model.__dict__[self.mark]
        unwrap_generate(self.model, self._generate)
        leave(self.model, self)

    def begin(self, call: DecoderCall) -> None:
        """See whether there is anything to look at."""
        run = current_run(self)
        alone = run is not None and not run.begin(call)
        seen = call.memory.visual.any(dim=1)
        active = not alone and bool(seen.any())
        if run is not None and run.ended is not None:
            seen = seen & ~run.ended
        places = torch.arange(call.length, device=seen.device)
        asked = call.real & (places < call.answer)
        ends = torch.where(asked, places, -1).max(dim=1).values
        ends = torch.where(call.ends < 0, -1, ends)
        observing = run is not None and not alone and run.purpose == OBSERVE
        call.scratch[self] = ReweightPass(active, alone, observing, seen, ends)
        if active and call.answer:
            self._check_marks(call)
        if not alone:
            self._check_chunk(call)

    def before_layer(self, call: DecoderCall, layer: int, arguments: dict[str, Any]) -> None:
        """Find the LLM sinks among a layer's new columns; those of an answer are none."""
        wanted = self.method.sinks and layer in self.edited | self.observed
        # Text before the first image can be a sink too, even if the image comes in a later pass.
        if not wanted or not call.answer or call.scratch[self].alone:
            return
        own = call.rows(layer)
        places = own.clamp(min=0)
        visual = call.visual.gather(1, places)
        real = call.real.gather(1, places) & (own >= 0) & (own < call.answer)
        marked = self.sink_rule.marks(arguments["hidden_states"].detach(), visual, real, layer)
        # Padding is written to an extra column that is cut off.
        new = torch.zeros_like(torch.cat([call.visual, call.visual[:, :1]], 1))
        new = new.scatter(1, own.masked_fill(own < 0, call.length), marked)[:, : call.length]
        old = call.memory.sinks.get(layer, torch.zeros_like(call.memory.visual))
        call.memory.sinks[layer] = torch.cat([old[:, : call.past], new], 1)

    def attention(self, call: DecoderCall, layer: int, attention: AttentionCall) -> Output | None:
        """Split a layer's rows: the kernel's, those of the prompt's text, each of the answer's."""
        state: ReweightPass = call.scratch[self]
        edits = layer in self.edited and not state.observing
        observes = layer in self.observed and state.observing == bool(self.tokens)
        if not state.active or not (edits or observes):
            return None
        rows = LayerRows.of(call, layer, attention)
        if observes:
            with torch.no_grad():
                self._observe(rows, state)
        return self._edited(rows, state) if edits else None

    def before_norm(self, call: DecoderCall, hidden: Tensor) -> Tensor:
        """The last states are not touched."""
        return hidden

    def _observe(self, layer: LayerRows, state: ReweightPass) -> None:
        """Show a layer to the method: the prompt's text, or the rows of a first answer."""
        if self.method.observe is None:
            return
        found = self._changed(layer, state, "text")
        for start, stop in found.groups:
            if (start >= layer.answer) == state.observing:
                rows = self._explicit(layer, found.changed, start, stop)
                layer.note(self.method.observe(rows, **self.options))

    def _edited(self, layer: LayerRows, state: ReweightPass) -> Output | None:
        """The outputs of a layer with some rows edited, or None if none is."""
        found = self._changed(layer, state, self.method.rows)
        groups = found.groups
        if not self.method.prefill:
            groups = [group for group in groups if group[0] >= layer.answer]
        if not groups:
            return None
        before = kernel_rows(layer.attention, groups[0][0], layer.past)
        outputs = [] if before is None else [before]
        for start, stop in groups:
            rows = self._explicit(layer, found.changed, start, stop)
            edited = self.method.edit(rows, **self.options)
            layer.note(edited.marks)
            weights, factors = edited.weights, edited.heads
            if not found.complete:
                stays = ~rows.edited[:, None, :, None]
                weights = torch.where(stays, rows.weights, weights)
                factors = None if factors is None else factors.masked_fill(stays[..., 0], 1)
            output = weighted_values(weights, layer.attention.value[:, :, : weights.shape[-1]])
            if factors is not None:
                output = output * factors.transpose(1, 2)[..., None].to(output)
            outputs.append(output)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1), None

    def _explicit(self, layer: LayerRows, changed: Tensor, start: int, stop: int) -> AttentionRows:
        """What the method sees of a group of rows."""
        sinks, values = self.method.sinks, self.method.values
        return layer.explicit(changed, start, stop, self.depth, sinks, values)

    def _changed(self, layer: LayerRows, state: ReweightPass, which: str) -> ChangedRows:
        """The rows of a layer that may change, found once a segment of layers."""
        key = (id(layer.call.own[layer.layer]), which)
        if key not in state.rows:
            state.rows[key] = layer.found(which, state.seen, state.ends)
        return state.rows[key]

    def _check_chunk(self, call: DecoderCall) -> None:
        """Refuse chunks that cut apart what a method compares."""
        if not call.goes_on:
            return
        name = self.method.name
        if self.observed and not self.tokens and bool(call.behind.any()):
            raise ValueError(
                f"reweight {name!r} compares successive tokens of the question, which "
                "prefill_chunk_size cuts apart; leave it out"
            )
        if self.method.sinks and not self.sink_rule.by_phi and call.has_images:
            raise ValueError(
                f"reweight {name!r} finds LLM sinks by the median norm of a prompt's tokens, which "
                "prefill_chunk_size cuts apart; leave it out, or pass a sink rule with dimensions "
                "(`lvlm-prune calibrate`)"
            )

    def _check_marks(self, call: DecoderCall) -> None:
        """Refuse prompts without what the vision encoder should have said of them."""
        # Where nothing was merged, no size is known.
        wanted = set(self.method.encoder) - {"size"}
        missing = sorted(wanted - set(call.memory.marks))
        if missing:
            raise ValueError(
                f"reweight {self.method.name!r} needs {', '.join(missing)} tokens of the vision "
                f"encoder, which nobody has marked; use attach(model, reweight="
                f"{self.method.name!r})"
            )

    def _attending(
        self,
        attends: set[int],
        layers: Callable[[Mapping[str, Any], int], Collection[int]] | None,
        verb: str,
    ) -> set[int]:
        """Those of a method's layers that attend; recurrent ones have no rows."""
        named = set() if layers is None else set(layers(self.options, self.depth))
        if named and not named & attends:
            choosing = ", ".join(name for name in self.method.options if name in OF_LAYERS)
            advice = f"choose others with its options ({choosing})"
            raise UnsupportedModelError(
                f"reweight {self.method.name!r} {verb} layers {sorted(named)}, and only "
                f"{sorted(attends)} of this LLM attend; "
                f"{advice if choosing else 'it has no options for that, use another method'}"
            )
        return named & attends

    def _check(self, decoder: Decoder) -> None:
        """Refuse what cannot be reweighted."""
        name = type(decoder.model).__name__
        if decoder.forgets():
            raise UnsupportedModelError(
                f"layers {decoder.forgets()} of {name}'s LLM do not attend to everything before "
                "them (a sliding window or chunks), so it is not known which of their keys are "
                "visual; reweighting is not possible here"
            )
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
