"""The model families: one adapter file each, found by the config's model type.

Adding a family: write its adapter file and add the class to the tuple below. A model of no family
is pruned by its features alone, if its class takes encoder outputs.
"""

from torch import nn

from lvlm_prune.adapters.base import Adapter
from lvlm_prune.adapters.encoded import Encoded, ImageGroup, Part
from lvlm_prune.adapters.generic import GenericAdapter
from lvlm_prune.adapters.internvl import InternVLAdapter
from lvlm_prune.adapters.llava import LlavaAdapter
from lvlm_prune.adapters.llava_next import LlavaNextAdapter, LlavaOnevisionAdapter
from lvlm_prune.adapters.qwen_vl import QwenVLAdapter
from lvlm_prune.errors import UnsupportedModelError

FAMILIES: tuple[type[Adapter], ...] = (
    LlavaAdapter,
    LlavaNextAdapter,
    LlavaOnevisionAdapter,
    QwenVLAdapter,
    InternVLAdapter,
)

__all__ = [
    "FAMILIES",
    "Adapter",
    "Encoded",
    "GenericAdapter",
    "ImageGroup",
    "Part",
    "adapter_for",
    "supported",
]


def supported() -> str:
    """The supported families in one phrase."""
    return "; ".join(family.covers for family in FAMILIES)


def adapter_for(model: nn.Module) -> Adapter:
    """Bind the adapter of a model's family and check that it can work.

    Args:
        model: a transformers model with a language-modelling head.

    Raises:
        UnsupportedModelError: not a transformers model, or one that cannot be pruned; the message
            says why and which are supported.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} is not a transformers model; load one with "
            f"from_pretrained and pass it, supported: {supported()}"
        )
    for family in FAMILIES:
        if model_type in family.model_types:
            return family(model)
    return GenericAdapter(model)
