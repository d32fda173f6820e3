"""What a family of small models has to provide, and the families by name.

In: a name. Out: a `Family`: its untrained model, its processor, the prompt around the image and an
encoder of drawn scenes. It knows nothing of losses or training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

NAMES = ("llava", "qwen", "internvl")
IMAGE_SIZE = 112
VISUAL_TOKENS = 196
LLM_WIDTH, LLM_MLP, LLM_LAYERS, LLM_HEADS = 128, 384, 4, 4


@dataclass(frozen=True)
class Encoded:
    """What a vision encoder says about B images.

    Attributes:
        tokens: [B, 196, D] input of the projector, one row a visual token.
        pooled: [B, d] CLS of the last layer, None where the encoder has none.
        features: [B, 196, 128] projected visual tokens.
    """

    tokens: Tensor
    pooled: Tensor | None
    features: Tensor


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        name: its name on the command line; the model is called `<name>-pictogram`.
        build_model: makes the untrained model.
        build_tokenizer: makes its tokenizer.
        build_processor: makes its processor, which holds such a tokenizer.
        before: prompt text in front of the visual tokens, without `<s>`.
        after: prompt text right behind them.
        axes: rows of the position ids, 1 or, with M-RoPE, 3.
        token_width: width D of `Encoded.tokens`.
        pooled_width: width d of `Encoded.pooled`, 0 for none.
        tower: the vision encoder of a model.
        projector: the projector of a model, which may be a part of the tower.
        output_layer: the projector's last linear layer, whose inputs start with the 128 values
            that LLaVA's last projector layer reads.
        video: description of the video processor, which no script here uses; empty for none.
        encode: (model, uint8 images [B, 112, 112, 3]) -> `Encoded`.
    """

    name: str
    build_model: Callable[[], Any]
    build_tokenizer: Callable[[], PreTrainedTokenizerFast]
    build_processor: Callable[[], Any]
    before: str
    after: str
    axes: int
    token_width: int
    pooled_width: int
    tower: Callable[[Any], nn.Module]
    projector: Callable[[Any], nn.Module]
    output_layer: Callable[[Any], nn.Linear]
    video: dict[str, Any] = field(hash=False)
    encode: Callable[[Any, Tensor], Encoded]


@cache
def family(name: str) -> Family:
    """The family of a name in `NAMES`."""
    return import_module(f"family_{name}").FAMILY
