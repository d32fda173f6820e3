"""Look something up by its name, and help who mistypes it."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

from lvlm_prune.errors import UnknownMethodError

Named = TypeVar("Named")


def named(kind: str, name: str, known: Mapping[str, Named]) -> Named:
    """The entry of a name.

    Args:
        kind: what the entries are, for the message, such as `layer method`.
        name: what was asked for.
        known: the entries.

    Raises:
        UnknownMethodError: there is none; the message names the nearest one and all others.
    """
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UnknownMethodError(f"unknown {kind} {name!r}; {hint}known: {', '.join(known)}")
