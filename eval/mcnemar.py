"""Did the number of wrong answers change, or did as many turn right as wrong? Exact p values.

In: how many answers turned wrong and how many turned right between two runs. Out: McNemar's exact
two-sided p, the binomial test of a fair coin on the answers that changed (McNemar, Psychometrika
1947), and Holm's step-down correction of many such p (Holm, Scandinavian Journal of Statistics
1979). Answers are taken as independent; nothing here knows images.
"""

from collections.abc import Sequence


def mcnemar(worse: int, better: int) -> float:
    """Exact two-sided p of two discordant counts; 1 where nothing changed.

    Args:
        worse: answers that turned wrong.
        better: answers that turned right.

    Raises:
        ValueError: a negative count.
    """
    if min(worse, better) < 0:
        raise ValueError(f"discordant counts must not be negative, got {worse} and {better}")
    changed = worse + better
    term = tail = 1  # binomial coefficients, exact for any number of answers
    for k in range(min(worse, better)):
        term = term * (changed - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / 2**changed)


def holm(values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order of the raw ones.

    Args:
        values: p values of all comparisons that were made.
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    adjusted = [0.0] * len(values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = largest
    return adjusted
