"""A scorer for Do-You-See-Me (arXiv 2506.02022), whose repository holds none.

In: questions with short answers, and raw answers. Out: counts for each image, and from counts the
accuracy of each dimension. What is looked for depends on the right answer alone:

- a number: the only number in the answer, in digits, else as a word up to twenty (`Option 3` is 3);
- yes or no: the first of the two words;
- letters: the answer itself, without spaces and marks, in any case (`x, b, b` is XBB).

An answer with two different numbers, or with other words around letters, is unparsed and wrong.
`last` takes the last number, the last yes or no, or the last word in capitals instead, which reads
answers that end with what was asked. `accuracy` is the mean over the dimensions.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvlm_prune.eval.benchmark import OFFICIAL, Item, Scoring, Tally, Text
from lvlm_prune.eval.parsers import EMPTY, NO, UNPARSED, YES
from lvlm_prune.eval.yes_no import share, unit_of

NAME = "do-you-see-me"
LAST = "last"
OTHER = "other"
LONGEST_TEXT = 16  # letters; longer answers are sentences
_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    *("nineteen", "twenty"),
)
_NUMBERS = {word: str(value) for value, word in enumerate(_WORDS)}
_DIGITS = re.compile(r"\d+(?:\.\d+)?")
_WORD = re.compile(rf"\b(?:{'|'.join(_WORDS)})\b")
_YES_NO = re.compile(r"\b(?:yes|no)\b")
_CAPITALS = re.compile(r"\b[A-Z]+(?:[ ,]+[A-Z]\b)*")
_SAID = (YES, NO, OTHER, UNPARSED, EMPTY)


def read(item: Item, answer: str, parser: str = OFFICIAL) -> str:
    """What an answer says, in the words of the right one.

    Args:
        item: the question.
        answer: raw answer.
        parser: `official`, or `last`.

    Returns:
        A number in digits, `yes` or `no`, letters in upper case, `unparsed` or `empty`.

    Raises:
        ValueError: another parser.
    """
    if parser not in (OFFICIAL, LAST):
        raise ValueError(f"no {NAME} parser {parser!r}; there are {OFFICIAL}, {LAST}")
    if not answer.strip():
        return EMPTY
    label = _normal(item.label)
    if _is_number(label):
        text = answer.lower()
        numbers = [_number(word) for word in _DIGITS.findall(text) or _WORD.findall(text)]
        if parser == OFFICIAL and len(set(numbers)) > 1:
            return UNPARSED
        return numbers[-1] if numbers else UNPARSED
    if label in (YES, NO):
        words = _YES_NO.findall(answer.lower())
        return (words[0] if parser == OFFICIAL else words[-1]) if words else UNPARSED
    if parser == LAST:
        runs = _CAPITALS.findall(answer)
        return _letters(runs[-1]) if runs else UNPARSED
    letters = _letters(answer)
    return letters if 0 < len(letters) <= LONGEST_TEXT else UNPARSED


def tally(items: Sequence[Item], answers: Sequence[Text], parser: str = OFFICIAL) -> Tally:
    """Count right answers for each image.

    Args:
        items: questions, in any order.
        answers: raw answers, one for each question; None is a failed call and is left out.
        parser: how answers are read.

    Returns:
        For each dimension `right` and `asked`; `said/yes`, `said/no`, `said/other`,
        `said/unparsed` and `said/empty` of all answers.

    Raises:
        ValueError: different numbers of questions and answers, or an unknown parser.
    """
    if len(items) != len(answers):
        raise ValueError(f"{len(items)} labels but {len(answers)} answers; join them by id first")
    splits = sorted({item.split for item in items})
    columns = [f"{split}/{count}" for split in splits for count in ("right", "asked")]
    columns += [f"said/{word}" for word in _SAID]
    units = tuple(dict.fromkeys(map(unit_of, items)))
    row = {name: place for place, name in enumerate(units)}
    column = {name: place for place, name in enumerate(columns)}
    counts = np.zeros((len(units), len(columns)), np.int64)
    for item, answer in zip(items, answers, strict=True):
        if answer is None:
            continue
        own = counts[row[unit_of(item)]]
        said = read(item, answer, parser)
        own[column[f"{item.split}/asked"]] += 1
        own[column[f"{item.split}/right"]] += _right(item, answer, parser)
        own[column[f"said/{said if said in _SAID else OTHER}"]] += 1
    return Tally(tuple(columns), units, counts)


def metrics(
    columns: tuple[str, ...],
    counts: NDArray[Any],
    parser: str = OFFICIAL,
    nothing: float = 0.0,
) -> dict[str, NDArray[np.float64]]:
    """Accuracy over all dimensions and of each.

    Args:
        columns: of a `tally`.
        counts: sums of its counts, `[..., columns]`.
        parser: what the answers were read with; all are scored alike.
        nothing: the number where there is nothing to divide by.

    Returns:
        `accuracy`, the mean over the dimensions; `pooled/accuracy`, over all questions; the
        accuracy of each dimension, such as `visual_spatial/accuracy`; `[...]` each.
    """
    splits = [name.removesuffix("/asked") for name in columns if name.endswith("/asked")]
    place = {name: place for place, name in enumerate(columns)}
    right, asked = (
        {split: np.asarray(counts[..., place[f"{split}/{name}"]], np.float64) for split in splits}
        for name in ("right", "asked")
    )
    if not splits:
        return {}
    own = {split: share(right[split], asked[split], nothing) for split in splits}
    return {
        "accuracy": np.asarray(sum(own.values()) / len(splits), np.float64),
        "pooled/accuracy": share(
            np.asarray(sum(right.values())), np.asarray(sum(asked.values())), nothing
        ),
        **{f"{split}/accuracy": value for split, value in own.items()},
    }


def layout(numbers: Mapping[str, float]) -> dict[str, Any]:
    """The numbers of one run: `accuracy`, `pooled` and that of each of the `dimensions`."""
    own = {name.removesuffix("/accuracy"): float(value) for name, value in numbers.items()}
    mean, pooled = own.pop("accuracy"), own.pop("pooled")
    return {"accuracy": mean, "pooled": pooled, "dimensions": own}


def _right(item: Item, answer: str, parser: str) -> bool:
    """Whether an answer is right."""
    label = _normal(item.label)
    if _is_number(label):
        label = _number(label)
    elif label not in (YES, NO):
        label = _letters(label)
    return read(item, answer, parser) == label


def _normal(label: str) -> str:
    """A label in lower case without white space at its ends."""
    return label.strip().lower()


def _is_number(label: str) -> bool:
    """Whether a right answer is a number."""
    return label in _NUMBERS or _DIGITS.fullmatch(label) is not None


def _number(word: str) -> str:
    """A number in digits: `3` for `3`, `3.0`, `03` and `three`."""
    return f"{float(_NUMBERS.get(word, word)):g}"


def _letters(text: str) -> str:
    """Letters and digits of a text, in upper case."""
    return "".join(re.findall(r"[^\W_]", text)).upper()


SCORING = Scoring(
    name=NAME,
    parsers=(OFFICIAL, LAST),
    headline="accuracy",
    parse=read,
    right=_right,
    tally=tally,
    metrics=metrics,
    layout=layout,
)
