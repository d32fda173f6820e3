"""Joining line by line, for answer files that name nothing: POPE's own, and lists of strings.

In: lines of a benchmark and answers in the order of its file. Out: the lines that were answered. A
line that is lost in the middle shifts all answers after it without a trace in POPE's own script
(accuracy 0.875 becomes 0.174), so each answer's question text, and its label if it has one, must be
that of its line. The splits of a benchmark may follow each other in any order.
"""

import re
from collections.abc import Sequence
from itertools import permutations

from lvlm_prune.eval.answer_files_contract import Answer
from lvlm_prune.eval.benchmark import Item
from lvlm_prune.eval.score_error import ScoreError

MOST_SPLITS = 4  # whose orders are tried
# What harnesses put behind a question, and MME behind each of its own.
_SUFFIX = re.compile(r"\s*please answer (this question with one word|yes or no)\.?\s*$", re.I)


def in_order(
    items: Sequence[Item], answers: Sequence[Answer], allow_partial: bool
) -> tuple[list[tuple[Item, Answer]], list[Answer], list[str]]:
    """Join answers to lines by their place.

    Args:
        items: all lines.
        answers: of the first lines.
        allow_partial: whether there may be fewer or more answers than lines.

    Returns:
        Lines with their answers, the answers after the last line, and notes.

    Raises:
        ScoreError: an answer to another question (`question_mismatch`), or another number of
            answers than lines (`line_count`).
    """
    if all(answer.order is not None for answer in answers):
        answers = sorted(answers, key=lambda answer: answer.order or 0)
    orders = _orders(items)
    agreeing = [_first_difference(order, answers) for order in orders]
    best = agreeing.index(max(agreeing))
    order, agreed = orders[best], agreeing[best]
    if agreed < min(len(order), len(answers)):
        raise ScoreError("question_mismatch", _difference(order[agreed], answers[agreed]))
    if len(order) != len(answers) and not allow_partial:
        raise ScoreError(
            "line_count",
            f"{len(answers)} answers for {len(order)} lines, the same up to there; --allow-partial "
            "scores the first ones",
        )
    joined = list(zip(order, answers, strict=False))
    return joined, list(answers[len(order) :]), _notes(order, answers)


def asks(prompt: str, question: str) -> bool:
    """Whether a prompt asks this question, with whatever stands around it.

    Options in brackets behind the question may be left out, as MMVP's files do.
    """
    wanted, asked = plain_question(question), plain_question(prompt)
    return wanted in " ".join(prompt.split()) or wanted.startswith(f"{asked} (")


def plain_question(text: str) -> str:
    """The first line of a question, without a request for a short answer."""
    line = text.strip().removeprefix("<image>").strip().split("\n", 1)[0]
    return _SUFFIX.sub("", " ".join(line.split()))


def _orders(items: Sequence[Item]) -> list[list[Item]]:
    """The lines, and with their splits in any other order."""
    splits = list(dict.fromkeys(item.split for item in items))
    if not 1 < len(splits) <= MOST_SPLITS:
        return [list(items)]
    blocks = {split: [item for item in items if item.split == split] for split in splits}
    others = [[item for split in each for item in blocks[split]] for each in permutations(splits)]
    return [list(items), *others]


def _first_difference(items: Sequence[Item], answers: Sequence[Answer]) -> int:
    """How many answers from the beginning are answers to their lines."""
    for number, (item, answer) in enumerate(zip(items, answers, strict=False)):
        if not _same(item, answer):
            return number
    return min(len(items), len(answers))


def _same(item: Item, answer: Answer) -> bool:
    """Whether an answer may be to this line, by all that it repeats of it."""
    labels = {item.label.lower(), (answer.label or item.label).lower()}
    if labels == {"yes", "no"}:
        return False
    return answer.question is None or asks(answer.question, item.question)


def _difference(item: Item, answer: Answer) -> str:
    """What differs."""
    if answer.question is not None and not asks(answer.question, item.question):
        what = f"answers {answer.question!r:.90}, but the labels ask {item.question!r:.90} there"
    else:
        what = f"has the label {answer.label!r}, but the labels say {item.label!r} there"
    return (
        f"{answer.place} {what} ({item.id}); a line is missing or too many before it, or the "
        "answers are to other questions"
    )


def _notes(items: Sequence[Item], answers: Sequence[Answer]) -> list[str]:
    """What could not be compared, and what was left out."""
    notes = []
    if any(answer.question is None for answer in answers):
        notes.append(
            "the answers do not repeat their questions: only the number of answers could be "
            "compared"
        )
    if len(answers) > len(items):
        notes.append(f"answers after the last line, left out: {len(answers) - len(items)}")
    return notes
