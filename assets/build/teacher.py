"""A trained LLaVA as a teacher: its projected tokens and its language model to start from.

In: the folder of an exported small LLaVA. Out: visual tokens for imitation; a new model whose
language model answers from such tokens. Qwen's language models have the same blocks with biases on
queries, keys and values, which start at zero. It knows nothing of losses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from attention import use_plain_products
from families import Family, family
from torch import Tensor
from transformers import LlavaForConditionalGeneration


class Teacher:
    """A frozen LLaVA."""

    def __init__(self, folder: Path) -> None:
        """Loads the exported model."""
        model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        use_plain_products(model)
        self.model = model.eval().requires_grad_(False)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Projected visual tokens [B, 196, 128] of uint8 images [B, 112, 112, 3]."""
        return family("llava").encode(self.model, images).features

    @torch.no_grad()
    def start(self, model: Any, kind: Family) -> None:
        """Copies the language model, word by word, and the projector's last layer.

        Args:
            model: a new model of another family, changed in place.
            kind: its family.
        """
        source = self.model.model.language_model.state_dict()
        language = model.model.language_model
        words = source.pop("embed_tokens.weight")
        missing, unknown = language.load_state_dict(source, strict=False)
        if unknown or any("bias" not in name for name in missing if "embed" not in name):
            raise ValueError(f"the language models differ: {missing}, {unknown}")
        for name in missing:
            if "bias" in name:
                language.get_parameter(name).zero_()
        language.embed_tokens.weight[: len(words)] = words
        last, wanted = kind.output_layer(model), self.model.model.multi_modal_projector.linear_2
        last.weight[:, : wanted.in_features] = wanted.weight
        last.bias.copy_(wanted.bias)
