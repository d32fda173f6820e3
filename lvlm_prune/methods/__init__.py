"""The pruning methods: one file each, listed here by name.

Adding a method: write its file with one `Method`, and add it to the tuple below.
"""

import difflib

from lvlm_prune.errors import UnknownMethodError
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
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UnknownMethodError(f"unknown method {name!r}; {hint}known: {', '.join(METHODS)}")
