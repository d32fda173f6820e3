"""The baseline of the row split: the same edit, with all rows in eager attention.

In: a model and a reweighter that keeps no marks. Out: the same outputs as `Reweighting`, as the
released code of such methods makes them: keys and values repeated for grouped heads, the logits of
every row over every key, the mask added, a softmax in float32, the edit of the same rows, and the
product with the values. Written for one prompt without padding, and only to be compared with.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.decoder_call import DecoderCall
from lvlm_prune.decoder_hooks import Output, join, leave
from lvlm_prune.llm_sinks import SinkRule
from lvlm_prune.reweight.contract import AttentionRows
from lvlm_prune.reweight.registry import reweighter_named
from lvlm_prune.tap import AttentionCall


class EagerReweighting:
    """Eager attention with edited rows, until it is detached.

    Args:
        model: a whole transformers model, unwrapped.
        name: a reweighter.
        layers: decoder layers that are edited.
        rule: how LLM sinks are told.

    Raises:
        ValueError: the reweighter needs more than rows and sinks.
    """

    def __init__(self, model: Any, name: str, layers: Collection[int], rule: SinkRule) -> None:
        self.method = reweighter_named(name)
        if self.method.observe or self.method.encoder or self.method.values:
            raise ValueError(
                f"reweight {name!r} reads more than rows and sinks, which the eager baseline does "
                "not know; compare var, pai or headguide"
            )
        self.model, self.layers, self.rule = model, layers, rule
        self.options = self.method.complete({})
        self.depth = len(model.get_decoder().layers)
        join(model, self)

    def detach(self) -> None:
        """Undo everything."""
        leave(self.model, self)

    def __enter__(self) -> "EagerReweighting":
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def begin(self, call: DecoderCall) -> None:
        """Nothing is kept for a pass."""

    def before_layer(self, call: DecoderCall, layer: int, arguments: dict[str, Any]) -> None:
        """Find the LLM sinks of the prompt."""
        if call.past == 0 and self.method.sinks:
            hidden = arguments["hidden_states"]
            call.memory.sinks[layer] = self.rule.marks(hidden, call.visual, call.real, layer)

    def attention(self, call: DecoderCall, layer: int, attention: AttentionCall) -> Output | None:
        """All rows, of which some are edited."""
        if layer not in self.layers:
            return None
        heads = attention.query.shape[1]
        key, value = (repeated(one, heads) for one in (attention.key, attention.value))
        logits = attention.query @ key.transpose(-1, -2) * attention.scale
        logits = (logits + causal_mask(logits)).float()
        weights = logits.softmax(dim=-1)
        start = self._first_row(call)
        edited = self.method.edit(
            AttentionRows(
                logits=logits[:, :, start:],
                value=value,
                visual=call.memory.visual,
                layer=layer,
                depth=self.depth,
                decoding=call.past > 0,
                edited=call.behind[:, start:],
                sinks=call.memory.sinks.get(layer),
            ),
            **self.options,
        )
        weights[:, :, start:] = edited.weights
        return (weights.to(value.dtype) @ value).transpose(1, 2), None

    def before_norm(self, call: DecoderCall, hidden: Tensor) -> Tensor:
        """The last states are not touched."""
        return hidden

    def _first_row(self, call: DecoderCall) -> int:
        """The first row that is edited; all behind it are too."""
        return call.length - (1 if self.method.rows == "last" else int(call.behind.sum()))


def causal_mask(logits: Tensor) -> Tensor:
    """What eager attention adds to the logits `[B, H, T, S]`: `[T, S]`, -inf for later keys."""
    rows, keys = logits.shape[-2:]
    mask = torch.full((rows, keys), -torch.inf, dtype=logits.dtype, device=logits.device)
    return mask.triu(keys - rows + 1)


def repeated(tensor: Tensor, heads: int) -> Tensor:
    """Keys or values `[B, Hk, S, d]` for each query head, `[B, H, S, d]`."""
    return tensor.repeat_interleave(heads // tensor.shape[1], 1)
