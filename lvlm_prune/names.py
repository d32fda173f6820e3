"""Look something up by its name, read lists of names, and help who mistypes them."""

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


def entries(text: str, option: str) -> list[str]:
    """The entries of a list as people write it, separated by commas.

    Args:
        text: the list.
        option: where it comes from, for the message, such as `--method`.

    Raises:
        ValueError: an empty entry.
    """
    found = [entry.strip() for entry in text.split(",")]
    if not all(found):
        raise ValueError(
            f"{option} {text!r}: entry {found.index('') + 1} of the list is empty; write its "
            "entries with one comma between two of them"
        )
    return found
