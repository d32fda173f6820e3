"""The reweighters: one file each, listed here by name.

Adding one: write its file with one `Reweighter`, and add it to the tuple below.
"""

from lvlm_prune.names import named
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
    return named("reweighter", name, REWEIGHTERS)
