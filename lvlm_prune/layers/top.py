"""Keep the best tokens of each image: the last step of every method that ranks.

In: scores of a prompt's visual tokens and a budget for each image. Out: the kept columns. Ties go
to the earlier token. LLM visual sinks are ranked last, so that they do not eat the budget.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lvlm_prune.layers.contract import LayerSelection, LayerSignals


def top_of_each_image(signals: LayerSignals, scores: Tensor, keep: Sequence[int]) -> LayerSelection:
    """Keep the highest scores of each image.

    Args:
        signals: the prompt.
        scores: `[n]` float32 for `signals.visual`.
        keep: tokens of each image.

    Returns:
        The selection, with the scores.
    """
    ranked = scores
    if signals.sinks is not None:
        ranked = scores.masked_fill(signals.sinks[signals.visual], -torch.inf)
    kept = []
    parts = ranked.split([len(columns) for columns in signals.images])
    for columns, part, count in zip(signals.images, parts, keep, strict=True):
        best = part.sort(descending=True, stable=True).indices[:count]
        kept.append(columns[best.sort().values])
    return LayerSelection(torch.cat(kept), scores)
