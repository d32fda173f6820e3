"""The pruning methods: one file each, listed here by name.

Adding a method: write its file with one `Method`, and add it to the tuple below.
"""

from lvlm_prune.methods import (
    agilepruner,
    cdpruner,
    cls,
    controls,
    dart,
    divprune,
    downsample,
    flowcut,
    holov,
    mmtok,
    norm,
    prumerge,
    tome,
    vflowopt,
    visionzip,
    vispruner,
    vscan,
    vtc_cls,
)
from lvlm_prune.methods.contract import EncoderShape, Method, Selection
from lvlm_prune.names import named

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        cls.METHOD,
        vtc_cls.METHOD,
        visionzip.METHOD,
        divprune.METHOD,
        cdpruner.METHOD,
        mmtok.METHOD,
        vscan.METHOD,
        vflowopt.METHOD,
        agilepruner.METHOD,
        flowcut.METHOD,
        vispruner.METHOD,
        holov.METHOD,
        prumerge.METHOD,
        prumerge.PLUS,
        tome.METHOD,
        dart.METHOD,
        norm.METHOD,
        controls.IDENTITY,
        controls.RANDOM,
        controls.GRID,
        controls.POOL,
        downsample.METHOD,
    )
}

__all__ = ["METHODS", "EncoderShape", "Method", "Selection", "method_named"]


def method_named(name: str) -> Method:
    """Look a method up by name.

    Raises:
        UnknownMethodError: no such method; the message names the nearest one and all others.
    """
    return named("method", name, METHODS)
