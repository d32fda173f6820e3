"""Every method inside the LLM, by name.

Adding a method: write its file with one `LayerMethod`, and add it to the tuple below.
"""

import difflib

from lvlm_prune.errors import UnknownMethodError
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
    if name in LAYER_METHODS:
        return LAYER_METHODS[name]
    near = difflib.get_close_matches(name, LAYER_METHODS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    known = ", ".join(LAYER_METHODS)
    raise UnknownMethodError(f"unknown layer method {name!r}; {hint}known: {known}")
