"""The boundary stage bound to one model: every check at construction, one call to shorten a prompt.

In: keyword arguments of the model's `forward` or `generate`. Out: arguments for the stock model, in
which `mm_encoder_outputs` replaces the pixels and the prompt has lost the dropped placeholders
("input rewriting"), with the plan and the report. No module of the model is edited; while a call
encodes, the attention modules that the method reads carry a tap.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.adapters import Encoded, GenericAdapter, adapter_for
from lvlm_prune.budget import tokens_to_keep
from lvlm_prune.call import Rewritten, joined, new_call
from lvlm_prune.config import PruneConfig
from lvlm_prune.encoder_marks import OF_ATTENTION, column_marks, group_marks, marks_request
from lvlm_prune.errors import MissingSignalError, NothingDroppedError
from lvlm_prune.methods import method_named
from lvlm_prune.progressive import EncoderBudget
from lvlm_prune.question import ClipEmbedder, with_question
from lvlm_prune.ragged import encoder_output
from lvlm_prune.report import PruneReport, clock_ms, peak_mib
from lvlm_prune.requirements import check_method, requested
from lvlm_prune.shared_signals import compatible, merged, narrowed
from lvlm_prune.signals import SignalRequest
from lvlm_prune.splice import Plan, image_columns, positions_of, splice
from lvlm_prune.stage import Choice, choose


class BoundaryStage:
    """A method, its options and a budget, checked against a model."""

    def __init__(
        self,
        model: torch.nn.Module,
        config: PruneConfig,
        clip: ClipEmbedder | None = None,
        marks: Sequence[str] = (),
    ) -> None:
        self.adapter = adapter_for(model)
        self.config = config
        self.clip = clip
        self.method = method_named(config.method)
        self.options = self.method.complete(config.options)
        check_method(self.adapter, self.method, self.options, config, clip)
        self.marks = tuple(marks)
        self.method_request = requested(self.adapter, self.method, self.options, config)
        self.request = self._with_marks(self.method_request)
        grid = self.adapter.grid()
        if grid is not None:
            keep = tokens_to_keep(config.keep, grid[0] * grid[1])
            if self.method.encoder_grid is not None:
                self.method.encoder_grid(grid, keep)

    @property
    def shrink(self) -> Callable[[tuple[int, int]], tuple[int, int]] | None:
        """The grid that an image is encoded at, given its full one; None for its full size."""
        smaller = self.method.encoder_grid
        if smaller is None:
            return None
        return lambda grid: smaller(grid, tokens_to_keep(self.config.keep, grid[0] * grid[1]))

    @property
    def encoder_budget(self) -> EncoderBudget | None:
        """What the method drops inside the encoder, or None if it does not."""
        if self.method.step is None:
            return None
        return EncoderBudget(self.method.step, self.config.keep, self.config.per)

    def has_images(self, arguments: Mapping[str, Any]) -> bool:
        """Whether a call brings pixels to encode."""
        return bool(self.adapter.modalities(arguments))

    def encode(self, arguments: Mapping[str, Any], modality: str = "image") -> Encoded:
        """Run the vision encoder once and read the method's signals."""
        with self.adapter.taps(self.request):
            encoded = self.adapter.encode(
                arguments,
                self.request,
                modality,
                self.shrink,
                self.config.sink_threshold,
                self.encoder_budget,
            )
        if not self.request.text and not self.request.clip:
            return encoded
        return with_question(encoded, self.adapter, self.request, arguments, modality, self.clip)

    def _with_marks(self, request: SignalRequest) -> SignalRequest:
        """The signals of the method and of the marks, from one encoder pass."""
        read = [name for name in self.marks if name in OF_ATTENTION]
        if read and isinstance(self.adapter, GenericAdapter):
            raise MissingSignalError(
                f"{', '.join(read)} are read off the encoder's attention, which is known only for "
                "the families of `lvlm-prune models`"
            )
        if self.method.encoder_grid is not None and set(self.marks) - {"size"}:
            raise ValueError(
                f"{', '.join(self.marks)} are read for every visual token of the whole image, and "
                f"method {self.method.name!r} encodes a smaller one; choose another method"
            )
        if read and self.method.step is not None:
            raise ValueError(
                f"{', '.join(read)} are read off the attention of all tokens, and method "
                f"{self.method.name!r} drops some of them inside the encoder; choose another method"
            )
        more = marks_request(self.adapter.shape, self.marks)
        if not more.layers:
            return request
        if not compatible(request, more):
            raise ValueError(
                f"received_rows={self.config.received_rows} samples the attention that "
                f"{', '.join(self.marks)} need in full; leave it out"
            )
        return merged(request, more)

    def select(self, encoded: Encoded, protected: set[int] | None = None) -> list[Choice]:
        """Choose the tokens of every image and check that some were dropped."""
        whole = encoded
        if self.request != self.method_request:
            encoded = narrowed(encoded, self.request, self.method_request)
        choices = choose(
            encoded, self.method, self.options, self.config, self.adapter.project, protected
        )
        self._mark(whole, choices)
        for number, choice in enumerate(choices):
            rows = choice.rows
            if len(rows.kept) < rows.total or not self.method.drops:
                continue
            if self.config.per == "image" and tokens_to_keep(self.config.keep, rows.total) < (
                rows.total
            ):
                raise NothingDroppedError(
                    f"keep={self.config.keep} but method {self.method.name!r} dropped no token of "
                    f"image {number} ({rows.total} tokens)"
                )
        return choices

    def rewrite(self, arguments: Mapping[str, Any], ids_hold_past: bool = False) -> Rewritten:
        """Shorten one call.

        Args:
            arguments: keyword arguments with `input_ids` `[B, L]`.
            ids_hold_past: whether `input_ids` repeats the columns that a cache already holds, as
                `generate` allows; `forward` always gets new columns only.
        """
        ids = arguments.get("input_ids")
        if ids is None or arguments.get("inputs_embeds") is not None:
            raise ValueError(
                "pruning finds images by their placeholder ids; pass input_ids with pixel_values, "
                "not inputs_embeds"
            )
        if not isinstance(ids, Tensor) or ids.dim() != 2:
            raise TypeError("input_ids must be a tensor [B, L], as the model's processor makes it")
        call, new = new_call(arguments, self.adapter, ids_hold_past)
        compact = self.config.positions == "compact"
        started = clock_ms(ids.device)
        fresh = {**arguments, **new}
        encoded = {name: self.encode(fresh, name) for name in self.adapter.modalities(arguments)}
        encoded_at = clock_ms(ids.device)
        choices = {
            name: self.select(one, self._protected(new, one, name)) for name, one in encoded.items()
        }
        selected_at = clock_ms(ids.device)
        rows = [
            (self.adapter.token_id(name), [choice.rows for choice in one])
            for name, one in choices.items()
        ]
        # A placeholder without pixels is a token like any other, but padding must not make one.
        placeholders = {self.adapter.token_id(name) for name in self.adapter.pixels}
        short, plan = splice(new, rows, placeholders)
        marks = column_marks(self.marks, new["input_ids"], rows, plan) if self.marks else {}
        if "size" in self.marks and self.adapter.counts_positions:
            places = short.get("position_ids", positions_of(short["attention_mask"]))
            marks["position"] = places.expand_as(short["input_ids"]).float()
        if not encoded:
            return joined(call, short, plan, compact)
        call = replace(call, arguments=self._with_features(arguments, encoded, choices, plan))
        rewritten = joined(call, short, plan, compact)
        times = (started, encoded_at, selected_at, clock_ms(ids.device))
        every = [choice for one in choices.values() for choice in one]
        report = self._report(every, plan, times, ids.device)
        return Rewritten(rewritten.arguments, plan, rewritten.columns, report, marks)

    def _mark(self, encoded: Encoded, choices: list[Choice]) -> None:
        """Note the marks of the kept tokens, from what the encoder gave for the marks alone."""
        if not set(self.marks) - {"size"}:
            return
        own = narrowed(encoded, self.request, marks_request(self.adapter.shape, self.marks))
        for group in own.groups:
            for image, marks in zip(group.images, group_marks(group, self.marks), strict=True):
                rows = choices[image].rows
                rows.marks.update({name: mark[rows.kept] for name, mark in marks.items()})

    def _with_features(
        self,
        arguments: Mapping[str, Any],
        encoded: Mapping[str, Encoded],
        choices: Mapping[str, list[Choice]],
        plan: Plan,
    ) -> dict[str, Any]:
        """The call with the kept features in place of pixels."""
        outputs: dict[str, Any] = {}
        rest, first = dict(arguments), 0
        for name, one in encoded.items():
            rows = [choice.rows for choice in choices[name]]
            layers = [
                plan.by_prompt(list(layer), first)
                for layer in zip(*(image.deepstack for image in rows), strict=True)
            ]
            features = plan.by_prompt([image.features for image in rows], first)
            outputs[name] = encoder_output(one.output_type, features, layers, one.tensor)
            first += len(rows)
            for argument in self.adapter.encoder_arguments(arguments, name):
                rest.pop(argument, None)
        return {**rest, "mm_encoder_outputs": outputs}

    def _protected(self, new: dict[str, Tensor], encoded: Encoded, modality: str) -> set[int]:
        """Images whose last placeholder is the last real token of its prompt."""
        token_id = self.adapter.token_id(modality)
        places = image_columns(new["input_ids"], token_id, encoded.totals)
        columns = torch.arange(new["attention_mask"].shape[1], device=new["input_ids"].device)
        last = (new["attention_mask"] * columns).argmax(dim=1)
        ends = [int(place[-1, 1]) == int(last[place[-1, 0]]) for place in places]
        return {image for image, at_end in enumerate(ends) if at_end}

    def _report(
        self,
        choices: list[Choice],
        plan: Plan,
        times: tuple[float, float, float, float],
        device: torch.device,
    ) -> PruneReport:
        """Count and time one call."""
        return PruneReport(
            config=self.config,
            kept=plan.kept,
            tokens_before=sum(plan.totals),
            tokens_after=sum(plan.totals) - plan.dropped,
            prompt_before=plan.length,
            prompt_after=plan.index.shape[1],
            encode_ms=times[1] - times[0],
            select_ms=times[2] - times[1],
            splice_ms=times[3] - times[2],
            peak_mib=peak_mib(device),
            scores=[choice.scores for choice in choices],
            sinks=[choice.sinks for choice in choices],
        )
