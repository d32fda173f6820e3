"""Keep the tokens of the most probable subset: diverse, and relevant to the question (CDPruner).

In: projected features `[I, N, D]` and, for the relevance, the embeddings of the question. Out: the
K rows of the greedy MAP of a determinantal point process whose kernel is diag(q) S diag(q), with S
the cosine similarity of the features and q the relevance (CDPruner, arXiv 2506.10967, section 3;
official code 9541616; fast greedy MAP of arXiv 1709.05135; written from the formulas).

Relevance, scaled to [0, 1] in each image:
    llm: mean cosine of a token with the LLM's embeddings of the question (default), for any model.
    clip: minus the mean cosine of CLIP's embeddings of token and question; the sign is inverted
        because CLIP's patches resemble a text the less the more they show of it. This is the
        official choice, for LLaVA at every budget, and needs CLIP's text encoder.
    none: 1, a plain determinantal point process.

Where it differs from the official code: relevance is scaled per image, where the official scales
over the batch, so that an image does not depend on its neighbours; all-equal relevances are 1.
Exactly K rows stay: once the kernel's rank is exhausted (largest remaining variance at most 1e-5 of
the largest at the start), the official picks rows twice, here the most relevant remaining rows
follow. Tiles of an image are ranked together, where the official gives every tile the same share.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.methods.contract import EncoderShape, Method, Selection
from lvlm_prune.methods.similarity import LEAST_NORM, cosine_similarity, unit_rows
from lvlm_prune.select import order_scores
from lvlm_prune.signals import SignalRequest, Signals, row_norms

RELEVANCES = ("llm", "clip", "none")
RANK_FLOOR = 1e-5  # below this share of the largest variance, float32 leaves only rounding
EPSILON = 1e-6  # of the official scaling: keeps the least relevant token above 0


def mean_cosine(rows: Tensor, texts: list[Tensor]) -> Tensor:
    """Mean cosine of each row with the pieces of its image's text.

    Args:
        rows: `[I, N, e]`.
        texts: for each image `[T, e]`; an image without text is similar to nothing.

    Returns:
        `[I, N]` float32.
    """
    means = [unit_rows(text).sum(dim=0) / max(1, text.shape[0]) for text in texts]
    rows = rows.detach().float()
    product = (rows @ torch.stack(means).unsqueeze(-1)).squeeze(-1)
    return product / row_norms(rows).clamp(min=LEAST_NORM)


def scaled(relevance: Tensor) -> Tensor:
    """Scale each image's relevances to (0, 1], `[I, N]`; all-equal ones become 1."""
    low, high = relevance.aminmax(dim=-1, keepdim=True)
    return (relevance - low + EPSILON) / (high - low).clamp(min=EPSILON)


def greedy_map_order(similarity: Tensor, quality: Tensor, k: int) -> Tensor:
    """Rows in the order in which they enlarge the kernel's determinant most.

    Args:
        similarity: `[I, N, N]` float32, positive semi-definite.
        quality: `[I, N]` float32, positive.
        k: rows to pick, 1 <= k <= N.

    Returns:
        `[I, k]` int64, in order of picking; rows past the kernel's rank by descending quality.
    """
    images = torch.arange(quality.shape[0], device=quality.device)
    order = torch.empty(quality.shape[0], k, dtype=torch.int64, device=quality.device)
    basis = torch.empty(quality.shape[0], k, quality.shape[1], device=quality.device)
    # Variance of each row given the picked ones; the determinant grows by this factor.
    variance = similarity.diagonal(dim1=1, dim2=2) * quality.square()
    floor = RANK_FLOOR * variance.amax(dim=-1)
    spare = quality.clone()
    for step in range(k):
        largest, pick = variance.max(dim=-1)
        inside = largest > floor
        pick = torch.where(inside, pick, spare.argmax(dim=-1))
        order[:, step] = pick
        row = similarity[images, pick] * quality[images, pick].unsqueeze(-1) * quality
        known = basis[:, :step]
        row -= (known[images, :, pick].unsqueeze(1) @ known).squeeze(1)
        row /= torch.where(inside, largest, torch.inf).sqrt().unsqueeze(-1)
        basis[:, step] = row
        variance -= row.square()
        variance[images, pick] = -torch.inf
        spare[images, pick] = -torch.inf
    return order


def request(shape: EncoderShape, options: Mapping[str, Any]) -> SignalRequest:
    """Ask for the embeddings that the relevance needs."""
    if options["relevance"] not in RELEVANCES:
        raise ValueError(
            f"relevance must be one of {', '.join(RELEVANCES)}; got {options['relevance']!r}"
        )
    return SignalRequest(text=options["relevance"] == "llm", clip=options["relevance"] == "clip")


def relevance_of(signals: Signals, kind: str) -> Tensor:
    """Relevance of each token to the question, `[I, N]` float32 in (0, 1]."""
    if kind == "clip":
        assert signals.clip_image is not None
        assert signals.clip_text is not None
        return scaled(-mean_cosine(signals.clip_image, signals.clip_text))
    if kind == "llm":
        assert signals.text is not None
        return scaled(mean_cosine(signals.features, signals.text))
    return torch.ones(signals.features.shape[:2], device=signals.features.device)


def select(signals: Signals, keep: int, **options: Any) -> Selection:
    """Keep the picked rows; a row's score is higher the earlier it was picked, 0 if never."""
    quality = relevance_of(signals, options["relevance"])
    order = greedy_map_order(cosine_similarity(signals.features), quality, keep)
    return Selection(kept=order.sort(dim=-1).values, scores=order_scores(order, quality.shape[1]))


METHOD = Method(
    name="cdpruner",
    summary="diverse tokens that are relevant to the question, by a determinantal point process",
    source="CDPruner, arXiv 2506.10967",
    select=select,
    request=request,
    options={"relevance": "llm"},
)
