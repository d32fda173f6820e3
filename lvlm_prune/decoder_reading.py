"""What an unpruned LLM does with the visual tokens of one prompt.

In: a model and what its processor made of one prompt. Out: for every decoder layer which visual
tokens are LLM sinks when they enter it (`llm_sinks`, arXiv 2503.03321), how far the largest norm
stands above the median, and the attention that each head's last prompt row gives to each visual
token, which is the row that the first word of the answer comes from. One forward pass; the rows are
explicit, everything else stays in the model's own kernels. It knows nothing about pruning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.decoder import Decoder
from lvlm_prune.decoder_call import DecoderCall
from lvlm_prune.decoder_hooks import join, leave
from lvlm_prune.llm_sinks import SinkRule, phi, residual_norms
from lvlm_prune.reweight.layer_rows import check_kernel
from lvlm_prune.reweight.rows import explicit_logits
from lvlm_prune.tap import AttentionCall


@dataclass(frozen=True, eq=False)
class DecoderReading:
    """What the L decoder layers of H heads do with N visual tokens, on the CPU.

    Args:
        sinks: `[L, N]` bool, LLM sinks among the visual tokens that enter a layer.
        text_sinks: `[L]`, how many text tokens are LLM sinks.
        norm_ratio: `[L]`, largest norm of a visual token over the median of visual tokens.
        text_norm_ratio: `[L]`, the same of text tokens.
        phi: `[L]`, largest phi of a visual token, or None where the rule has no dimensions.
        attention: `[L, H, N]`, weights of the last prompt row; NaN in layers without attention.
    """

    sinks: Tensor
    text_sinks: Tensor
    norm_ratio: Tensor
    text_norm_ratio: Tensor
    phi: Tensor | None
    attention: Tensor

    @property
    def visual_mass(self) -> Tensor:
        """Attention mass of the last prompt row on visual tokens, `[L, H]`."""
        return self.attention.sum(dim=-1)

    def share(self, tokens: Tensor) -> Tensor:
        """Share of the visual mass on some tokens.

        Args:
            tokens: bool, `[N]`, or `[L, N]` for other ones in each layer.

        Returns:
            `[L, H]`, 0-1; NaN where there is no visual mass.
        """
        on_tokens = (self.attention * tokens.unsqueeze(-2)).sum(dim=-1)
        return on_tokens / self.visual_mass.masked_fill(self.visual_mass == 0, torch.nan)

    @property
    def sink_share(self) -> Tensor:
        """Share of the visual mass on each layer's own LLM sinks, `[L, H]`."""
        return self.share(self.sinks)


class DecoderReader:
    """Reads one pass, as a user of the decoder's hooks; changes nothing.

    Args:
        rule: how LLM sinks are told.
        heads: attention heads, for layers that have none.
    """

    def __init__(self, rule: SinkRule, heads: int) -> None:
        self.rule = rule
        self.heads = heads
        self.layers: list[dict[str, Tensor]] = []

    def begin(self, call: DecoderCall) -> None:
        """Start anew.

        Raises:
            ValueError: several prompts, or none with an image.
        """
        if call.visual.shape[0] != 1 or not bool(call.visual.any()):
            raise ValueError(
                f"inspection reads one prompt with an image, and got {call.visual.shape[0]} "
                f"prompt(s) with {int(call.visual.sum())} visual tokens; pass one"
            )
        self.layers = []

    def before_layer(self, call: DecoderCall, layer: int, arguments: dict[str, Any]) -> None:
        """Note sinks and norms of what enters a layer."""
        hidden = arguments["hidden_states"].detach()
        visual, text = call.visual & call.real, ~call.visual & call.real
        marks = self.rule.marks(hidden, visual, call.real, layer)
        norms = residual_norms(hidden)
        noted = {
            "sinks": marks[visual],
            "text_sinks": marks[text].sum(),
            "norm_ratio": norms[visual].max() / norms[visual].median(),
            "text_norm_ratio": norms[text].max() / norms[text].median(),
            "attention": norms.new_full((self.heads, int(visual.sum())), torch.nan),
        }
        if self.rule.by_phi:
            noted["phi"] = phi(hidden[visual], self.rule.dims).max()
        self.layers.append(noted)

    def attention(self, call: DecoderCall, layer: int, attention: AttentionCall) -> None:
        """Note the last prompt row's weights; the kernel runs."""
        check_kernel(attention)
        row = int(call.ends[0])
        logits = explicit_logits(attention, row, row + 1, 0)[0, :, 0].detach()
        visual = call.visual[0, : logits.shape[-1]]
        self.layers[layer]["attention"] = logits.softmax(dim=-1)[:, visual]

    def before_norm(self, call: DecoderCall, hidden: Tensor) -> Tensor:
        """The last states are not touched."""
        return hidden

    def reading(self) -> DecoderReading:
        """What was read."""
        joined = {
            name: torch.stack([one[name] for one in self.layers]).cpu() for name in self.layers[0]
        }
        return DecoderReading(phi=joined.pop("phi", None), **joined)


@torch.inference_mode()
def read_decoder(
    model: Any, inputs: Mapping[str, Any], rule: SinkRule | None = None
) -> DecoderReading:
    """Run the unpruned prompt and read every decoder layer.

    Args:
        model: a whole transformers model, unwrapped, with nothing attached.
        inputs: what the model's processor made of one prompt with one image.
        rule: how LLM sinks are told; None for the norm rule.
    """
    decoder = Decoder(model, "it cannot be read")
    rule = rule or SinkRule.uncalibrated(decoder.depth)
    reader = DecoderReader(rule, decoder.config.num_attention_heads)
    join(model, reader)
    try:
        model(**inputs, use_cache=False, logits_to_keep=1)
    finally:
        leave(model, reader)
    return reader.reading()
