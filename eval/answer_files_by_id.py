"""Answers by id in JSON Lines, as MMVP's code and most people's own loops write them.

In: records with an id under one of its usual names, and the answer under one of its. MMVP keeps the
right answer under `answer` and the model's under `response`, so `answer` is asked last.
"""

from lvlm_prune.eval.answer_files_contract import (
    ID_KEYS,
    Answer,
    Record,
    RecordFormat,
    id_of,
    optional,
    text_of,
)

IDS = (*ID_KEYS, "filename")
SURE = ("response", "prediction", "model_prediction", "model_answer", "output", "caption")
TEXTS = (*SURE, "text", "answer")  # the last two are the question and its label in question files
LABELS = ("label", "gt_answer", "truth", "sweep")


def fits(record: Record) -> bool:
    """Something that names the question and something that answers it."""
    named = any(key in record for key in IDS)
    texts = SURE if any(key in record for key in LABELS) else TEXTS
    return named and any(key in record for key in texts)


def read(record: Record, place: str) -> Answer:
    """The answer of one record."""
    return Answer(
        text_of(record, TEXTS, place),
        place,
        id=id_of(record, IDS, place),
        image=optional(record, "filename", "image"),
        question=optional(record, "prompt", "question"),
        split=optional(record, "category", "dimension"),
    )


FORMAT = RecordFormat("by-id", '{"id": ..., "response": ...}', fits, read)
