"""Count the ViT sinks of a benchmark's images, and those that a run kept.

In: choices and sinks of all images. Out: three numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lvlm_prune.stage import Choice


@dataclass(frozen=True)
class SinkCount:
    """ViT sinks of the images of a run.

    Args:
        images: images with at least one sink.
        found: sinks in all images.
        kept: of those, how many reached the LLM.
    """

    images: int
    found: int
    kept: int


def count_sinks(choices: Sequence[Choice], sinks: Sequence[Tensor]) -> SinkCount:
    """Count the sinks of all images and those that were kept."""
    return SinkCount(
        images=sum(bool(found.any()) for found in sinks),
        found=sum(int(found.sum()) for found in sinks),
        kept=sum(
            int(found[choice.rows.kept].sum()) for choice, found in zip(choices, sinks, strict=True)
        ),
    )
