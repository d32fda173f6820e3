"""The model families: one adapter file each, found by the config's model type.

Adding a family: write its adapter file and add the class to the tuple below.
"""

from torch import nn

from lvlm_prune.adapters.base import Adapter, Encoded, ImageGroup
from lvlm_prune.adapters.llava import LlavaAdapter
from lvlm_prune.errors import UnsupportedModelError

FAMILIES: tuple[type[Adapter], ...] = (LlavaAdapter,)

__all__ = ["FAMILIES", "Adapter", "Encoded", "ImageGroup", "adapter_for", "supported"]


def supported() -> str:
    """The supported families in one phrase."""
    return "; ".join(f"{family.model_type} ({family.covers})" for family in FAMILIES)


def adapter_for(model: nn.Module) -> Adapter:
    """Bind the adapter of a model's family and check that it can work.

    Args:
        model: a transformers model with a language-modelling head.

    Raises:
        UnsupportedModelError: not a transformers model, not of a supported family, or of a variant
            that the family cannot prune; the message says which are supported.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} is not a transformers model; load one with "
            f"from_pretrained and pass it, supported: {supported()}"
        )
    for family in FAMILIES:
        if family.model_type == model_type:
            return family(model)
    raise UnsupportedModelError(
        f"no adapter for {type(model).__name__} (model_type {model_type!r}); "
        f"supported: {supported()}"
    )
