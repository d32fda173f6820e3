"""SparseVLM+: SparseVLM's raters, attention freed of distance, from heads that see the image.

In and out as in `sparsevlm`, without recycling (SparseVLM, arXiv 2410.04417, later version;
official code 26a5f48 with USE_VERSION=2_0):

- logits of the raters' rows are divided by what the rotary embedding alone makes of them, the logit
  of an all-ones query and an all-ones key at the same two positions: 2 sum_k cos((m - n) theta_k);
- scores are averaged over the 14 of 32 heads whose raters give most attention to the image, and
  over raters;
- nothing is merged, positions are kept.

Official lists, after layers 2, 6 and 15 of 32, that is before layers 3, 7 and 16: 192 = 300, 200,
118 (the default, as shares of 576); 128 = 238, 108, 60; 96 = 246, 54, 28; 64 = 66, 34, 20. Layers
really see 207, 144, 114 and 82 tokens on average.

Decided here, since no outputs of this version are at hand: the division is by mean_k cos, 1 at
distance 0, so that the logits' temperature stays; it is never less than 0.05, since the cosine sum
of far positions passes through 0; it applies to the prompt's own keys, cached ones in front keep
their logits; the weights are the softmax of the divided logits. `debias=False` leaves the logits as
they are, for LLMs without a rotary embedding. `heads` is the share of heads, 14 / 32.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.layers.contract import (
    LayerMethod,
    LayerRequest,
    LayerSelection,
    LayerSignals,
    scaled_stages,
)
from lvlm_prune.layers.rows import split_by_image
from lvlm_prune.layers.sparsevlm import PUBLISHED_DEPTH, rating_rows
from lvlm_prune.layers.top import top_of_each_image
from lvlm_prune.reweight.options import check_number

LEAST_BIAS = 0.05


def rotary_bias(cosine: Tensor, sine: Tensor, rows: Tensor, width: int) -> Tensor:
    """What distance alone makes of a logit.

    Args:
        cosine: `[T, d]` of the rotary embedding, both halves, as the layer gets them.
        sine: `[T, d]`.
        rows: columns of queries `[R]`.
        width: width of a head; d is smaller where only a part is rotated.

    Returns:
        `[R, T]` float32: the mean over a head's dimensions of cos((m - n) theta_k), at least 0.05.
    """
    table = torch.cat([cosine, sine], dim=-1).float()
    # Some rotary embeddings scale cosine and sine; only the angle matters here.
    unit = torch.nn.functional.normalize(table, dim=-1)
    rotated = cosine.shape[-1]
    bias = ((unit[rows] @ unit.T) * rotated + width - rotated) / width
    return bias.clamp(min=LEAST_BIAS)


def best_heads(weights: Tensor, share: float) -> Tensor:
    """Heads with the largest sum of weights, `[H, R, n]` to `[h]`; at least one."""
    count = max(1, round(share * weights.shape[0]))
    return weights.sum(dim=(1, 2)).sort(descending=True, stable=True).indices[:count]


def select(signals: LayerSignals, keep: Sequence[int], **options: Any) -> LayerSelection:
    """Rank by the raters' attention without the bias of distance."""
    rows, chosen = rating_rows(signals)
    projected = signals.previous
    together = torch.cat(rows).unique()
    logits = projected.logits(together)
    if options["debias"]:
        if signals.rotary is None:
            raise ValueError(
                "this LLM has no rotary embedding to free attention of; pass debias=False"
            )
        bias = rotary_bias(*signals.rotary, together, projected.query.shape[-1])
        logits[..., projected.past :] /= bias
    weights = logits.softmax(dim=-1)[..., signals.visual + projected.past]
    parts = split_by_image(signals, weights, together, rows)
    best = [part[best_heads(part, options["heads"])] for part in parts]
    scores = torch.cat([part.mean(dim=(0, 1)) for part in best])
    selection = top_of_each_image(signals, scores, keep)
    return LayerSelection(selection.kept, scores, memory=chosen)


def check(options: Mapping[str, Any]) -> None:
    """Require a share of heads and a bool."""
    check_number(options, "heads", 0.0, 1.0)
    if not isinstance(options["debias"], bool):
        raise TypeError(f"debias must be True or False, got {options['debias']!r}")


def stages(depth: int) -> Mapping[int, float | None]:
    """The official setting named 192."""
    return scaled_stages({3: 300 / 576, 7: 200 / 576, 16: 118 / 576}, PUBLISHED_DEPTH, depth)


METHOD = LayerMethod(
    name="sparsevlm_plus",
    summary="attention of the text tokens about the image, freed of distance, of the best heads",
    source="SparseVLM, arXiv 2410.04417 (v1.5)",
    select=select,
    stages=stages,
    request=LayerRequest(previous=True, embeddings=True, rotary=True),
    options={"heads": 14 / 32, "debias": True},
    ranked=True,
    check=check,
)
