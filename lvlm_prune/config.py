"""PruneConfig: what to prune, as one frozen, serialisable value.

The same names are used in Python, on the command line and in result files. It knows nothing about
models; `attach` checks it against one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from numbers import Real
from pathlib import Path
from typing import Any

from lvlm_prune.budget import check_keep
from lvlm_prune.layers.schedule import LayerSchedule
from lvlm_prune.reweight.config import ReweightConfig

FILE_NAME = "prune_config.json"
SINK_POLICIES = ("ignore", "keep", "drop", "only", "query")
UNITS = ("image", "tile")
ORDERS = ("raster", "sinks_first")
POSITIONS = ("original", "compact")
METHOD, KEEP = "visionzip", 0.25  # where nothing else is asked for
EVERYTHING = "identity"  # the method that drops nothing before the LLM


@dataclass(frozen=True)
class PruneConfig:
    """How the visual tokens of each image are chosen, and what happens to them inside the LLM.

    Args:
        method: name of a method before the LLM; `lvlm-prune methods` lists them. Not given, it is
            visionzip, or identity where only `layers` or `reweight` are.
        keep: tokens per image (int) or share of them (float in (0, 1]) that enter the LLM; not
            given, 0.25, or all of them with the method identity.
        options: settings of the method itself, such as `{"start_layer": 16}`.
        sinks: what happens to ViT sink tokens: `ignore` (ranked like any other token), `keep`
            (always kept, inside the budget), `drop` (never kept), `only` (nothing else is kept),
            `query` (their attention takes the place of the CLS token's).
        sink_threshold: norm above which a patch is a sink; None finds the gap in the log-norms.
        positions: `original` rotary positions for the kept tokens (exactly the model with the
            other tokens masked), or `compact` ones (renumbered, as some papers do).
        seed: seed of methods that draw at random.
        per: what `keep` counts: the tokens of an `image` (or video), which its tiles share, or of
            each `tile` (or frame), as papers on LLaVA-NeXT do.
        order: `raster`, or `sinks_first`: the ViT sinks among the kept tokens take the first places
            of their image.
        received_rows: query rows that received attention is estimated from, evenly spaced, which
            is faster on encoders without CLS token; None takes all of them (exact).
        layers: stages inside the LLM, a LayerSchedule, its dict or the name of a layer method.
        reweight: reweighting of the LLM's attention, a ReweightConfig, its dict or a name.
    """

    # Both are what `__post_init__` makes of None.
    method: str = None  # type: ignore[assignment]
    keep: int | float = None  # type: ignore[assignment]
    options: Mapping[str, Any] = field(default_factory=dict)
    sinks: str = "ignore"
    sink_threshold: float | None = None
    positions: str = "original"
    seed: int = 0
    per: str = "image"
    order: str = "raster"
    received_rows: int | None = None
    layers: LayerSchedule | None = None
    reweight: ReweightConfig | None = None

    def __post_init__(self) -> None:
        self._complete()
        object.__setattr__(self, "keep", check_keep(self.keep))
        if not isinstance(self.options, Mapping):
            raise TypeError(
                f"options must be a dict of the method's settings, got {self.options!r}"
            )
        object.__setattr__(self, "options", dict(self.options))
        _check_choice("sinks", self.sinks, SINK_POLICIES)
        _check_choice("per", self.per, UNITS)
        _check_choice("order", self.order, ORDERS)
        _check_choice("positions", self.positions, POSITIONS)
        if not isinstance(self.method, str):
            raise TypeError(f"method must be a name, got {self.method!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed must be an int, got {self.seed!r}")
        self._check_sink_threshold()
        _check_rows(self.received_rows)

    def _complete(self) -> None:
        """Read what was given in short, and choose what was not given."""
        if self.layers is not None:
            object.__setattr__(self, "layers", LayerSchedule.of(self.layers))
        if self.reweight is not None:
            object.__setattr__(self, "reweight", ReweightConfig.of(self.reweight))
        inside = self.layers is not None or self.reweight is not None
        if self.method is None:
            method = EVERYTHING if inside and self.keep is None else METHOD
            object.__setattr__(self, "method", method)
        if self.keep is None:
            object.__setattr__(self, "keep", 1.0 if self.method == EVERYTHING else KEEP)

    @property
    def prunes_before_llm(self) -> bool:
        """Whether there is anything to do before the LLM."""
        inside = self.layers is not None or self.reweight is not None
        return self.method != EVERYTHING or not inside

    def summary(self) -> str:
        """What it asks for, in the words of `attach`."""
        parts = [f"method={self.method!r}, keep={self.keep}"] if self.prunes_before_llm else []
        if self.layers is not None:
            parts.append(f"layers={self.layers.label()!r}")
        if self.reweight is not None:
            parts.append(f"reweight={self.reweight.label()!r}")
        return ", ".join(parts)

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True, default=str))

    def _check_sink_threshold(self) -> None:
        """A threshold is a positive norm, and means nothing where sinks are ignored."""
        value = self.sink_threshold
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, Real) or not float(value) > 0:
            raise ValueError(
                f"sink_threshold must be a positive norm or None (log-gap rule), got {value!r}"
            )
        if self.sinks == "ignore" and self.order == "raster":
            raise ValueError(
                f"sink_threshold={value} has no effect with sinks='ignore'; choose sinks='keep', "
                "'drop', 'only' or 'query', or order='sinks_first'"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values["options"] = dict(self.options)
        for name in ("layers", "reweight"):
            values[name] = None if values[name] is None else values[name].to_dict()
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PruneConfig":
        """Build a config from `to_dict`'s values; unknown keys are errors."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"unknown config keys {unknown}; known: {known}")
        return cls(**values)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `prune_config.json` into a folder (made if absent) and return its path."""
        from lvlm_prune import __version__

        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        values = {"lvlm_prune_version": __version__, **self.to_dict()}
        (path / FILE_NAME).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        return path / FILE_NAME

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "PruneConfig":
        """Read the `prune_config.json` of a folder."""
        values = json.loads((Path(folder) / FILE_NAME).read_text(encoding="utf-8"))
        values.pop("lvlm_prune_version", None)
        return cls.from_dict(values)


def _check_rows(rows: object) -> None:
    """A number of query rows is an int of at least 1."""
    if rows is None:
        return
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise ValueError(f"received_rows must be a positive int or None (all rows), got {rows!r}")


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise a ValueError that lists the allowed values."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
