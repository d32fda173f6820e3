"""FLOPs of an LLM's prefill and decode steps, layer by layer.

In: the shape of the LLM and the number of tokens at each layer. Out: FLOPs, two for each
multiply-add. Counted: the four projections, the two products of attention (causal: half of the
square), and a gated MLP (all experts that a token is sent to). Not counted: norms, embeddings and
the head, which do not depend on the layer's length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LlmShape:
    """Widths of an LLM.

    Args:
        depth: decoder layers.
        width: D.
        query: heads times head width.
        key: key-value heads times head width.
        ffn: intermediate width of the MLP, of all experts that a token is sent to.
    """

    depth: int
    width: int
    query: int
    key: int
    ffn: int

    @classmethod
    def of(cls, config: Any) -> "LlmShape":
        """Read a text config of transformers."""
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        experts = getattr(config, "num_experts_per_tok", None)
        expert = getattr(config, "moe_intermediate_size", None)
        ffn = experts * expert if experts and expert else config.intermediate_size
        depth, width = config.num_hidden_layers, config.hidden_size
        return cls(depth, width, heads * head, kv_heads * head, ffn)


def prefill_flops(shape: LlmShape, tokens: Sequence[int]) -> float:
    """FLOPs of a prefill.

    Args:
        shape: of the LLM.
        tokens: of each layer, text included.
    """
    return sum(n * _token_flops(shape) + 2 * n * (n + 1) * shape.query for n in tokens)


def decode_flops(shape: LlmShape, tokens: Sequence[int]) -> float:
    """FLOPs of the decode step behind `tokens` cached tokens at each layer."""
    return sum(_token_flops(shape) + 4 * (n + 1) * shape.query for n in tokens)


def _token_flops(shape: LlmShape) -> int:
    """FLOPs of one token at one layer, without the products of attention."""
    projections = 2 * shape.width * (2 * shape.query + 2 * shape.key)
    return projections + 6 * shape.width * shape.ffn
