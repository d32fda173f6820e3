"""Rows and column sums of an attention matrix that was never formed.

In: the query and key of one attention module, `[I, H, T, d]`, as they enter its fused kernel (after
any rotary embedding or normalisation), and its scale. Out: the few numbers a method ranks by, in
float32, equal to what eager attention would have given. Knows nothing about models or tokens other
than that row 0 may be a CLS token.
"""

import torch
from torch import Tensor

# Upper limit of the block of attention weights that is held at one time, in elements (16 MiB).
BLOCK_ELEMENTS = 4 * 1024 * 1024


def cls_row(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Attention of the CLS query (row 0) to the patches.

    Args:
        query: `[I, H, N + 1, d]`.
        key: `[I, H, N + 1, d]`.
        scale: factor of the logits, usually d ** -0.5.

    Returns:
        `[I, H, N]`, float32. The softmax runs over all N + 1 keys, then the CLS column is removed,
        so a row sums to less than 1.
    """
    return _weights(query[:, :, :1], key, scale)[:, :, 0, 1:]


def joint_cls_row(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Attention of the CLS query to the patches, as one head over the full width.

    Args:
        query: `[I, H, N + 1, d]`.
        key: `[I, H, N + 1, d]`.
        scale: factor of a head's logits, d ** -0.5; the joint one is (H d) ** -0.5.

    Returns:
        `[I, N]`, float32; the softmax runs over all N + 1 keys, then the CLS column is removed.
    """
    logits = (query[:, :, :1].float() * key.float()).sum(dim=(1, 3))
    return (logits * scale * query.shape[1] ** -0.5).softmax(dim=-1)[:, 1:]


def received_attention(query: Tensor, key: Tensor, scale: float, rows: int | None = None) -> Tensor:
    """Attention that each key receives, averaged over heads and queries.

    Args:
        query: `[I, H, T, d]`.
        key: `[I, H, T, d]`.
        scale: factor of the logits.
        rows: None for all T queries (exact, in blocks), or a number of evenly spaced queries.

    Returns:
        `[I, T]`, float32, each row sums to 1.
    """
    if rows is not None and rows < query.shape[2]:
        step = torch.arange(rows, device=query.device) * query.shape[2] // rows
        query = query[:, :, step]
    images, heads, length, _ = query.shape
    block = _block_rows(images, heads, key.shape[2])
    total = torch.zeros(images, key.shape[2], dtype=torch.float32, device=key.device)
    for chunk in query.split(block, dim=2):
        total += _weights(chunk, key, scale).sum(dim=(1, 2))
    return total / (heads * length)


def received_sinks(query: Tensor, key: Tensor, scale: float, ratio: float) -> Tensor:
    """Mark the tokens that receive far more attention than the average token.

    Args:
        query: `[I, H, T, d]`.
        key: `[I, H, T, d]`.
        scale: factor of the logits.
        ratio: a token is a sink if it receives more than this many times the mean.

    Returns:
        Bool mask, `[I, T]`; an image may have none.
    """
    received = received_attention(query, key, scale)
    return received > ratio * received.mean(dim=-1, keepdim=True)


def sink_rows(query: Tensor, key: Tensor, scale: float, sinks: Tensor) -> Tensor:
    """Mean of the attention rows of the sink tokens.

    Args:
        query: `[I, H, T, d]`.
        key: `[I, H, T, d]`.
        scale: factor of the logits.
        sinks: bool mask of the queries, `[I, T]`; an image without any takes all its tokens, which
            makes the row the received attention of each head.

    Returns:
        `[I, H, T]`, float32, each row sums to 1.
    """
    images, heads, length, width = query.shape
    asked = sinks | ~sinks.any(dim=-1, keepdim=True)
    share = asked.float() / asked.sum(dim=-1, keepdim=True)
    # Asked queries first, so that only as many as the image with the most of them are computed.
    order = asked.int().argsort(dim=-1, descending=True, stable=True)
    order = order[:, : int(asked.sum(dim=-1).max())]
    share = share.gather(1, order)
    chosen = query.gather(2, order[:, None, :, None].expand(-1, heads, -1, width))
    total = torch.zeros(images, heads, length, dtype=torch.float32, device=key.device)
    block = _block_rows(images, heads, length)
    for chunk, weight in zip(chosen.split(block, dim=2), share.split(block, dim=1), strict=True):
        total += (weight[:, None, None] @ _weights(chunk, key, scale)).squeeze(2)
    return total


def _block_rows(images: int, heads: int, length: int) -> int:
    """Query rows whose attention weights are held at one time."""
    return max(1, BLOCK_ELEMENTS // max(1, images * heads * length))


def _weights(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Softmax weights in float32 for some queries, `[I, H, rows, T]`."""
    logits = query.float() @ key.float().transpose(-1, -2) * scale
    return logits.softmax(dim=-1)
