"""TransPrune: how much layers change a token, plus the text's attention (arXiv 2507.20630).

In: inputs and outputs of attention and MLP of the layers before a stage, noted while they run, and
query and key of the stage's own layer, computed ahead. Out: for each image the K tokens with the
highest sum of

- token transition variation (TTV): sum over layers and over {attention, MLP} of
  |out| / |in| * exp(1 - cos(in, out)) / sum over tokens of exp(1 - cos(in, out)),
- instruction-guided attention (IGA): attention weights, averaged over heads and over the text rows
  behind the image,

each divided by its sum over the image's tokens.

Published setting (official code c9e8284, layers counted from 1): after layers 7, 9 and 12 of 32,
7/8, 5/8 and 1/8 of the tokens, which is an average of 236 of 576; TTV of layers 7 to 12. Counted
from 0, TTV starts one layer before the first stage and a stage drops before its layer.

Differences from the official code: sums are per image, so that images of one prompt do not weigh on
each other (the official reads one image and one prompt); the budget is rounded by the schedule;
kept tokens keep their positions; what the layers noted of dropped tokens is not read again, their
exponentials stay in the sums of the layers that they went through.
"""

from collections.abc import Collection, Mapping, Sequence
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
from lvlm_prune.layers.rows import image_weights, rows_behind
from lvlm_prune.layers.top import top_of_each_image

PUBLISHED_DEPTH = 32
LEAST_SUM = 1e-8


def transition(before: Tensor, after: Tensor, real: Tensor) -> Tensor:
    """How much a module changes each token.

    Args:
        before: normed inputs `[B, T, D]`.
        after: outputs before the residual `[B, T, D]`.
        real: `[B, T]` bool, tokens that are no padding.

    Returns:
        `[B, T]`, float32: ratio of norms, times the share of exp(1 - cosine) among real tokens.
    """
    before, after = before.detach().float(), after.detach().float()
    sizes = before.norm(dim=-1).clamp(min=LEAST_SUM)
    changed = after.norm(dim=-1)
    cosine = (before * after).sum(dim=-1) / (sizes * changed.clamp(min=LEAST_SUM))
    turned = (1 - cosine).exp().masked_fill(~real, 0.0)
    shares = turned / turned.sum(dim=-1, keepdim=True).clamp(min=LEAST_SUM)
    return changed / sizes * shares


def observe(
    attention_in: Tensor, attention_out: Tensor, ffn_in: Tensor, ffn_out: Tensor, real: Tensor
) -> Tensor:
    """Transition of one layer, `[B, T]`: that of its attention plus that of its MLP."""
    return transition(attention_in, attention_out, real) + transition(ffn_in, ffn_out, real)


def observed(stages: Sequence[int], depth: int) -> Collection[int]:
    """From the layer before the first stage to the layer before the last one."""
    return range(max(0, stages[0] - 1), stages[-1])


def share_of_image(values: Tensor, images: Sequence[Tensor]) -> Tensor:
    """Divide by the sum over each image's tokens; `[n]` to `[n]`."""
    parts = values.split([len(columns) for columns in images])
    return torch.cat([part / (part.sum() + LEAST_SUM) for part in parts])


def select(signals: LayerSignals, keep: Sequence[int], **options: Any) -> LayerSelection:
    """Rank by transition plus attention."""
    transitions = torch.stack(list(signals.observed.values())).sum(dim=0)[signals.visual]
    rows = [rows_behind(signals, columns) for columns in signals.images]
    weights = image_weights(signals, signals.following, rows)
    attention = torch.cat([part.mean(dim=(0, 1)) for part in weights])
    scores = share_of_image(transitions, signals.images) + share_of_image(attention, signals.images)
    return top_of_each_image(signals, scores, keep)


def stages(depth: int) -> Mapping[int, float | None]:
    """The published ratios."""
    return scaled_stages({7: 0.875, 9: 0.625, 12: 0.125}, PUBLISHED_DEPTH, depth)


METHOD = LayerMethod(
    name="transprune",
    summary="change of tokens by layers plus attention of the text, in three stages",
    source="TransPrune, arXiv 2507.20630",
    select=select,
    stages=stages,
    request=LayerRequest(following=True),
    ranked=True,
    observe=observe,
    observed=observed,
)
