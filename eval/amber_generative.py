"""AMBER's descriptions (Wang et al., arXiv 2311.07397; junyangwang0410/AMBER, inference.py).

In: descriptions, and for each image the objects that are there and those that models like to make
up. Out: counts for each image, and from counts CHAIR (share of nouns that are made up), Cover
(share of the objects that are named), Hal (share of descriptions that make something up) and Cog
(share of the tempting objects that are named), in percent, to one decimal, every denominator
+ 0.001. Lower is better but for Cover.

A noun belongs to the first object that it equals or is associated with, associations of all objects
first; so an object that stands twice, or is another's association, stays uncovered (quirk). A noun
that is there may not be tempting; one that is tempting may still be there by similarity.

The official script compares with spaCy's vectors, which is `spacy-lg` here and offered only where
they are installed. `official` is the same counting with equality, and `words` needs no tagger
either; the layout says which `nouns` and which `similarity` made the numbers (`amber_nouns`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvlm_prune.eval.amber_discriminative import round_as_python
from lvlm_prune.eval.amber_nouns import (
    EXACT,
    NLTK,
    SPACY,
    SPLIT,
    WORDS,
    check_tagger,
    has_spacy,
    is_list,
    nouns_of,
    similarity,
)
from lvlm_prune.eval.benchmark import OFFICIAL, Item, Scoring, Tally, Text
from lvlm_prune.eval.yes_no import unit_of

TASK = "Generative Task"
CAPTION, EMPTY = "caption", "empty"
NUMBERS = ("CHAIR", "Cover", "Hal", "Cog")
COUNTS = ("nouns", "made_up", "objects", "covered", "tempting", "imagined", "clean", "captions")
WAYS: Mapping[str, tuple[str, str]] = {
    OFFICIAL: (NLTK, EXACT),
    WORDS: (WORDS, EXACT),
    SPACY: (NLTK, SPACY),
}
_USED = (
    *(f"nouns/{way}" for way in (SPLIT, NLTK, WORDS)),
    *(f"similarity/{way}" for way in (EXACT, SPACY)),
)
COLUMNS = (*COUNTS, *_USED)


@dataclass(frozen=True)
class Associations:
    """AMBER's words.

    Args:
        related: for each object, the other words for it (`relation.json`).
        safe: words that are never judged (`safe_words.txt`).
    """

    related: Mapping[str, tuple[str, ...]]
    safe: frozenset[str]

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """All words that count as nouns."""
        return frozenset(self.related).union(*self.related.values())

    def names(self, objects: Sequence[str]) -> list[tuple[str, int]]:
        """Words for some objects with the place of each object, in the order of the script."""
        own = [(word, place) for place, word in enumerate(objects)]
        return [(other, place) for word, place in own for other in self.related[word]] + own


def count(
    nouns: Sequence[str], facts: Mapping[str, Any], alike: Callable[[str, str], bool]
) -> list[int]:
    """Count one description.

    Args:
        nouns: its nouns that are in the vocabulary, in order.
        facts: `truth`, the objects that are there; `hallu`, those that tempt; `words`.
        alike: whether a noun means what a word means, where it does not equal any.

    Returns:
        The numbers of `COUNTS`.
    """
    words: Associations = facts["words"]
    there, tempting = words.names(facts["truth"]), words.names(facts["hallu"])
    covered, imagined = set(), set()
    made_up = 0
    for noun in nouns:
        if noun in words.safe:
            continue
        equal = next((place for word, place in there if word == noun), None)
        if equal is not None:
            covered.add(equal)
            continue
        # Both marks are set: the equal object, and the first alike, which may be another.
        imagined.update([place for word, place in tempting if word == noun][:1])
        imagined.update([place for word, place in tempting if alike(noun, word)][:1])
        close = next((place for word, place in there if alike(noun, word)), None)
        if close is not None:
            covered.add(close)
        else:
            made_up += 1
    truth, hallu = len(facts["truth"]), len(facts["hallu"])
    clean = int(made_up == 0)
    return [len(nouns), made_up, truth, len(covered), hallu, len(imagined), clean, 1]


def tally(items: Sequence[Item], answers: Sequence[Text], parser: str = OFFICIAL) -> Tally:
    """Count for each image what its description names.

    Args:
        items: lines with `truth`, `hallu` and `words` among their facts.
        answers: raw answers, one for each line; None is a failed call and is left out.
        parser: one of `WAYS`. Answers that are lists of nouns are never tagged.

    Raises:
        ValueError: different numbers of lines and answers, or an unknown parser.
        ImportError: what the parser needs is not installed.
    """
    if len(items) != len(answers):
        raise ValueError(f"{len(items)} images but {len(answers)} answers; join them by id first")
    _check(parser)
    units = tuple(dict.fromkeys(unit_of(item) for item in items))
    row = {unit: place for place, unit in enumerate(units)}
    counts = np.zeros((len(units), len(COLUMNS)), np.int64)
    for item, answer in zip(items, answers, strict=True):
        if answer is not None:
            counts[row[unit_of(item)]] += _counted(item, answer, parser)
    return Tally(COLUMNS, units, counts)


def _counted(item: Item, answer: str, parser: str) -> list[int]:
    """The columns of one answer."""
    way, compared = WAYS[parser]
    vocabulary = item.facts["words"].vocabulary
    if is_list(answer, vocabulary):
        way = SPLIT
    found = count(nouns_of(answer, way, vocabulary), item.facts, similarity(compared))
    used = (f"nouns/{way}", f"similarity/{compared}")
    return [*found, *(int(column in used) for column in _USED)]


def metrics(
    columns: tuple[str, ...],
    counts: NDArray[Any],
    parser: str = OFFICIAL,
    nothing: float = 0.0,
) -> dict[str, NDArray[np.float64]]:
    """The official numbers.

    Args:
        columns: of a `tally`.
        counts: sums of its counts, `[..., columns]`.
        parser: one of `WAYS`; all are scored alike.
        nothing: the number where there is nothing to divide by.

    Returns:
        `CHAIR`, `Cover`, `Hal` and `Cog`, 0..100, and the counts, `[...]` each.
    """
    _check(parser)
    cell = {name: np.asarray(counts[..., place], np.float64) for place, name in enumerate(columns)}

    def percent(part: str, whole: str) -> NDArray[np.float64]:
        value = cell[part] / (cell[whole] + 0.001) * 100
        return np.where(cell[whole] == 0, nothing, value)

    return {
        "CHAIR": round_as_python(percent("made_up", "nouns")),
        "Cover": round_as_python(percent("covered", "objects")),
        "Hal": round_as_python(100 - percent("clean", "captions")),
        "Cog": round_as_python(percent("imagined", "tempting")),
        **cell,
    }


def layout(numbers: Mapping[str, float]) -> dict[str, Any]:
    """The numbers of one run as the script prints them, and how nouns were found and compared."""
    used = [name for name in _USED if numbers[name]]
    return {
        TASK: {name: float(numbers[name]) for name in NUMBERS},
        **{
            kind: ", ".join(name.split("/")[1] for name in used if name.startswith(f"{kind}/"))
            for kind in ("nouns", "similarity")
        },
    }


def _parse(_item: Item, answer: str, parser: str) -> str:
    """Whether there is a description at all."""
    _check(parser)
    return CAPTION if answer.strip() else EMPTY


def _check(parser: str) -> None:
    """Refuse a parser that is not there."""
    if parser not in WAYS:
        raise ValueError(f"no parser {parser!r} of AMBER's descriptions; there are {list(WAYS)}")


GENERATIVE = Scoring(
    name="amber_generative",
    parsers=tuple(name for name in WAYS if name != SPACY or has_spacy()),
    headline="CHAIR",
    parse=_parse,
    right=None,
    tally=tally,
    metrics=metrics,
    layout=layout,
    lower_is_better=True,
    scale=100.0,
    ready=check_tagger,
)
