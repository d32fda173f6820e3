"""Every word the small model knows: question templates, class names, colours, numbers.

In: nothing. Out: the ordered vocabulary. A word outside of it becomes `<unk>`. The templates are
POPE's and MME's own wording plus a few open questions. It knows nothing of images or models.
"""

from __future__ import annotations

from classes import CLASSES, COLOR_NAMES, NUMBER_WORDS, plural

SPECIAL_TOKENS: tuple[str, ...] = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
SIDES: tuple[str, ...] = ("left", "right", "top", "bottom")
# Appended to a question by common benchmark scripts; learned so that they do no harm.
SUFFIXES: tuple[str, ...] = (
    "",
    " Please answer yes or no.",
    "\nAnswer the question using a single word or phrase.",
)
_TEMPLATE_WORDS = """
user assistant : ? . , is there a an in the image this are on side of only one how many what color
where where's it to above below please answer yes or no question using single word phrase list all
objects describe detail and nothing picture photo do you see can which that none with briefly
""".split()  # noqa: SIM905


def vocabulary() -> list[str]:
    """Returns special tokens first, then all words in a fixed order without repeats."""
    nouns = [name for label in CLASSES for name in (label, plural(label))]
    words = [*SPECIAL_TOKENS, *_TEMPLATE_WORDS, *SIDES, *NUMBER_WORDS, *COLOR_NAMES, *nouns]
    return list(dict.fromkeys(words))
