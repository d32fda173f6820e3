"""ReweightConfig: how the LLM's attention is changed, as one frozen, serialisable value.

The same names are used in Python, on the command line and in result files. It knows nothing about
models; `Reweighting` checks it against one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lvlm_prune.reweight.registry import reweighter_named


@dataclass(frozen=True)
class ReweightConfig:
    """A reweighting of attention.

    Args:
        method: name of a reweighter; `lvlm-prune methods` lists them.
        preset: named set of options, such as VAR's `official_code`; None for the defaults.
        options: settings of the method, on top of the preset.
    """

    method: str
    preset: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.options, Mapping):
            raise TypeError(
                f"options must be a dict of the method's settings, got {self.options!r}"
            )
        object.__setattr__(self, "options", dict(self.options))
        self.complete()

    def __hash__(self) -> int:
        return hash((self.method, self.preset, str(sorted(self.options))))

    def complete(self) -> dict[str, Any]:
        """All settings of the method.

        Raises:
            UnknownMethodError: no such method.
            ValueError: no such preset or option, or a value that makes no sense.
        """
        method = reweighter_named(self.method)
        if self.preset is not None and self.preset not in method.presets:
            known = ", ".join(method.presets) or "none"
            raise ValueError(
                f"reweight {self.method!r} has no preset {self.preset!r}; known: {known}"
            )
        preset = {} if self.preset is None else method.presets[self.preset]
        return method.complete({**preset, **self.options})

    def beside(self) -> str | None:
        """What `generate` runs beside the answer itself, in words; None for nothing."""
        method, options = reweighter_named(self.method), self.complete()
        tokens = method.pre_run(options) if method.pre_run else 0
        if tokens:
            return f"a first answer of up to {tokens} tokens"
        contrast = method.contrast(options) if method.contrast else None
        if contrast is None:
            return None
        prompt = "without the image" if contrast.noised is None else "with a noised image"
        return f"a second answer, to the prompt {prompt}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return {"method": self.method, "preset": self.preset, "options": dict(self.options)}

    @classmethod
    def of(cls, value: "ReweightConfig | Mapping[str, Any] | str") -> "ReweightConfig":
        """Read a config, its dict, or `METHOD` or `METHOD:PRESET`.

        Raises:
            TypeError: anything else.
            ValueError: unknown keys.
        """
        if isinstance(value, ReweightConfig):
            return value
        if isinstance(value, str):
            method, _, preset = value.strip().partition(":")
            return cls(method, preset or None)
        if not isinstance(value, Mapping):
            raise TypeError(
                "reweight must be a ReweightConfig, its dict or the name of a method, got "
                f"{value!r}"
            )
        known = ("method", "preset", "options")
        unknown = sorted(set(value) - set(known))
        if unknown:
            raise ValueError(f"unknown reweight keys {unknown}; known: {', '.join(known)}")
        return cls(**value)

    def label(self) -> str:
        """A short name for tables, such as `var:official_code`."""
        return self.method if self.preset is None else f"{self.method}:{self.preset}"
