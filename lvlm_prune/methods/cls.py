"""Keep the patches that the CLS token attends to most (FasterVLM).

In: the CLS row of one encoder layer, `[I, H, N]`. Out: the K patches with the largest mean over
heads, in raster order, nothing merged. FasterVLM (arXiv 2412.01818, official code f5d5f12) reads
the layer whose output is projected, layer -2 of CLIP. Where an encoder has no CLS token, received
attention takes its place, at the nearest layer that attends globally.
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


def cls_scores(cls: Tensor) -> Tensor:
    """Mean over heads of CLS rows, `[I, H, N]` to `[I, N]`."""
    return cls.mean(dim=1)


def request(shape: EncoderShape, options: Mapping[str, Any]) -> SignalRequest:
    """Ask for the CLS row of `layer`, by default the layer that is projected."""
    layer = options["layer"]
    if layer is None:
        return attention_request(shape, [shape.feature_layer])
    if not -shape.depth <= whole_number("layer", layer) < shape.depth:
        raise ValueError(
            f"layer={layer} is outside the encoder's {shape.depth} layers; "
            f"pass {-shape.depth}..{shape.depth - 1} or None"
        )
    return attention_request(shape, [layer % shape.depth])


def select(signals: Signals, keep: int, **options: Any) -> Selection:
    """Keep the top rows of the one attention row that was requested."""
    scores = cls_scores(signals.attention[:, 0])
    return Selection(kept=top_rows(scores, keep), scores=scores)


METHOD = Method(
    name="cls",
    summary="top CLS attention of the projected encoder layer",
    source="FasterVLM, arXiv 2412.01818",
    select=select,
    request=request,
    options={"layer": None},
)
