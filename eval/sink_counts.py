"""How many ViT sinks there are in a benchmark's images, and how many a run kept.

In: nothing. Out: three numbers with names.
"""

from dataclasses import dataclass


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
