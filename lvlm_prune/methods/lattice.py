"""Tile a grid of tokens with exactly K cells of nearly equal size.

In: the grid (h, w) and K. Out: the cells' centres and the cell of every token. The rows of cells
are as many as makes cells nearly square; a row of cells holds K / rows cells, one more in some.
Knows nothing about images or features.
"""

import torch
from torch import Tensor


def lattice_cells(grid: tuple[int, int], k: int) -> tuple[Tensor, Tensor]:
    """Cut a grid into k cells.

    Args:
        grid: (h, w) tokens.
        k: number of cells, 1 <= k <= h * w.

    Returns:
        Centres `[k]` (ascending token indices) and the cell of each token `[h * w]`, both int64.
    """
    h, w = grid
    bands = min(h, k, max(-(-k // w), round((k * h / w) ** 0.5), 1))
    centres, cell, done = [], torch.empty(h, w, dtype=torch.int64), 0
    for band in range(bands):
        count = k * (band + 1) // bands - done
        top, bottom = band * h // bands, (band + 1) * h // bands
        middle = (top + bottom - 1) // 2
        for i in range(count):
            left, right = i * w // count, (i + 1) * w // count
            cell[top:bottom, left:right] = done + i
            centres.append(middle * w + (left + right - 1) // 2)
        done += count
    return torch.tensor(centres), cell.flatten()


def grid_blocks(grid: tuple[int, int], sides: tuple[int, int]) -> Tensor:
    """Cut a grid into a x b blocks whose sides differ by one token at most.

    Args:
        grid: (h, w) tokens.
        sides: (a, b) blocks, 1 <= a <= h and 1 <= b <= w.

    Returns:
        The block of each token, `[h * w]` int64 in 0..a * b - 1; no block is empty.
    """
    rows = torch.arange(grid[0]) * sides[0] // grid[0]
    columns = torch.arange(grid[1]) * sides[1] // grid[1]
    return (rows.unsqueeze(1) * sides[1] + columns).flatten()


def lattice_centres(grid: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """Token indices of the centres of a regular lattice.

    Args:
        grid: (h, w) tokens.
        cells: (a, b) cells, a <= h and b <= w.

    Returns:
        `[a * b]` int64, ascending.
    """
    rows = torch.arange(cells[0]) * grid[0] // cells[0] + grid[0] // cells[0] // 2
    columns = torch.arange(cells[1]) * grid[1] // cells[1] + grid[1] // cells[1] // 2
    return (rows.unsqueeze(1) * grid[1] + columns).flatten()


def rectangle_of(grid: tuple[int, int], k: int) -> tuple[int, int] | None:
    """The a x b rectangle of exactly k cells that is nearest to the grid's shape.

    Args:
        grid: (h, w) tokens.
        k: number of cells.

    Returns:
        (a, b) with a * b == k, a <= h, b <= w and sides within a factor of two of the grid's
        shape, or None if there is none.
    """
    h, w = grid
    sides = [(a, k // a) for a in range(1, min(h, k) + 1) if k % a == 0 and k // a <= w]
    fits = {side: max(side[0] * w / (side[1] * h), side[1] * h / (side[0] * w)) for side in sides}
    best = min(fits, key=lambda side: fits[side], default=None)
    return best if best is not None and fits[best] <= 2 else None
