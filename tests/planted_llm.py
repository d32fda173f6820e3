"""Tiny random LLMs, and sinks planted into them by an edit of their weights.

A random LLM has no sinks. The edit makes one token id a sink, as massive activations make one of
the first token of a trained LLM: a neuron of layer 0's MLP fires on that id alone and writes a
large value into one dimension of the residual stream; later layers read that dimension with their
keys only, and every query asks for it, so that attention flows there.
"""

from dataclasses import dataclass

import torch
import transformers
from torch import nn

SINK_TOKEN = 1
SETTINGS = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 199,
    "max_position_embeddings": 256,
    "bos_token_id": SINK_TOKEN,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
KINDS = ("Llama", "Qwen2", "Qwen3")


@dataclass(frozen=True)
class Planted:
    """What was planted.

    Args:
        dim: holds the large value of sinks.
        mark: holds 1 in the embedding of the sink token, 0 in all others.
        constant: holds the same value in every token, so it is no sink dimension.
    """

    dim: int = 17
    mark: int = 40
    constant: int = 5


def tiny_llm(kind: str = "Llama", seed: int = 0, **settings):
    """A random LLM of a kind such as `Qwen2`."""
    extra = {"head_dim": 16} if kind == "Qwen3" else {}
    config = getattr(transformers, f"{kind}Config")(**{**SETTINGS, **extra, **settings})
    torch.manual_seed(seed)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


@torch.no_grad()
def plant_sink(model, planted: Planted, amplitude: float = 300.0, pull: float = 8.0):
    """Make `SINK_TOKEN` a sink, in place.

    Args:
        model: a tiny LLM.
        planted: where.
        amplitude: value that is written; norms of ordinary tokens are below 10.
        pull: how much the keys of sinks attract; 0 leaves attention as it is.
    """
    embedding = model.get_input_embeddings().weight
    embedding[:, planted.mark] = 0
    embedding[:, planted.constant] = 1
    embedding[SINK_TOKEN, planted.mark] = 1
    first, *later = model.get_decoder().layers
    for layer in (first, *later):
        for writer in (layer.self_attn.o_proj, layer.mlp.down_proj):
            writer.weight[[planted.mark, planted.constant]] = 0
    _write(first.mlp, planted, amplitude)
    for layer in later:
        attention = layer.self_attn
        for reader in (attention.q_proj, attention.v_proj, layer.mlp.gate_proj, layer.mlp.up_proj):
            reader.weight[:, planted.dim] = 0
        _attract(attention, planted, pull)
    model.lm_head.weight[:, planted.dim] = 0
    return model


def _write(mlp, planted: Planted, amplitude: float) -> None:
    """One neuron reads the mark and writes the amplitude, whatever the mark's size."""
    for reader in (mlp.gate_proj, mlp.up_proj):
        reader.weight[0] = 0
    mlp.gate_proj.weight[0, planted.mark] = 10
    mlp.up_proj.weight[0, planted.mark] = 1
    mlp.down_proj.weight[:, 0] = 0
    mlp.down_proj.weight[planted.dim, 0] = amplitude / 10


def _attract(attention, planted: Planted, pull: float) -> None:
    """Every query, by the constant, and the keys of sinks share the slowest rotary dimension."""
    slowest = attention.head_dim // 2 - 1
    width = attention.q_proj.weight.shape[1]
    query, key = (
        projection.weight.view(-1, attention.head_dim, width)
        for projection in (attention.q_proj, attention.k_proj)
    )
    query[:, slowest, planted.constant] = pull
    key[:, :, planted.dim] = 0
    key[:, slowest, planted.dim] = float(pull > 0)
