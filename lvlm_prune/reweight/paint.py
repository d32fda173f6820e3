"""PAINT: raise local and summary tokens by different amounts before the softmax (arXiv 2501.12206).

`s_j += alpha |s_j|` for local tokens j and `s_j += beta |s_j|` for summary tokens, on the last row
of every pass, layers 2..31 of 32; alpha 0.5 and beta 0.3 by default, alpha 0.7 in preset `code`.
The sets come from the vision encoder's CLS row: local tokens are the top quarter of the head sum
in its first layer, summary tokens the outliers (above Q3 + 1.5 IQR) of the head sum in its layer
-2; a token of both is a summary token. alpha = beta = 0 changes nothing.

Where an encoder has no CLS token, received attention takes the place of the CLS row; the paper does
not know that case. The released code adds PAI's contrast (gamma 1.1) on top, see `contrast`. The
claim of 62.3 % fewer hallucinations on COCO captions has not been confirmed by others.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.reweight.contract import AttentionRows, Edited, Reweighter, scaled_range
from lvlm_prune.reweight.options import check_number
from lvlm_prune.reweight.pai import boosted

LOCAL_SHARE = 0.25


def local_and_summary(first: Tensor, penultimate: Tensor) -> tuple[Tensor, Tensor]:
    """The two sets of one image.

    Args:
        first: CLS row (or received attention) of the encoder's first layer, `[H, N]`.
        penultimate: the same of its layer -2, `[H, N]`.

    Returns:
        Two bool masks `[N]` that do not overlap: local and summary tokens.
    """
    total = penultimate.float().sum(dim=0)
    low, high = total.quantile(torch.tensor([0.25, 0.75], device=total.device))
    summary = _top(total, int((total > high + 1.5 * (high - low)).sum()))
    local = _top(first.float().sum(dim=0), int(LOCAL_SHARE * first.shape[1]))
    return local & ~summary, summary


def _top(scores: Tensor, count: int) -> Tensor:
    """Mark the `count` highest of `[N]` scores; ties go to the earlier one."""
    order = scores.argsort(descending=True, stable=True)
    marked = torch.zeros_like(scores, dtype=torch.bool)
    marked[order[:count]] = True
    return marked


def edit(rows: AttentionRows, *, alpha: float, beta: float) -> Edited:
    """Raise both sets."""
    strength = alpha * rows.mark("local") + beta * rows.mark("summary")
    return Edited(boosted(rows.logits, rows.visual, strength[:, None, None]).softmax(dim=-1))


def layers(options: Mapping[str, Any], depth: int) -> range:
    """Layers 2 to the last of 32."""
    return scaled_range(2, 31, 32, depth)


def check(options: Mapping[str, Any]) -> None:
    """Both strengths are 0 or more."""
    for name in ("alpha", "beta"):
        check_number(options, name)


METHOD = Reweighter(
    name="paint",
    summary="raises the encoder's local and summary tokens by different amounts",
    source="PAINT, arXiv 2501.12206",
    evidence="no independent measurement known",
    edit=edit,
    layers=layers,
    rows="last",
    options={"alpha": 0.5, "beta": 0.3},
    presets={"code": {"alpha": 0.7}},
    encoder=("local", "summary"),
    check=check,
)
