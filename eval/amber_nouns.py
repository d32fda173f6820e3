"""Nouns of an answer, and which of them are alike, for AMBER's generative task.

In: an answer, and the vocabulary of AMBER's `relation.json`. Out: its nouns that are in the
vocabulary, in order and with repetitions, as the official script reads them: letters are not
lower-cased, so that a noun that begins a sentence is not found. Three ways to get nouns:

- `split`: the answer is a list of nouns already, separated by white space;
- `nltk`: the official way, NLTK's tokens, tags (NN...) and WordNet lemmas; it has to be installed;
- `words`: without a tagger, every word of the vocabulary in singular or a regular plural. It counts
  the colour orange as a fruit, and is not the official number.

Two ways to compare nouns: equality (`exact`) and the official cosine of spaCy's `en_core_web_lg`
above 0.8 (`spacy-lg`). No smaller model stands in for it: those have no vectors, or others.
"""

import re
from collections.abc import Callable, Collection, Iterator
from functools import cache
from importlib.util import find_spec
from operator import eq
from typing import Any

SPLIT, NLTK, WORDS = "split", "nltk", "words"
EXACT, SPACY = "exact", "spacy-lg"
ALIKE = 0.8
MODEL = "en_core_web_lg"
_DATA = "punkt_tab averaged_perceptron_tagger_eng wordnet"
_PLURALS = (("men", "man"), ("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", ""))


def is_list(answer: str, vocabulary: Collection[str]) -> bool:
    """Whether an answer is nothing but words of the vocabulary, so that no tagger is needed."""
    return all(word in vocabulary for word in answer.split())


def nouns_of(answer: str, way: str, vocabulary: Collection[str]) -> list[str]:
    """The nouns of an answer that are in the vocabulary.

    Args:
        answer: raw answer.
        way: `split`, `nltk` or `words`.
        vocabulary: all words that count.

    Raises:
        ImportError: `nltk` or its data are not installed.
    """
    if way == SPLIT:
        found: list[str] = answer.split()
    elif way == NLTK:
        found = _tagged(answer)
    else:
        found = [_singular(word, vocabulary) for word in re.findall(r"[^\W\d_]+(?:-\w+)*", answer)]
    return [noun for noun in found if noun in vocabulary]


def check_tagger() -> None:
    """See that the nouns of sentences can be found, before a model has described 1,004 images.

    Raises:
        ImportError: `nltk` or its data are not installed; what to ask for without them.
    """
    try:
        _tagged("A dog sits.")
    except ImportError as error:
        raise ImportError(
            f"{error}; or --subset discriminative, which asks the yes/no questions alone"
        ) from error


def similarity(way: str) -> Callable[[str, str], bool]:
    """Whether two words are alike.

    Raises:
        ImportError: spaCy's model is not installed.
    """
    return _alike if way == SPACY else eq


def has_spacy() -> bool:
    """Whether the official similarity can be had."""
    return find_spec("spacy") is not None and find_spec(MODEL) is not None


def _singular(word: str, vocabulary: Collection[str]) -> str:
    """A word of the vocabulary whose regular plural this is, or the word itself."""
    if word in vocabulary:
        return word
    return next((one for one in _singulars(word) if one in vocabulary), word)


def _singulars(word: str) -> Iterator[str]:
    """What the word may be the plural of."""
    for plural, singular in _PLURALS:
        if word.endswith(plural):
            yield word.removesuffix(plural) + singular


def _tagged(answer: str) -> list[str]:
    """Lemmas of the words that NLTK tags as nouns."""
    try:
        import nltk

        lemmas = nltk.stem.WordNetLemmatizer()
        tags = nltk.pos_tag(nltk.word_tokenize(answer))
        return [lemmas.lemmatize(word) for word, tag in tags if tag.startswith("NN")]
    except (ImportError, LookupError) as error:
        raise ImportError(
            "AMBER's official rule finds the nouns of a sentence with NLTK: pip install nltk, then "
            f"python -m nltk.downloader {_DATA}"
        ) from error


@cache
def _alike(one: str, other: str) -> bool:
    """Whether spaCy's vectors of two words are alike."""
    return bool(_document(one).similarity(_document(other)) > ALIKE)


@cache
def _document(word: str) -> Any:
    """spaCy's reading of a word."""
    return _model()(word)


@cache
def _model() -> Any:
    """spaCy's large English model."""
    try:
        import spacy

        return spacy.load(MODEL)
    except (ImportError, OSError) as error:
        raise ImportError(
            f"AMBER's similarity needs spaCy's {MODEL}: pip install spacy, then "
            f"python -m spacy download {MODEL}; or score with the parser 'official', which takes "
            "equal words only"
        ) from error
