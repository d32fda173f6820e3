"""PyramidDrop: drop visual tokens in stages, by the last token's attention (arXiv 2410.17247).

In: query and key of the stage's own layer, computed ahead, as in the official code (6444f30), which
projects the hidden states between two layers with the next layer's norm and projections. Out: for
each image the K tokens with the highest attention of the prompt's last row, averaged over heads,
the softmax running over all keys. Only that row is computed.

Published setting: before layers 8, 16 and 24 of 32, with 1/2, 1/4 and 1/8 of the tokens, which is
an average of 270 of 576 over the layers. Papers that compare at "64 tokens" mean such an average.

Differences from the official code: the judging row is the prompt's last column, where the official
code searches the end of the last instruction (the same at inference); the budget is rounded by the
schedule, where the official truncates; kept tokens keep their positions, where the official numbers
them anew at each stage and so moves all that is generated.
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
    """Rank by the attention of the last row in the layer that follows."""
    weights = visual_weights(signals, signals.following, last_row(signals))
    return top_of_each_image(signals, weights[:, 0].mean(dim=0), keep)


def stages(depth: int) -> Mapping[int, float | None]:
    """Halve the tokens at each quarter of the depth."""
    return scaled_stages({8: 0.5, 16: 0.25, 24: 0.125}, PUBLISHED_DEPTH, depth)


METHOD = LayerMethod(
    name="pyramiddrop",
    summary="attention of the last token in the layer itself, in three stages",
    source="PyramidDrop, arXiv 2410.17247",
    select=select,
    stages=stages,
    request=LayerRequest(following=True),
    ranked=True,
)
