"""Keep the most attended patches and add to each the patches like it (PruMerge, PruMerge+).

In: the CLS row of the last encoder layer as one head over the full width, `[I, N]`, that layer's
keys `[I, H, N, d_head]`, and the projected encoder rows `[I, N, d]`. Out: K merged encoder rows
(LLaVA-PruMerge, arXiv 2403.15388; official code 097c041). With a the CLS row and x the encoder
rows, a kept patch i becomes `x_i + sum of a_j x_j` over the 32 other patches whose keys are
nearest to its own by cosine, weights not normalised, as released; one more row is the sum of
`a_j x_j` over the dropped patches. PruMerge keeps the patches with the largest a; PruMerge+ adds
patches at a regular stride.

Differences from the official code: the number of tokens is `keep` and not the number of outliers
above Q3 + 1.5 IQR of a, which `outlier_count` gives to who wants it; the stride of PruMerge+ is the
official one where a quarter of the rows are outliers, wider where the samples would take more than
nine tenths of the rows, and attention fills up to K exactly (the official set wherever K and the
stride are those of the official output); samples do not stop at patch 575; rows stand at their
patches in raster order, not by attention, and the row of the dropped ones takes the first free
place. There is no such row where K is 1 or N. If the dropped ones have no attention at all, that
row is their mean.

Where an encoder has no CLS token, received attention takes its place.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.methods.contract import (
    EncoderShape,
    Method,
    Selection,
    attention_request,
)
from lvlm_prune.methods.similarity import unit_rows
from lvlm_prune.select import other_rows, take_rows, top_rows
from lvlm_prune.signals import SignalRequest, Signals

LARGEST_SAMPLED_SHARE = 0.9


def outlier_count(attention: Tensor) -> Tensor:
    """Number of patches that the official code keeps, `[I, N]` to `[I]` int64.

    They are the outliers of the box-plot rule: attention above Q3 + 1.5 (Q3 - Q1).
    """
    low, high = attention.quantile(attention.new_tensor([0.25, 0.75]), dim=-1)
    return (attention > (high + 1.5 * (high - low)).unsqueeze(-1)).sum(dim=-1)


def spatial_samples(n: int, count: int) -> Tensor:
    """Patches at a regular stride, of which PruMerge+ adds those that attention did not choose.

    Args:
        n: patches of the image.
        count: patches to keep in all; the samples are at most nine tenths of them.

    Returns:
        `[S]` int64, ascending; none where count is 1.
    """
    most = int(LARGEST_SAMPLED_SHARE * count)
    if most == 0:
        return torch.arange(0)
    outliers = max(1, count // 4)
    return torch.arange(0, n, max(n // outliers // 3, -(-n // most)))


def merged_rows(
    hidden: Tensor, keys: Tensor, attention: Tensor, kept: Tensor, neighbours: int
) -> Tensor:
    """Add to each kept row its nearest rows, weighted by their attention.

    Args:
        hidden: encoder rows, `[I, N, d]`.
        keys: `[I, H, N, d_head]`.
        attention: `[I, N]`.
        kept: `[I, k]`.
        neighbours: rows added to each, kept or not; at most all others.

    Returns:
        `[I, k, d]` in the dtype of `hidden`; sums are float32.
    """
    unit = unit_rows(keys.transpose(1, 2).flatten(2))
    similarity = take_rows(unit, kept) @ unit.transpose(1, 2)
    similarity.scatter_(2, kept.unsqueeze(-1), -torch.inf)
    order = similarity.argsort(dim=-1, descending=True, stable=True)
    nearest = order[..., : min(neighbours, hidden.shape[1] - 1)]
    weights = attention.float().unsqueeze(1).expand_as(similarity).gather(2, nearest)
    weights = torch.zeros_like(similarity).scatter_(2, nearest, weights)
    rows = take_rows(hidden, kept).float() + weights @ hidden.float()
    return rows.to(hidden.dtype)


def dropped_row(hidden: Tensor, attention: Tensor, kept: Tensor) -> Tensor:
    """The sum of the dropped rows, each times its attention, `[I, 1, d]`."""
    dropped = torch.ones_like(attention, dtype=torch.float32).scatter_(1, kept, 0.0)
    weights = attention.float() * dropped
    mean = dropped / dropped.sum(dim=1, keepdim=True).clamp(min=1)
    weights = weights.where(weights.sum(dim=1, keepdim=True) > 0, mean)
    return (weights.unsqueeze(1) @ hidden.float()).to(hidden.dtype)


def request(shape: EncoderShape, options: Mapping[str, Any]) -> SignalRequest:
    """Ask for the CLS row over the full width and the keys of the last layer."""
    neighbours = options["neighbours"]
    if isinstance(neighbours, bool) or not isinstance(neighbours, int) or neighbours < 0:
        raise ValueError(
            f"neighbours must be a whole number of 0 or more, got {neighbours!r}; 32 is usual, 0 "
            "merges only the dropped patches"
        )
    last = shape.depth - 1
    if shape.has_cls:
        return SignalRequest(joint_layer=last, keys_layer=last)
    return replace(attention_request(shape, [last]), keys_layer=shape.global_layer(last))


def select(signals: Signals, keep: int, **options: Any) -> Selection:
    """PruMerge: keep the most attended patches and merge."""
    return _merge(signals, keep, options["neighbours"], sampled=False)


def select_plus(signals: Signals, keep: int, **options: Any) -> Selection:
    """PruMerge+: keep patches at a regular stride and the most attended others, and merge."""
    return _merge(signals, keep, options["neighbours"], sampled=True)


def _merge(signals: Signals, keep: int, neighbours: int, sampled: bool) -> Selection:
    """Choose the patches, merge the others into them and put the rows in raster order."""
    assert signals.keys is not None
    hidden, n = signals.hidden, signals.hidden.shape[1]
    scores = signals.joint if signals.joint is not None else signals.attention[:, 0].mean(dim=1)
    with_dropped = 1 < keep < n
    count = keep - int(with_dropped)
    ranking = scores.clone()
    if sampled:
        ranking[:, spatial_samples(n, count).to(scores.device)] = torch.inf
    kept = top_rows(ranking, count)
    rows = merged_rows(hidden, signals.keys, scores, kept, neighbours)
    changed = torch.full_like(kept, neighbours > 0, dtype=torch.bool)
    if with_dropped:
        free = other_rows(kept, n)[:, :1]
        rows = torch.cat([rows, dropped_row(hidden, scores, kept)], dim=1)
        kept = torch.cat([kept, free], dim=1)
        changed = torch.cat([changed, torch.ones_like(free, dtype=torch.bool)], dim=1)
        kept, order = kept.sort(dim=-1)
        rows, changed = take_rows(rows, order), changed.gather(1, order)
    return Selection(kept=kept, scores=scores, hidden=rows, replaced=changed)


METHOD = Method(
    name="prumerge",
    summary="top CLS attention, similar patches added to each",
    source="LLaVA-PruMerge, arXiv 2403.15388",
    select=select,
    request=request,
    options={"neighbours": 32},
)
PLUS = Method(
    name="prumerge_plus",
    summary="prumerge with evenly spaced patches",
    source="LLaVA-PruMerge+, arXiv 2403.15388",
    select=select_plus,
    request=request,
    options={"neighbours": 32},
)
