"""Heads-guided attention: all heads follow their mean attention to the image (arXiv 2411.16724).

`s_hj += alpha mean_h |s_hj|` for visual keys j, on the last row of every pass, before the softmax:
PAI with the same boost for every head. Only middle layers, where the paper finds that the LLM takes
up the image; alpha 0.5. alpha = 0 changes nothing.

The range of layers (`first`..`last` of 32, 5 to 18 here) is a setting of the released command line
that could not be verified, so treat it as our choice. No independent measurement is known.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lvlm_prune.reweight.contract import AttentionRows, Edited, Reweighter, scaled_range
from lvlm_prune.reweight.options import check_layers, check_number


def guided(logits: Tensor, visual: Tensor, alpha: float) -> Tensor:
    """Raise visual keys by the mean over heads of their logits' size.

    Args:
        logits: `[B, H, R, S]`; -inf stays -inf.
        visual: `[B, S]` bool.
        alpha: strength, 0 for none.

    Returns:
        `[B, H, R, S]`.
    """
    seen = visual[:, None, None] & logits.isfinite()
    boost = logits.abs().where(seen, 0).mean(dim=1, keepdim=True)
    return logits + (alpha * boost).where(seen, 0)


def edit(rows: AttentionRows, *, alpha: float, **_: Any) -> Edited:
    """Raise the image by the same amount in each head."""
    return Edited(guided(rows.logits, rows.visual, alpha).softmax(dim=-1))


def layers(options: Mapping[str, Any], depth: int) -> range:
    """The middle layers `first` to `last` of 32."""
    return scaled_range(options["first"], options["last"], 32, depth)


def check(options: Mapping[str, Any]) -> None:
    """The strength is 0 or more, the layers are in order."""
    check_number(options, "alpha")
    check_layers(options, 32)


METHOD = Reweighter(
    name="headguide",
    summary="raises the last row's attention to the image by its mean over heads, middle layers",
    source="Heads-guided attention intervention, arXiv 2411.16724",
    evidence="no independent measurement known",
    edit=edit,
    layers=layers,
    rows="last",
    options={"alpha": 0.5, "first": 5, "last": 18},
    check=check,
)
