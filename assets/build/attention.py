"""A plain matrix-product attention for training on a CPU.

In: queries, keys and values of any Hugging Face attention layer. Out: the same result as SDPA up
to rounding. PyTorch's fused CPU kernel has a slow backward for heads this small, and its softmax
costs more than the products; here each direction passes over the scores once. Only training uses
it. The largest score is only subtracted where the exponential might overflow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "plain_products"


STEP = 32
# A score whose exponential is far from overflow, and whose negative is far from underflow.
HIGHEST = 60.0


def _padded(rows: Tensor) -> Tensor:
    """Appends zero rows up to a multiple of 32, at which the products run twice as fast."""
    return F.pad(rows, (0, 0, 0, -rows.shape[-2] % STEP))


class Attend(torch.autograd.Function):
    """softmax(Q K^T + mask) V of [B, H, S, d] tensors; Q is scaled already."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Weighted values [B, H, S, d].

        A column of ones beside the values yields the sums of the weights; it is zero in the rows
        appended here, so that they count for nothing.
        """
        length = query.shape[-2]
        ones = value.new_ones(*value.shape[:-1], 1)
        query, key, value = (_padded(x) for x in (query, key, torch.cat([value, ones], -1)))
        weights = query @ key.transpose(-1, -2)
        if mask is not None:
            weights[..., :length, :length] += mask
        if (query.norm(dim=-1).amax(-1) * key.norm(dim=-1).amax(-1) > HIGHEST).any():
            weights -= weights[..., :length].amax(-1, keepdim=True)
        weights.exp_()
        out = weights @ value
        out, total = out[..., :-1] / out[..., -1:], out[..., -1:]
        ctx.save_for_backward(query, key, value, weights, out, total)
        return out[..., :length, :]

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of query, key and value."""
        query, key, value, weights, out, total = ctx.saved_tensors
        length = grad.shape[-2]
        scaled = _padded(grad) / total
        inner = (scaled * out).sum(-1, keepdim=True)
        scores = torch.cat([scaled, -inner], -1) @ value.transpose(-1, -2)
        scores *= weights
        to_query = scores @ key
        to_key = (query.transpose(-1, -2) @ scores).transpose(-1, -2)
        to_value = (scaled.transpose(-1, -2) @ weights).transpose(-1, -2)
        return *(x[..., :length, :] for x in (to_query, to_key, to_value)), None


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
        mask = attention_mask
        if mask is None and getattr(module, "is_causal", False):
            mask = query.new_full((query.shape[-2], key.shape[-2]), -1e9).triu(1)
        mask = mask if mask is None else mask.to(value.dtype)
        out = Attend.apply(query, key, value, mask)
    return out.transpose(1, 2).contiguous(), None


def use_plain_products(model: PreTrainedModel) -> None:
    """Registers the function and switches a model to it."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, plain_products)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
