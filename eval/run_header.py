"""What makes two runs the same: everything that an answer depends on, with a hash.

In: a model, a config, a prompt, generation settings and the version of the questions. Out: a
`Header`, which stands in the first line of a file of answers. Answers of another header are never
mixed in: the difference is named with both values. Batch size, device and number of processes are
not part of it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lvlm_prune import __version__
from lvlm_prune.config import PruneConfig
from lvlm_prune.loading import Loaded

DIGITS = 16
ORIGINS = ("_name_or_path", "transformers_version")


class OtherRunError(ValueError):
    """A file holds the answers of another run."""


@dataclass(frozen=True)
class Header:
    """The settings of a run on one benchmark.

    Args:
        run: name of the run's folder.
        benchmark: its name.
        settings: everything that an answer depends on, JSON-ready.
    """

    run: str
    benchmark: str
    settings: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """First hex digits of the SHA-256 of the settings."""
        text = json.dumps(self.settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]

    def to_json(self) -> str:
        """The first line of a file of answers, without its line break."""
        values = {"run": self.run, "benchmark": self.benchmark, "hash": self.hash}
        return json.dumps({"header": {**values, "settings": self.settings}}, ensure_ascii=False)

    def check(self, found: Mapping[str, Any], path: Path) -> None:
        """Refuse the answers of another run.

        Args:
            found: the header of a file.
            path: the file.

        Raises:
            OtherRunError: it is not this header; both values of what differs are named.
        """
        if found.get("hash") == self.hash:
            return
        # As JSON gives them back: tuples are lists.
        ours = dict(_flat(json.loads(json.dumps(self.settings))))
        theirs = dict(_flat(found.get("settings", {})))
        names = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
        shown = "; ".join(
            f"{name} is {theirs.get(name)!r} there and {ours.get(name)!r} now" for name in names[:5]
        )
        raise OtherRunError(
            f"{path} holds answers of another run: {shown or 'its hash is another'}. Pass another "
            "--out, the old settings, or --restart to answer everything anew"
        )


def run_header(
    loaded: Loaded,
    fingerprint: str,
    config: PruneConfig,
    run: str,
    benchmark: str,
    data: Mapping[str, str],
    template: str,
    generation: Mapping[str, Any],
) -> Header:
    """The header of a run.

    Args:
        loaded: the model.
        fingerprint: of its weights.
        config: what was pruned.
        run: name of the run's folder.
        benchmark: its name.
        data: version of its questions.
        template: what stands around a question, such as `{question}`.
        generation: settings of `generate`.
    """
    model = {
        "fingerprint": fingerprint,
        "config": _digest(loaded.model.config.to_dict()),
        "image_processor": _digest(loaded.processor.image_processor.to_dict()),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "planted_sinks": loaded.planted,
    }
    return Header(
        run,
        benchmark,
        {
            "model": model,
            "prune": config.to_dict(),
            "prompt": {"chat": loaded.prompt("{question}"), "template": template},
            "generation": dict(generation),
            "data": dict(data),
            "lvlm_prune": __version__,
        },
    )


def _digest(values: Mapping[str, Any]) -> str:
    """The hash of settings, without what says where they came from."""
    own = {name: value for name, value in values.items() if name not in ORIGINS}
    text = json.dumps(own, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values under names with dots."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
