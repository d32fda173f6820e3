"""How many bytes a KV cache of transformers holds.

In: a cache, of any layer types. Out: bytes, counted from its tensors. It knows nothing of models.
"""

from typing import Any

from torch import Tensor


def cache_bytes(cache: Any) -> int:
    """Bytes of all tensors in a transformers cache: keys, values and states."""
    tensors = [
        value
        for layer in cache.layers
        for value in vars(layer).values()
        if isinstance(value, Tensor)
    ]
    return sum(tensor.nbytes for tensor in tensors)
