"""MMVP's scores: right answers, and pairs with both right (Tong et al., arXiv 2401.06209).

In: two-way choices and raw answers. Out: counts for each pair, and from counts `accuracy` and
`pair_accuracy`, shares. In the paper GPT-4 reads the answers; here a rule does:

- `official` is lmms-eval's: a lone letter, a letter at the start, `answer is A`, `option A`, else
  the first A or B before a space or the end, also at the end of a word (`no idea` is an A), else an
  A or B that the answer begins with. Upper or lower case.
- `letter-or-text`: a letter in parentheses, or at the start before a mark, else the words of
  exactly one option; it reads `Open` where the options are `(a) Open (b) Closed`.

Unread answers are wrong. A pair without both answers is not counted among the pairs.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvlm_prune.eval.benchmark import OFFICIAL, Item, Scoring, Tally, Text
from lvlm_prune.eval.parsers import EMPTY, UNPARSED
from lvlm_prune.eval.yes_no import share

LETTERS = ("a", "b")
COLUMNS = ("right", "asked", "both", "pairs", "said/a", "said/b", "said/unparsed", "said/empty")
# In this order: alone; at the start; after "answer is"; after "option"; before a space or the end.
_PLACES = tuple(
    re.compile(before + r"\(?([ab])\)?" + after, re.IGNORECASE)
    for before, after in (
        ("^", r"\.?$"),
        ("^", r"[.\s]"),
        (r"answer\s+is\s+", ""),
        (r"option\s+", ""),
        ("", r"(?:\s|$)"),
    )
)
_MARKED = re.compile(r"\(([ab])\)|^([ab])(?=[.):,\n]|$)", re.IGNORECASE)
_OPTIONS = re.compile(r"\(a\)(.*?)\(b\)(.*)", re.IGNORECASE | re.DOTALL)


def letter(item: Item, answer: str) -> str:
    """Read a letter as lmms-eval does."""
    text = answer.strip()
    for place in _PLACES:
        if found := place.search(text):
            return found.group(1).lower()
    start = text[:1].lower()
    return start if start in LETTERS else _unread(answer)


def letter_or_text(item: Item, answer: str) -> str:
    """Read a letter in parentheses or at the start, else the words of one option."""
    text = answer.strip()
    if found := _MARKED.search(text):
        return (found.group(1) or found.group(2)).lower()
    options = _OPTIONS.search(str(item.facts.get("options", "")))
    if options is None:
        return _unread(answer)
    said = [
        name
        for name, option in zip(LETTERS, options.groups(), strict=True)
        if option.strip() and f" {_plain(option)} " in f" {_plain(text)} "
    ]
    return said[0] if len(said) == 1 else _unread(answer)


_READ: Mapping[str, Callable[[Item, str], str]] = {
    OFFICIAL: letter,
    "letter-or-text": letter_or_text,
}


def tally(items: Sequence[Item], answers: Sequence[Text], parser: str = OFFICIAL) -> Tally:
    """Count right answers, and pairs with both right.

    Args:
        items: questions, in any order.
        answers: raw answers, one for each question; None is a failed call and is left out.
        parser: how answers are read.

    Returns:
        For each pair `right`, `asked`, `both`, `pairs`, and what the answers say.

    Raises:
        ValueError: different numbers of questions and answers, or an unknown parser.
    """
    if len(items) != len(answers):
        raise ValueError(f"{len(items)} labels but {len(answers)} answers; join them by id first")
    pairs: dict[str, list[tuple[Item, Text]]] = defaultdict(list)
    for item, answer in zip(items, answers, strict=True):
        pairs[f"pair {item.facts['pair']}"].append((item, answer))
    counts = np.zeros((len(pairs), len(COLUMNS)), np.int64)
    column = {name: place for place, name in enumerate(COLUMNS)}
    for row, pair in zip(counts, pairs.values(), strict=True):
        given = [(item, answer) for item, answer in pair if answer is not None]
        right = [_right(item, answer, parser) for item, answer in given]
        complete = len(given) == 2
        row[:4] = sum(right), len(right), complete and all(right), complete
        for item, answer in given:
            row[column[f"said/{_parse(item, answer, parser)}"]] += 1
    return Tally(COLUMNS, tuple(pairs), counts)


def metrics(
    columns: tuple[str, ...],
    counts: NDArray[Any],
    parser: str = OFFICIAL,
    nothing: float = 0.0,
) -> dict[str, NDArray[np.float64]]:
    """The two shares.

    Args:
        columns: of a `tally`.
        counts: sums of its counts, `[..., columns]`.
        parser: what the answers were read with; all are scored alike.
        nothing: the number where there is nothing to divide by.

    Returns:
        `pair_accuracy`, `accuracy`, and `a_ratio`, the share of answers that say A; `[...]` each.
    """
    cell = {name: np.asarray(counts[..., place], np.float64) for place, name in enumerate(columns)}
    return {
        "pair_accuracy": share(cell["both"], cell["pairs"], nothing),
        "accuracy": share(cell["right"], cell["asked"], nothing),
        "a_ratio": share(cell["said/a"], cell["asked"], nothing),
    }


def layout(numbers: Mapping[str, float]) -> dict[str, Any]:
    """The numbers of one run: `pair_accuracy`, `accuracy` and `a_ratio`."""
    return {name: float(value) for name, value in numbers.items()}


def _parse(item: Item, answer: str, parser: str) -> str:
    """What an answer says."""
    if parser not in _READ:
        raise ValueError(f"no MMVP parser {parser!r}; there are {', '.join(_READ)}")
    return _READ[parser](item, answer)


def _right(item: Item, answer: str, parser: str) -> bool:
    """Whether an answer is right."""
    return _parse(item, answer, parser) == item.label


def _plain(text: str) -> str:
    """Words in lower case with single spaces between them."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _unread(answer: str) -> str:
    """Why there is nothing to read."""
    return UNPARSED if answer.strip() else EMPTY


SCORING = Scoring(
    name="mmvp",
    parsers=tuple(_READ),
    headline="pair_accuracy",
    parse=_parse,
    right=_right,
    tally=tally,
    metrics=metrics,
    layout=layout,
)
