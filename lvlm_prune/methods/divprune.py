"""Keep the most diverse tokens: greedy max-min distance (DivPrune).

In: projected features, `[I, N, D]`. Out: the K rows of farthest-point sampling under the cosine
distance; the first is the row whose nearest neighbour is farthest (DivPrune, arXiv 2503.02175,
algorithm 1; written from the formula). Attention is not used, so any encoder will do. It keeps more
background than attention methods and is known to raise CHAIR on long captions.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lvlm_prune.methods.contract import Method, Selection
from lvlm_prune.signals import Signals


def max_min_order(features: Tensor, k: int) -> Tensor:
    """The rows in the order they are picked.

    Args:
        features: `[I, N, D]`, any dtype; distances are computed in float32.
        k: rows to pick, 1 <= k <= N.

    Returns:
        `[I, k]` int64, in order of picking.
    """
    unit = normalize(features.detach().float(), dim=-1)
    distance = 1 - unit @ unit.transpose(1, 2)
    # The smallest distance of a row is the one to itself, so the second smallest is its neighbour.
    neighbour = distance.topk(min(2, distance.shape[-1]), dim=-1, largest=False).values[..., -1]
    pick = neighbour.argmax(dim=-1)
    order = torch.empty(features.shape[0], k, dtype=torch.int64, device=features.device)
    images = torch.arange(features.shape[0], device=features.device)
    nearest = torch.full_like(neighbour, torch.inf)
    for step in range(k):
        order[:, step] = pick
        nearest = torch.minimum(nearest, distance[images, pick])
        nearest[images, pick] = -torch.inf
        pick = nearest.argmax(dim=-1)
    return order


def select(signals: Signals, keep: int, **options: Any) -> Selection:
    """Keep the picked rows; a row's score is higher the earlier it was picked, 0 if never."""
    order = max_min_order(signals.features, keep)
    rank = torch.arange(keep, 0, -1, dtype=torch.float32, device=order.device) / keep
    scores = torch.zeros(signals.features.shape[:2], device=order.device)
    scores.scatter_(1, order, rank.expand_as(order).contiguous())
    return Selection(kept=order.sort(dim=-1).values, scores=scores)


METHOD = Method(
    name="divprune",
    summary="the most diverse tokens by max-min cosine distance",
    source="DivPrune, arXiv 2503.02175",
    select=select,
)
