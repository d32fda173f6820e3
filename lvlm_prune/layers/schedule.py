"""LayerSchedule: where inside the LLM visual tokens are dropped, and how many go on.

One budget language for all methods: a stage's share or number always counts the visual tokens that
entered the LLM, per image, and what goes on from that layer. An image is a run of placeholders, so
images that touch count as one, newline tokens between rows of tiles are tokens like others, and a
video whose frames stand apart (Qwen3-VL) is as many. Papers mean different things by "64
tokens" (after the last stage, or the average over layers); `LayerReport` gives both. It knows
nothing about models; `LayerStage` checks it against one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from lvlm_prune.budget import parse_keep, tokens_to_keep

SINK_POLICIES = ("exclude", "rank")


@dataclass(frozen=True)
class LayerSchedule:
    """Stages inside the LLM.

    Args:
        method: name of a layer method; `lvlm-prune methods` lists them.
        stages: for each layer (from 0) before which tokens are dropped, how many go on: tokens per
            image (int) or share of those that entered the LLM (float in (0, 1]), or None where the
            method decides itself; None for the method's own schedule, scaled to the LLM's depth.
            Images whose placeholders touch count as one.
        options: settings of the method.
        sinks: `exclude` LLM visual sinks from ranking by attention, so that they do not eat the
            budget, or `rank` them like any other token.
    """

    method: str = "fastv"
    stages: Mapping[int, int | float | None] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    sinks: str = "exclude"

    def __post_init__(self) -> None:
        if not isinstance(self.method, str):
            raise TypeError(f"method must be a name, got {self.method!r}")
        if not isinstance(self.options, Mapping):
            raise TypeError(
                f"options must be a dict of the method's settings, got {self.options!r}"
            )
        object.__setattr__(self, "options", dict(self.options))
        if self.sinks not in SINK_POLICIES:
            raise ValueError(f"sinks must be one of {', '.join(SINK_POLICIES)}; got {self.sinks!r}")
        if self.stages is not None:
            object.__setattr__(self, "stages", _checked(self.stages))

    def __hash__(self) -> int:
        return hash((self.method, str(self.stages), str(sorted(self.options)), self.sinks))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        stages = None if self.stages is None else {str(k): v for k, v in self.stages.items()}
        options = dict(self.options)
        return {"method": self.method, "stages": stages, "options": options, "sinks": self.sinks}

    @classmethod
    def of(cls, value: "LayerSchedule | Mapping[str, Any] | str") -> "LayerSchedule":
        """Read a schedule, its dict, the name of a method, or a text as `parse_layers` does.

        Raises:
            TypeError: anything else.
            ValueError: unknown keys.
        """
        if isinstance(value, LayerSchedule):
            return value
        if isinstance(value, str):
            return parse_layers(value)
        if not isinstance(value, Mapping):
            raise TypeError(
                f"layers must be a LayerSchedule, its dict or the name of a method, got {value!r}"
            )
        known = ("method", "stages", "options", "sinks")
        unknown = sorted(set(value) - set(known))
        if unknown:
            raise ValueError(f"unknown layer schedule keys {unknown}; known: {', '.join(known)}")
        return cls(**value)

    def label(self) -> str:
        """A short name for tables, such as `fastv 2:0.5`."""
        if self.stages is None:
            return self.method
        cuts = ",".join(f"{k}:{'auto' if v is None else v}" for k, v in self.stages.items())
        return f"{self.method} {cuts}"


def _checked(stages: Mapping[int, int | float | None]) -> dict[int, int | float | None]:
    """Stages by layer, ascending; JSON has turned layers into strings."""
    if not isinstance(stages, Mapping) or not stages:
        raise ValueError(
            f"stages must be a dict of layer: how many tokens go on, such as {{2: 0.5}}; "
            f"got {stages!r}"
        )
    checked: dict[int, int | float | None] = {}
    for layer, keep in stages.items():
        if isinstance(layer, bool) or not str(layer).isdecimal():
            raise ValueError(
                f"stages name layers by their number from 0, got {layer!r} in {dict(stages)!r}"
            )
        if int(layer) in checked:
            raise ValueError(f"layer {layer} is named twice in {dict(stages)!r}; name it once")
        checked[int(layer)] = _share(int(layer), keep)
    ordered = dict(sorted(checked.items()))
    _check_falling(ordered)
    return ordered


def _check_falling(stages: Mapping[int, int | float | None]) -> None:
    """Refuse a stage that could drop nothing that an earlier one has left."""
    pairs = list(stages.items())
    for (first, before), (second, after) in zip(pairs, pairs[1:], strict=False):
        if before is None or after is None or type(before) is not type(after):
            continue
        if after >= before:
            raise ValueError(
                f"layer {second} is to keep {after}, and layer {first} leaves only {before}; "
                "stages must fall"
            )


def _share(layer: int, keep: Any) -> int | float | None:
    """How many tokens go on from a layer."""
    if keep is None:
        return None
    if isinstance(keep, Integral) and not isinstance(keep, bool) and int(keep) >= 0:
        return int(keep)
    if isinstance(keep, Real) and not isinstance(keep, Integral) and 0 < float(keep) <= 1:
        return float(keep)
    raise ValueError(
        f"stage {layer}: {keep!r} is neither a number of tokens per image (int >= 0), a share of "
        "those that entered the LLM (float in (0, 1]), nor None (the method decides)"
    )


def parse_layers(text: str) -> LayerSchedule:
    """Read `METHOD` or `METHOD@LAYER:KEEP,...`, such as `fastv@2:0.5` or `pyramiddrop@8:0.5,16:64`.

    `LAYER` or `LAYER:auto` is for methods that decide themselves.

    Raises:
        ValueError: the text is neither.
    """
    method, at, cuts = text.strip().partition("@")
    try:
        if not method:
            raise ValueError("no method")
        pairs = [_parsed(cut) for cut in cuts.split(",")] if at else []
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no schedule; write METHOD or METHOD@LAYER:KEEP,LAYER:KEEP, such as "
            "fastv@2:0.5"
        ) from error
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"a layer is named twice in {text!r}; name it once")
    return LayerSchedule(method=method, stages=dict(pairs) or None)


def _parsed(cut: str) -> tuple[int, int | float | None]:
    """Layer and number of one part of a text."""
    layer, colon, keep = (part.strip() for part in cut.partition(":"))
    if not colon or keep == "auto":
        return int(layer), None
    if keep.endswith("%"):
        return int(layer), parse_keep(keep)
    return int(layer), int(keep) if keep.isdecimal() else float(keep)


def tokens_that_go_on(keep: int | float, total: int, left: int) -> int:
    """How many of an image's tokens go on from a stage.

    Args:
        keep: of the schedule.
        total: the image's tokens that entered the LLM.
        left: those that are still there.

    Raises:
        ValueError: more than there ever were.
    """
    if isinstance(keep, int) and keep > total:
        raise ValueError(
            f"a stage inside the LLM is to keep {keep} tokens of an image of which {total} entered "
            f"the LLM; pass 0..{total}, or a share such as 0.5"
        )
    wanted = keep if isinstance(keep, int) else tokens_to_keep(keep, total)
    return min(wanted, left)
