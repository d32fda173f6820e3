"""Keep the most attended patches and the most distinct of the others (VisPruner).

In: the CLS row `[I, H, N]` and the rows `[I, N, d]` of the projected encoder layer. Out: K patches,
nothing merged: `important = int(K * important_ratio)` by the mean attention over heads, and the
rest after removing duplicates (VisPruner, arXiv 2412.01818; official code aefa01a). The
remaining patches, in order of descending attention, are split into those at even and those at odd
places; the 8 even ones whose largest cosine similarity to an odd one is highest are dropped, the
other even ones, most similar first, are put before the odd ones, and this repeats until K patches
are left. `important_ratio` is 0.5 in the paper and 0.75 for its 64 tokens on MME.

Differences from the official code: it needs an even number of remaining patches and fails for
others (N=576 with K=58), here the even places have one more then; of LLaVA-NeXT it takes K patches
of each tile, here that is the config's `per="tile"` and the tiles of an image are ranked together
otherwise. The repeated sorting is chaotic: with the official code, going from float32 to float64
changed 23 of 64 kept patches, so the same image may keep other patches on other hardware or in
another dtype. Similarities are computed once, in float32.

Where an encoder has no CLS token, received attention takes its place.
"""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.methods.contract import EncoderShape, Method, Selection, attention_request
from lvlm_prune.methods.similarity import cosine_similarity
from lvlm_prune.select import top_rows
from lvlm_prune.signals import SignalRequest, Signals

DROPPED_AT_ONCE = 8


def distinct_rows(similarity: Tensor, order: Tensor, keep: int) -> Tensor:
    """Remove duplicates until `keep` rows are left.

    Args:
        similarity: of all pairs of rows, `[I, N, N]`.
        order: the candidates, most attended first, `[I, R]`.
        keep: candidates to keep, 0 <= keep <= R.

    Returns:
        `[I, keep]` int64, in no particular order.
    """
    images, n, _ = similarity.shape
    if keep == 0:
        return order[:, :0]
    first = torch.arange(images, device=order.device).unsqueeze(1) * n
    while (rest := order.shape[1]) > keep:
        even, odd = order[:, ::2], order[:, 1::2]
        drop = min(DROPPED_AT_ONCE, rest - keep, even.shape[1])
        # Whole rows with the other columns masked: far faster than gathering the odd columns.
        masked = torch.full_like(similarity[:, 0], -torch.inf).scatter_(1, odd, 0.0)
        rows = similarity.view(images * n, n).index_select(0, (even + first).flatten())
        nearest = rows.view(images, -1, n).add_(masked.unsqueeze(1)).amax(dim=-1)
        similar = nearest.argsort(dim=-1, descending=True, stable=True)
        order = torch.cat([even.gather(1, similar[:, drop:]), odd], dim=1)
    return order


def request(shape: EncoderShape, options: Mapping[str, Any]) -> SignalRequest:
    """Ask for the CLS row of the projected layer."""
    ratio = options["important_ratio"]
    if isinstance(ratio, bool) or not isinstance(ratio, Real) or not 0 <= float(ratio) <= 1:
        raise ValueError(
            f"important_ratio must be in [0, 1], got {ratio!r}; 0.5 is the paper's, 1 keeps the "
            "most attended patches only"
        )
    return attention_request(shape, [shape.feature_layer])


def select(signals: Signals, keep: int, **options: Any) -> Selection:
    """Keep the important rows and the distinct ones of the rest."""
    scores = signals.attention[:, 0].mean(dim=1)
    order = scores.argsort(dim=-1, descending=True, stable=True)
    important = int(keep * options["important_ratio"])
    if important == keep:
        return Selection(kept=top_rows(scores, keep), scores=scores)
    similarity = cosine_similarity(signals.hidden)
    distinct = distinct_rows(similarity, order[:, important:], keep - important)
    kept = torch.cat([order[:, :important], distinct], dim=1)
    return Selection(kept=kept.sort(dim=-1).values, scores=scores)


METHOD = Method(
    name="vispruner",
    summary="half by CLS attention, half the most distinct of the rest",
    source="VisPruner, arXiv 2412.01818",
    select=select,
    request=request,
    options={"important_ratio": 0.5},
)
