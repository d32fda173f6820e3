"""What stages inside the LLM spend: visual tokens at each layer, and FLOPs.

In: the answers of a run with the tokens that each layer had. Out: their means, and FLOPs as shares
of the unpruned LLM's, which got all visual tokens at every layer. It measures nothing; the FLOPs
are those of `layers.cost`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lvlm_prune.eval.attached import Answer
from lvlm_prune.layers.cost import LlmShape, decode_flops, prefill_flops


@dataclass(frozen=True)
class LayerUse:
    """Means over the questions of a run.

    Args:
        tokens_per_layer: visual tokens at each decoder layer.
        prefill_share: FLOPs of the LLM's prefill, as a share (0-1) of the unpruned LLM's.
        decode_share: the same for the first decode step.
    """

    tokens_per_layer: tuple[float, ...]
    prefill_share: float
    decode_share: float

    @property
    def entered(self) -> float:
        """Visual tokens that entered the LLM."""
        return self.tokens_per_layer[0]

    @property
    def average(self) -> float:
        """Visual tokens of a layer."""
        return sum(self.tokens_per_layer) / len(self.tokens_per_layer)

    @property
    def last(self) -> float:
        """Visual tokens at the last layer."""
        return self.tokens_per_layer[-1]

    def to_dict(self) -> dict[str, Any]:
        """Numbers for a result file."""
        return {
            "tokens_per_layer": list(self.tokens_per_layer),
            "entered": self.entered,
            "average": self.average,
            "last": self.last,
            "prefill_share": self.prefill_share,
            "decode_share": self.decode_share,
        }


def layer_use(answers: Sequence[Answer], totals: Sequence[int], shape: LlmShape) -> LayerUse:
    """Sum up a run.

    Args:
        answers: with their tokens.
        totals: for each answer, the visual tokens of its image, N.
        shape: of the LLM.
    """
    columns = zip(*(answer.tokens for answer in answers), strict=True)
    spent = [[n + answer.words for n in answer.tokens] for answer in answers]
    whole = [
        [total + answer.words] * shape.depth for answer, total in zip(answers, totals, strict=True)
    ]
    shares = [
        sum(flops(shape, row) for row in spent) / sum(flops(shape, row) for row in whole)
        for flops in (prefill_flops, decode_flops)
    ]
    return LayerUse(tuple(sum(column) / len(answers) for column in columns), *shares)


def matched_stages(
    use: LayerUse, stages: dict[int, int | float | None]
) -> dict[int, int | float | None] | None:
    """The schedule of a control with as many tokens at each layer.

    Args:
        use: of a run.
        stages: its schedule.

    Returns:
        The same schedule where all of it is given; where the method decides itself, the mean shares
        that went on; None where all tokens did.
    """
    if all(keep is not None for keep in stages.values()):
        return stages
    found: dict[int, int | float | None] = {}
    before = 1.0
    for layer in stages:
        share = round(use.tokens_per_layer[layer] / use.entered, 6)
        # Stages must fall; those at which nothing left are none.
        if share < before:
            # A share of 0 is none; the number 0 is.
            found[layer], before = share or 0, share
    return found or None
