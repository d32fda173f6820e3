"""`generate` with pruning: the stock method on a short prompt that the caller sees in full.

In: the arguments of `model.generate`. Out: what it returns, with the original prompt in front of
the new tokens. Lengths, logits processors, stopping criteria, streamers and beams all count and see
the original prompt; the model sees the short one.
"""

import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.cache_columns import carries_columns, mark, remember_delta, unmark
from lvlm_prune.call import Rewritten
from lvlm_prune.decoder_call import coming_marks
from lvlm_prune.generate_arguments import named_arguments, prompt_mask, setting
from lvlm_prune.original_prompt import OriginalPrompt
from lvlm_prune.report import PruneReport, peak_mib


class PrunedGenerate:
    """Stands in for `model.generate` while an attachment is in place."""

    def __init__(
        self,
        stage: BoundaryStage,
        keep_report: Callable[[PruneReport], None],
        original: Callable[..., Any],
    ) -> None:
        functools.update_wrapper(self, original)
        self.stage = stage
        self.keep_report = keep_report
        self.original = original

    # The stock method is decorated with no_grad; encoding happens before it is entered.
    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Shorten the prompt, run the stock `generate`, and give the caller's view back."""
        arguments = named_arguments(self._model, args, kwargs)
        cache: Any = arguments.get("past_key_values")
        stage = self.stage
        held = 0 if cache is None else int(cache.get_seq_length())
        if not stage.has_images(arguments) and not carries_columns(cache):
            output = self.original(**arguments)
            # Other threads may have used the model since, but text is counted from 0.
            text = not held and not {"inputs_embeds", "mm_encoder_outputs"} & set(arguments)
            self._remember(cache, output, torch.zeros(1) if text else stage.adapter.past_delta())
            return output
        whole = False
        if arguments.get("input_ids") is not None:
            arguments["attention_mask"] = prompt_mask(self._model, arguments)
            whole = arguments["attention_mask"].shape[1] == arguments["input_ids"].shape[1]
        rewritten = stage.rewrite(arguments, ids_hold_past=held > 0 and whole)
        if rewritten.report is not None:
            self.keep_report(rewritten.report)
        before = unmark(cache)
        if rewritten.marks:
            coming_marks.set(rewritten.marks)
        try:
            output = self._generate(arguments["input_ids"], rewritten)
        except BaseException:
            if cache is not None:
                kept = before if int(cache.get_seq_length()) == held else rewritten.columns
                if kept is not None:
                    mark(cache, kept)
            raise
        if rewritten.report is not None:
            peak = peak_mib(arguments["input_ids"].device)
            self.keep_report(replace(rewritten.report, peak_mib=peak))
        if before is None and not rewritten.plan.dropped:
            self._remember(cache, output, rewritten.columns.delta)
            return output
        for filled in (cache, getattr(output, "past_key_values", None)):
            if filled is not None:
                mark(filled, rewritten.columns)
        return output

    @property
    def _model(self) -> Any:
        """The model whose `generate` this is."""
        return self.stage.adapter.model

    def _remember(self, cache: Any, output: Any, delta: Tensor | None) -> None:
        """Note where a conversation goes on; the model itself knows that of its last call only."""
        for filled in (cache, getattr(output, "past_key_values", None)):
            if filled is not None and delta is not None:
                remember_delta(filled, delta)

    def _generate(self, prompt: Tensor, rewritten: Rewritten) -> Any:
        """Call the stock `generate` with everything shifted to the short prompt."""
        arguments = rewritten.arguments
        if not self._uses_cache(arguments):
            _pad_in_front(arguments)
        short = arguments["input_ids"].shape[1]
        if arguments["input_ids"] is prompt:
            return self.original(**arguments)
        self._shift_lengths(arguments, prompt.shape[1], prompt.shape[1] - short)
        beams = setting(self._model, arguments, "num_beams") or 1
        returned = 1 if beams > 1 else setting(self._model, arguments, "num_return_sequences") or 1
        original = OriginalPrompt(prompt, short, returned)
        original.show_to_callers(arguments)
        output: Any = self.original(**arguments)
        if not isinstance(output, ModelOutput):
            return original.restored(output)
        output["sequences"] = original.restored(output["sequences"])
        return output

    def _uses_cache(self, arguments: dict[str, Any]) -> bool:
        """Whether `generate` will use a KV cache."""
        return setting(self._model, arguments, "use_cache") is not False

    def _shift_lengths(self, arguments: dict[str, Any], columns: int, dropped: int) -> None:
        """Lower limits that count the prompt, of `columns`, by the number that it lost."""
        config = arguments.get("generation_config")
        if config is not None:
            config = arguments["generation_config"] = copy.deepcopy(config)
        for limit, free in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            value = setting(self._model, arguments, limit)
            if not value or setting(self._model, arguments, free) is not None:
                continue
            if limit == "max_length" and value <= columns:
                raise ValueError(
                    f"max_length={value} leaves no room behind a prompt of {columns} columns; "
                    "raise it, or pass max_new_tokens"
                )
            if config is None or arguments.get(limit) is not None:
                arguments[limit] = value - dropped
            else:
                setattr(config, limit, value - dropped)


def _pad_in_front(arguments: dict[str, Any]) -> None:
    """Add one masked column to a prompt that is generated from without a cache.

    `generate` drops a mask of ones. Without cache and mask, transformers takes gaps in the
    positions for borders between packed sequences (masking_utils.find_packed_sequence_indices)
    and the tokens would not see each other.
    """
    mask = arguments.get("attention_mask")
    if "position_ids" not in arguments or mask is None or not bool((mask == 1).all()):
        return
    for name in ("input_ids", "attention_mask", "position_ids", "mm_token_type_ids"):
        value = arguments.get(name)
        if value is None:
            continue
        front = torch.zeros_like(value[..., :1]) if name != "input_ids" else value[:, :1]
        arguments[name] = torch.cat([front, value], dim=-1)
    marks = coming_marks.get()
    if marks:
        front = {name: torch.zeros_like(mark[:, :1]) for name, mark in marks.items()}
        coming_marks.set({name: torch.cat([front[name], marks[name]], 1) for name in marks})
