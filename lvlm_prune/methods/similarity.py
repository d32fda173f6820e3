"""Cosine similarity of every pair of an image's rows, for the methods that look for diversity.

In: rows `[I, N, D]` of any dtype. Out: `[I, N, N]` float32, symmetric. Every pair is multiplied
once: a block of rows meets only the rows that follow it, and the result is mirrored, which halves
the time of the plain product. Knows nothing about what the rows are.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

BLOCK_ROWS = 256  # fewer rows waste the matrix unit, more multiply more pairs twice
LEAST_NORM = 1e-12  # shorter rows are rows of zeros


def unit_rows(rows: Tensor) -> Tensor:
    """Rows of length 1 in float32, without a graph; rows of zeros stay zeros."""
    return normalize(rows.detach().float(), dim=-1, eps=LEAST_NORM)


def row_products(rows: Tensor) -> Tensor:
    """Products of all pairs of rows of each image, `[I, N, D]` to `[I, N, N]`, in their dtype."""
    images, n, _ = rows.shape
    products = torch.empty(images, n, n, dtype=rows.dtype, device=rows.device)
    for start in range(0, n, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, n)
        block = rows[:, start:stop] @ rows[:, start:].transpose(1, 2)
        products[:, start:stop, start:] = block
        products[:, stop:, start:stop] = block[:, :, stop - start :].transpose(1, 2)
    return products


def cosine_similarity(rows: Tensor) -> Tensor:
    """Cosine similarity of all pairs of rows of each image.

    Args:
        rows: `[I, N, D]`, any dtype.

    Returns:
        `[I, N, N]` float32.
    """
    return row_products(unit_rows(rows))
