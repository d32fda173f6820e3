"""Every method inside the LLM, by name."""

from lvlm_prune.errors import UnknownMethodError
from lvlm_prune.layers import fastv
from lvlm_prune.layers.contract import LayerMethod

LAYER_METHODS: dict[str, LayerMethod] = {module.METHOD.name: module.METHOD for module in (fastv,)}


def layer_method_named(name: str) -> LayerMethod:
    """The method of this name.

    Raises:
        UnknownMethodError: there is none.
    """
    if name not in LAYER_METHODS:
        raise UnknownMethodError(
            f"unknown layer method {name!r}; known: {', '.join(sorted(LAYER_METHODS))}"
        )
    return LAYER_METHODS[name]
