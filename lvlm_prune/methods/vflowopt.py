"""Keep what the ViT sink tokens attend to, and recycle the rest on a coarse grid (VFlowOpt).

In: the mean attention row of the sink tokens of one encoder layer, `[I, H, N]`, and encoder rows
`[I, N, d]`. Out: K rows. Importance is the mean over heads of that row: the few tokens that receive
more than t times the mean attention hold the global view that a CLS token holds elsewhere, so that
an encoder without one (SigLIP) can be asked through them. The dropped tokens of each block of an
a x a grid are averaged, weighted by importance, into the block's most important dropped token
(VFlowOpt, arXiv 2508.05211, importance map and recycling; written from the formulas, none of the
official code 129eeef, which is CC BY-NC, is used).

t is 39.26, the value found for 10 % of LLaVA-OneVision's tokens; `sinks_ratio=None` takes the ViT
sinks by norm in place of attention. Where no token exceeds t times the mean (always so with fewer
tokens than t), all tokens are asked, which is received attention; the official importance is then
not a number. The layer is the projected one. The paper also prunes inside the LLM, which is no part
of this.

The paper adds alpha_v * softmax(entropy of each patch's grey levels), with alpha_v = 0 in that
setting. `importance` can add it; `select` does not, for grey levels are not among the signals.

The side a of the recycling grid is tuned with the other constants in the paper; 4 is the default
here. The recycled rows are part of K, at most half of it, so that small budgets get a coarser grid
or none. A block without dropped tokens leaves its place to the next most important token.
"""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.methods.contract import EncoderShape, Method, Selection, whole_number
from lvlm_prune.methods.lattice import grid_blocks
from lvlm_prune.select import take_rows, top_rows
from lvlm_prune.signals import SignalRequest, Signals

SINKS_RATIO = 39.26
LEAST_WEIGHT = 1e-30  # tokens whose attention vanished in float32 still weigh the same


def importance(given: Tensor, entropy: Tensor | None = None, alpha_v: float = 0.0) -> Tensor:
    """Importance of each token.

    Args:
        given: mean attention row of the sink tokens, `[I, H, N]`.
        entropy: entropy of each patch's grey levels, `[I, N]`, or None.
        alpha_v: weight of its softmax.

    Returns:
        `[I, N]` float32.
    """
    scores = given.float().mean(dim=1)
    return scores if entropy is None else scores + alpha_v * entropy.float().softmax(dim=-1)


def recycling_sides(grid: tuple[int, int], keep: int, side: int) -> tuple[int, int] | None:
    """Blocks (a, b) of the recycling grid, at most half as many as rows are kept; None for none."""
    for a in range(side, 0, -1):
        sides = (min(a, grid[0]), min(a, grid[1]))
        if sides[0] * sides[1] <= keep // 2:
            return sides
    return None


def recycled_rows(
    hidden: Tensor, scores: Tensor, block: Tensor, keep: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keep the most important rows and one row for the dropped tokens of each block.

    Args:
        hidden: encoder rows, `[I, N, d]`.
        scores: `[I, N]` float32, positive.
        block: block of each token, `[N]` int64 in 0..G - 1, none empty.
        keep: rows to return, G < keep <= N.

    Returns:
        The kept rows `[I, K]` ascending, their encoder rows `[I, K, d]`, which of them stand for a
        block, `[I, K]` bool, and the row that each row went into, `[I, N]` int64.
    """
    member = torch.nn.functional.one_hot(block).T.bool()
    top = torch.zeros_like(scores, dtype=torch.bool)
    top.scatter_(1, top_rows(scores, keep - member.shape[0]), True)
    inside = scores.masked_fill(top, -torch.inf).unsqueeze(1).where(member, -torch.inf)
    best, place = inside.max(dim=-1)
    target = (
        torch.zeros_like(top, dtype=torch.int64).scatter_add_(1, place, best.isfinite().long()) > 0
    )
    kept = top_rows(scores.masked_fill(top | target, torch.inf), keep)
    free = torch.ones_like(top).scatter_(1, kept, False) | target
    weight = scores.clamp(min=LEAST_WEIGHT).unsqueeze(1) * (member & free.unsqueeze(1))
    weight = weight / weight.sum(dim=-1, keepdim=True).clamp(min=LEAST_WEIGHT)
    means = (weight @ hidden.float()).to(hidden.dtype)
    replaced = target.gather(1, kept)
    rows = torch.where(
        replaced.unsqueeze(-1), take_rows(means, block[kept]), take_rows(hidden, kept)
    )
    groups = torch.arange(len(block), device=block.device).where(~free, place[:, block])
    return kept, rows, replaced, groups


def request(shape: EncoderShape, options: Mapping[str, Any]) -> SignalRequest:
    """Ask for the attention that sink tokens give in the projected layer."""
    ratio = options["sinks_ratio"]
    if ratio is not None:
        if isinstance(ratio, bool) or not isinstance(ratio, Real):
            raise TypeError(f"sinks_ratio must be a number or None, got {ratio!r}")
        if not 0 < float(ratio) < float("inf"):
            raise ValueError(f"sinks_ratio must be more than 0 and finite, or None; got {ratio!r}")
        ratio = float(ratio)
    if whole_number("recycle", options["recycle"]) < 0:
        raise ValueError(
            f"recycle must be 0 (nothing is recycled) or more blocks a side, "
            f"got {options['recycle']}"
        )
    return SignalRequest(sinks_layer=shape.global_layer(shape.feature_layer), sinks_ratio=ratio)


def select(signals: Signals, keep: int, **options: Any) -> Selection:
    """Keep the most important rows and the recycled ones, in raster order."""
    assert signals.sinks_given is not None
    scores = importance(signals.sinks_given)
    sides = recycling_sides(signals.grid, keep, options["recycle"])
    if sides is None:
        return Selection(kept=top_rows(scores, keep), scores=scores)
    block = grid_blocks(signals.grid, sides).to(scores.device)
    kept, rows, replaced, groups = recycled_rows(signals.hidden, scores, block, keep)
    return Selection(kept=kept, scores=scores, hidden=rows, replaced=replaced, groups=groups)


METHOD = Method(
    name="vflowopt",
    summary="tokens that the ViT sinks attend to, the rest recycled on a coarse grid",
    source="VFlowOpt, arXiv 2508.05211",
    select=select,
    request=request,
    options={"sinks_ratio": SINKS_RATIO, "recycle": 4},
    ranks=False,
    layout=True,
)
