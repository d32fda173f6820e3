"""The original prompt for everything that looks at token ids while a short one is generated from.

In: the prompt as the caller passed it, and what the caller gave `generate` to look at ids: logits
processors, stopping criteria, an allowed-tokens function, a streamer. Out: wrappers that put the
original prompt back in front of the new tokens. Knows nothing about models or pruning.
"""

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class OriginalPrompt:
    """The prompt of a call, and how `generate` repeats its rows.

    Args:
        ids: `[B, L]`.
        short: columns of the prompt that is generated from.
        returned: rows of each prompt that an allowed-tokens function counts separately.
    """

    ids: Tensor
    short: int
    returned: int

    def restored(self, sequences: Tensor) -> Tensor:
        """Replace the short prompt in front of sequences.

        Args:
            sequences: `[B * expand, short + new]`, rows of one prompt next to each other.

        Returns:
            `[B * expand, L + new]`.
        """
        expand = sequences.shape[0] // self.ids.shape[0]
        front = self.ids.to(sequences.device).repeat_interleave(expand, dim=0)
        return torch.cat([front, sequences[:, self.short :]], dim=1)

    def restored_row(self, row: int, ids: Tensor) -> Tensor:
        """The same for one row, `[short + new]` to `[L + new]`."""
        front = self.ids[row // self.returned].to(ids.device)
        return torch.cat([front, ids[self.short :]])

    def show_to_callers(self, arguments: dict[str, Any]) -> None:
        """Wrap what the caller passed to look at ids, in place."""
        if arguments.get("logits_processor") is not None:
            arguments["logits_processor"] = LogitsProcessorList(
                _Processor(inner, self) for inner in arguments["logits_processor"]
            )
        if arguments.get("stopping_criteria") is not None:
            arguments["stopping_criteria"] = StoppingCriteriaList(
                _Criterion(inner, self) for inner in arguments["stopping_criteria"]
            )
        allowed = arguments.get("prefix_allowed_tokens_fn")
        if allowed is not None:
            arguments["prefix_allowed_tokens_fn"] = lambda row, ids: allowed(
                row, self.restored_row(row, ids)
            )
        if arguments.get("streamer") is not None:
            arguments["streamer"] = _Streamer(arguments["streamer"], self)


class _Processor(LogitsProcessor):
    """A logits processor that sees the original prompt."""

    def __init__(self, inner: Callable[..., Any], prompt: OriginalPrompt) -> None:
        self.inner = inner
        self.prompt = prompt

    # LogitsProcessorList demands every parameter beyond these two from the caller.
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Any:
        return self.inner(self.prompt.restored(input_ids), scores)


class _Criterion(StoppingCriteria):
    """A stopping criterion that sees the original prompt."""

    def __init__(self, inner: Callable[..., Any], prompt: OriginalPrompt) -> None:
        self.inner = inner
        self.prompt = prompt

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Any:
        return self.inner(self.prompt.restored(input_ids), scores, **kwargs)

    def __getattr__(self, name: str) -> Any:
        # `generate` pads finished rows where a criterion has an `eos_token_id`.
        return getattr(self.__dict__["inner"], name)


class _Streamer(BaseStreamer):
    """A streamer that is given the original prompt first."""

    def __init__(self, inner: BaseStreamer, prompt: OriginalPrompt) -> None:
        self.inner = inner
        self.prompt: OriginalPrompt | None = prompt

    def put(self, value: Tensor) -> None:
        """Pass tokens on; the first call brings the prompt."""
        if self.prompt is not None:
            value, self.prompt = self.prompt.restored(value), None
        self.inner.put(value)

    def end(self) -> None:
        """Pass the end on."""
        self.inner.end()
