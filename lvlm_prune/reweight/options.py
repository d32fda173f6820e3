"""Checks of the reweighters' options: what is wrong, what is allowed, what to pass instead."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

# Options by which a method's layers can be chosen.
OF_LAYERS = ("first", "last", "of", "saliency")


def check_number(
    options: Mapping[str, Any], name: str, low: float = 0.0, high: float | None = None
) -> None:
    """Require a number in a range.

    Args:
        options: a method's settings, complete.
        name: the option.
        low: smallest allowed value.
        high: largest allowed value, or None.

    Raises:
        TypeError: the value is no number.
        ValueError: the value is outside of the range, or not finite.
    """
    value = options[name]
    allowed = f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}; pass {allowed}")
    number = float(value)
    if not math.isfinite(number) or number < low or (high is not None and number > high):
        raise ValueError(f"{name}={value!r} is not allowed; pass {allowed}")


def check_plausible(options: Mapping[str, Any]) -> None:
    """Require `beta` of a contrast to be a share above 0, up to 1.

    Raises:
        TypeError: the value is no number.
        ValueError: the value is outside of the range.
    """
    check_number(options, "beta", 0, 1)
    if options["beta"] == 0:
        raise ValueError("beta=0 is not allowed; pass a share above 0, up to 1")


def check_whole(options: Mapping[str, Any], name: str, low: int = 0) -> None:
    """Require an int of at least `low`.

    Raises:
        TypeError: the value is no int.
        ValueError: the value is too small.
    """
    value = options[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}; pass {low} or more")
    if value < low:
        raise ValueError(f"{name}={value} is not allowed; pass {low} or more")


def check_switch(options: Mapping[str, Any], name: str) -> None:
    """Require True or False.

    Raises:
        TypeError: the value is neither.
    """
    if not isinstance(options[name], bool):
        raise TypeError(f"{name} must be a bool, got {options[name]!r}; pass True or False")


def check_layers(options: Mapping[str, Any], of: int) -> None:
    """Require `first` and `last` to be layers of an LLM of `of` layers, in this order.

    Raises:
        TypeError: a value is no int.
        ValueError: a value is outside of 0..of - 1, or last < first.
    """
    for name in ("first", "last"):
        check_whole(options, name)
    first, last = options["first"], options["last"]
    if not first <= last < of:
        raise ValueError(
            f"first={first}, last={last} are not layers of an LLM of {of}; "
            f"pass 0 <= first <= last <= {of - 1}"
        )
