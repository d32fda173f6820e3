"""Numbers in words of a report, never rounded into a statement that is wrong.

In: numbers. Out: short texts. A number gets more digits where rounding would put it on a value that
means something else: 0.9996 is not written as a perfect 1.000, an interval that ends at +0.0004
does not end at 0, and p = 0.0499 does not become 0.050.
"""

from collections.abc import Sequence

from lvlm_prune.eval.bootstrap import Number

EXACT = 1e-9  # below it a difference of scores is the noise of adding floats
MOST_DIGITS = 10
P_MARKS = (0.0, 0.001, 0.01, 0.05, 1.0)
NONE = "-"


def shown(value: float, decimals: int = 3, marks: Sequence[float] = (0.0, 1.0)) -> str:
    """A number with as few digits as are true.

    Args:
        value: the number.
        decimals: digits behind the point, at least.
        marks: values that rounding must not reach.
    """
    for mark in marks:
        if abs(value - mark) < EXACT:
            value = mark
    digits = decimals
    while digits < MOST_DIGITS and any(value != m and round(value, digits) == m for m in marks):
        digits += 1
    return f"{value + 0.0:.{digits}f}"


def decimals_of(scale: float) -> int:
    """Digits for a number whose largest value is `scale`: 0.921, 92.13, 1510.7."""
    return 3 if scale <= 1 else 2 if scale <= 100 else 1


def score(value: float, scale: float) -> str:
    """A score whose largest value is `scale`."""
    return shown(value, decimals_of(scale), (0.0, scale))


def interval(number: Number | None, scale: float) -> str:
    """A score with its 95 % interval."""
    if number is None:
        return NONE
    if number.low is None or number.high is None:
        return score(number.value, scale)
    ends = f"[{score(number.low, scale)}, {score(number.high, scale)}]"
    return f"{score(number.value, scale)} {ends}"


def signed(value: float, scale: float) -> str:
    """A difference of two scores, with its sign."""
    text = shown(value, decimals_of(scale), (0.0,))
    return text if text.startswith("-") or not text.strip("0.") else f"+{text}"


def difference(number: Number | None, scale: float) -> str:
    """A difference with its 95 % interval."""
    if number is None:
        return NONE
    if number.low is None or number.high is None:
        return signed(number.value, scale)
    return f"{signed(number.value, scale)} {ends(number, scale)}"


def ends(number: Number, scale: float) -> str:
    """The 95 % interval of a difference."""
    if number.low is None or number.high is None:
        return "[no interval]"
    return f"[{signed(number.low, scale)}, {signed(number.high, scale)}]"


def p_value(p: float | None) -> str:
    """A p value."""
    if p is None:
        return NONE
    if p < 1e-300:
        return "< 1e-300"
    return f"{p:.1e}" if p < 0.001 else shown(p, 3, P_MARKS).rstrip("0").rstrip(".")


def ratio(value: float | None) -> str:
    """A share of the unpruned time."""
    return NONE if value is None else shown(value, 2)


def tokens(value: float) -> str:
    """A number of tokens, which is a mean where images differ."""
    return str(round(value)) if abs(value - round(value)) < 0.05 else f"{value:.1f}"


def percent(share: float) -> str:
    """A share in percent, which no line break parts from its sign."""
    return f"{shown(100 * share, 0, (0.0, 100.0))}\N{NO-BREAK SPACE}%"


def counted(count: int, noun: str) -> str:
    """A number of things."""
    return f"{count:,} {noun if count == 1 else noun + 's'}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
