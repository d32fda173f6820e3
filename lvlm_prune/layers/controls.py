"""The control that every method inside the LLM has to beat: random tokens at the same layers.

In: the tokens that are still there. Out: K of each image, drawn from a generator of its own. What
was drawn depends on the seed, the layer, the number of tokens and a number read off the image's own
embeddings, so that neighbours in a batch change nothing and each image gets a draw of its own. It
looks at no content beyond that, so it shows what a budget is worth without a ranking.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.layers.contract import LayerMethod, LayerRequest, LayerSelection, LayerSignals
from lvlm_prune.reweight.options import check_whole

READ = 16  # tokens of an image that its number is read from
MODULUS = 2**61 - 1


def image_number(embeddings: Tensor) -> int:
    """A number that depends on an image alone.

    Args:
        embeddings: `[n, D]`, what entered the LLM at its tokens. Only where each row is largest is
            read: sums of floats differ with the size of a batch, this does not.
    """
    places = torch.linspace(0, len(embeddings) - 1, min(READ, len(embeddings))).round().long()
    number = 0
    for channel in embeddings[places.to(embeddings.device)].float().abs().argmax(dim=1).tolist():
        number = (number * 1_000_003 + channel + 1) % MODULUS
    return number


def select(signals: LayerSignals, keep: Sequence[int], **options: Any) -> LayerSelection:
    """Draw tokens of each image."""
    kept = [signals.visual[:0]]
    for columns, count in zip(signals.images, keep, strict=True):
        number = image_number(signals.embeddings[columns]) if len(columns) else 0
        generator = torch.Generator()
        seed = options["seed"] * 1_000_003 + signals.layer
        generator.manual_seed((seed * 1_000_003 + number) % MODULUS)
        drawn = torch.randperm(len(columns), generator=generator)[:count].sort().values
        kept.append(columns[drawn.to(columns.device)])
    return LayerSelection(torch.cat(kept))


def stages(depth: int) -> Mapping[int, float | None]:
    """Where FastV drops: before layer 2, half of the tokens."""
    return {min(2, depth - 1): 0.5}


def check(options: Mapping[str, Any]) -> None:
    """The seed is a whole number."""
    check_whole(options, "seed")


RANDOM = LayerMethod(
    name="random",
    summary="control: random tokens, seeded by options and image",
    source="the strongest simple baseline of studies before the LLM",
    select=select,
    stages=stages,
    request=LayerRequest(embeddings=True),
    options={"seed": 0},
    check=check,
)
