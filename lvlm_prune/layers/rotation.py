"""Undo the rotary embedding of keys, so that what is read of them does not know their position.

In: keys as attention gets them and the layer's cosine and sine at their columns. Out: the keys
before the rotation. A rotation keeps the length of a key but not the sum of its absolute values:
that changes with the position, and so with padding where positions count it.

The layout is that of rotate-half, pairs (k, k + r/2) of the first r dimensions. Models that rotate
neighbouring dimensions (GLM, ERNIE) are not told from it, so their keys still know their position.
Knows nothing about methods.
"""

import torch
from torch import Tensor


def without_rotation(keys: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
    """Keys before their rotary embedding.

    Args:
        keys: `[Hk, T, d]`, after rotary embedding.
        rotary: cosine and sine `[T, r]`, r <= d: the first r dimensions were rotated. None where
            they are unknown.

    Returns:
        `[Hk, T, d]` float32; the keys as they are without tables.
    """
    keys = keys.float()
    if rotary is None:
        return keys
    cosine, sine = (table.float() for table in rotary)
    width = cosine.shape[-1]
    rotated, rest = keys[..., :width], keys[..., width:]
    first, second = rotated.chunk(2, dim=-1)
    back = rotated * cosine + torch.cat([second, -first], dim=-1) * sine
    # Some rotary embeddings scale cosine and sine, and with them the keys.
    return torch.cat([back / (cosine.square() + sine.square()), rest], dim=-1)
