"""DART: keep a few pivots and the tokens least like them (arXiv 2502.11494).

In: keys of the layer before the stage and the hidden states that enter the stage's layer. Out: for
each image its 4 visual tokens with the largest L1 norm of keys, which are pivots, and for each of
them and of 4 text pivots in turn the tokens left with the lowest cosine of hidden states, an equal
share of the budget each. Attention is not used. Published setting: layer 2 of 32, reduction ratio
.778, that is 128 of 576 by name; the official rounding gives 132.

The choice given the pivots is the same pure function as in the method `dart` before the LLM, which
takes the LLM's input for both norms and similarities.

Differences from the official code (as in VTC-Bench 983e443): pivots take turns by descending norm,
visual ones first, where the official order is that of a Python set, on which the result depends;
the budget counts the visual pivots and is met exactly, earlier pivots taking one token more; each
image has visual pivots of its own; text pivots come from the text behind the first image, as
released, and there are fewer where that text is shorter; cosines are those of the plain hidden
states, where the official applies the LLM's final norm first; norms are those of keys before the
rotary embedding, where the official takes rotated ones: the L1 norm of a rotated key changes with
its position, so that the same prompt would keep other tokens behind padding or a longer text.
Where the rotation is unknown (three axes that are not joined) keys stay as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.layers.contract import LayerMethod, LayerRequest, LayerSelection, LayerSignals
from lvlm_prune.layers.rotation import without_rotation
from lvlm_prune.layers.rows import rows_behind
from lvlm_prune.methods.dart import equal_shares, largest_rows, least_similar
from lvlm_prune.reweight.options import check_whole


def check(options: Mapping[str, Any]) -> None:
    """Require at least one visual pivot."""
    check_whole(options, "image_pivots", 1)
    check_whole(options, "text_pivots")


def turns(hidden: Tensor, norms: Tensor, text: Tensor, keep: int, image_pivots: int) -> Tensor:
    """The turn in which each token of one image is taken.

    Args:
        hidden: `[n, D]`.
        norms: rows whose L1 norm chooses pivots, `[n, d]`.
        text: hidden states of the text pivots in their order, `[P, D]`.
        keep: tokens to take.
        image_pivots: visual pivots at most.

    Returns:
        `[n]` int64: 0 for visual pivots, then from 1; exactly `keep` are below the largest turn
        plus one, the others above.
    """
    chosen = largest_rows(norms, min(image_pivots, keep))
    pivots = torch.cat([hidden[chosen].float(), text.float()])
    count = torch.tensor([len(pivots)], device=hidden.device)
    shares = equal_shares(count, keep - len(chosen))
    return least_similar(hidden[None], pivots[None], shares, chosen[None])[0]


def select(signals: LayerSignals, keep: Sequence[int], **options: Any) -> LayerSelection:
    """Take the pivots of each image and what is least like them."""
    past = signals.previous.past
    keys = without_rotation(signals.previous.key[:, past:], signals.rotary)
    keys = keys.transpose(0, 1).flatten(1)
    behind = rows_behind(signals, signals.visual[:1])
    text = behind[largest_rows(keys[behind], options["text_pivots"])]
    kept, scores = [], []
    for columns, count in zip(signals.images, keep, strict=True):
        if count == 0:
            scores.append(torch.zeros(len(columns), device=columns.device))
            continue
        turn = turns(
            signals.hidden[columns],
            keys[columns],
            signals.hidden[text],
            count,
            options["image_pivots"],
        )
        chosen = turn.argsort(stable=True)[:count].sort().values
        kept.append(columns[chosen])
        scores.append(1 / (turn + 1))
    empty = signals.visual[:0]
    return LayerSelection(torch.cat([empty, *kept]), torch.cat(scores))


def stages(depth: int) -> Mapping[int, float | None]:
    """Before layer 2, the published share; a shallow LLM's layer 2 may be its last."""
    return {min(2, depth - 1): 128 / 576}


METHOD = LayerMethod(
    name="dart",
    summary="pivots by the norm of keys and the tokens least like them",
    source="DART, arXiv 2502.11494",
    select=select,
    stages=stages,
    request=LayerRequest(previous=True, rotary=True),
    options={"image_pivots": 4, "text_pivots": 4},
    check=check,
)
