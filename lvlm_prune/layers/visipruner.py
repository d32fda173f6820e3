"""VisiPruner: blind shallow layers, a filter in the middle, an exit in the deep ones (2510.17205).

In: query, key and value of the layer before. Out: the visual tokens that still contribute to the
last row (arXiv 2510.17205, EMNLP 2025; official code d778622):

1. Shallow: in the first 6 of 32 layers text rows do not see visual keys (`blind`).
2. Middle: a visual token's contribution to the last row is its attention weight times its value,
   all heads side by side. At the first layer where taking a single token's contribution away turns
   the row's output to a cosine below 0.995, the tokens whose contribution is longer than 0.2 stay.
3. Deep: after that, once no single token turns the output to a cosine below 0.999 in two layers in
   a row, all visual tokens leave.

`keep` is not read. What was seen so far is handed on as memory.

Options: `shallow` share of blind layers, `turned` 0.995, `contribution` 0.2, `steady` 0.999,
`patience` 2. The length 0.2 is absolute, found on LLaVA-1.5-7B; other LLMs have values of other
lengths and need their own.

Differences from the official code: layer 0 is blind like the other shallow ones, where the official
moves the text's weight on the image to one visual token (7B) or masks half of it (13B); a layer's
decision falls before the next layer, from inputs of its own fused kernel, where the official
computes dense attention and applies it in place; at least the token with the largest contribution
passes the filter; two steady layers must follow each other and the filter; all images of a prompt
are filtered together, by the one row that sees them all; offsets are those of the prompt, not 35
and 576.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
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
from lvlm_prune.layers.rows import last_row
from lvlm_prune.reweight.options import check_number, check_whole

SHALLOW_SHARE = 6 / 32


@dataclass(frozen=True)
class Progress:
    """What earlier layers have shown of a prompt.

    Args:
        filtered: whether the filter has been applied.
        steady: layers in a row, up to here, that no single token turns.
    """

    filtered: bool = False
    steady: int = 0


def contributions(projected: Projected, row: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """What each key adds to one row's attention output.

    Args:
        projected: of one layer.
        row: column of the row `[1]`.
        columns: columns of the keys `[n]`.

    Returns:
        Contributions `[n, H * d]` and the row's output `[H * d]`, float32.
    """
    weights, values = projected.weights(row), projected.values()
    places = columns + projected.past
    parts = weights[:, 0, places, None] * values[:, places]
    return parts.transpose(0, 1).flatten(1), (weights @ values).flatten()


def shallow_layers(share: float, depth: int) -> int:
    """Number of blind layers."""
    return round(share * depth)


def blind(options: Mapping[str, Any], depth: int) -> Collection[int]:
    """The shallow layers."""
    return range(shallow_layers(options["shallow"], depth))


def select(signals: LayerSignals, keep: Sequence[int], **options: Any) -> LayerSelection:
    """Filter once, then wait for the exit."""
    progress = signals.memory or Progress()
    visual = signals.visual
    if signals.layer <= shallow_layers(options["shallow"], signals.depth):
        # The layer before was blind.
        return LayerSelection(visual, memory=progress)
    parts, out = contributions(signals.previous, last_row(signals), visual)
    cosine = torch.cosine_similarity(out - parts, out[None], dim=-1)
    lowest = float(cosine.min())
    length = parts.norm(dim=-1)
    if not progress.filtered:
        if lowest >= options["turned"]:
            return LayerSelection(visual, length, memory=progress)
        stays = length > options["contribution"]
        stays[length.argmax()] = True
        return LayerSelection(visual[stays], length, memory=Progress(filtered=True))
    steady = progress.steady + 1 if lowest >= options["steady"] else 0
    kept = visual[:0] if steady >= options["patience"] else visual
    return LayerSelection(kept, length, memory=Progress(True, steady))


def check(options: Mapping[str, Any]) -> None:
    """Require shares, cosines, a length and a number of layers."""
    check_number(options, "shallow", 0.0, 1.0)
    check_number(options, "turned", -1.0, 1.0)
    check_number(options, "steady", -1.0, 1.0)
    check_number(options, "contribution")
    check_whole(options, "patience", 1)


def stages(depth: int) -> Mapping[int, float | None]:
    """Every layer whose layer before is not blind by default."""
    return dict.fromkeys(range(max(1, shallow_layers(SHALLOW_SHARE, depth) + 1), depth))


METHOD = LayerMethod(
    name="visipruner",
    summary="tokens that contribute to the last row; blind shallow layers, deep exit",
    source="VisiPruner, arXiv 2510.17205",
    select=select,
    stages=stages,
    request=LayerRequest(previous=True),
    options={
        "shallow": SHALLOW_SHARE,
        "turned": 0.995,
        "contribution": 0.2,
        "steady": 0.999,
        "patience": 2,
    },
    blind=blind,
    check=check,
)
