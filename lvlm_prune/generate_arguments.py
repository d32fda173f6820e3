"""The arguments of `model.generate`, by name, as transformers reads them.

In: a model and what its `generate` was called with. Out: a dict of arguments, single generation
settings, and the attention mask that transformers would infer. Knows nothing about pruning.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def named_arguments(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments by name; the first positional one is `input_ids`."""
    # The class's own signature: a wrapper on the instance may only have *args and **kwargs.
    bound = inspect.signature(type(model).generate).bind(None, *args, **kwargs)
    arguments = dict(bound.arguments)
    del arguments["self"]
    arguments.update(arguments.pop("kwargs", {}))
    ids = arguments.pop("inputs", None)
    if ids is not None:
        arguments["input_ids"] = ids
    return arguments


def setting(model: Any, arguments: Mapping[str, Any], name: str) -> Any:
    """A generation setting, from where transformers takes it: call, passed config, model."""
    passed = arguments.get("generation_config")
    default = model.generation_config
    found = (arguments.get(name), getattr(passed, name, None), getattr(default, name, None))
    return next((value for value in found if value is not None), None)


def end_tokens(model: Any, arguments: Mapping[str, Any]) -> list[int]:
    """Ids that end an answer."""
    found = setting(model, arguments, "eos_token_id")
    if found is None:
        return []
    return list(found) if isinstance(found, list | tuple) else [int(found)]


def prompt_mask(model: Any, arguments: Mapping[str, Any]) -> Tensor:
    """The attention mask, inferred from padding as transformers does if none was passed."""
    mask, ids = arguments.get("attention_mask"), arguments["input_ids"]
    if mask is not None:
        return mask
    pad = setting(model, arguments, "pad_token_id")
    if pad is None or pad in end_tokens(model, arguments):
        return torch.ones_like(ids)
    return (ids != pad).long()
