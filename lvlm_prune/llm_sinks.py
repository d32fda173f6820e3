"""Find LLM sinks: tokens that attention flows to whatever the question is (arXiv 2503.03321).

In: the residual stream that enters a decoder layer, `[B, T, D]`, and which columns are visual or
real. Out: bool masks `[B, T]`. Two rules: phi, the share of a token that stands in few known
dimensions, phi(x) = max_d |x_d| / sqrt(mean(x^2) + 1e-6) > tau; and, where no dimensions are known,
a norm of at least `ratio` times the median of the token's own modality, since projected visual
tokens are larger than text. phi is at most sqrt(D), so a tau of one width says nothing at another;
`calibration` measures it. ViT sinks, which exist before the LLM, are `sinks.vit_sinks`; a visual
token can be both (arXiv 2510.08510), see `split_sinks`. It knows no model and no attention.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-6


def phi(hidden: Tensor, dims: Sequence[int]) -> Tensor:
    """The sink value of each token, from 0 to sqrt(D).

    Args:
        hidden: `[..., D]`, any dtype.
        dims: sink dimensions of the LLM, in 0..D-1.

    Returns:
        `[...]`, float32.

    Raises:
        ValueError: no dimensions, or some outside of the width.
    """
    width = hidden.shape[-1]
    check_dims(dims, width)
    highest = hidden[..., list(dims)].float().abs().amax(dim=-1)
    norms = residual_norms(hidden)
    return highest * torch.rsqrt(norms.square() / width + EPSILON)


def residual_norms(hidden: Tensor) -> Tensor:
    """L2 norms `[...]` of `[..., D]`, in float32 without a float32 copy of the states."""
    return torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float32)


def check_dims(dims: Sequence[int], width: int) -> None:
    """Say so if there are no sink dimensions, or some that the width does not have.

    Raises:
        ValueError: see above.
    """
    if not dims:
        raise ValueError("phi needs at least one sink dimension; without any use norm_ratio_sinks")
    outside = [dim for dim in dims if not 0 <= dim < width]
    if outside:
        raise ValueError(
            f"sink dimensions {outside} are not in 0..{width - 1}, the width of this LLM; they "
            "belong to another one: calibrate with `lvlm-prune calibrate`"
        )


def phi_sinks(hidden: Tensor, dims: Sequence[int], tau: float) -> Tensor:
    """Mark the tokens whose phi is above tau.

    Args:
        hidden: `[..., D]`.
        dims: sink dimensions of the LLM.
        tau: threshold; one of at least sqrt(D) marks nothing.

    Returns:
        Bool mask, `[...]`.
    """
    return phi(hidden, dims) > tau


def norm_ratio_sinks(hidden: Tensor, visual: Tensor, real: Tensor, ratio: float = 3.0) -> Tensor:
    """Mark the tokens whose norm is at least `ratio` times the median of their modality.

    Args:
        hidden: `[B, T, D]`.
        visual: `[B, T]` bool, visual tokens; the others are text.
        real: `[B, T]` bool, no padding. Padding has no part in a median and is never marked.
        ratio: above 1.

    Returns:
        Bool mask, `[B, T]`. Of an even number of norms the lower middle one is the median.

    Raises:
        ValueError: a ratio of 1 or less, which would mark half of the tokens.
    """
    check_ratio(ratio)
    norms = residual_norms(hidden)
    marked = torch.zeros_like(real)
    for modality in (real & visual, real & ~visual):
        median = norms.masked_fill(~modality, torch.nan).nanmedian(dim=-1, keepdim=True).values
        marked |= modality & (norms >= ratio * median) & (norms > median)
    return marked


def check_ratio(ratio: float) -> None:
    """Say so if a norm ratio would mark ordinary tokens.

    Raises:
        ValueError: 1 or less, or not finite.
    """
    if not 1 < ratio < float("inf"):
        raise ValueError(f"ratio is {ratio}; it must be above 1, and 3 is what real LLMs need")


def split_sinks(llm: Tensor, vit: Tensor) -> tuple[Tensor, Tensor]:
    """Split LLM sinks by where they began (arXiv 2510.08510).

    Args:
        llm: bool mask of LLM sinks.
        vit: bool mask of ViT sinks, of the same shape.

    Returns:
        Those that were ViT sinks already (propagated), and those that were not (emerged).
    """
    if llm.shape != vit.shape:
        raise ValueError(f"masks of {tuple(llm.shape)} and {tuple(vit.shape)} tokens do not match")
    return llm & vit, llm & ~vit


@dataclass(frozen=True)
class SinkRule:
    """How the LLM sinks of one model are told.

    Args:
        dims: sink dimensions, empty where none are known.
        tau: threshold of phi, or None where sinks are not separable by it; goes with dims.
        ratio: of the norm rule, which holds without dims and tau.
        first_layer: before this layer nothing is a sink yet.
        last_layer: behind this layer nothing is marked any more; None for the last one.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: a value that makes no sense, or one of dims and tau without the other.
    """

    dims: tuple[int, ...] = ()
    tau: float | None = None
    ratio: float = 3.0
    first_layer: int = 2
    last_layer: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", _as_dims(self.dims))
        _check_number("ratio", self.ratio)
        check_ratio(self.ratio)
        _check_layer("first_layer", self.first_layer)
        if self.tau is not None:
            _check_number("tau", self.tau)
            if not 0 < self.tau < math.inf:
                raise ValueError(f"tau is {self.tau}; it must be above 0, or None for norms")
        if bool(self.dims) != (self.tau is not None):
            given, missing = ("tau", "dims") if not self.dims else ("dims", "tau")
            raise ValueError(
                f"{given}={getattr(self, given)} without {missing}; pass both, as "
                "`lvlm-prune calibrate` measures them, or neither for the norm rule"
            )
        if self.last_layer is not None:
            _check_layer("last_layer", self.last_layer)
            if self.last_layer < self.first_layer:
                raise ValueError(
                    f"last_layer {self.last_layer} is before first_layer {self.first_layer}"
                )

    @classmethod
    def uncalibrated(cls, depth: int) -> "SinkRule":
        """The norm rule for an LLM of `depth` layers: from layer 2 to L - 2, as VAR looks.

        In the last layer tokens are large for what they will say, and not as sinks.
        """
        last = max(1, depth - 2)
        return cls(first_layer=min(cls.first_layer, last), last_layer=last)

    @property
    def by_phi(self) -> bool:
        """Whether phi decides; otherwise the norm does."""
        return self.tau is not None

    def check_fits(self, depth: int, width: int) -> None:
        """Say so if the rule cannot mark anything in an LLM.

        Args:
            depth: its decoder layers.
            width: of its residual stream, D.

        Raises:
            ValueError: dims, tau or first_layer of another LLM.
        """
        if self.first_layer >= depth:
            raise ValueError(
                f"first_layer {self.first_layer} is not in 0..{depth - 1}, the layers of this LLM; "
                "calibrate it with `lvlm-prune calibrate`"
            )
        if self.tau is None:
            return
        check_dims(self.dims, width)
        if self.tau >= math.sqrt(width):
            raise ValueError(
                f"tau {self.tau} marks nothing: phi is at most sqrt(D) = {math.sqrt(width):.2f} in "
                f"this LLM of width {width}; calibrate it with `lvlm-prune calibrate`"
            )

    def marks(self, hidden: Tensor, visual: Tensor, real: Tensor, layer: int) -> Tensor:
        """Mark the sinks among the tokens that enter a layer.

        Args:
            hidden: `[B, T, D]`, the residual stream.
            visual: `[B, T]` bool.
            real: `[B, T]` bool; padding is never marked.
            layer: number of the layer, from 0.

        Returns:
            Bool mask, `[B, T]`; nothing is marked outside of first_layer..last_layer.
        """
        last = layer if self.last_layer is None else self.last_layer
        if not self.first_layer <= layer <= last:
            return torch.zeros_like(real)
        if self.tau is not None:
            return phi_sinks(hidden, self.dims, self.tau) & real
        return norm_ratio_sinks(hidden, visual, real, self.ratio)


def sink_rule_for(rule: Any, depth: int, width: int) -> SinkRule:
    """The rule that holds for an LLM.

    Args:
        rule: what the user passed; None for the norm rule.
        depth: decoder layers of the LLM.
        width: of its residual stream, D.

    Raises:
        TypeError: no SinkRule.
        ValueError: a rule of another LLM.
    """
    if rule is None:
        return SinkRule.uncalibrated(depth)
    if not isinstance(rule, SinkRule):
        got = repr(rule) if isinstance(rule, str) else f"a {type(rule).__name__}"
        raise TypeError(
            f"sink_rule must be a SinkRule or None, got {got}; of a calibration pass "
            "calibration.rule(), as in Calibration.load(path, model).rule()"
        )
    rule.check_fits(depth, width)
    return rule


def _as_dims(dims: Any) -> tuple[int, ...]:
    """Sink dimensions as a tuple."""
    whole = isinstance(dims, list | tuple) and all(type(dim) is int for dim in dims)
    if not whole:
        raise TypeError(f"dims must be a tuple of ints, got {dims!r}")
    if any(dim < 0 for dim in dims):
        raise ValueError(f"dims {tuple(dims)} hold a negative one; dimensions count from 0")
    return tuple(dims)


def _check_number(name: str, value: Any) -> None:
    """Refuse what is no number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")


def _check_layer(name: str, value: Any) -> None:
    """Refuse what is no number of a layer."""
    if type(value) is not int:
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < 0:
        raise ValueError(f"{name} is {value}; layers count from 0")
