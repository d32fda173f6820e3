"""What a reweighting of attention is: pure functions on explicit attention rows of a layer.

The engine hands out only the rows that a method changes (`AttentionRows`): rows of text behind the
images at prefill, and the row of a decode step. All other rows stay in the fused kernel. A method
knows no model, no cache and no hooks.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

ROWS = ("text", "last")


@dataclass(frozen=True)
class AttentionRows:
    """Explicit rows of one decoder layer's attention, for the whole batch.

    Args:
        logits: `[B, H, R, S]` float32, after the mask: keys that a row does not see are -inf. Rows
            of padding see at least one key.
        value: `[B, H, S, d]` float32, repeated for grouped heads, if the method reads values;
            otherwise as the layer has them.
        visual: `[B, S]` bool, keys that are visual tokens.
        layer: number of the layer, from 0.
        depth: number of decoder layers.
        decoding: whether this is one new token behind a cached prompt.
        edited: `[B, R]` bool, rows that may change (behind the prompt's last image, no padding).
        sinks: `[B, S]` bool, LLM sinks among text and visual keys, if the method needs them.
        ends: whether the prompt's last row has come; otherwise more passes bring the rest of it.
        marks: named numbers for each key, `[B, S]` float32, from the method's own `observe` of
            earlier rows or from the vision encoder; 0 where nothing is known.
        own: `[B, R]`, each row's own key; None where that is the last key that it sees.
    """

    logits: Tensor
    value: Tensor
    visual: Tensor
    layer: int
    depth: int
    decoding: bool
    edited: Tensor
    sinks: Tensor | None = None
    ends: bool = True
    marks: Mapping[str, Tensor] = field(default_factory=dict)
    own: Tensor | None = None

    @cached_property
    def weights(self) -> Tensor:
        """The unchanged attention weights, `[B, H, R, S]`, each row sums to 1."""
        return self.logits.softmax(dim=-1)

    @property
    def columns(self) -> Tensor:
        """Each row's own column, `[B, R]`; any number for padding."""
        if self.own is not None:
            return self.own
        places = torch.arange(self.logits.shape[-1], device=self.logits.device)
        return (self.logits[:, 0].isfinite() * places).amax(dim=-1)

    def mark(self, name: str) -> Tensor:
        """Numbers of one mark, `[B, S]` float32; zeros if nothing has been noted yet."""
        if name in self.marks:
            return self.marks[name].float()
        return torch.zeros(self.visual.shape, dtype=torch.float32, device=self.visual.device)


@dataclass(frozen=True)
class Edited:
    """What a method makes of its rows.

    Args:
        weights: `[B, H, R, S]` float32, each row sums to 1.
        heads: `[B, H, R]` factors of the heads' outputs, or None for 1.
        marks: new values of the method's own marks, `[B, S]` each, for later rows.
    """

    weights: Tensor
    heads: Tensor | None = None
    marks: Mapping[str, Tensor] = field(default_factory=dict)


class Edit(Protocol):
    """The function of a method; options are given by name."""

    def __call__(self, rows: AttentionRows, *_: Any, **options: Any) -> Edited:
        """Change the rows; the engine puts rows outside of `rows.edited` back."""


class Observe(Protocol):
    """What a method notes of the rows of layers that it does not change."""

    def __call__(self, rows: AttentionRows, *_: Any, **options: Any) -> Mapping[str, Tensor]:
        """New values of the method's marks, `[B, S]` each."""


class Finish(Protocol):
    """What a method makes of its marks when a pre-run is over."""

    def __call__(
        self, marks: Mapping[str, Tensor], visual: Tensor, depth: int, *_: Any, **options: Any
    ) -> Mapping[str, Tensor]:
        """The marks for the real answer, `[B, S]` each; others of the pre-run are dropped.

        Args:
            marks: what `observe` gathered, `[B, S]` each.
            visual: `[B, S]` bool, keys that are visual tokens.
            depth: number of decoder layers.
            **options: the method's settings, complete.
        """


@dataclass(frozen=True)
class Contrast:
    """A second answer to the same question, whose logits the real ones are contrasted with.

    Args:
        combine: next-token logits `[B, V]` of the real answer and of the other one, to the new
            ones, `[B, V]`; -inf stays -inf.
        noised: makes the pixels of the other one, an image at a time; None where it has no image.
    """

    combine: Callable[[Tensor, Tensor], Tensor]
    noised: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Reweighter:
    """A method and everything the rest of the project may know about it.

    Args:
        name: the name in Python, on the command line and in result files.
        summary: one line for `lvlm-prune methods`.
        source: paper, equation or code it follows.
        evidence: what is known about its reproducibility.
        edit: the pure function.
        layers: layers that are edited, given the options and the depth.
        rows: `text` edits every text row behind the images, `last` only the last row of a pass.
        options: option names with their defaults; other names are errors.
        presets: named sets of options, such as the constants of the released code.
        prefill: whether rows of the prompt are edited; otherwise only those of decode steps.
        sinks: whether it needs LLM sinks.
        values: whether it reads `rows.value`, which is then repeated for grouped heads.
        observe: what it notes of layers that it does not edit, if it does.
        observed: those layers, given the options and the depth.
        encoder: names of the marks that it needs from the vision encoder: `local` and `summary`
            (PAINT's two sets), `size` (how many tokens were merged into each).
        pre_run: new tokens of a first answer whose decode rows it observes before the real one; 0
            for none.
        finish: turns the marks of the pre-run into those of the real answer, if it does.
        check: raises ValueError or TypeError for values of options that make no sense.
        contrast: what `generate` contrasts the logits with, given the options; None for nothing.
        sequential: whether a decode row reads what earlier ones noted in all layers, so that each
            new token needs a pass of its own.
    """

    name: str
    summary: str
    source: str
    evidence: str
    edit: Edit
    layers: Callable[[Mapping[str, Any], int], Collection[int]]
    rows: str = "last"
    options: Mapping[str, Any] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prefill: bool = True
    sinks: bool = False
    values: bool = False
    observe: Observe | None = None
    observed: Callable[[Mapping[str, Any], int], Collection[int]] | None = None
    encoder: tuple[str, ...] = ()
    pre_run: Callable[[Mapping[str, Any]], int] | None = None
    finish: Finish | None = None
    check: Callable[[Mapping[str, Any]], None] | None = None
    contrast: Callable[[Mapping[str, Any]], Contrast | None] | None = None
    sequential: bool = False

    def complete(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Merge options with the defaults; unknown names and wrong values are errors."""
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            allowed = ", ".join(self.options) or "none"
            raise ValueError(f"reweight {self.name!r} has no options {unknown}; allowed: {allowed}")
        complete = {**self.options, **options}
        if self.check is not None:
            self.check(complete)
        return complete


def scaled_range(first: int, last: int, of: int, depth: int) -> range:
    """Layers `first..last` (both included) of a paper's LLM of `of` layers, in one of `depth`."""
    start = min(round(first * depth / of), depth - 1)
    return range(start, max(start, min(depth - 1, round(last * depth / of))) + 1)


def visual_mass(weights: Tensor, visual: Tensor) -> Tensor:
    """Attention that each row gives to visual keys, `[B, H, R]`.

    Args:
        weights: `[B, H, R, S]`.
        visual: `[B, S]` bool.
    """
    return torch.einsum("bhrs,bs->bhr", weights, visual.to(weights.dtype))
