"""Keep the most diverse tokens: greedy max-min distance (DivPrune).

In: projected features, `[I, N, D]`. Out: the K rows of farthest-point sampling under the cosine
distance; the first is the row whose nearest neighbour is farthest (DivPrune, arXiv 2503.02175,
algorithm 1; written from the formula). Attention is not used, so any encoder will do. It keeps more
background than attention methods and is known to raise CHAIR on long captions.
"""

from typing import Any

import torch
from torch import Tensor

from lvlm_prune.methods.contract import Method, Selection
from lvlm_prune.methods.similarity import cosine_similarity
from lvlm_prune.select import order_scores
from lvlm_prune.signals import Signals


def max_min_order(features: Tensor, k: int) -> Tensor:
    """The rows in the order they are picked.

    Args:
        features: `[I, N, D]`, any dtype; distances are computed in float32.
        k: rows to pick, 1 <= k <= N.

    Returns:
        `[I, k]` int64, in order of picking.
    """
    distance = cosine_similarity(features).neg_().add_(1)
    itself = distance.diagonal(dim1=1, dim2=2)
    itself.fill_(torch.inf)
    nearest = torch.full_like(distance[:, 0], torch.inf)
    pick = distance.amin(dim=-1).argmax(dim=-1)
    # Taking a row brings its own distance to the kept ones below all others.
    itself.fill_(-torch.inf)
    order = torch.empty(features.shape[0], k, dtype=torch.int64, device=features.device)
    images = torch.arange(features.shape[0], device=features.device)
    for step in range(k):
        order[:, step] = pick
        nearest = torch.minimum(nearest, distance[images, pick])
        pick = nearest.argmax(dim=-1)
    return order


def select(signals: Signals, keep: int, **options: Any) -> Selection:
    """Keep the picked rows; a row's score is higher the earlier it was picked, 0 if never."""
    order = max_min_order(signals.features, keep)
    return Selection(
        kept=order.sort(dim=-1).values, scores=order_scores(order, signals.features.shape[1])
    )


METHOD = Method(
    name="divprune",
    summary="the most diverse tokens by max-min cosine distance",
    source="DivPrune, arXiv 2503.02175",
    select=select,
)
