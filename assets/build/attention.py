"""A plain matrix-product attention for training on a CPU.

In: queries, keys and values of any Hugging Face attention layer. Out: the same result as SDPA up
to rounding. PyTorch's fused CPU kernel has a slow backward for heads this small; two matrix
products in bfloat16 take less than half of its time. Only training uses it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "plain_products"


def plain_products(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of [B, H, S, d] tensors; a mask is added to the scores. Returns [B, S, H, d]."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast("cpu", enabled=False):
        query, key = (query * scale).to(value.dtype), key.to(value.dtype)
        scores = query @ key.transpose(-1, -2)
        if attention_mask is not None:
            scores = scores + attention_mask.to(scores.dtype)
        elif getattr(module, "is_causal", False):
            future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(future, float("-inf"))
        out = scores.softmax(-1) @ value
    return out.transpose(1, 2).contiguous(), None


def use_plain_products(model: PreTrainedModel) -> None:
    """Registers the function and switches a model to it."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, plain_products)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
