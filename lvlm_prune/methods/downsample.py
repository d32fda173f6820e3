"""Control: a smaller image instead of fewer tokens of a large one.

In: pixels of a grid (h, w); the adapter encodes them at (a, b) patches, a * b == K, with the
encoder's position embeddings interpolated. Out: all K rows, standing at the centres of the lattice
that (a, b) draws on (h, w). Plain down-sampling beats many compressors (VTC-Bench), and it shortens
the encoder too. K must be a rectangle: 49 = 7 x 7, 24 = 4 x 6, but not 23.
"""

from typing import Any

from lvlm_prune.methods.contract import Method, Selection
from lvlm_prune.methods.lattice import lattice_centres, rectangle_of
from lvlm_prune.signals import Signals


def encoder_grid(grid: tuple[int, int], keep: int) -> tuple[int, int]:
    """The grid to encode the image at.

    Args:
        grid: (h, w) at full size.
        keep: K tokens.

    Raises:
        ValueError: no rectangle of K patches is near the image's shape; names the nearest budgets.
    """
    best = rectangle_of(grid, keep)
    if best is not None:
        return best
    near = sorted(range(1, grid[0] * grid[1] + 1), key=lambda k: abs(k - keep))
    fits = sorted([k for k in near if rectangle_of(grid, k)][:2])
    raise ValueError(
        f"method 'downsample' cannot make {keep} tokens of a {grid[0]}x{grid[1]} grid; "
        f"the nearest budgets are keep={' and keep='.join(map(str, fits))}"
    )


def select(signals: Signals, keep: int, **options: Any) -> Selection:
    """Keep every row of the small image, at the lattice's centres in the prompt's grid."""
    centres = lattice_centres(signals.prompt_grid or signals.grid, signals.grid)
    kept = centres.to(signals.features.device).expand(signals.features.shape[0], -1)
    return Selection(kept=kept, features=signals.features)


METHOD = Method(
    name="downsample",
    summary="control: the image itself made smaller",
    source="VTC-Bench's down-sampling baseline",
    select=select,
    ranks=False,
    layout=True,
    encoder_grid=encoder_grid,
)
