"""What an encoder gave for one call: images grouped by size, each with its signals.

A visual token of the prompt is a placeholder; a candidate is one that a method may choose. They are
the same tokens except where a family puts newline tokens between the rows of an image: those are
placeholders that stand for no patch. An image may consist of tiles, and a video of frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from lvlm_prune.signals import Signals

# Where the tokens are in each tensor of Signals.
TOKEN_AXES = {
    "features": 1,
    "hidden": 1,
    "norms": 1,
    "cls": 3,
    "received": 2,
    "joint": 1,
    "keys": 2,
    "sinks_given": 2,
    "progress": 1,
}


@dataclass(frozen=True)
class Part:
    """A tile of an image or a frame of a video, as candidates of the whole.

    Args:
        rows: its candidates in raster order, `[n]`.
        grid: (h, w) with h * w == n.
        cls_hidden: encoder row of its CLS token, `[I, d]`, or None.
    """

    rows: Tensor
    grid: tuple[int, int]
    cls_hidden: Tensor | None = None


@dataclass(frozen=True)
class ImageGroup:
    """Images (or videos) of one size.

    Args:
        images: their places in the prompts' order.
        signals: signals of the candidates.
        parts: what a budget per image is shared among where a method reads the grid; a single
            part is the whole image.
        tiles: what a budget per tile counts; the parts, unless tiles were joined to one picture.
        rows: placeholder of each candidate, `[n]`, or None where all are candidates.
        features: features of all placeholders, `[I, N, D]`, or None for those of the candidates.
        deepstack: features that DeepStack adds in the LLM's first layers, `[I, N, D]` each.
    """

    images: list[int]
    signals: Signals
    parts: tuple[Part, ...]
    tiles: tuple[Part, ...] = ()
    rows: Tensor | None = None
    features: Tensor | None = None
    deepstack: tuple[Tensor, ...] = ()

    @property
    def candidates(self) -> int:
        """Candidates of each image, counted as the prompt has them."""
        grid = self.signals.prompt_grid
        return self.signals.features.shape[1] if grid is None else grid[0] * grid[1]

    @property
    def total(self) -> int:
        """Placeholders of each image, N."""
        return self.candidates if self.features is None else self.features.shape[1]

    @property
    def placeholders(self) -> Tensor:
        """Placeholder of each candidate, `[n]`."""
        if self.rows is not None:
            return self.rows
        return torch.arange(self.candidates, device=self.signals.features.device)

    @property
    def all_features(self) -> Tensor:
        """Features of all placeholders, `[I, N, D]`."""
        return self.signals.features if self.features is None else self.features


@dataclass(frozen=True)
class Encoded:
    """Everything the encoder gave for the images, or for the videos, of one call.

    Args:
        groups: the images, grouped by size.
        output_type: class of the encoder output that the model reads features from.
        tensor: whether the model wants features as one tensor, not as a list of them.
    """

    groups: list[ImageGroup]
    output_type: type[ModelOutput]
    tensor: bool = False

    @property
    def count(self) -> int:
        """Number of images."""
        return sum(len(group.images) for group in self.groups)

    @property
    def totals(self) -> list[int]:
        """Placeholders of each image, in the prompts' order."""
        found = {image: group.total for group in self.groups for image in group.images}
        return [found[image] for image in range(len(found))]

    def with_signals(self, change: Callable[[ImageGroup], Signals]) -> "Encoded":
        """The same with other signals for each group."""
        groups = [replace(group, signals=change(group)) for group in self.groups]
        return replace(self, groups=groups)


def whole(grid: tuple[int, int], device: torch.device) -> tuple[Part, ...]:
    """The single part of an image that is one grid."""
    return (Part(torch.arange(grid[0] * grid[1], device=device), grid),)


def frames(count: int, grid: tuple[int, int], device: torch.device) -> tuple[Part, ...]:
    """Equal parts that follow each other."""
    n = grid[0] * grid[1]
    rows = torch.arange(count * n, device=device)
    return tuple(Part(rows[i * n : (i + 1) * n], grid) for i in range(count))


def map_tokens(
    signals: Signals, rearrange: Callable[[Tensor], Tensor], features: Tensor | None = None
) -> Signals:
    """Turn the signals of the tiles of one image into signals of the image.

    Args:
        signals: of t tiles, each with N tokens.
        rearrange: from `[t, N, C]` to `[n, C]`, the same for every signal.
        features: the image's own, `[n, D]`, where they are known.

    Returns:
        Signals of one image of n tokens, grid (1, n).
    """
    changed: dict[str, Tensor] = {}
    for name, axis in TOKEN_AXES.items():
        value = getattr(signals, name)
        if value is None or (name == "features" and features is not None):
            continue
        value = value.movedim(axis, 1)
        rows = rearrange(value.flatten(2) if value.dim() > 2 else value.unsqueeze(2))
        rows = rows.unflatten(1, value.shape[2:]) if value.dim() > 2 else rows.squeeze(1)
        changed[name] = rows.unsqueeze(0).movedim(1, axis)
    if features is not None:
        changed["features"] = features.unsqueeze(0)
    n = changed["features"].shape[1]
    cls_hidden = None if signals.cls_hidden is None else signals.cls_hidden[:1]
    return Signals(**changed, grid=(1, n), cls_hidden=cls_hidden)  # type: ignore[arg-type]


@dataclass
class Grouping:
    """Collects images one by one and joins those of one size."""

    found: dict[object, list[ImageGroup]] = field(default_factory=dict)

    def add(self, key: object, group: ImageGroup) -> None:
        """Add one image; images with the same key have the same parts and placeholders."""
        self.found.setdefault(key, []).append(group)

    def groups(self) -> list[ImageGroup]:
        """One group for each key."""
        return [_together(groups) for groups in self.found.values()]


def _together(groups: Sequence[ImageGroup]) -> ImageGroup:
    """One group from images of the same size."""
    if len(groups) == 1:
        return groups[0]
    first = groups[0]
    rows: dict[str, Any] = {}
    for name in (*TOKEN_AXES, "cls_hidden", "fingerprint"):
        if getattr(first.signals, name) is not None:
            rows[name] = torch.cat([getattr(group.signals, name) for group in groups])
    return replace(
        first,
        images=[image for group in groups for image in group.images],
        signals=replace(first.signals, **rows),
        parts=_parts_together([group.parts for group in groups]),
        tiles=_parts_together([group.tiles for group in groups]),
        features=None
        if first.features is None
        else torch.cat([group.all_features for group in groups]),
        deepstack=tuple(
            torch.cat(layers) for layers in zip(*(group.deepstack for group in groups), strict=True)
        ),
    )


def _parts_together(parts: Sequence[tuple[Part, ...]]) -> tuple[Part, ...]:
    """The same parts with the CLS rows of all images."""
    joined = []
    for same in zip(*parts, strict=True):
        rows = [part.cls_hidden for part in same if part.cls_hidden is not None]
        joined.append(replace(same[0], cls_hidden=torch.cat(rows)) if rows else same[0])
    return tuple(joined)
