"""RESTORE's calibration of attention to merged tokens (ICML 2026), from its formula alone.

`s_ij += log(size_j) + log(2 - mean_k cos(d_ij theta_k))` for visual keys j: a token that stands for
`size` merged ones weighs as much as they did, in layer 0 with the mean size of the prompt's visual
tokens for all of them; and the decay of rotary embedding with the distance d of positions is made
up for (off by default, option `distance`). Both terms are multiplied by `strength`; strength = 0
changes nothing, nor do tokens of size 0 or 1.

The distance term needs marks `position`: for each column its position id, 0 where unknown. A row
that is itself unknown, such as a new token, stands one behind the largest known position. theta_k
is `rope_theta` ** (-2 k / d) with the width d of the values; partial, scaled and multi-axis rotary
embeddings are not known here.

Deviations: only text rows behind the images are calibrated, because rows of visual tokens stay in
the fused kernel; the paper changes every row of the prompt. As in the paper decode rows are left
alone unless `decode` is set. The distance term is given to visual keys alone. No independent
measurement is known.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.reweight.contract import AttentionRows, Edited, Reweighter
from lvlm_prune.reweight.options import check_number, check_switch


def size_term(size: Tensor, visual: Tensor, uniform: bool) -> Tensor:
    """log(size) of visual keys.

    Args:
        size: `[B, S]`, tokens merged into each; below 1 counts as 1.
        visual: `[B, S]` bool.
        uniform: give all visual keys of a prompt their mean size.

    Returns:
        `[B, S]`, 0 for text.
    """
    size = size.clamp(min=1).where(visual, 0)
    if uniform:
        size = size.sum(dim=-1, keepdim=True) / visual.sum(dim=-1, keepdim=True).clamp(min=1)
    return size.clamp(min=1).log().where(visual, 0)


def distance_term(distance: Tensor, theta: float, width: int) -> Tensor:
    """`log(2 - mean_k cos(d theta_k))`, 0 at distance 0.

    Args:
        distance: positions between row and key, any shape.
        theta: base of the rotary embedding.
        width: width of a head.

    Returns:
        Of the same shape.
    """
    total = torch.zeros_like(distance)
    pairs = max(1, width // 2)
    for pair in range(pairs):
        total += torch.cos(distance * theta ** (-2 * pair / width))
    return (2 - total / pairs).log()


def row_positions(columns: Tensor, position: Tensor) -> Tensor:
    """Positions of rows.

    Args:
        columns: own column of each row, `[B, R]`.
        position: `[B, S]`, 0 where unknown.

    Returns:
        `[B, R]`; a row of unknown position stands behind all known ones.
    """
    own = position.gather(1, columns)
    return torch.where(own > 0, own, position.amax(dim=-1, keepdim=True) + 1)


def edit(
    rows: AttentionRows, *, strength: float, distance: bool, rope_theta: float, decode: bool
) -> Edited:
    """Add the two terms to the logits of visual keys."""
    if rows.decoding and not decode:
        return Edited(rows.weights)
    term = size_term(rows.mark("size"), rows.visual, uniform=rows.layer == 0)[:, None]
    marks = {}
    if distance:
        if "position" not in rows.marks:
            raise ValueError(
                f"distance=True needs marks 'position', got {sorted(rows.marks)}; "
                "give the keys' position ids as marks, or pass distance=False"
            )
        position = rows.mark("position")
        own = row_positions(rows.columns, position)
        apart = (own.unsqueeze(-1) - position[:, None]).abs()
        away = distance_term(apart, rope_theta, rows.value.shape[-1])
        term = term + away.where(rows.visual[:, None], 0)
        noted = own.where(rows.edited, position.gather(1, rows.columns))
        marks["position"] = position.scatter(1, rows.columns, noted)
    return Edited((rows.logits + strength * term[:, None]).softmax(dim=-1), marks=marks)


def layers(options: Mapping[str, Any], depth: int) -> range:
    """All layers."""
    return range(depth)


def check(options: Mapping[str, Any]) -> None:
    """Numbers and switches."""
    check_number(options, "strength")
    check_number(options, "rope_theta", 1)
    check_switch(options, "distance")
    check_switch(options, "decode")


METHOD = Reweighter(
    name="restore",
    summary="gives merged visual tokens the attention of the tokens that they stand for",
    source="RESTORE, ICML 2026",
    evidence="no independent measurement known",
    edit=edit,
    layers=layers,
    rows="text",
    options={"strength": 1.0, "distance": False, "rope_theta": 10000.0, "decode": False},
    encoder=("size",),
    check=check,
)
