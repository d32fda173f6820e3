"""LayerStage: drop visual tokens at chosen decoder layers, under the LLM's own fused kernels.

While it is attached, the layers from a stage on run on fewer columns: hidden states, masks and
rotary embeddings are gathered, each layer's KV cache holds what it has seen, and before the final
norm the states are put back to full length (dropped positions keep their last states), so logits
and labels keep their shape. Layer 0 holds everything, which `generate` counts by. Kept tokens keep
their positions, so the result is that of the model with the dropped keys masked at those layers.
Tokens are chosen in the pass that brings them, by the prompt alone: in `generate`, tokens that an
assistant guessed or that were generated without a cache have no part in it. In calls of the model
itself everything that comes with the images is the prompt. Prompts in chunks are refused.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.decoder import Decoder
from lvlm_prune.decoder_call import DecoderCall
from lvlm_prune.decoder_hooks import DecoderHooks, join, leave
from lvlm_prune.detachable import Detachable
from lvlm_prune.errors import AlreadyAttachedError
from lvlm_prune.last_report import LastReport
from lvlm_prune.layers.ahead import projected_ahead
from lvlm_prune.layers.arguments import blind_mask, bring_to_columns, rotary_tables
from lvlm_prune.layers.checks import check_pass, checked_plan
from lvlm_prune.layers.columns import gather_positions, gather_rows, scatter_rows
from lvlm_prune.layers.cost import LlmShape
from lvlm_prune.layers.drop import (
    memories,
    places_that_go_on,
    selections,
    with_merged_rows,
)
from lvlm_prune.layers.observing import OBSERVED, LayerObserver
from lvlm_prune.layers.prompts import BatchProjection, BatchState, image_numbers
from lvlm_prune.layers.report import LayerReport
from lvlm_prune.layers.schedule import LayerSchedule
from lvlm_prune.llm_sinks import SinkRule, sink_rule_for, split_sinks
from lvlm_prune.tap import AttentionCall


@dataclass
class StagePass:
    """What a stage keeps during one pass.

    Args:
        image: `[B, L]`, image number of each new column, -1 for text.
        totals: for each prompt the visual tokens of its images.
        decides: whether this pass brings visual tokens.
        prompt: `[B, L]` bool, new columns of the prompt, without padding and what comes behind.
        memory: of the method, for each prompt.
        projected: `previous` of the coming stage.
        rotary: cosine and sine of the layer before the coming stage, if requested.
        entered: what entered layer 0.
        full: `[B, L, D]`, last states of every column, once tokens were dropped.
        arguments: what layers with the same columns share.
    """

    image: Tensor
    totals: list[list[int]]
    decides: bool
    prompt: Tensor
    memory: list[Any]
    projected: dict[str, BatchProjection] = field(default_factory=dict)
    rotary: tuple[Tensor, Tensor] | None = None
    entered: Tensor | None = None
    full: Tensor | None = None
    arguments: dict[Any, Any] = field(default_factory=dict)


class LayerStage(Detachable):
    """Stages inside the LLM of one model, until they are detached.

    Args:
        model: a whole transformers model, unwrapped.
        schedule: where tokens are dropped; its dict or the name of a method will do.
        sink_rule: how LLM sinks are told, see `lvlm-prune calibrate`; None for the norm rule.

    Raises:
        AlreadyAttachedError, UnsupportedModelError, UnknownMethodError, ValueError, TypeError: see
            the message; nothing is changed then.
    """

    mark = "_lvlm_prune_layers"
    called = "layer stage"

    def __init__(
        self,
        model: Any,
        schedule: LayerSchedule | dict[str, Any] | str,
        sink_rule: SinkRule | None = None,
    ) -> None:
        current = model.__dict__.get(self.mark)
        if current is not None:
            raise AlreadyAttachedError(
                f"this model already has stages inside the LLM ({current.schedule.label()}); call "
                "detach() on them first"
            )
        super().__init__(model)
        self.schedule = LayerSchedule.of(schedule)
        decoder = Decoder(model)
        width = decoder.config.hidden_size
        self.sink_rule = sink_rule_for(sink_rule, decoder.depth, width)
        self.plan = checked_plan(self.schedule, decoder)
        self.shape = LlmShape.of(decoder.config)
        self._reports: LastReport[LayerReport] = LastReport(
            "no image has passed the LLM yet; call model.generate(**inputs) or model(**inputs) "
            "with pixel_values first"
        )
        self._observer = LayerObserver(decoder, self.plan)
        self._hooks: DecoderHooks = join(model, self, first=True)
        self._observer.install(self._hooks)
        model.__dict__[self.mark] = self

    @property
    def report(self) -> LayerReport:
        """The report of this thread's last prefill with an image, or else of any thread's.

        Raises:
            NoReportError: there was none yet.
        """
        return self._reports.get()

    def detach(self) -> None:
        """Undo everything. Calling it again does nothing."""
        if not self.attached:
            return
        del self.model.__dict__[self.mark]
        self._observer.remove()
        leave(self.model, self)

    def begin(self, call: DecoderCall) -> None:
        """Number the images of a pass."""
        check_pass(call)
        decides = call.length > 1 and bool(call.visual.any())
        prompt = call.real.clone()
        prompt[:, call.answer :] = False
        if decides:
            image, totals = image_numbers(call.visual, prompt)
        else:
            image, totals = torch.full_like(call.visual, -1, dtype=torch.long), []
        nothing = [None] * len(totals)
        call.scratch[self] = StagePass(image, totals, decides and any(totals), prompt, nothing)

    def before_layer(self, call: DecoderCall, layer: int, arguments: dict[str, Any]) -> None:
        """Drop what the schedule says, and bring the layer's arguments to its columns."""
        state: StagePass = call.scratch[self]
        if state.decides:
            if layer == 0 and self.plan.method.request.embeddings:
                state.entered = arguments["hidden_states"].detach()
            if layer in self.plan.stages:
                self._drop(call, layer, arguments, state)
        self._gather(call, layer, arguments, state)
        if state.decides and layer + 1 in self.plan.stages and self.plan.method.request.rotary:
            state.rotary = rotary_tables(arguments, len(state.image))

    def attention(self, call: DecoderCall, layer: int, attention: AttentionCall) -> None:
        """Remember query, key and value for the stage behind this layer; the kernel runs."""
        state: StagePass = call.scratch[self]
        if state.decides and layer + 1 in self.plan.stages and self.plan.method.request.previous:
            state.projected["previous"] = self._projection(call, layer, attention, attention.mask)

    def before_norm(self, call: DecoderCall, hidden: Tensor) -> Tensor:
        """Put the states back to full length."""
        state: StagePass = call.scratch[self]
        if state.decides:
            self._reports.keep(self._report(call, state.prompt))
        if state.full is None:
            return hidden
        return scatter_rows(state.full, call.rows(len(call.own) - 1), hidden)

    def _projection(
        self, call: DecoderCall, layer: int, attention: AttentionCall, mask: Any
    ) -> BatchProjection:
        """Query, key and value of a layer with the columns that they belong to, and its mask."""
        keys = call.memory.keys[layer]
        batch, count = attention.key.shape[0], attention.key.shape[2]
        if keys is None:
            keys = torch.arange(count, device=attention.key.device).expand(batch, -1)
        query, key, value = (
            tensor.detach() for tensor in (attention.query, attention.key, attention.value)
        )
        real = call.memory.real
        return BatchProjection(query, key, value, attention.scale, keys, real, mask)

    def _drop(
        self, call: DecoderCall, layer: int, arguments: dict[str, Any], state: StagePass
    ) -> None:
        """Choose, and shorten this layer and all behind it."""
        hidden, own = arguments["hidden_states"], call.rows(layer)
        # A copy: the columns change below, and the layer's arguments are gathered by the new ones.
        current = dict(arguments)
        if self.plan.method.request.following:
            self._gather(call, layer, current, state)
            ahead = projected_ahead(self._hooks.decoder, layer, current, call.cache)
            mask = current.get("attention_mask")
            state.projected["following"] = self._projection(call, layer, ahead, mask)
        batch = BatchState(
            layer=layer,
            depth=self.shape.depth,
            hidden=hidden,
            own=own,
            real=call.real,
            prompt=state.prompt,
            image=state.image,
            totals=state.totals,
            projected=state.projected,
            entered=state.entered,
            rotary=state.rotary,
            observed=call.scratch.get(OBSERVED, {}),
            sinks=self._sinks(call, layer, hidden, own, state),
            memory=state.memory,
        )
        selected = selections(batch, self.plan)
        state.memory = memories(selected, state.memory)
        state.projected = {}
        merged = with_merged_rows(batch, selected)
        left = bool(call.real[:, -1].all())
        places = places_that_go_on(batch, selected, left)
        if places is None:
            arguments["hidden_states"] = merged
            return
        full = merged if state.full is None else scatter_rows(state.full, own, merged)
        state.full = full
        arguments["hidden_states"] = gather_rows(merged, places)
        call.scratch[OBSERVED] = {
            number: values.gather(1, places.clamp(min=0))
            for number, values in call.scratch.get(OBSERVED, {}).items()
        }
        self._shorten(call, layer, gather_positions(own, places).masked_fill(places < 0, -1))

    def _shorten(self, call: DecoderCall, layer: int, own: Tensor) -> None:
        """Tell the call which columns the layers from here on have."""
        cached = torch.arange(call.past, device=own.device).expand(own.shape[0], -1)
        new = torch.where(own >= 0, own + call.past, -1)
        shared: dict[int, Tensor] = {}
        for later in range(layer, self.shape.depth):
            before = call.memory.keys[later]
            width = call.rows(later).shape[1]
            past = cached if before is None else before[:, : before.shape[1] - width]
            keys = shared.setdefault(id(before), torch.cat([past, new], 1))
            call.memory.keys[later] = keys
        for later in range(layer, self.shape.depth):
            call.own[later] = own

    def _gather(
        self, call: DecoderCall, layer: int, arguments: dict[str, Any], state: StagePass
    ) -> None:
        """Bring masks, rotary embeddings and positions to the layer's columns."""
        implementation = self._hooks.decoder.implementation
        bring_to_columns(call, layer, arguments, state.arguments, implementation)
        if layer in self.plan.blind:
            mask = arguments.get("attention_mask")
            arguments["attention_mask"] = blind_mask(call, layer, mask, implementation)

    def _sinks(
        self, call: DecoderCall, layer: int, hidden: Tensor, own: Tensor, state: StagePass
    ) -> Tensor | None:
        """LLM visual sinks that must not eat the budget, `[B, T]`."""
        if self.schedule.sinks == "rank" or not self.plan.method.ranked:
            return None
        places = own.clamp(min=0)
        real = state.prompt.gather(1, places) & (own >= 0)
        visual = call.visual.gather(1, places)
        sinks = self.sink_rule.marks(hidden.detach(), visual, real, layer)
        # Sinks of the vision encoder carry the whole image (arXiv 2510.08510): they are ranked.
        known = call.memory.marks.get("vit_sink")
        if known is None:
            return sinks
        return split_sinks(sinks, known[:, call.past :].gather(1, places) > 0)[1]

    def _report(self, call: DecoderCall, prompt: Tensor) -> LayerReport:
        """Count the visual tokens of every layer."""
        visual = call.visual & prompt
        counts, kept, known = [], {}, {}
        for layer in range(self.shape.depth):
            own, key = call.rows(layer), id(call.own[layer])
            if key not in known:
                known[key] = visual.gather(1, own.clamp(min=0)) & (own >= 0)
            counts.append(known[key].sum(1))
            if layer in self.plan.stages:
                kept[layer] = [row[seen] for row, seen in zip(own, known[key], strict=True)]
        text = (prompt & ~call.visual).sum(1).tolist()
        tokens = torch.stack(counts, 1).tolist()
        return LayerReport(self.schedule, tokens, text, self.shape, kept)
