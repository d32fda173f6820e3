"""Which rows of a prompt judge its visual tokens, and how they attend to them.

In: the signals of one prompt. Out: columns of rows, and their attention weights on the visual keys.
Only text rows behind an image can see it, so earlier ones never judge. Cached columns in front take
their part of each row's softmax but are no candidates: they belong to earlier calls. Knows nothing
about what a method makes of the rows.
"""

import torch
from torch import Tensor

from lvlm_prune.layers.contract import LayerSignals, Projected


def last_row(signals: LayerSignals) -> Tensor:
    """The prompt's last column, `[1]`."""
    return torch.tensor([len(signals.hidden) - 1], device=signals.hidden.device)


def rows_behind_images(signals: LayerSignals) -> Tensor:
    """Columns of text tokens behind the first visual token, `[R]`; the last column if none is."""
    behind = signals.text[signals.text > signals.visual.min()]
    return behind if len(behind) else last_row(signals)


def visual_weights(signals: LayerSignals, projected: Projected, rows: Tensor) -> Tensor:
    """Attention weights of some rows on the visual keys.

    Args:
        signals: the prompt.
        projected: query, key and value of the layer that attends.
        rows: columns `[R]`.

    Returns:
        `[H, R, n]`, float32, for `signals.visual`; each row's softmax is over all keys that it
        sees.
    """
    return projected.weights(rows)[..., signals.visual + projected.past]
