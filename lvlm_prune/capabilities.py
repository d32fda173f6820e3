"""What each family offers a method: found by binding its adapter to a model without weights.

Out: one `Adapter` for each model type, on a model of the library's default config with one LLM
layer on the meta device, so that tables say what `attach` would check, in well under a second. The
default configs are those of a well-known checkpoint; another encoder of the same family may differ,
which `attention` names where the family says so.
"""

from collections.abc import Mapping
from functools import cache

import torch
from transformers import AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lvlm_prune.adapters import FAMILIES, Adapter
from lvlm_prune.config import PruneConfig
from lvlm_prune.errors import MissingSignalError
from lvlm_prune.methods import METHODS, Method
from lvlm_prune.requirements import ORDINARY, check_method, works_on_features
from lvlm_prune.signals import SignalRequest

GENERIC = "any other"


@cache
def bound_adapters() -> Mapping[str, Adapter]:
    """The adapter of each model type that the installed transformers has."""
    found = {}
    for family in FAMILIES:
        # An older transformers has not all of them.
        for model_type in (name for name in family.model_types if name in CONFIG_MAPPING):
            config = CONFIG_MAPPING[model_type]()
            text = config.get_text_config()
            text.num_hidden_layers = 1
            if getattr(text, "layer_types", None):
                text.layer_types = text.layer_types[:1]
            with torch.device("meta"):
                model = AutoModelForImageTextToText.from_config(config)
            found[model_type] = family(model)
    return found


def family_name(family: type[Adapter]) -> str:
    """Short name of a family, such as `QwenVL`."""
    return family.__name__.removesuffix("Adapter")


def works_with(method: Method, adapter: Adapter) -> bool:
    """Whether a method with its default options can be attached to a model."""
    try:
        check_method(adapter, method, method.complete({}), PruneConfig(method=method.name), None)
    except MissingSignalError:
        return False
    return True


def refused_methods(adapter: Adapter | None) -> list[str]:
    """Methods that a family cannot run; None is a model without a family."""
    if adapter is None:
        return [name for name, method in METHODS.items() if not works_on_features(method)]
    return [name for name, method in METHODS.items() if not works_with(method, adapter)]


def runs_on(method: Method) -> str:
    """The models that a method runs on, in a few words."""
    adapters = bound_adapters()
    working = {name: works_with(method, adapter) for name, adapter in adapters.items()}
    others = works_on_features(method)
    if all(working.values()):
        return "all models" if others else "all families"
    families = {family_name(type(adapters[name])): None for name, works in working.items() if works}
    return ", ".join([*families, GENERIC] if others else families)


def stage(method: Method) -> str:
    """Where a method takes tokens away: the image, inside the encoder, or behind it."""
    if method.encoder_grid is not None:
        return "image"
    return "boundary" if method.step is None else "encoder"


def signals_read(method: Method) -> str:
    """What a method with its default options reads of encoder and prompt, in a few words."""
    options = method.complete({})
    request = method.request(ORDINARY, options)
    words = _attention_words(request)
    words += [
        word
        for word, wanted in {
            "every layer": bool(request.progressive),
            "keys": request.keys_layer is not None,
            "rows of ViT sinks": request.sinks_layer is not None,
            "question": request.text,
            "CLIP": request.clip,
            "seed, pixels": request.fingerprint,
            "grid": method.layout,
            "smaller image": method.encoder_grid is not None,
        }.items()
        if wanted
    ]
    return ", ".join(words) or "features"


def _attention_words(request: SignalRequest) -> list[str]:
    """CLS rows and received attention of a request."""
    words = []
    if request.cls_layers:
        several = len(request.cls_layers) > 1
        words.append("CLS rows of several layers" if several else "CLS row")
    if request.received_layers:
        words.append("received attention")
    if request.joint_layer is not None:
        words.append("CLS row over heads")
    return words


def attention(adapter: Adapter) -> str:
    """What the family's encoders rank tokens by: CLS rows or received attention."""
    words = {True: "CLS row", False: "received"}
    encoders: Mapping[str, bool] = getattr(adapter, "encoders", {})
    if len(set(encoders.values())) == 2:
        names = {key.removesuffix("_vision_model"): words[has] for key, has in encoders.items()}
        return ", ".join(f"{word} ({name})" for name, word in names.items())
    return words[adapter.shape.has_cls]
