"""Keep the dominant patches and merge the rest into a few contextual ones (VisionZip).

In: the CLS row `[I, H, N]`, the keys `[I, H, N, d_head]` and the rows `[I, N, d]` of the projected
encoder layer. Out: K rows: the patches with the largest attention summed over heads, the CLS row
itself, and contextual rows, each an evenly spaced remaining patch plus the mean of the remaining
patches whose key is nearest to its own (VisionZip, arXiv 2412.04467, section 3; official code
3151f6d; 64 = 54 + 10, 128 = 108 + 20, 192 = 162 + 30).

Two differences from the official code, both only in where a row stands: a contextual row keeps the
position of its patch instead of following the dominant ones, and the CLS row, which has no
placeholder, takes the first one that is free.

Where an encoder has no CLS token, received attention takes the place of its attention and no CLS
row is added, as upstream does for Qwen2.5-VL; an encoder whose CLS row cannot be projected alone
(pixel shuffle) adds none either.
"""

from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lvlm_prune.methods.contract import EncoderShape, Method, Selection, attention_request
from lvlm_prune.select import merged_into, other_rows, take_rows, top_rows
from lvlm_prune.signals import SignalRequest, Signals

CONTEXTUAL_SHARE = 10 / 64
MERGES = ("sum", "mean")


def contextual_rows(
    hidden: Tensor, keys: Tensor, dominant: Tensor, count: int, merge: str = "sum"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Merge everything but the dominant patches into `count` contextual rows.

    Args:
        hidden: encoder rows, `[I, N, d]`.
        keys: keys of the patches, `[I, H, N, d_head]`.
        dominant: ascending rows that are kept as they are, `[I, P]`.
        count: contextual rows, 1 <= count <= N - P.
        merge: `sum` adds the mean of the assigned rows to the target, as released (about twice the
            norm); `mean` averages the target and its assigned rows, as the paper describes.

    Returns:
        The targets `[I, count]` (ascending), their merged rows `[I, count, d]`, how many tokens
        each of them stands for, `[I, count]` float32, and the row that each row went into,
        `[I, N]` int64.
    """
    rest = other_rows(dominant, hidden.shape[1])
    metric = normalize(take_rows(keys.float().mean(dim=1), rest), dim=-1)
    step = max(1, rest.shape[1] // count)
    place = torch.arange(count, device=rest.device) * step
    others = other_rows(place.unsqueeze(0), rest.shape[1])[0]
    nearest = (metric[:, others] @ metric[:, place].transpose(1, 2)).argmax(dim=-1)
    assigned = torch.nn.functional.one_hot(nearest, count).transpose(1, 2).to(hidden.dtype)
    rows = take_rows(hidden, rest)
    total = assigned @ rows[:, others]
    size = assigned.sum(dim=-1, keepdim=True)
    if merge == "mean":
        merged = (rows[:, place] + total) / (size + 1)
    else:
        merged = rows[:, place] + total / size.clamp(min=1)
    targets = rest[:, place]
    groups = merged_into(hidden.shape[1], rest[:, others], targets.gather(1, nearest))
    return targets, merged, size[..., 0].float() + 1, groups


def request(shape: EncoderShape, options: Mapping[str, Any]) -> SignalRequest:
    """Ask for the CLS row and the keys of the projected layer."""
    if options["merge"] not in MERGES:
        raise ValueError(f"merge must be one of {', '.join(MERGES)}; got {options['merge']!r}")
    share = options["contextual_share"]
    if isinstance(share, bool) or not isinstance(share, Real) or not 0 <= float(share) < 1:
        raise ValueError(f"contextual_share must be in [0, 1), got {share!r}")
    if not isinstance(options["cls_token"], bool):
        raise TypeError(f"cls_token must be True or False, got {options['cls_token']!r}")
    return replace(
        attention_request(shape, [shape.feature_layer]),
        keys_layer=shape.global_layer(shape.feature_layer),
    )


def select(signals: Signals, keep: int, **options: Any) -> Selection:
    """Split the budget into dominant, CLS and contextual rows and put them in raster order."""
    assert signals.keys is not None
    scores = signals.attention[:, 0].sum(dim=1)
    contextual = int(keep * options["contextual_share"] + 0.5)
    with_cls = options["cls_token"] and signals.cls_hidden is not None and keep - contextual > 1
    dominant = top_rows(scores, keep - contextual - int(with_cls))
    kept, rows = dominant, take_rows(signals.hidden, dominant)
    changed = torch.zeros_like(dominant, dtype=torch.bool)
    sizes, groups = torch.ones_like(dominant, dtype=torch.float32), None
    if contextual:
        targets, merged, stand_for, groups = contextual_rows(
            signals.hidden, signals.keys, dominant, contextual, options["merge"]
        )
        kept, rows, changed = _append(kept, rows, changed, targets, merged)
        sizes = torch.cat([sizes, stand_for], dim=1)
    if with_cls:
        assert signals.cls_hidden is not None
        free = other_rows(kept, signals.hidden.shape[1])[:, :1]
        kept, rows, changed = _append(kept, rows, changed, free, signals.cls_hidden.unsqueeze(1))
        sizes = torch.cat([sizes, torch.ones_like(sizes[:, :1])], dim=1)
    kept, order = kept.sort(dim=-1)
    return Selection(
        kept=kept,
        scores=scores,
        hidden=take_rows(rows, order),
        replaced=changed.gather(1, order),
        sizes=sizes.gather(1, order),
        groups=groups,
    )


def _append(
    kept: Tensor, rows: Tensor, changed: Tensor, more: Tensor, more_rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Add rows that differ from the encoder's own."""
    marked = torch.ones_like(more, dtype=torch.bool)
    return (
        torch.cat([kept, more], dim=1),
        torch.cat([rows, more_rows.to(rows.dtype)], dim=1),
        torch.cat([changed, marked], dim=1),
    )


METHOD = Method(
    name="visionzip",
    summary="dominant patches by CLS attention, the rest merged into contextual ones",
    source="VisionZip, arXiv 2412.04467",
    select=select,
    request=request,
    options={"contextual_share": CONTEXTUAL_SHARE, "merge": "sum", "cls_token": True},
)
