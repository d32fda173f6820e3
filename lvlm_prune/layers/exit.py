"""Visual-token exit: drop all visual tokens once the text no longer needs them, without training.

In: query, key and value of the layer before. Out: all visual tokens, or none. The rule is our own,
in the spirit of DyVTE (arXiv 2411.19628), where trained routers decide about the exit, and of VTW
(arXiv 2405.05803), where a search on a data set fixes its layer:

    change of a row = |out' - out| / |out|,  out' = (out - m_V o_V) / (1 - m_V)

with `out` the row's attention output over all heads, before the output projection, m_V a head's
weight on visual keys and o_V its output over them alone: out' is exactly what the row would get if
the visual keys were not there. If the change of the last `rows` text rows behind all images (the
largest of them) is at most `tolerance` in `patience` layers in a row, the visual tokens leave, but
never before layer `after` * depth.

`tolerance` 0.05, `patience` 2 and `after` 0.5 are our choice and tuned on nothing; 0.05 is near the
turn that VisiPruner calls no turn (cosine 0.999). `rows` is 1, the row that the next token comes
from. `tolerance=float("inf"), patience=1` exits at a fixed layer, as VTW does; UniPruneBench
reports a collapse of VTW on POPE, so check an exit on the task at hand: a layer may change little
and a later one much, and what has left does not come back.

`keep` is not read: savings are layers without visual tokens, not a number of tokens. Only the
prompt's own visual keys are removed; cached columns in front stay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.layers.contract import (
    LayerMethod,
    LayerRequest,
    LayerSelection,
    LayerSignals,
    Projected,
)
from lvlm_prune.layers.rows import rows_behind
from lvlm_prune.reweight.options import check_number, check_whole


def change_without(projected: Projected, rows: Tensor, columns: Tensor) -> Tensor:
    """How much the attention output of some rows changes when keys are removed.

    Args:
        projected: of one layer.
        rows: columns of the rows `[R]`.
        columns: columns of the keys `[n]`.

    Returns:
        `[R]` float32: relative change over all heads; inf where a head of a row sees no other key.
    """
    weights, values = projected.weights(rows), projected.values()
    others = weights.index_fill(2, columns + projected.past, 0.0)
    # The same as (out - m_V o_V) / (1 - m_V), without the difference of near numbers.
    without = (others @ values) / others.sum(dim=-1, keepdim=True)
    out = weights @ values
    change = (without - out).square().sum(dim=(0, 2)).sqrt()
    relative = change / out.square().sum(dim=(0, 2)).sqrt()
    # No other key or no output at all: nothing can be said, so nothing may leave.
    return relative.nan_to_num(nan=torch.inf, posinf=torch.inf)


def select(signals: LayerSignals, keep: Sequence[int], **options: Any) -> LayerSelection:
    """Drop all visual tokens if they have not mattered in the last layers."""
    rows = rows_behind(signals, signals.visual)[-options["rows"] :]
    change = change_without(signals.previous, rows, signals.visual)
    quiet = bool((change <= options["tolerance"]).all())
    count = (signals.memory or 0) + 1 if quiet else 0
    late = signals.layer >= options["after"] * signals.depth
    stays = LayerSelection(signals.visual, memory=count)
    if late and count >= options["patience"]:
        return replace(stays, kept=signals.visual[:0])
    return stays


def check(options: Mapping[str, Any]) -> None:
    """Require a tolerance of 0 or more, inf included, a share, and numbers of layers and rows."""
    tolerance = options["tolerance"]
    if isinstance(tolerance, bool) or not isinstance(tolerance, Real):
        raise TypeError(f"tolerance must be a number, got {tolerance!r}; pass 0 or more")
    if not float(tolerance) >= 0:
        raise ValueError(f"tolerance={tolerance!r} is not allowed; pass 0 or more, 0.05 is usual")
    check_whole(options, "patience", 1)
    check_whole(options, "rows", 1)
    check_number(options, "after", 0.0, 1.0)


def stages(depth: int) -> Mapping[int, float | None]:
    """Looks at every layer but the first."""
    return dict.fromkeys(range(1, depth))


METHOD = LayerMethod(
    name="exit",
    summary="drop all visual tokens once the last text row no longer needs them",
    source="after DyVTE, arXiv 2411.19628, and VTW, arXiv 2405.05803",
    select=select,
    stages=stages,
    request=LayerRequest(previous=True),
    options={"tolerance": 0.05, "patience": 2, "after": 0.5, "rows": 1},
    check=check,
)
