"""Read a model and how to prune it from `name=value` settings, as other harnesses pass them.

In: settings by name, as text or as what a harness made of the text (numbers, truth values). Out:
`Arguments`. Everything that changes an answer is among them, because harnesses store answers under
these settings and know of nothing else. It knows no harness and loads no model.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lvlm_prune import __version__
from lvlm_prune.assets import MODEL_NAME
from lvlm_prune.budget import parse_keep
from lvlm_prune.config import PruneConfig

MODEL_SETTING = "pretrained"  # the name that lmms-eval's own models use


@dataclass(frozen=True)
class Arguments:
    """A model and how to prune it.

    Args:
        pretrained: folder, hub name, or the name of a bundled model.
        config: what `attach` is given.
    """

    pretrained: str
    config: PruneConfig

    def unique_name(self, **more: Any) -> str:
        """A file name that other settings, or another version of this package, do not share.

        Args:
            **more: what else changes an answer.
        """
        settings = {
            **more,
            "version": __version__,
            "pretrained": self.pretrained,
            "config": self.config.to_dict(),
        }
        text = json.dumps(settings, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        return f"lvlm-prune-{Path(self.pretrained).name}-{self.config.method}-{digest}"


def read_arguments(settings: Mapping[str, Any]) -> Arguments:
    """Read settings.

    Args:
        settings: `pretrained` and any field of PruneConfig. Numbers may be text; `layers`,
            `reweight` and `options` may be JSON; quotes around a text are taken off.

    Raises:
        ValueError: an unknown name, or a value that cannot be read.
        TypeError: a value of another kind than its setting.
    """
    pruning = {each.name for each in fields(PruneConfig)}
    unknown = sorted(set(settings) - pruning - {MODEL_SETTING})
    if unknown:
        raise ValueError(
            f"unknown settings {unknown}; known: {', '.join((MODEL_SETTING, *sorted(pruning)))}"
        )
    values = {name: _read(name, value) for name, value in settings.items()}
    pretrained = str(values.pop(MODEL_SETTING, MODEL_NAME))
    return Arguments(pretrained, PruneConfig.from_dict(values))


def split_words(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Take the leading `name=value` words of a command line off the options of a harness.

    Args:
        words: such as `["method=cls", "keep=64", "--data", "POPE"]`.

    Returns:
        The settings, and all words from the first option on.

    Raises:
        ValueError: a word before the options without `=`, or a name that is there twice.
    """
    settings: dict[str, str] = {}
    for place, word in enumerate(words):
        if word.startswith("-"):
            return settings, list(words[place:])
        name, equals, value = word.partition("=")
        if not equals or name in settings:
            raise ValueError(
                f"{word!r} is no setting or is there twice; write name=value once for each, such "
                "as method=cls keep=64, and the options of the harness behind them"
            )
        settings[name] = value
    return settings, []


def _read(name: str, value: Any) -> Any:
    """The value of one setting; what is no text any more is left to PruneConfig's checks."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    try:
        return READERS.get(name, str)(text)
    except ValueError as error:
        raise ValueError(f"{name}={value} cannot be read: {error}") from error


def _or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """A reader that takes `none` for None."""
    return lambda text: None if text.lower() == "none" else read(text)


def _structure(text: str) -> Any:
    """JSON of a config, or its short form, which PruneConfig reads itself."""
    return json.loads(text) if text.startswith("{") else text


READERS: Mapping[str, Callable[[str], Any]] = {
    "keep": parse_keep,
    "seed": int,
    "options": json.loads,
    "sink_threshold": _or_none(float),
    "received_rows": _or_none(int),
    "layers": _or_none(_structure),
    "reweight": _or_none(_structure),
}
