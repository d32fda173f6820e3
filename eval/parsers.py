"""Reading yes or no from a raw answer: one function for each rule in use.

In: a raw answer. Out: `yes`, `no`, `unparsed` (some text that the rule cannot read) or `empty` (no
text at all). The rules disagree on the same answer, which is why scores of several are shown side
by side: `Yes.` is a yes to all but `exact`, `No!` is a yes to POPE's own script, and `**Yes**` is
neither to MME's. None of them looks at the question; only `substring` looks at the right answer.
What a rule makes of answers that it cannot read is up to the benchmark (`pope_scoring`).
"""

import re

YES, NO, UNPARSED, EMPTY = "yes", "no", "unparsed", "empty"
NO_WORDS = frozenset({"No", "no", "not"})
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_STRIPPED_PERIODS = 32  # re.UNICODE stands where re.sub wants a count


def first_sentence(answer: str) -> str:
    """POPE's `evaluate.py` at 3df3ba1, and which answers it did not understand.

    The answer is cut at the first full stop, commas are dropped, and what is left is split at
    single spaces. A word that is exactly `No`, `no` or `not` makes it a no. The script takes
    everything else for a yes; `pope_official` does.

    Returns:
        `yes` only where one of the words is yes, in any case.
    """
    words = answer.split(".", 1)[0].replace(",", "").split(" ")
    if NO_WORDS.intersection(words):
        return NO
    return YES if YES in (word.lower() for word in words) else _unread(answer)


def pope_official(answer: str) -> str:
    """POPE's `evaluate.py`: `no`, or else `yes`, whatever it says and if it says nothing."""
    return NO if first_sentence(answer) == NO else YES


def exact(answer: str) -> str:
    """lmms-eval 0.7.3 on POPE: the whole answer, in any case, without white space at its ends."""
    said = answer.lower().strip()
    return said if said in (YES, NO) else _unread(answer)


def one_of_two(answer: str) -> str:
    """VLMEvalKit: the words of the answer hold yes and not no, or no and not yes.

    Its punctuation rule is VQA's: a mark is dropped if it stands beside a space anywhere (or if the
    answer has a comma between digits), else it becomes a space. Colons, asterisks and apostrophes
    are no marks, so `**Yes**` is not read. Full stops go unless a digit follows.
    """
    text = answer.lower()
    words = text
    grouped = re.search(r"\d,\d", text) is not None
    for mark in _PUNCTUATION:
        beside = f"{mark} " in text or f" {mark}" in text
        words = words.replace(mark, "" if grouped or beside else " ")
    found = set(re.sub(r"\.(?!\d)", "", words, count=_STRIPPED_PERIODS).split())
    if (YES in found) == (NO in found):
        return _unread(answer)
    return YES if YES in found else NO


def substring(answer: str, label: str) -> str:
    """VCD's `eval_pope.py`: right if the letters of the right answer are in it, else the other one.

    `I do not know` is a right no, and `Yes, there is no doubt` is right for both labels.
    """
    if label == YES:
        return YES if YES in answer.lower() else NO
    return NO if NO in answer.lower() else YES


def letters(answer: str) -> str:
    """What `substring` could find: `yes`, or else `no`, anywhere in the answer, also in a word."""
    text = answer.lower()
    return YES if YES in text else NO if NO in text else _unread(answer)


def first_word(answer: str) -> str:
    """The first yes or no that is a word of its own, in any case."""
    found = re.search(r"\b(yes|no)\b", answer, re.IGNORECASE)
    return found.group().lower() if found else _unread(answer)


def mme_official(answer: str) -> str:
    """MME's `calculation.py`: the first four characters in lower case, white space included."""
    start = answer.lower()[:4]
    return YES if YES in start else NO if NO in start else _unread(answer)


def mme_stripped(answer: str) -> str:
    """lmms-eval on MME: the official rule without white space at the ends and without full stops.

    A single letter y or n counts.
    """
    text = answer.lower().strip().replace(".", "")
    said = {"y": YES, "n": NO}.get(text) or mme_official(text)
    return said if said in (YES, NO) else _unread(answer)


def _unread(answer: str) -> str:
    """Why there is nothing to read."""
    return UNPARSED if answer.strip() else EMPTY
