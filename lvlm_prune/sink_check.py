"""Check a sink rule against attention: do the tokens it marks receive much of it?

In: a model, prompts of text and a rule. Out: precision and recall over the rule's layers. A token
counts as a sink of a layer if the last 8 rows give it more than 5/N on average over rows and heads,
N tokens in the prompt. Query and key are read by the tap while the model's own kernel runs, and
only these 8 rows of attention are computed. Attention of sliding windows and capped logits is taken
as if it were full.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lvlm_prune.errors import UnreliableSinksError, UnsupportedModelError
from lvlm_prune.layers.contract import Projected
from lvlm_prune.llm_sinks import SinkRule
from lvlm_prune.residual_stream import residual_stream
from lvlm_prune.tap import install_tap, recording, remove_tap

ROWS = 8
TIMES = 5.0  # a sink receives this much more than an even share
LEAST = 0.5  # of precision and of recall


@dataclass(frozen=True)
class SinkCheck:
    """How the marked tokens and the attended ones agree.

    Args:
        marked: tokens that the rule marks, all layers together.
        attended: tokens that receive much attention.
        both: tokens that are both.
    """

    marked: int
    attended: int
    both: int

    @property
    def precision(self) -> float:
        """Share of the marked tokens that are attended; 0 if none is marked."""
        return self.both / max(self.marked, 1)

    @property
    def recall(self) -> float:
        """Share of the attended tokens that are marked; 0 if none is attended."""
        return self.both / max(self.attended, 1)

    @property
    def reliable(self) -> bool:
        """Whether precision and recall are 0.5 or more."""
        return self.precision >= LEAST and self.recall >= LEAST

    def to_dict(self) -> dict[str, Any]:
        """Counts for JSON, and what follows from them."""
        found = {"precision": self.precision, "recall": self.recall, "reliable": self.reliable}
        return {**asdict(self), **found}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SinkCheck":
        """The inverse of `to_dict`; only the counts are read."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    def refuse_unreliable(self) -> None:
        """Raise below a precision or recall of 0.5.

        Raises:
            UnreliableSinksError: see above.
        """
        if not self.reliable:
            raise UnreliableSinksError(
                f"the sinks do not agree with attention: precision {self.precision:.3f}, recall "
                f"{self.recall:.3f} ({self.marked} marked, {self.attended} attended, {self.both} "
                f"both); at least {LEAST} of each is needed, so do not use this calibration"
            )


@torch.no_grad()
def check_sinks(model: Any, rule: SinkRule, prompts: Sequence[Tensor]) -> SinkCheck:
    """Compare a rule with the attention of every layer it holds for.

    Args:
        model: a transformers model.
        rule: marks tokens by the states that enter a layer.
        prompts: token ids, `[1, T]` each, text only.

    Raises:
        UnsupportedModelError: no layer of the rule has an attention module `self_attn`.
    """
    modules = _attention_modules(model, rule)
    counts = torch.zeros(3, dtype=torch.int64)
    for ids in prompts:
        received: dict[int, Tensor] = {}
        with ExitStack() as stack:
            for module in modules.values():
                install_tap(module)
                stack.callback(remove_tap, module)
            recorders = {m: partial(_record, received, layer) for layer, m in modules.items()}
            stack.enter_context(recording(recorders))
            stream = residual_stream(model, ids)
        text = torch.zeros_like(ids, dtype=torch.bool)
        for layer, attention in received.items():
            marked = rule.marks(stream[layer][None], text, ~text, layer)[0]
            attended = attention > TIMES / len(attention)
            counts += torch.stack([marked.sum(), attended.sum(), (marked & attended).sum()]).cpu()
    return SinkCheck(*counts.tolist())


def received_by(query: Tensor, key: Tensor, scale: float, rows: int = ROWS) -> Tensor:
    """Mean attention of the last rows to each token.

    Args:
        query: `[1, H, T, d]`, after rotary embedding.
        key: `[1, Hk, T, d]`.
        scale: factor of the logits.
        rows: how many of the last rows.

    Returns:
        `[T]`, float32; sums to 1.
    """
    length = query.shape[2]
    last = torch.arange(max(0, length - rows), length, device=query.device)
    projected = Projected(query[0], key[0], key[0], scale)
    return projected.weights(last).mean(dim=(0, 1))


def _record(
    received: dict[int, Tensor], layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float
) -> None:
    """Note what the tokens of a layer receive."""
    received[layer] = received_by(query, key, scale)


def _attention_modules(model: Any, rule: SinkRule) -> dict[int, nn.Module]:
    """The attention modules of the rule's layers."""
    layers = list(getattr(model.get_decoder(), "layers", []))
    last = len(layers) - 1 if rule.last_layer is None else rule.last_layer
    found = {number: getattr(layer, "self_attn", None) for number, layer in enumerate(layers)}
    modules = {
        number: module
        for number, module in found.items()
        if module is not None and rule.first_layer <= number <= last
    }
    if not modules:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no self_attn in layers {rule.first_layer}..{last}; leave "
            "the check out"
        )
    return modules
