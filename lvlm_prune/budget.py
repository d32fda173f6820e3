"""The meaning of `keep`: how many visual tokens of an image stay.

An int is a number of tokens per image; a float in (0, 1] is a share of the image's tokens, rounded
half up, at least one token. The same rule serves the API, the command line and the result files.
"""

import math
from collections.abc import Sequence
from numbers import Integral, Real


def check_keep(keep: object) -> int | float:
    """Return `keep` as a plain int or float, or say what is wrong with it.

    Args:
        keep: tokens per image (int >= 1) or share of them (float in (0, 1]).

    Returns:
        The same value as `int` or `float`.

    Raises:
        TypeError: not a number.
        ValueError: zero, negative, not finite, or a share above 1.
    """
    advice = "pass an int >= 1 (tokens per image) or a float in (0, 1] (share of the tokens)"
    if isinstance(keep, bool) or not isinstance(keep, Real):
        raise TypeError(
            f"keep must be a number, got {keep!r} of type {type(keep).__name__}; {advice}"
        )
    if isinstance(keep, Integral):
        if keep < 1:
            raise ValueError(f"keep must leave at least one token, got {int(keep)}; {advice}")
        return int(keep)
    share = float(keep)
    if not math.isfinite(share) or not 0 < share <= 1:
        raise ValueError(f"keep as a share must be in (0, 1], got {share}; {advice}")
    return share


def parse_keep(text: str) -> int | float:
    """Read a budget as people write it: `64` is tokens, `0.25` and `25%` are shares.

    Raises:
        ValueError: no number, or one that `check_keep` refuses.
    """
    text = text.strip()
    try:
        number = int(text) if text.lstrip("+-").isdigit() else float(text.removesuffix("%"))
    except ValueError:
        raise ValueError(
            f"--keep {text!r} is no number; pass tokens per image (64) or a share of them "
            "(0.25 or 25%)"
        ) from None
    try:
        return check_keep(number / 100 if text.endswith("%") else number)
    except ValueError as error:
        raise ValueError(f"--keep {text}: {error}") from None


def tokens_to_keep(keep: int | float, n: int) -> int:
    """Turn `keep` into a number of tokens for an image of `n` tokens.

    Args:
        keep: a value that `check_keep` accepts.
        n: visual tokens of the image, N.

    Returns:
        K, 1 <= K <= N.

    Raises:
        ValueError: an int above N.
    """
    if isinstance(keep, float):
        return max(1, math.floor(keep * n + 0.5))
    if keep > n:
        raise ValueError(
            f"keep={keep} is more than the {n} visual tokens of an image; pass at most {n}, "
            "or a share such as keep=0.25"
        )
    return keep


def split_budget(keep: int, sizes: Sequence[int]) -> list[int]:
    """Share an image's budget among its tiles by their sizes.

    Args:
        keep: tokens of the image, K <= the sum of sizes.
        sizes: tokens of each tile.

    Returns:
        A number for each tile, together K: proportional to the sizes, what rounding leaves going
        to the largest remainders, earlier tiles first. A tile may get none.
    """
    total = sum(sizes)
    shares = [keep * size // total for size in sizes]
    remainders = [keep * size % total for size in sizes]
    order = sorted(range(len(sizes)), key=lambda tile: -remainders[tile])
    for tile in order[: keep - sum(shares)]:
        shares[tile] += 1
    return shares
