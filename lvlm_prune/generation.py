"""`generate` with pruning: the stock method on a short prompt that the caller sees in full.

In: the arguments of `model.generate`. Out: what it returns, with the original prompt in front of
the new tokens. Lengths, logits processors, stopping criteria, streamers and beams all count and see
the original prompt; the model sees the short one.
"""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.generation import (
    BaseStreamer,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.utils import ModelOutput

from lvlm_prune.boundary import BoundaryStage, Rewritten
from lvlm_prune.cache_columns import carries_columns, mark, unmark
from lvlm_prune.report import PruneReport


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
        arguments = self._named(args, kwargs)
        cache: Any = arguments.get("past_key_values")
        stage = self.stage
        if not stage.has_images(arguments) and not carries_columns(cache):
            return self.original(**arguments)
        arguments["attention_mask"] = self._mask(arguments)
        held = 0 if cache is None else int(cache.get_seq_length())
        whole = arguments["attention_mask"].shape[1] == arguments["input_ids"].shape[1]
        rewritten = stage.rewrite(arguments, ids_hold_past=held > 0 and whole)
        if rewritten.report is not None:
            self.keep_report(rewritten.report)
        before = unmark(cache)
        try:
            output = self._generate(arguments["input_ids"], rewritten)
        except BaseException:
            if before is not None and int(cache.get_seq_length()) == held:
                mark(cache, before)
            raise
        for filled in (cache, getattr(output, "past_key_values", None)):
            if filled is not None:
                mark(filled, rewritten.columns)
        return output

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """All arguments by name; the first positional one is `input_ids`."""
        bound = inspect.signature(self.original).bind(*args, **kwargs)
        arguments = dict(bound.arguments)
        arguments.update(arguments.pop("kwargs", {}))
        ids = arguments.pop("inputs", None)
        if ids is not None:
            arguments["input_ids"] = ids
        return arguments

    def _mask(self, arguments: dict[str, Any]) -> Tensor:
        """The attention mask, inferred from padding as transformers does if none was passed."""
        mask = arguments.get("attention_mask")
        if mask is not None:
            return mask
        ids = arguments["input_ids"]
        config = arguments.get("generation_config") or self.stage.adapter.model.generation_config
        pad, eos = config.pad_token_id, config.eos_token_id
        if pad is None or pad in (eos if isinstance(eos, list) else [eos]):
            return torch.ones_like(ids)
        return (ids != pad).long()

    def _generate(self, prompt: Tensor, rewritten: Rewritten) -> Any:
        """Call the stock `generate` with everything shifted to the short prompt."""
        arguments = rewritten.arguments
        if not self._uses_cache(arguments):
            _pad_in_front(arguments)
        short = arguments["input_ids"].shape[1]
        if short == prompt.shape[1] and not rewritten.plan.dropped:
            return self.original(**arguments)
        self._shift_lengths(arguments, prompt.shape[1] - short)
        restore = functools.partial(_restore, prompt, short)
        _show_original_ids(arguments, restore)
        output: Any = self.original(**arguments)
        if not isinstance(output, ModelOutput):
            return restore(output)
        output["sequences"] = restore(output["sequences"])
        return output

    def _uses_cache(self, arguments: dict[str, Any]) -> bool:
        """Whether `generate` will use a KV cache."""
        if arguments.get("use_cache") is not None:
            return arguments["use_cache"]
        config = arguments.get("generation_config") or self.stage.adapter.model.generation_config
        return config.use_cache is not False

    def _shift_lengths(self, arguments: dict[str, Any], dropped: int) -> None:
        """Lower limits that count the prompt by the number of columns it lost."""
        config = arguments.get("generation_config")
        if config is not None:
            config = arguments["generation_config"] = copy.deepcopy(config)
        default = self.stage.adapter.model.generation_config
        for limit, free in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            if arguments.get(limit) is not None:
                arguments[limit] -= dropped
            elif config is not None and getattr(config, limit):
                setattr(config, limit, getattr(config, limit) - dropped)
            elif config is None and getattr(default, limit) and arguments.get(free) is None:
                arguments[limit] = getattr(default, limit) - dropped


def _pad_in_front(arguments: dict[str, Any]) -> None:
    """Add one masked column to a prompt that is generated from without a cache.

    `generate` drops a mask of ones. Without cache and mask, transformers takes gaps in the
    positions for borders between packed sequences (masking_utils.find_packed_sequence_indices)
    and the tokens would not see each other.
    """
    mask = arguments.get("attention_mask")
    if "position_ids" not in arguments or mask is None or not bool((mask == 1).all()):
        return
    for name in ("input_ids", "attention_mask", "position_ids"):
        value = arguments[name]
        front = torch.zeros_like(value[:, :1]) if name != "input_ids" else value[:, :1]
        arguments[name] = torch.cat([front, value], dim=1)


def _restore(prompt: Tensor, short: int, sequences: Tensor) -> Tensor:
    """Replace the short prompt in front of sequences by the original one.

    Args:
        prompt: `[B, L]`.
        short: columns of the short prompt.
        sequences: `[B * expand, short + new]`, rows of one prompt next to each other.
    """
    expand = sequences.shape[0] // prompt.shape[0]
    front = prompt.to(sequences.device).repeat_interleave(expand, dim=0)
    return torch.cat([front, sequences[:, short:]], dim=1)


def _show_original_ids(arguments: dict[str, Any], restore: Callable[[Tensor], Tensor]) -> None:
    """Wrap what the caller passed to look at ids, so that it sees the original prompt."""
    if arguments.get("logits_processor") is not None:
        arguments["logits_processor"] = LogitsProcessorList(
            _OriginalIdsProcessor(inner, restore) for inner in arguments["logits_processor"]
        )
    criteria = arguments.get("stopping_criteria")
    if criteria is not None:
        criteria = criteria if isinstance(criteria, list) else [criteria]
        arguments["stopping_criteria"] = StoppingCriteriaList(
            _OriginalIdsCriterion(inner, restore) for inner in criteria
        )
    if arguments.get("streamer") is not None:
        arguments["streamer"] = _OriginalIdsStreamer(arguments["streamer"], restore)


class _OriginalIdsProcessor(LogitsProcessor):
    """A logits processor that sees the original prompt."""

    def __init__(self, inner: Callable[..., Any], restore: Callable[[Tensor], Tensor]) -> None:
        self.inner = inner
        self.restore = restore

    # LogitsProcessorList demands every parameter beyond these two from the caller.
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Any:
        return self.inner(self.restore(input_ids), scores)


class _OriginalIdsCriterion(StoppingCriteria):
    """A stopping criterion that sees the original prompt."""

    def __init__(self, inner: Callable[..., Any], restore: Callable[[Tensor], Tensor]) -> None:
        self.inner = inner
        self.restore = restore

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Any:
        return self.inner(self.restore(input_ids), scores, **kwargs)


class _OriginalIdsStreamer(BaseStreamer):
    """A streamer that is given the original prompt first."""

    def __init__(self, inner: BaseStreamer, restore: Callable[[Tensor], Tensor]) -> None:
        self.inner = inner
        self.restore: Callable[[Tensor], Tensor] | None = restore

    def put(self, value: Tensor) -> None:
        """Pass tokens on; the first call brings the prompt."""
        if self.restore is not None:
            value, self.restore = self.restore(value), None
        self.inner.put(value)

    def end(self) -> None:
        """Pass the end on."""
        self.inner.end()
