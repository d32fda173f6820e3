"""Which rows of a prompt judge its images, and how they attend to them.

In: the signals of one prompt. Out: columns of rows, and their attention weights on the visual keys.
An image is judged by text rows behind it: rows before or inside it cannot see all of it, and their
zeros would count against what stands late in the prompt. Cached columns in front take their part of
each row's softmax but are no candidates: they belong to earlier calls. Knows nothing about what a
method makes of the rows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lvlm_prune.layers.contract import LayerSignals, Projected


def last_row(signals: LayerSignals) -> Tensor:
    """The prompt's last column, `[1]`."""
    return torch.tensor([len(signals.hidden) - 1], device=signals.hidden.device)


def rows_behind(signals: LayerSignals, columns: Tensor) -> Tensor:
    """Text rows behind visual tokens.

    Args:
        signals: the prompt.
        columns: of visual tokens, ascending `[n]`.

    Returns:
        Columns of text behind the last of them, `[R]`; the prompt's last column if there is no
        text behind it or n is 0.
    """
    behind = signals.text[signals.text > columns[-1]] if len(columns) else signals.text[:0]
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


def split_by_image(
    signals: LayerSignals, weights: Tensor, together: Tensor, rows: Sequence[Tensor]
) -> list[Tensor]:
    """Each image's own part of the attention of many rows.

    Args:
        signals: the prompt.
        weights: `[H, R, n]` of rows on `signals.visual`.
        together: columns of those rows `[R]`, ascending.
        rows: for each image the columns of its rows `[R_i]`, out of them.

    Returns:
        For each image `[H, R_i, n_i]`.
    """
    parts = weights.split([len(columns) for columns in signals.images], dim=-1)
    return [
        part[:, torch.searchsorted(together, mine)] for part, mine in zip(parts, rows, strict=True)
    ]


def image_weights(
    signals: LayerSignals, projected: Projected, rows: Sequence[Tensor]
) -> list[Tensor]:
    """Attention weights of each image's own rows on it.

    Args:
        signals: the prompt.
        projected: query, key and value of the layer that attends.
        rows: for each image columns `[R_i]`.

    Returns:
        For each image `[H, R_i, n_i]`, float32. Rows that images share are computed once.
    """
    together = torch.cat(list(rows)).unique()
    weights = visual_weights(signals, projected, together)
    return split_by_image(signals, weights, together, rows)
