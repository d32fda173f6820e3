"""LayerReport: how many visual tokens each decoder layer had, and what that costs.

Made once a prefill by the layer stage. The layer average is what papers with several stages call
their budget; FLOPs follow from counts by the usual formula (two for each multiply-add; attention,
projections and MLP of the LLM), not from measurement.
"""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lvlm_prune.layers.cost import LlmShape, decode_flops, prefill_flops
from lvlm_prune.layers.schedule import LayerSchedule


@dataclass(frozen=True, eq=False)
class LayerReport:
    """The last prefill of a layer stage.

    Args:
        schedule: what was asked for.
        tokens: for each prompt (with beams or samples for each of its copies), the visual tokens
            of each decoder layer.
        text: for each prompt, its text tokens.
        shape: of the LLM, for the FLOPs.
        kept: for each stage's layer and each prompt, the columns of the visual tokens that go on,
            `[K]` ascending, as the LLM got the prompt (padding counts; with method=... the short
            one). A visual token at a prompt's end always goes on, as part of its image's budget.
    """

    schedule: LayerSchedule
    tokens: list[list[int]]
    text: list[int]
    shape: LlmShape
    kept: dict[int, list[Tensor]] = field(default_factory=dict)

    @property
    def tokens_per_layer(self) -> list[float]:
        """Visual tokens at each decoder layer, averaged over the prompts that have any."""
        rows = [row for row in self.tokens if row[0]]
        if not rows:
            return [0.0] * self.shape.depth
        return [sum(column) / len(rows) for column in zip(*rows, strict=True)]

    @property
    def layer_average(self) -> float:
        """Visual tokens of a decoder layer, averaged over layers and prompts."""
        return sum(self.tokens_per_layer) / self.shape.depth

    @property
    def last(self) -> float:
        """Visual tokens at the last layer, averaged over the prompts."""
        return self.tokens_per_layer[-1]

    @property
    def prefill_share(self) -> float:
        """FLOPs of the LLM's prefill as a share (0-1) of those if all that entered went on."""
        return self._share(prefill_flops)

    @property
    def decode_share(self) -> float:
        """FLOPs of the first decode step as a share (0-1) of those if all that entered went on."""
        return self._share(decode_flops)

    def _share(self, flops: Any) -> float:
        """FLOPs with the stage over those without."""
        pairs = list(zip(self.tokens, self.text, strict=True))
        less = sum(flops(self.shape, [n + text for n in row]) for row, text in pairs)
        full = sum(flops(self.shape, [row[0] + text] * len(row)) for row, text in pairs)
        return less / full

    def __str__(self) -> str:
        """One line for a script to print."""
        first = self.tokens_per_layer[0]
        return (
            f"{self.schedule.label()}: {first:.0f} visual tokens enter the LLM, {self.last:.0f} "
            f"reach its last layer, {self.layer_average:.1f} on average over {self.shape.depth} "
            f"layers; {self.prefill_share:.1%} of the prefill FLOPs of all {first:.0f}, "
            f"{self.decode_share:.1%} of a decode step's"
        )
