"""POPE's own answer files: `{"question", "answer"}` lines without any id (arXiv 2305.10355).

In: records. Out: answers with their question text, to be joined by line, which is why every text is
compared with the labels.
"""

from lvlm_prune.eval.answer_files_contract import (
    ID_KEYS,
    Answer,
    Record,
    RecordFormat,
    optional,
    text_of,
)
from lvlm_prune.eval.score_error import ScoreError


def fits(record: Record) -> bool:
    """A question, and nothing that could name it."""
    return "question" in record and not any(key in record for key in ID_KEYS)


def read(record: Record, place: str) -> Answer:
    """The answer of one line."""
    text = text_of(record, ("answer",), place)
    question = optional(record, "question")
    if question is None:
        raise ScoreError("missing_key", f"{place} has no text for 'question' to compare")
    return Answer(text, place, question=question)


FORMAT = RecordFormat("pope", '{"question": ..., "answer": ...}', fits, read)
