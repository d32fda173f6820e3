"""What every pruning method is: a request for signals and one pure function on them.

`select(signals, keep, **options)` gets the signals of I images of one size and returns which rows
stay. It knows no model and no config object.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from lvlm_prune.signals import SignalRequest, Signals


@dataclass(frozen=True)
class EncoderShape:
    """What a method may know of a vision encoder when it asks for signals.

    Args:
        depth: number of layers.
        feature_layer: layer (0-based) whose output is projected.
        has_cls: whether row 0 is a CLS token.
        windowed: layers whose attention stays inside windows, so that it ranks nothing globally.
        per_token: whether every patch is a visual token of its own.
    """

    depth: int
    feature_layer: int
    has_cls: bool
    windowed: tuple[int, ...] = ()
    per_token: bool = True

    def global_layer(self, layer: int) -> int:
        """The layer itself if it attends globally, or else the nearest one below or above it."""
        layers = [index for index in range(self.depth) if index not in self.windowed]
        return min(layers, key=lambda index: (abs(index - layer), index > layer))


@dataclass(frozen=True)
class Selection:
    """The choice for I images of N tokens each.

    Args:
        kept: `[I, K]` int64, ascending and unique in each image.
        scores: `[I, N]` float32, higher is kept, or None where the method ranks no tokens.
        hidden: `[I, K, d]` encoder rows to project in place of the kept ones, or None.
        replaced: `[I, K]` bool, the kept rows that `hidden` changes; None with `hidden` None.
        features: `[I, K, D]` projected rows in place of the kept ones, or None.
        sizes: `[I, K]` float32, tokens that each kept row stands for, or None where nothing says.
        groups: `[I, N]` int64, the kept row that each row went into (itself where it stays), -1
            where it was dropped; None where nothing is merged, or a row goes into several others.
    """

    kept: Tensor
    scores: Tensor | None = None
    hidden: Tensor | None = None
    replaced: Tensor | None = None
    features: Tensor | None = None
    sizes: Tensor | None = None
    groups: Tensor | None = None


@dataclass(frozen=True)
class UnitState:
    """Units of an encoder's images (visual tokens to be) on their way through its layers.

    Args:
        cumulative: scores so far, `[I, U]` float32, or None before the first layer.
        alive: units that take part, `[I, U]` bool.
    """

    cumulative: Tensor | None
    alive: Tensor


@dataclass(frozen=True)
class EncoderLayer:
    """Where a layer stands, for methods that drop units inside the encoder.

    Args:
        remaining: layers between it and the last cut; 0 at the last cut.
        keep: units of each image that are to stay, `[I]` int64.
        has_cls: whether row 0 of a sequence is a CLS token.
        unit_of: unit of each patch, `[P]` int64.
    """

    remaining: int
    keep: Tensor
    has_cls: bool
    unit_of: Tensor


class Step(Protocol):
    """What a method does after the attention of an encoder layer has its query, key and value."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        layer: EncoderLayer,
        state: UnitState,
    ) -> UnitState:
        """The units that go on, from tensors `[I, H, T, d]`."""


class Select(Protocol):
    """The function of a method."""

    def __call__(self, signals: Signals, keep: int, **options: Any) -> Selection:
        """Choose `keep` rows of each image."""


def no_signals(shape: EncoderShape, options: Mapping[str, Any]) -> SignalRequest:
    """The request of a method that reads only features, encoder rows and the grid."""
    return SignalRequest()


def attention_request(shape: EncoderShape, layers: Iterable[int]) -> SignalRequest:
    """Ask for the CLS rows of some layers, or for received attention where there is no CLS.

    Received attention is read at the nearest layers that attend globally.
    """
    if shape.has_cls:
        return SignalRequest(cls_layers=tuple(layers))
    return SignalRequest(
        received_layers=tuple(sorted({shape.global_layer(layer) for layer in layers}))
    )


def whole_number(name: str, value: Any) -> int:
    """Return an option that must be an int, or say what it is instead."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int or None, got {value!r}")
    return value


@dataclass(frozen=True)
class Method:
    """A pruning method and everything the rest of the project may know about it.

    Args:
        name: the name in Python, on the command line and in result files.
        summary: one line for `lvlm-prune methods`.
        source: paper, equation or code it follows.
        select: the pure function.
        request: the signals it needs, given the encoder's shape and its options.
        options: option names with their defaults; other names are errors.
        ranks: whether any subset of tokens can be ranked, so that ViT sinks can be excluded.
        drops: False for a control that keeps everything on purpose.
        seeded: whether `select` takes the config's `seed`.
        layout: whether `select` reads the grid; tiles of an image then get their shares of the
            budget one by one, where other methods rank the tokens of all tiles together.
        step: for methods that drop units inside the encoder; `select` then gets their scores.
        encoder_grid: for methods that shrink the image, the grid to encode; gets the full grid.
    """

    name: str
    summary: str
    source: str
    select: Select
    request: Callable[[EncoderShape, Mapping[str, Any]], SignalRequest] = no_signals
    options: Mapping[str, Any] = field(default_factory=dict)
    ranks: bool = True
    drops: bool = True
    seeded: bool = False
    layout: bool = False
    step: Step | None = None
    encoder_grid: Callable[[tuple[int, int], int], tuple[int, int]] | None = None

    def complete(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Merge options with the defaults; unknown names are errors."""
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            allowed = ", ".join(self.options) or "none"
            raise ValueError(f"method {self.name!r} has no options {unknown}; allowed: {allowed}")
        return {**self.options, **options}
