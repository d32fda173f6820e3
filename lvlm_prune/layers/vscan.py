"""VScan's stage inside the LLM: the last token's attention at a middle layer (arXiv 2505.22654).

In: the attention of the layer before the stage. Out: for each image the K tokens with the highest
attention of the prompt's last row, averaged over heads. It is FastV's score at another depth: the
paper finds that shallow layers rank by position and middle layers by content.

Published setting for LLaVA-1.5: 96 tokens enter the LLM and 32 go on from layer 16 of 32, "64
tokens" being the average over the layers; for Qwen2.5-VL layer 14 of 28. The stage in the vision
encoder is the method `vscan` before the LLM; this one works behind any other too.

Differences from the official code (a82450e): the row is computed from the fused kernel's inputs;
the official computes it again and, in its path for flash attention, applies the rotary embedding
twice.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lvlm_prune.layers.contract import (
    LayerMethod,
    LayerRequest,
    LayerSelection,
    LayerSignals,
    scaled_stages,
)
from lvlm_prune.layers.rows import last_row, visual_weights
from lvlm_prune.layers.top import top_of_each_image

PUBLISHED_DEPTH = 32


def select(signals: LayerSignals, keep: Sequence[int], **options: Any) -> LayerSelection:
    """Rank by the attention of the last row, one layer before."""
    weights = visual_weights(signals, signals.previous, last_row(signals))
    return top_of_each_image(signals, weights[:, 0].mean(dim=0), keep)


def stages(depth: int) -> Mapping[int, float | None]:
    """At half of the depth, a third of what entered the LLM."""
    return scaled_stages({16: 1 / 3}, PUBLISHED_DEPTH, depth)


METHOD = LayerMethod(
    name="vscan",
    summary="attention of the last token at a middle layer",
    source="VScan, arXiv 2505.22654",
    select=select,
    stages=stages,
    request=LayerRequest(previous=True),
    ranked=True,
)
