"""The boundary stage bound to one model: every check at construction, one call to shorten a prompt.

In: keyword arguments of the model's `forward` or `generate`. Out: arguments for the stock model, in
which `mm_encoder_outputs` replaces the pixels and the prompt has lost the dropped placeholders
("input rewriting"), with the plan and the report. No module of the model is edited; while a call
encodes, the attention modules that the method reads carry a tap.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.adapters import Encoded, adapter_for
from lvlm_prune.budget import tokens_to_keep
from lvlm_prune.cache_columns import CacheColumns, carries_columns, columns_in
from lvlm_prune.config import PruneConfig
from lvlm_prune.errors import MissingSignalError, NothingDroppedError
from lvlm_prune.methods import method_named
from lvlm_prune.report import PruneReport, clock_ms, peak_mib
from lvlm_prune.splice import (
    Plan,
    gather_columns,
    image_columns,
    positions_of,
    splice,
)
from lvlm_prune.stage import Choice, choose

# Arguments of forward with one column a token, besides input_ids and attention_mask.
TOKEN_ARGUMENTS = ("position_ids", "labels", "token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True)
class Rewritten:
    """A call for the stock model.

    Args:
        arguments: the keyword arguments, shortened.
        plan: the plan of the new columns.
        columns: what the cache will hold after the call.
        report: counts and times, or None for a call without images.
    """

    arguments: dict[str, Any]
    plan: Plan
    columns: CacheColumns
    report: PruneReport | None


class BoundaryStage:
    """A method, its options and a budget, checked against a model."""

    def __init__(self, model: torch.nn.Module, config: PruneConfig) -> None:
        self.adapter = adapter_for(model)
        self.config = config
        self.method = method_named(config.method)
        self.options = self.method.complete(config.options)
        self.request = self.method.request(self.adapter.shape, self.options)
        self._check_signals()
        grid = self.adapter.grid()
        keep = tokens_to_keep(config.keep, grid[0] * grid[1])
        shrink = self.method.encoder_grid
        self.encoder_grid = None if shrink is None else shrink(grid, keep)

    def _check_signals(self) -> None:
        """Refuse what this encoder or this method cannot do."""
        if self.request.cls_layers and not self.adapter.shape.has_cls:
            raise MissingSignalError(
                f"method {self.method.name!r} ranks by CLS attention, but this encoder has no CLS "
                "token; use a method that needs none, such as 'divprune'"
            )
        if self.config.sinks != "ignore" and not self.method.ranks:
            raise MissingSignalError(
                f"method {self.method.name!r} ranks no tokens, so sinks={self.config.sinks!r} "
                "cannot be applied; use sinks='ignore' or a ranking method"
            )

    def has_images(self, arguments: Mapping[str, Any]) -> bool:
        """Whether a call brings pixels to encode."""
        return arguments.get("pixel_values") is not None

    def encode(self, arguments: Mapping[str, Any]) -> Encoded:
        """Run the vision encoder once and read the method's signals."""
        with self.adapter.taps(self.request):
            return self.adapter.encode(arguments, self.request, self.encoder_grid)

    def select(self, encoded: Encoded, protected: set[int] | None = None) -> list[Choice]:
        """Choose the tokens of every image and check that some were dropped."""
        choices = choose(
            encoded, self.method, self.options, self.config, self.adapter.project, protected
        )
        for number, choice in enumerate(choices):
            rows = choice.rows
            if len(rows.kept) < rows.total or not self.method.drops:
                continue
            if tokens_to_keep(self.config.keep, rows.total) < rows.total:
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
        if ids is None:
            raise ValueError(
                "pruning finds images by their placeholder ids; pass input_ids with pixel_values, "
                "not inputs_embeds"
            )
        past = columns_in(arguments.get("past_key_values"), ids.shape[0], ids.device)
        new, mask = self._new_columns(arguments, past, ids_hold_past)
        started = clock_ms(ids.device)
        if not self.has_images(arguments):
            short, plan = splice(new, [], self.adapter.image_token_id)
            return self._joined(arguments, past, mask, short, plan, ids_hold_past)
        encoded = self.encode(arguments)
        encoded_at = clock_ms(ids.device)
        choices = self.select(encoded, self._protected(new, encoded))
        selected_at = clock_ms(ids.device)
        rows = [choice.rows for choice in choices]
        short, plan = splice(new, rows, self.adapter.image_token_id)
        features = plan.by_prompt([choice.rows.features for choice in choices])
        outputs: dict[str, Any] = {"image": encoded.output_type(pooler_output=features)}
        pixels = self.adapter.encoder_arguments(arguments)
        rest = {name: value for name, value in arguments.items() if name not in pixels}
        rewritten = self._joined(
            {**rest, "mm_encoder_outputs": outputs}, past, mask, short, plan, ids_hold_past
        )
        times = (started, encoded_at, selected_at, clock_ms(ids.device))
        report = self._report(choices, plan, times, ids.device)
        return Rewritten(rewritten.arguments, plan, rewritten.columns, report)

    def _new_columns(
        self, arguments: Mapping[str, Any], past: CacheColumns, ids_hold_past: bool
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The tensors of the columns that are not cached, and the mask of the conversation."""
        ids = arguments["input_ids"]
        count = ids.shape[1] - (past.length if ids_hold_past else 0)
        if count < 1:
            raise ValueError(
                f"input_ids has {ids.shape[1]} columns but the cache already holds {past.length} "
                "columns of this conversation; pass the whole conversation or only new tokens with "
                "the whole attention_mask"
            )
        mask = arguments.get("attention_mask")
        if mask is None:
            mask = ids.new_ones(ids.shape[0], past.length + count)
        if mask.dim() != 2 or mask.shape[1] != past.length + count:
            raise ValueError(
                f"attention_mask has shape {tuple(mask.shape)}; with pruning it must be 2-D and "
                f"cover the conversation, {past.length} past + {count} new columns"
            )
        new = {"input_ids": ids[:, -count:], "attention_mask": mask[:, past.length :]}
        for name in TOKEN_ARGUMENTS:
            if arguments.get(name) is not None:
                new[name] = arguments[name][..., -count:].expand_as(new["input_ids"])
        if "position_ids" not in new and past.length:
            new["position_ids"] = positions_of(mask)[:, past.length :]
        return new, mask

    def _joined(
        self,
        arguments: Mapping[str, Any],
        past: CacheColumns,
        mask: Tensor,
        short: dict[str, Tensor],
        plan: Plan,
        ids_hold_past: bool,
    ) -> Rewritten:
        """Put the cached columns, in cache order, before the new ones."""
        added = torch.where(plan.index >= 0, plan.index + past.length, -1)
        columns = CacheColumns(torch.cat([past.index, added], dim=1), past.length + plan.length)
        # Not by width: a row that lost tokens may be padded back to the width it had.
        if not plan.dropped and not carries_columns(arguments.get("past_key_values")):
            return Rewritten(dict(arguments), plan, columns, None)
        joined = {**arguments, **short}
        held = gather_columns(mask[:, : past.length], past.index)
        joined["attention_mask"] = torch.cat([held, short["attention_mask"]], dim=1)
        positions = gather_columns(positions_of(mask)[:, : past.length], past.index)
        positions = torch.cat([positions, short["position_ids"]], dim=1)
        if self.config.positions == "compact":
            positions = positions_of(joined["attention_mask"])
        if ids_hold_past:
            ids = gather_columns(arguments["input_ids"][:, : past.length], past.index)
            joined["input_ids"] = torch.cat([ids, short["input_ids"]], dim=1)
        # `forward` reads the new columns only; `generate` cuts them off the end by itself.
        count = joined["input_ids"].shape[1]
        joined["position_ids"] = positions[:, -count:]
        return Rewritten(joined, plan, columns, None)

    def _protected(self, new: dict[str, Tensor], encoded: Encoded) -> set[int]:
        """Images whose last placeholder is the last real token of its prompt."""
        totals = [0] * encoded.count
        for group in encoded.groups:
            grid = group.signals.prompt_grid or group.signals.grid
            for image in group.images:
                totals[image] = grid[0] * grid[1]
        places = image_columns(new["input_ids"], self.adapter.image_token_id, totals)
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
