"""Position ids of the prefix: the standard ones, or those that a pruned prompt may come with.

In: the lengths of the prompt around the visual tokens and a random generator. Out: position ids. It
knows nothing of tokens or models.
"""

from __future__ import annotations

import numpy as np
from families import VISUAL_TOKENS

SIDE = int(VISUAL_TOKENS**0.5)


def visual_positions(axes: int, rng: np.random.Generator | None) -> tuple[np.ndarray, int]:
    """Position ids of the visual tokens relative to the first, and where the text goes on.

    Half of the images keep the standard ids; the others get compacted ids (as if 4-196 tokens were
    left), or a gap of up to 200 before the text. No token is dropped. With three axes the standard
    ids are M-RoPE's (0, row, column), and compacting shrinks the grid or counts in one line.

    Returns:
        int [axes, 196] and the first id after them.
    """
    line = np.arange(VISUAL_TOKENS)
    grid = np.stack([0 * line, line // SIDE, line % SIDE]) if axes == 3 else line[None]
    size = SIDE if axes == 3 else VISUAL_TOKENS
    draw = 0.0 if rng is None else rng.random()
    if rng is None or draw < 0.5:
        return grid, size
    if draw >= 0.85:
        if axes == 1:
            grid = np.sort(rng.integers(0, VISUAL_TOKENS, (1, VISUAL_TOKENS)))
        return grid, size + int(rng.integers(0, 200))
    if axes == 3 and draw < 0.7:
        start = int(rng.integers(2, SIDE + 1))
        return grid * start // SIDE, start
    start = int(rng.integers(4, VISUAL_TOKENS + 1))
    return np.repeat(line[None] * start // VISUAL_TOKENS, axes, 0), start


def prefix_positions(
    before: int, after: int, axes: int, rng: np.random.Generator | None
) -> tuple[np.ndarray, int]:
    """Position ids of the whole prefix and the position at which every branch starts.

    Args:
        before: number of tokens in front of the visual tokens.
        after: number of tokens right behind them.
        axes: rows of the position ids.
        rng: source of the jitter; None keeps standard positions.

    Returns:
        int [axes, before + 196 + after] and an int.
    """
    visual, start = visual_positions(axes, rng)
    first = np.tile(np.arange(before), (axes, 1))
    last = np.tile(before + start + np.arange(after), (axes, 1))
    return np.concatenate([first, before + visual, last], 1), before + start + after
