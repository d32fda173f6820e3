"""Everything that `lvlm-prune inspect` measures of one prompt, as one frozen value.

In: a model, what its processor made of one prompt with one image, and a config. Out: an
`Inspection`: what the encoder says about the visual tokens, what the unpruned LLM does with them,
which ones the config keeps before the LLM and how far they get inside it. Numbers only; pictures
are `lvlm_prune.eval.inspection_picture`, words are `inspection_text`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.attachment import attach
from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.config import PruneConfig
from lvlm_prune.decoder import Decoder
from lvlm_prune.decoder_reading import DecoderReading, read_decoder
from lvlm_prune.encoder_reading import EncoderReading, read_encoder
from lvlm_prune.layers.reached import reached_layers
from lvlm_prune.llm_sinks import SinkRule, sink_rule_for, split_sinks
from lvlm_prune.show_figure import whole


@dataclass(frozen=True, eq=False)
class Inspection:
    """One prompt with N visual tokens in an LLM of L layers.

    Args:
        config: what is kept, and where tokens are left behind.
        rule: how LLM sinks were told.
        tiles: placeholders `[n]` and grid of each tile of the image.
        encoder: what the encoder says.
        decoder: what the unpruned LLM does.
        reached: `[N]`, the first layer that a token does not reach: 0 for those dropped before the
            LLM, L for those that reach the end.
        stages: layers before which tokens are left behind, ascending.
    """

    config: PruneConfig
    rule: SinkRule
    tiles: list[tuple[Tensor, tuple[int, int]]]
    encoder: EncoderReading
    decoder: DecoderReading
    reached: Tensor
    stages: tuple[int, ...]

    @property
    def total(self) -> int:
        """Visual tokens N."""
        return self.reached.shape[0]

    @property
    def depth(self) -> int:
        """Decoder layers L."""
        return self.decoder.sinks.shape[0]

    @property
    def kept(self) -> Tensor:
        """Tokens that enter the LLM, `[K]` ascending."""
        return self.reached.nonzero()[:, 0]

    @property
    def propagated(self) -> Tensor:
        """LLM sinks that were ViT sinks, `[L, N]` bool."""
        return split_sinks(*self._both())[0]

    @property
    def emerged(self) -> Tensor:
        """LLM sinks that were not, `[L, N]` bool."""
        return split_sinks(*self._both())[1]

    def _both(self) -> tuple[Tensor, Tensor]:
        """LLM sinks and ViT sinks, `[L, N]` each."""
        return self.decoder.sinks, self.encoder.sinks.expand_as(self.decoder.sinks)

    def counts(self) -> list[int]:
        """Visual tokens that each layer has under the config, L numbers."""
        return [int((self.reached > layer).sum()) for layer in range(self.depth)]


@torch.inference_mode()
def inspect_prompt(
    model: Any, inputs: Mapping[str, Any], config: PruneConfig, rule: SinkRule | None = None
) -> Inspection:
    """Measure one prompt with one image.

    Args:
        model: a whole transformers model, unwrapped, with nothing attached; it is left as it was.
        inputs: what its processor made.
        config: what to keep; `layers` may name stages inside the LLM.
        rule: how LLM sinks are told, see `Calibration.rule`; None for the norm rule.

    Raises:
        UnsupportedModelError, MissingSignalError, ValueError: see the message.
    """
    llm = Decoder(model, "it cannot be inspected")
    rule = sink_rule_for(rule, llm.depth, llm.config.hidden_size)
    stage = BoundaryStage(model, config)
    chosen = whole(stage.select(stage.encode(inputs)))
    decoder = read_decoder(model, inputs, rule)
    depth = decoder.sinks.shape[0]
    reached = torch.zeros(chosen.total, dtype=torch.long)
    reached[chosen.kept] = depth
    stages: tuple[int, ...] = ()
    if config.layers is not None:
        token_id = stage.adapter.token_id("image")
        left = _columns_by_stage(model, inputs, config, rule)
        reached = reached_layers(inputs["input_ids"][0].cpu() == token_id, reached, left)
        stages = tuple(sorted(left))
    return Inspection(
        config=config,
        rule=rule,
        tiles=chosen.tiles,
        encoder=read_encoder(stage.adapter, inputs),
        decoder=decoder,
        reached=reached,
        stages=stages,
    )


def _columns_by_stage(
    model: Any, inputs: Mapping[str, Any], config: PruneConfig, rule: SinkRule
) -> dict[int, Tensor]:
    """For each stage's layer the columns of the short prompt's visual tokens that go on."""
    with attach(model, config, sink_rule=rule) as handle:
        model(**inputs, logits_to_keep=1)
        if handle.layers is None:
            return {}
        kept = handle.layers.report.kept
    return {layer: columns[0].cpu() for layer, columns in kept.items()}
