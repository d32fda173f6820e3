"""PAI: raise the attention of the last row to the image before the softmax (arXiv 2407.21771).

`s_j += alpha |s_j|` for visual keys j, on the last row of every pass (the prompt's last row and
every decode row), from layer 2 on of 32. alpha 0.2 is the released command line's. It raises large
logits most, attention sinks included. With gamma other than 1 (preset `code`: 1.1) `generate`
contrasts the logits with those of the prompt without its visual tokens, and cuts off what is less
than `beta` times as probable as the best token, see `contrast`; that doubles its cost, and a
hand-written loop gets the raised attention without the contrast. Independent users did not reach
the paper's numbers (POPE 84.9 on average, CHAIR_S 44.6).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from lvlm_prune.reweight.contract import (
    AttentionRows,
    Contrast,
    Edited,
    Reweighter,
    scaled_range,
)
from lvlm_prune.reweight.contrast import pai_contrast
from lvlm_prune.reweight.options import check_number, check_plausible


def boosted(logits: Tensor, visual: Tensor, alpha: float | Tensor) -> Tensor:
    """Raise the logits of visual keys.

    Args:
        logits: `[B, H, R, S]`; -inf stays -inf.
        visual: `[B, S]` bool.
        alpha: strength, 0 for none; a tensor must broadcast to the logits.

    Returns:
        `[B, H, R, S]`.
    """
    seen = visual[:, None, None] & logits.isfinite()
    return logits + (alpha * logits.abs()).where(seen, 0)


def edit(rows: AttentionRows, *, alpha: float, **_: Any) -> Edited:
    """Raise the image."""
    return Edited(boosted(rows.logits, rows.visual, alpha).softmax(dim=-1))


def layers(options: Mapping[str, Any], depth: int) -> range:
    """Layers 2 to the last of 32."""
    return scaled_range(2, 31, 32, depth)


def contrast(options: Mapping[str, Any]) -> Contrast | None:
    """The prompt without its image, unless gamma is 1."""
    if options["gamma"] == 1:
        return None
    return Contrast(partial(pai_contrast, gamma=options["gamma"], beta=options["beta"]))


def check(options: Mapping[str, Any]) -> None:
    """The strengths are 0 or more, beta is a share."""
    check_number(options, "alpha")
    check_number(options, "gamma")
    check_plausible(options)


METHOD = Reweighter(
    name="pai",
    summary="raises the last row's attention to the image, before the softmax",
    source="PAI, arXiv 2407.21771",
    evidence="independent users measure POPE 84.9 on average and CHAIR_S 44.6 (issues #21 and #20)",
    edit=edit,
    layers=layers,
    rows="last",
    options={"alpha": 0.2, "gamma": 1.0, "beta": 0.1},
    presets={"code": {"gamma": 1.1}},
    check=check,
    contrast=contrast,
)
