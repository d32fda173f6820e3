"""Features of unequal prompts for models that want them as one tensor.

InternVL reads `pooler_output` as a tensor `[tiles, N, D]`, and `generate` repeats its rows for
beams. Prompts that keep different numbers of tokens fit in no such tensor, so they travel as a list
with one entry a prompt, which `generate` repeats just as well, and become a tensor when the model
moves, flattens or reshapes it. Knows nothing about models.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput


class RaggedFeatures(list[Tensor]):
    """Features of each prompt, `[K, D]` with its own K, that answer like a tensor of one row."""

    def joined(self) -> Tensor:
        """All features, `[1, sum K, D]`."""
        return torch.cat(list(self))[None]

    def __getattr__(self, name: str) -> Any:
        """What a model asks of a tensor: `shape`, `to`, `flatten`, `reshape` and the like."""
        # Copying and pickling look for private names, which are the list's own business.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.joined(), name)


@dataclass
class RaggedOutput(ModelOutput):
    """An encoder output whose features stay ragged when `generate` replaces them by a list."""

    pooler_output: Any = ()

    def __post_init__(self) -> None:
        # ModelOutput's own would take a list for pairs of names and values.
        self["pooler_output"] = self.pooler_output

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "pooler_output" and not isinstance(value, RaggedFeatures):
            value = RaggedFeatures(value)
        super().__setattr__(name, value)


def encoder_output(
    output_type: type[ModelOutput],
    features: list[Tensor],
    deepstack: list[list[Tensor]],
    tensor: bool,
) -> ModelOutput:
    """The encoder output that a model takes its features from.

    Args:
        output_type: class of the model's own encoder output.
        features: one entry a prompt, `[K, D]`.
        deepstack: for each DeepStack layer, one entry a prompt; often none.
        tensor: whether the model wants one tensor instead of a list.
    """
    if tensor and len({len(rows) for rows in features}) > 1:
        return RaggedOutput(pooler_output=features)
    pooled = torch.stack(features) if tensor else features
    if not deepstack:
        return output_type(pooler_output=pooled)
    return output_type(pooler_output=pooled, deepstack_features=deepstack)
