"""Where the parts of a model's LLM are, checked once at attach.

In: a model that an adapter knows. Out: its decoder layers, their attention modules, and what stages
inside the LLM must know of it: placeholder ids, DeepStack layers, which layers attend. Knows
nothing about calls, methods or hooks.
"""

import inspect
from typing import Any

from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from lvlm_prune.adapters import adapter_for
from lvlm_prune.errors import UnsupportedModelError

BEFORE = "prune before the LLM instead, with method=..."
LAYER_ARGUMENTS = ("hidden_states", "attention_mask", "position_embeddings", "past_key_values")


class Decoder:
    """The LLM inside a vision-language model.

    Args:
        model: a whole model, unwrapped.
        advice: what follows where its LLM is not known, for the message.

    Raises:
        UnsupportedModelError: its LLM is laid out in a way that is not known here.
    """

    def __init__(self, model: Any, advice: str = BEFORE) -> None:
        self.model = model
        self.adapter = adapter_for(model)
        self.base = model.base_model
        self.language_model = model.get_decoder()
        self.layers: list[Any] = list(getattr(self.language_model, "layers", []))
        self.norm: Any = getattr(self.language_model, "norm", None)
        self.config = model.config.get_text_config()
        self._check(advice)

    @property
    def depth(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    @property
    def placeholders(self) -> set[int]:
        """Ids of placeholder tokens, of images and videos."""
        return {self.adapter.token_id(name) for name in self.adapter.pixels}

    @property
    def deepstack(self) -> int:
        """First layer that visual features are no longer added to from outside."""
        vision = getattr(self.model.config, "vision_config", None)
        return len(getattr(vision, "deepstack_visual_indexes", None) or ())

    @property
    def implementation(self) -> str:
        """Attention implementation of the LLM, such as `sdpa`."""
        return self.config._attn_implementation or "eager"

    def attention(self, layer: int) -> nn.Module | None:
        """The attention module of a layer, or None where the layer recurs instead."""
        return getattr(self.layers[layer], "self_attn", None)

    def attends(self) -> list[int]:
        """Layers with an attention module."""
        return [layer for layer in range(self.depth) if self.attention(layer) is not None]

    def full_attention(self) -> bool:
        """Whether every layer attends to everything before it and caches all of it."""
        return not self.forgets() and len(self.attends()) == self.depth

    def forgets(self) -> list[int]:
        """Layers with attention that do not keep all keys, such as those with a sliding window.

        Layers beyond those of a cache share the keys of one that it has.
        """
        caches = enumerate(DynamicCache(config=self.config).layers)
        attends = set(self.attends())
        return [
            number
            for number, layer in caches
            if number in attends
            and (
                not isinstance(layer, DynamicLayer) or isinstance(layer, DynamicSlidingWindowLayer)
            )
        ]

    def _check(self, advice: str) -> None:
        """Check that the layers take what stages change."""
        name = type(self.model).__name__
        if not self.layers or self.norm is None:
            raise UnsupportedModelError(
                f"{name}'s LLM ({type(self.language_model).__name__}) has no layers and norm as "
                f"LLaMA's has; {advice}"
            )
        known = inspect.signature(type(self.layers[0]).forward).parameters
        missing = [argument for argument in LAYER_ARGUMENTS if argument not in known]
        if missing:
            raise UnsupportedModelError(
                f"the decoder layers of {name} take no {', '.join(missing)}; {advice}"
            )
