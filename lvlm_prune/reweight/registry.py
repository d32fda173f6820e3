"""The reweighters: one file each, listed here by name.

Adding one: write its file with one `Reweighter`, and add it to the tuple below.
"""

import difflib

from lvlm_prune.errors import UnknownMethodError
from lvlm_prune.reweight import gift, headguide, ilvad, pai, paint, restore, var, vcd, vhr
from lvlm_prune.reweight.contract import Reweighter

REWEIGHTERS: dict[str, Reweighter] = {
    method.name: method
    for method in (
        var.METHOD,
        pai.METHOD,
        paint.METHOD,
        headguide.METHOD,
        gift.METHOD,
        ilvad.METHOD,
        vhr.METHOD,
        restore.METHOD,
        vcd.METHOD,
    )
}


def reweighter_named(name: str) -> Reweighter:
    """Look a reweighter up by name.

    Raises:
        UnknownMethodError: no such reweighter; the message names the nearest one and all others.
    """
    if name in REWEIGHTERS:
        return REWEIGHTERS[name]
    near = difflib.get_close_matches(name, REWEIGHTERS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UnknownMethodError(f"unknown reweighter {name!r}; {hint}known: {', '.join(REWEIGHTERS)}")
