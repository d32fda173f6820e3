"""Keep the patches that the CLS token attends to most over several layers (VTC-CLS).

In: CLS rows of M encoder layers, `[I, M, H, N]`. Out: the K patches with the largest sum over
layers of the mean over heads, in raster order. VTC-CLS (arXiv 2412.05819, official code e41ac9b)
sums the layers `[start_layer:-1]`, so the last layer is left out; its default is 16 of 24 layers,
which is taken here as two thirds of the depth, but two layers at least. Where an encoder has no
CLS token, received attention of the layers that attend globally takes its place.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lvlm_prune.methods.contract import (
    EncoderShape,
    Method,
    Selection,
    attention_request,
    whole_number,
)
from lvlm_prune.select import top_rows
from lvlm_prune.signals import SignalRequest, Signals


def vtc_scores(cls: Tensor) -> Tensor:
    """Sum over layers of the mean over heads, `[I, M, H, N]` to `[I, N]`."""
    return cls.mean(dim=2).sum(dim=1)


def request(shape: EncoderShape, options: Mapping[str, Any]) -> SignalRequest:
    """Ask for the CLS rows of layers `start_layer` to the last but one."""
    start = options["start_layer"]
    if start is None:
        start = max(0, min(shape.depth * 2 // 3, shape.depth - 3))
    if not 0 <= whole_number("start_layer", start) < shape.depth - 1:
        raise ValueError(
            f"start_layer={start} leaves no layer before the last of {shape.depth}; "
            f"pass 0..{shape.depth - 2} or None"
        )
    return attention_request(shape, range(start, shape.depth - 1))


def select(signals: Signals, keep: int, **options: Any) -> Selection:
    """Keep the top rows of the summed CLS attention."""
    scores = vtc_scores(signals.attention)
    return Selection(kept=top_rows(scores, keep), scores=scores)


METHOD = Method(
    name="vtc_cls",
    summary="CLS attention summed over the upper encoder layers",
    source="VTC-CLS, arXiv 2412.05819",
    select=select,
    request=request,
    options={"start_layer": None},
)
