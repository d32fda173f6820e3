"""SparseVLM: the text tokens that are about the image rate it, and dropped tokens are recycled.

In: the attention of the layer before the stage, what entered layer 0, and the hidden states at the
stage. Out: for each image K tokens (SparseVLM, arXiv 2410.04417; official code 26a5f48):

1. Raters are the text tokens behind the image whose share of softmax over text of V T^t, averaged
   over visual tokens, is above the mean (V, T: embeddings of the image and of that text).
2. A visual token's score is the raters' attention to it, averaged over heads and raters.
3. Of the dropped tokens, the best int(0.3 n) + 1 are clustered by DPC-kNN into int(m / 10) + 1
   clusters of m candidates; each cluster's mean goes on as one recycled token.

Budget. A recycled token takes the column and position of its cluster's centre and counts into K: K
is split into kept and recycled tokens as the official rule would, with as many kept ones as it
allows and never fewer than half. The official lists count kept tokens alone and clusters come on
top, so that the same setting has a K that is a little larger:

    name  official lists (after layers 2, 6, 15)  K here (before layers 3, 7, 16 of 32)
    192   300, 200, 110                           309, 204, 113 (the default, as shares of 576)
    128   303, 110, 36                            312, 117, 39
    96    238, 48, 26                             249, 55, 27
    64    66, 30, 17                              82, 32, 18

The names are averages over layers as the authors count them; layers really see 206, 145, 114 and
82 tokens on average, three layers all 576.

Differences from the official code: any budget, not four; no noise in the densities; a cluster's
mean is exact, not sum / (count + 1e-6); recycled tokens stand at their centre's place, where the
official appends them, and positions are kept, where it numbers them anew; where no text token is
above the mean (one token), all rate; each image has raters of its own, which can all see it, where
the official reads one image; the paper's rank-adaptive ratio, which the official code
replaced by lists, is the schedule's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.layers.contract import (
    LayerMethod,
    LayerRequest,
    LayerSelection,
    LayerSignals,
    scaled_stages,
)
from lvlm_prune.layers.density_peaks import cluster, cluster_means
from lvlm_prune.layers.rows import image_weights, rows_behind
from lvlm_prune.layers.top import top_of_each_image

PUBLISHED_DEPTH = 32
CANDIDATE_SHARE = 0.3
CANDIDATES_PER_CLUSTER = 10


def raters(visual: Tensor, text: Tensor) -> Tensor:
    """Text tokens that are about the image.

    Args:
        visual: embeddings `[n, D]`.
        text: embeddings `[R, D]`.

    Returns:
        `[R]` bool, at least one True.
    """
    logits = visual.detach().float() @ text.detach().float().T
    share = logits.softmax(dim=-1).mean(dim=0)
    above = share > share.mean()
    return above if bool(above.any()) else torch.ones_like(above)


def rating_rows(signals: LayerSignals) -> tuple[list[Tensor], list[Tensor]]:
    """For each image columns of its raters, and which rows behind it they are, for the next stage.

    Raters are chosen once, at the first stage, while all visual tokens are there.
    """
    behind = [rows_behind(signals, columns) for columns in signals.images]
    chosen = signals.memory
    if chosen is None:
        embeddings = signals.embeddings
        pairs = zip(signals.images, behind, strict=True)
        chosen = [raters(embeddings[columns], embeddings[rows]) for columns, rows in pairs]
    found = [
        # An image without tokens has no place any more that rows could be behind.
        rows[rates] if len(columns) else rows
        for columns, rows, rates in zip(signals.images, behind, chosen, strict=True)
    ]
    return found, chosen


def split_budget(present: int, keep: int) -> tuple[int, int]:
    """Split a budget into tokens kept as they are and recycled ones, by the official rule.

    Args:
        present: tokens that are there.
        keep: tokens that go on, 0 <= keep <= present.

    Returns:
        Kept and recycled tokens; their sum is `keep`.
    """
    kept = keep
    while kept > (keep + 1) // 2 and kept + _clusters(present - kept) > keep:
        kept -= 1
    return kept, keep - kept


def _candidates(dropped: int) -> int:
    """How many of the dropped tokens are recycled."""
    return min(dropped, int(CANDIDATE_SHARE * dropped) + 1)


def _clusters(dropped: int) -> int:
    """How many tokens the recycled ones become."""
    return _candidates(dropped) // CANDIDATES_PER_CLUSTER + 1 if dropped else 0


def recycle(
    hidden: Tensor, columns: Tensor, ranked: Tensor, keep: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the best tokens of one image and merge the next best into clusters.

    Args:
        hidden: `[T, D]`.
        columns: the image's tokens `[n]`.
        ranked: their scores `[n]`, -inf for those that are ranked last.
        keep: tokens that go on.

    Returns:
        Columns that go on `[keep]`, unsorted; columns of centres `[C]`, out of them; and the
        centres' new rows `[C, D]`.
    """
    order = columns[ranked.sort(descending=True, stable=True).indices]
    kept, clusters = split_budget(len(columns), keep)
    candidates = order[kept : kept + max(clusters, _candidates(len(columns) - kept))]
    if clusters == 0:
        return order[:kept], order[:0], hidden[:0]
    centres, assigned = cluster(hidden[candidates], clusters)
    rows = cluster_means(hidden[candidates], assigned, clusters)
    return torch.cat([order[:kept], candidates[centres]]), candidates[centres], rows


def recycled_selection(signals: LayerSignals, scores: Tensor, keep: Sequence[int]) -> dict:
    """Fields of a selection that recycles: kept, scores, merged and rows."""
    ranked = scores
    if signals.sinks is not None:
        ranked = scores.masked_fill(signals.sinks[signals.visual], -torch.inf)
    parts = ranked.split([len(columns) for columns in signals.images])
    images = [
        recycle(signals.hidden, columns, part, count)
        for columns, part, count in zip(signals.images, parts, keep, strict=True)
    ]
    kept, merged, rows = (torch.cat(tensors) for tensors in zip(*images, strict=True))
    merged, order = merged.sort()
    return {"kept": kept.sort().values, "scores": scores, "merged": merged, "rows": rows[order]}


def select(signals: LayerSignals, keep: Sequence[int], **options: Any) -> LayerSelection:
    """Rank by the raters' attention, one layer before, and recycle."""
    rows, chosen = rating_rows(signals)
    weights = image_weights(signals, signals.previous, rows)
    scores = torch.cat([part.mean(dim=(0, 1)) for part in weights])
    if not options["recycle"]:
        plain = top_of_each_image(signals, scores, keep)
        return LayerSelection(plain.kept, scores, memory=chosen)
    return LayerSelection(**recycled_selection(signals, scores, keep), memory=chosen)


def check(options: Mapping[str, Any]) -> None:
    """Require `recycle` to be a bool."""
    if not isinstance(options["recycle"], bool):
        raise TypeError(f"recycle must be True or False, got {options['recycle']!r}")


def stages(depth: int) -> Mapping[int, float | None]:
    """The official setting named 192, clusters counted."""
    return scaled_stages({3: 309 / 576, 7: 204 / 576, 16: 113 / 576}, PUBLISHED_DEPTH, depth)


METHOD = LayerMethod(
    name="sparsevlm",
    summary="attention of the text tokens about the image; dropped tokens are recycled",
    source="SparseVLM, arXiv 2410.04417",
    select=select,
    stages=stages,
    request=LayerRequest(previous=True, embeddings=True),
    options={"recycle": True},
    ranked=True,
    check=check,
)
