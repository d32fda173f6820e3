"""The COCO objects that a caption names, by CHAIR's own reading (arXiv 1809.02156, section 2).

In: a caption. Out: its tokens, and of those the words of CHAIR's 80 synonym groups. Four steps: the
lower-case caption is cut into tokens after the Penn Treebank conventions (NLTK's `word_tokenize`,
whose sentences end at full stops); each token becomes its singular by a table of the forms that
matter (`pattern.en.singularize` gave them); two tokens that are one thing are joined, from left to
right; and `seat` goes if there is a `toilet`.

What the official code does not see is not seen here: `bus` has the singular `bu`, so that only
buses count; `motor bike` and `cheesecake` have a stray space in the list of synonyms; `canoes`,
`ties`, `collies` and `cell-phone` are in no list. Abbreviations such as `st.` are unknown here,
which changes the number of tokens, never the objects.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_ANIMALS = (
    *("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
    *("animal", "cub"),
)
_PAIRS = (
    *("motor bike", "motor cycle", "air plane", "traffic light", "street light", "traffic signal"),
    *("stop light", "fire hydrant", "stop sign", "parking meter", "suit case", "sports ball"),
    *("baseball bat", "baseball glove", "tennis racket", "wine glass", "hot dog", "cell phone"),
    *("mobile phone", "teddy bear", "hair drier", "potted plant", "laptop computer"),
    # No objects: without them home plate would hold nothing, but train track a train.
    *("home plate", "train track"),
)
JOINED: Mapping[str, str] = {
    **{pair: pair for pair in _PAIRS},
    **{f"{age} {animal}": animal for age in ("baby", "adult") for animal in _ANIMALS},
    **{f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")},
    "bow tie": "tie",
    "toilet seat": "toilet",
    "wine glas": "wine glass",  # the singular of glass
}

# A full stop ends a sentence before white space or a bracket, not after a number or an initial.
_STOP = re.compile(
    r"(?<![\w.,'’-])(?:[^\W\d]|-?[.,]?\d[\d,.-]*)\.(?=\s+[^\W\d_])"
    r"|(?<!\.)\.(?=[\s)\";}\]*:@'({\[!?»”’]|$)"
)
_OPENING = re.compile(r"(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)")
_ALONE = re.compile(r"`+|''|\.{2,}|--|[:,](?!\d)|[\"«“‘„»”’;@#$%&?!*\[\](){}<>\u2012-\u2015]")
_ENDING = re.compile(r"(?<=[^'\s])('(?:s|m|d|ll|re|ve)?|n't)(?=\s)")
_FUSED = re.compile(r"\b(can(?=not\b)|gon(?=na\b)|got(?=ta\b)|gim(?=me\b)|lem(?=me\b)|wan(?=na\s))")


@dataclass(frozen=True)
class Vocabulary:
    """CHAIR's words.

    Args:
        singular: singular of a token, where it differs.
        head: object of a word; its synonym group is named by the first of the group.
    """

    singular: Mapping[str, str]
    head: Mapping[str, str]

    @property
    def objects(self) -> tuple[str, ...]:
        """The 80 objects."""
        return tuple(dict.fromkeys(self.head.values()))

    def tokens(self, caption: str) -> list[str]:
        """All tokens of a caption in singular, with pairs joined."""
        single = [self.singular.get(token, token) for token in split(caption)]
        found = []
        place = 0
        while place < len(single):
            pair = " ".join(single[place : place + 2])
            found.append(JOINED.get(pair, single[place]))
            place += 2 if pair in JOINED else 1
        return found

    def words(self, caption: str) -> list[str]:
        """The tokens that name an object, each as often as it is there."""
        tokens = self.tokens(caption)
        no_seat = "toilet" in tokens
        return [word for word in tokens if word in self.head and not (no_seat and word == "seat")]

    def mentions(self, caption: str) -> list[str]:
        """The objects that a caption names, each as often as it is named."""
        return [self.head[word] for word in self.words(caption)]

    def length(self, caption: str) -> int:
        """Tokens of a caption, punctuation and joined pairs among them."""
        return len(self.tokens(caption))


@cache
def coco_vocabulary() -> Vocabulary:
    """The words of the bundled lists."""
    folder = Path(__file__).parent
    singular = json.loads((folder / "chair_lemmas.json").read_text(encoding="utf-8"))
    lines = (folder / "chair_synonyms.txt").read_text(encoding="utf-8").splitlines()
    groups = [line.strip().split(", ") for line in lines]
    return Vocabulary(singular, {word: group[0] for group in groups for word in group})


def split(caption: str) -> list[str]:
    """The tokens of a caption in lower case, as they are written."""
    text = _STOP.sub(lambda found: " . " if found[0] == "." else found[0], caption.lower())
    text = _OPENING.sub("' ", text)
    text = _ALONE.sub(r" \g<0> ", text)
    text = _ENDING.sub(r" \1 ", f" {text} ")
    return _FUSED.sub(r" \1 ", text).split()
