"""AMBER's response files: a list of `{"id", "response"}` (arXiv 2311.07397).

In: records. Out: answers by id. The ids also say which of AMBER's tasks are scored.
"""

from lvlm_prune.eval.answer_files_contract import Answer, Record, RecordFormat, id_of, text_of


def fits(record: Record) -> bool:
    """An id and a response, and nothing else of the question."""
    return set(record) == {"id", "response"}


def read(record: Record, place: str) -> Answer:
    """The answer of one record."""
    return Answer(text_of(record, ("response",), place), place, id_of(record, ("id",), place))


FORMAT = RecordFormat("amber", '{"id": ..., "response": ...}', fits, read)
