"""OrthoRank's score for visual tokens: the less a token points at the sink, the more it counts.

In: the hidden states that enter the layer. Out: for each image the K tokens with the smallest
|cosine| between their hidden state and that of the sink token, the prompt's first text token
(OrthoRank, arXiv 2507.03865: tokens move towards the sink from layer to layer, and those that are
still orthogonal to it have the furthest to go). No attention is read. Cost O(n D).

The paper ranks the tokens of a plain LLM and lets those not chosen skip chosen layers. Here the
score ranks visual tokens that are dropped for good, as a stage of our own: before layer 8 of 32,
behind the layers in which the sink's hidden state appears, half of the tokens. Neither the layer
nor the share is published for visual tokens. The paper normalises hidden states with the layer's
own norm; here only their length is divided out. With a cache in front, the first text token of this
call stands for the sink, whose hidden state is gone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lvlm_prune.layers.contract import (
    LayerMethod,
    LayerSelection,
    LayerSignals,
    scaled_stages,
)
from lvlm_prune.layers.top import top_of_each_image
from lvlm_prune.methods.similarity import unit_rows

LAYERS_OF_LLAMA = 32


def select(signals: LayerSignals, keep: Sequence[int], **options: Any) -> LayerSelection:
    """Rank by orthogonality to the first text token."""
    sink = unit_rows(signals.hidden[signals.text[:1]])
    # Row by row, so that equal tokens get equal scores; a product of matrices rounds them apart.
    cosine = (unit_rows(signals.hidden[signals.visual]) * sink).sum(dim=-1)
    return top_of_each_image(signals, -cosine.abs(), keep)


def stages(depth: int) -> Mapping[int, float | None]:
    """At a quarter of the depth, half of the tokens."""
    return scaled_stages({8: 0.5}, LAYERS_OF_LLAMA, depth)


METHOD = LayerMethod(
    name="orthorank",
    summary="hidden states most orthogonal to that of the first token",
    source="OrthoRank, arXiv 2507.03865",
    select=select,
    stages=stages,
)
