"""Take tokens by attention and skip those too similar to a taken one (AgilePruner).

In: the attention row of the projected encoder layer `[I, H, N]` and the encoder rows `[I, N, d]`.
Out: K rows. Candidates are taken by attention; the i-th one taken removes all candidates whose
cosine distance to it is below

    tau_i = min(i * erank / erank_average * 0.01, tau_max),

where erank is the effective rank of the image's encoder rows, exp of the entropy of the singular
values over their sum: an image of many things gets diverse tokens, a simple one keeps its details
(AgilePruner, arXiv 2603.01236, adaptive similarity thresholds; no official code is released, this
is written from the formula). Exactly K rows stay: when no candidate is left, the removed ones
follow by attention.

Two constants belong to the model and are not part of the published formula. `erank_average` is the
mean effective rank over a set of images; 100 is a stand-in for CLIP ViT-L/14-336, `effective_rank`
measures it for another encoder or image set. `tau_max` limits the threshold; 0.3 is a stand-in
that the 30th token reaches in an average image. The paper's numbers were made with values of its
own. `step` is the formula's 0.01.

Where an encoder has no CLS token, received attention takes the place of its attention, at the
nearest layer that attends globally.
"""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.methods.contract import EncoderShape, Method, Selection, attention_request
from lvlm_prune.methods.similarity import cosine_similarity, row_products
from lvlm_prune.signals import SignalRequest, Signals

POSITIVE = ("erank_average", "tau_max", "step")


def effective_rank(rows: Tensor) -> Tensor:
    """Exp of the entropy of the singular values over their sum, between 1 and min(N, d).

    Args:
        rows: `[I, N, d]`.

    Returns:
        `[I]` float32.
    """
    # In float64, because the square roots of float32's rounding would pass for singular values.
    rows = rows.detach().double()
    across = rows if rows.shape[1] <= rows.shape[2] else rows.transpose(1, 2)
    values = torch.linalg.eigvalsh(row_products(across)).clamp(min=0).sqrt()
    share = values / values.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    return (-torch.xlogy(share, share).sum(dim=-1)).exp().float()


def thresholded_order(similarity: Tensor, scores: Tensor, tau: Tensor) -> Tensor:
    """Rows in the order in which they are taken.

    Args:
        similarity: cosine similarity of the rows, `[I, N, N]`.
        scores: `[I, N]`, higher is taken first; equal scores go to the earlier row.
        tau: cosine distance below which candidates are removed by the i-th row, `[I, k]`.

    Returns:
        `[I, k]` int64.
    """
    n, k = scores.shape[1], tau.shape[1]
    images = torch.arange(scores.shape[0], device=scores.device)
    order = torch.empty(scores.shape[0], k, dtype=torch.int64, device=scores.device)
    place = scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    # Removed rows stand behind all candidates, taken ones behind all others.
    for step in range(k):
        pick = place.argmin(dim=-1)
        order[:, step] = pick
        near = 1 - similarity[images, pick] < tau[:, step, None]
        place = torch.where(near & (place < n), place + n, place)
        place[images, pick] = 2 * n
    return order


def request(shape: EncoderShape, options: Mapping[str, Any]) -> SignalRequest:
    """Ask for the attention row of the projected layer."""
    for name in POSITIVE:
        value = options[name]
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, got {value!r}")
        if not float(value) > 0:
            raise ValueError(f"{name} must be more than 0, got {value!r}")
    return attention_request(shape, [shape.feature_layer])


def select(signals: Signals, keep: int, **options: Any) -> Selection:
    """Keep the taken rows; their scores are the attention that orders them."""
    scores = signals.attention[:, 0].mean(dim=1)
    ratio = effective_rank(signals.hidden) / options["erank_average"]
    taken = torch.arange(1, keep + 1, device=ratio.device)
    tau = (taken * ratio.unsqueeze(-1) * options["step"]).clamp(max=options["tau_max"])
    order = thresholded_order(cosine_similarity(signals.hidden), scores, tau)
    return Selection(kept=order.sort(dim=-1).values, scores=scores)


METHOD = Method(
    name="agilepruner",
    summary="top attention without near duplicates, stricter the more diverse the image",
    source="AgilePruner, arXiv 2603.01236",
    select=select,
    request=request,
    options={"erank_average": 100.0, "tau_max": 0.3, "step": 0.01},
)
