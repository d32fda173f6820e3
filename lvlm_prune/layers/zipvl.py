"""ZipVL's adaptive share: as many visual tokens as hold most of the attention (arXiv 2410.08584).

In: the attention of the layer before the stage. Out: for each image the smallest set of its visual
tokens that holds `share` of the attention that its judging rows give to it, at least one. Layers
whose attention is spread keep many tokens, layers that look at few keep few.

Each image is judged alone, by rows that can see all of it: the text behind its last token (`rows`
"text", the prompt's last row if there is none) or the prompt's last row ("last"). A threshold over
all images would drop one whole where another gets more attention.

Followed: the number of tokens comes from the layer's own attention and a threshold on the mass that
the largest scores hold; the tokens are those with the largest scores.

Not followed: the paper counts the mass of all tokens and rows (approximated by 64 recent and 64
random probe rows), here it is that of an image's tokens in its judging rows, so that text is never
dropped and nothing is random; it normalises scores by the number of rows that see a key, which is
the same number for each visual token of one image here; it skips attention of a layer's unimportant
tokens and drops their cache, but brings them back in the next layer, where tokens dropped here are
gone, so that the set shrinks from layer to layer; the share is of what is still there.

`share` 0.95 is our choice: the paper's threshold is one of all tokens. It is the share of each
stage, so the default schedule looks at layers 2, 8 and 16 of 32 and not at all of them: 0.95 thirty
times over is a fifth. LLM visual sinks are excluded: their mass is not counted and they do
not go on. `keep` is not read.
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
from lvlm_prune.layers.rows import image_weights, last_row, rows_behind
from lvlm_prune.reweight.options import check_number

PUBLISHED_DEPTH = 32
ROWS = ("text", "last")


def smallest_set(scores: Tensor, share: float) -> Tensor:
    """The fewest scores whose sum is at least a share of all.

    Args:
        scores: `[n]`, 0 or more.
        share: in (0, 1].

    Returns:
        Indices, ascending; at least one unless n is 0. Of equal scores the earlier one is taken,
        and share 1 takes all that are above 0.
    """
    ordered = scores.double().sort(descending=True, stable=True)
    # A score is needed as long as it and what follows hold more than may be lost. Summed from the
    # smallest one, so that nothing is lost to rounding.
    rest = ordered.values.flip(0).cumsum(dim=0).flip(0)
    needed = rest > (1 - share) * rest[:1]
    needed[:1] = True
    return ordered.indices[needed].sort().values


def select(signals: LayerSignals, keep: Sequence[int], **options: Any) -> LayerSelection:
    """Keep what holds the share of the attention on each image."""
    last, scores, kept = last_row(signals), [], []
    rows = [
        last if options["rows"] == "last" else rows_behind(signals, columns)
        for columns in signals.images
    ]
    weights = image_weights(signals, signals.previous, rows)
    for columns, part in zip(signals.images, weights, strict=True):
        counted = part.mean(dim=(0, 1))
        scores.append(counted)
        if signals.sinks is not None:
            counted = counted.masked_fill(signals.sinks[columns], 0.0)
        kept.append(columns[smallest_set(counted, options["share"])])
    return LayerSelection(torch.cat(kept), torch.cat(scores))


def check(options: Mapping[str, Any]) -> None:
    """Require a share above 0 and a known choice of rows."""
    check_number(options, "share", 0.0, 1.0)
    if options["share"] == 0:
        raise ValueError("share=0 is not allowed; pass more than 0, up to 1, 0.95 is usual")
    if options["rows"] not in ROWS:
        raise ValueError(f"rows must be one of {', '.join(ROWS)}; got {options['rows']!r}")


def stages(depth: int) -> Mapping[int, float | None]:
    """A shallow, an early and a middle layer."""
    return scaled_stages({2: None, 8: None, 16: None}, PUBLISHED_DEPTH, depth)


METHOD = LayerMethod(
    name="zipvl",
    summary="the fewest visual tokens that hold a share of the attention on the image",
    source="ZipVL, arXiv 2410.08584",
    select=select,
    stages=stages,
    request=LayerRequest(previous=True),
    options={"share": 0.95, "rows": "text"},
    ranked=True,
    check=check,
)
