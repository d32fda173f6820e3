"""FastV: keep the visual tokens that the last token attends to (arXiv 2403.06764).

In: the attention of the layer before the stage. Out: for each image the K tokens with the highest
attention of the prompt's last token, averaged over heads, as in the released code (the paper's
text says attention "received"). Only that one row is computed, the layer itself keeps its fused
kernel. Paper: K=2, half of the tokens; a cached generation prunes once, at prefill.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.layers.contract import LayerMethod, LayerRequest, LayerSelection, LayerSignals
from lvlm_prune.layers.top import top_of_each_image


def last_row_attention(weights: Tensor) -> Tensor:
    """Scores of the keys: the mean over heads of one row's weights.

    Args:
        weights: `[H, S]`.

    Returns:
        `[S]`, float32.
    """
    return weights.float().mean(dim=0)


def select(signals: LayerSignals, keep: Sequence[int], **options: Any) -> LayerSelection:
    """Rank by the attention of the last text token, one layer before."""
    last = torch.tensor([len(signals.hidden) - 1], device=signals.hidden.device)
    row = last_row_attention(signals.previous.weights(last)[:, 0])
    own = row[signals.previous.past :]
    return top_of_each_image(signals, own[signals.visual], keep)


def stages(depth: int) -> Mapping[int, float | None]:
    """Before layer 2, half of the tokens; a shallow LLM's layer 2 may be its last."""
    return {min(2, depth - 1): 0.5}


METHOD = LayerMethod(
    name="fastv",
    summary="attention of the last token, one layer before",
    source="FastV, arXiv 2403.06764",
    select=select,
    stages=stages,
    request=LayerRequest(previous=True),
    ranked=True,
)
