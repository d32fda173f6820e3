"""Choose rows from scores. Pure tensor functions shared by the methods."""

import torch
from torch import Tensor


def top_rows(scores: Tensor, k: int) -> Tensor:
    """The k highest-scored rows, ascending; equal scores go to the earlier row.

    Args:
        scores: `[I, N]`, higher is kept.
        k: rows to keep, 1 <= k <= N.

    Returns:
        `[I, k]` int64, ascending.
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return order[:, :k].sort(dim=-1).values


def other_rows(kept: Tensor, n: int) -> Tensor:
    """The rows that were not kept, ascending.

    Args:
        kept: `[I, k]` int64, unique in each image.
        n: rows of an image.

    Returns:
        `[I, n - k]` int64.
    """
    free = torch.ones(kept.shape[0], n, dtype=torch.bool, device=kept.device)
    free.scatter_(1, kept, False)
    return free.nonzero()[:, 1].view(kept.shape[0], n - kept.shape[1])


def merged_into(n: int, source: Tensor, target: Tensor) -> Tensor:
    """Where each row went if some were merged into others and the rest stayed.

    Args:
        n: rows of an image.
        source: rows that were merged, `[I, r]` int64, unique in each image.
        target: rows they went into, `[I, r]` int64.

    Returns:
        `[I, n]` int64.
    """
    places = torch.arange(n, device=source.device).repeat(source.shape[0], 1)
    return places.scatter_(1, source, target)


def order_scores(order: Tensor, n: int) -> Tensor:
    """Scores of a greedy choice: higher the earlier a row was picked, 0 if it never was.

    Args:
        order: rows in the order of picking, `[I, k]` int64.
        n: rows of an image.

    Returns:
        `[I, n]` float32.
    """
    images, k = order.shape
    rank = torch.arange(k, 0, -1, dtype=torch.float32, device=order.device) / k
    scores = torch.zeros(images, n, device=order.device)
    return scores.scatter_(1, order, rank.expand(images, k))


def take_rows(values: Tensor, rows: Tensor) -> Tensor:
    """Gather rows of `[I, N, d]` by `[I, k]` into `[I, k, d]`."""
    return values.gather(1, rows.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
