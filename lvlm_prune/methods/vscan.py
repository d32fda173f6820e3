"""Keep the best patches of each window and of the image, and merge the rest into them (VScan).

In: the attention rows of two encoder layers `[I, 2, H, N]`, a shallow one that sees details and the
one that is projected, and projected features `[I, N, D]`. Out: K rows. Half of them are the same
number of patches from each of 4 x 4 windows by the shallow layer, the others the best of the whole
image by the projected layer; every dropped token is then averaged into the kept one whose projected
feature is nearest by cosine (VScan, arXiv 2505.22654, section 3; official code a82450e).

The shallow layer is index 5 of CLIP's 24, and at the same share of other depths. The official code
reads 24 x 24 patches only, so 6 x 6 a window; other grids are cut into as many windows, of nearly
equal size. The official setting for LLaVA-1.5 is 96 tokens here, cut to 32 at layer 16 of the LLM,
which is a stage of its own and no part of this.

Where it differs from the official code: what the windows cannot share evenly goes to the whole
image, so that exactly K rows stay (the official keeps 98 for 100). Where an encoder has no CLS
token, received attention takes the place of its attention at the nearest layers that attend
globally.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.methods.contract import (
    EncoderShape,
    Method,
    Selection,
    attention_request,
    whole_number,
)
from lvlm_prune.methods.lattice import grid_blocks
from lvlm_prune.methods.similarity import unit_rows
from lvlm_prune.select import merged_into, other_rows, take_rows, top_rows
from lvlm_prune.signals import SignalRequest, Signals

LOCAL_LAYER = (5, 24)  # share of the encoder's depth


def window_rows(scores: Tensor, window: Tensor, share: int) -> Tensor:
    """Mark the best tokens of each window.

    Args:
        scores: `[I, N]`, higher is kept.
        window: window of each token, `[N]` int64; every number up to the largest occurs.
        share: tokens to mark in a window, all of a smaller one.

    Returns:
        Bool mask, `[I, N]`, as many in every image.
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    order = order.gather(1, window[order].argsort(dim=-1, stable=True))
    sizes = window.bincount()
    first = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    marked = torch.arange(window.shape[0], device=window.device) - first < share
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(
        1, order, marked.expand_as(order).contiguous()
    )


def merged_features(features: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Average every dropped token into the kept one that is nearest by cosine.

    Args:
        features: `[I, N, D]`.
        kept: `[I, K]` int64, ascending.

    Returns:
        `[I, K, D]` in the features' dtype, the tokens in each average, `[I, K]` float32, and the
        token that each token went into, `[I, N]` int64.
    """
    rest = other_rows(kept, features.shape[1])
    unit = unit_rows(features)
    nearest = (take_rows(unit, rest) @ take_rows(unit, kept).transpose(1, 2)).argmax(dim=-1)
    assigned = torch.nn.functional.one_hot(nearest, kept.shape[1]).transpose(1, 2).float()
    rows = features.float()
    total = take_rows(rows, kept) + assigned @ take_rows(rows, rest)
    sizes = 1 + assigned.sum(dim=-1)
    groups = merged_into(features.shape[1], rest, kept.gather(1, nearest))
    return (total / sizes.unsqueeze(-1)).to(features.dtype), sizes, groups


def request(shape: EncoderShape, options: Mapping[str, Any]) -> SignalRequest:
    """Ask for the attention rows of the shallow and of the projected layer."""
    if whole_number("windows", options["windows"]) < 1:
        raise ValueError(f"windows must be 1 or more a side, got {options['windows']}")
    if not isinstance(options["merge"], bool):
        raise TypeError(f"merge must be True or False, got {options['merge']!r}")
    layer = options["local_layer"]
    if layer is None:
        layer = min(LOCAL_LAYER[0] * shape.depth // LOCAL_LAYER[1], shape.feature_layer)
    counted = whole_number("local_layer", layer) + (shape.depth if layer < 0 else 0)
    if not 0 <= counted <= shape.feature_layer:
        raise ValueError(
            f"local_layer={layer} is above the projected layer {shape.feature_layer} or outside "
            f"the encoder's {shape.depth} layers; pass 0..{shape.feature_layer} or None"
        )
    return attention_request(shape, sorted({counted, shape.feature_layer}))


def select(signals: Signals, keep: int, **options: Any) -> Selection:
    """Keep the windows' best rows and the image's best others; merge the rest into them."""
    local, scores = signals.attention[:, 0].mean(dim=1), signals.attention[:, -1].mean(dim=1)
    sides = (min(options["windows"], signals.grid[0]), min(options["windows"], signals.grid[1]))
    window = grid_blocks(signals.grid, sides).to(scores.device)
    share = keep // 2 // (sides[0] * sides[1])
    kept = top_rows(scores.masked_fill(window_rows(local, window, share), torch.inf), keep)
    if not options["merge"]:
        return Selection(kept=kept, scores=scores)
    features, sizes, groups = merged_features(signals.features, kept)
    return Selection(kept=kept, scores=scores, features=features, sizes=sizes, groups=groups)


METHOD = Method(
    name="vscan",
    summary="best patches of windows and of the image over two layers, the rest merged into them",
    source="VScan, arXiv 2505.22654",
    select=select,
    request=request,
    options={"local_layer": None, "windows": 4, "merge": True},
    ranks=False,
    layout=True,
)
