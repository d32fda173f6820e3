"""Sink dimensions that others published, as candidates for a calibration, never as truth.

In: an LLM's config. Out: the entries of `known_sinks.json` for its family and width; letters name
their sources, which stand in the same file. Several LLMs share a family and a width, so every
dimension has to pass the calibration's contrast test before it counts.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class KnownSinks:
    """What was published about one LLM.

    Args:
        name: the LLM and models built on it.
        family: what its model type begins with.
        width: its hidden size.
        dims: the dimensions.
        sources: letters of the sources.
    """

    name: str
    family: str
    width: int
    dims: tuple[int, ...]
    sources: str


@cache
def known_sinks() -> tuple[KnownSinks, ...]:
    """The whole table."""
    return tuple(
        KnownSinks(**{**entry, "dims": tuple(entry["dims"])}) for entry in _table()["llms"]
    )


@cache
def sources() -> dict[str, str]:
    """What the letters of the sources mean."""
    return dict(_table()["sources"])


def known_for(config: Any) -> tuple[KnownSinks, ...]:
    """The entries that may be about an LLM.

    Args:
        config: a model's config, with a text config inside or not.
    """
    text = config.get_text_config()
    return tuple(
        entry
        for entry in known_sinks()
        if text.model_type.startswith(entry.family) and text.hidden_size == entry.width
    )


def _table() -> dict[str, Any]:
    """The file beside this module."""
    return json.loads((files("lvlm_prune") / "known_sinks.json").read_text(encoding="utf-8"))
