"""Every method inside the LLM, by name.

Adding a method: write its file with one `LayerMethod`, and add it to the tuple below.
"""

from lvlm_prune.layers import (
    controls,
    dart,
    exit,
    fastv,
    orthorank,
    pyramiddrop,
    sparsevlm,
    sparsevlm_plus,
    transprune,
    visipruner,
    vscan,
    zipvl,
)
from lvlm_prune.layers.contract import LayerMethod
from lvlm_prune.names import named

LAYER_METHODS: dict[str, LayerMethod] = {
    method.name: method
    for method in (
        fastv.METHOD,
        pyramiddrop.METHOD,
        sparsevlm.METHOD,
        sparsevlm_plus.METHOD,
        transprune.METHOD,
        vscan.METHOD,
        dart.METHOD,
        orthorank.METHOD,
        zipvl.METHOD,
        visipruner.METHOD,
        exit.METHOD,
        controls.RANDOM,
    )
}


def layer_method_named(name: str) -> LayerMethod:
    """Look a method up by name.

    Raises:
        UnknownMethodError: no such method; the message names the nearest one and all others.
    """
    return named("layer method", name, LAYER_METHODS)
