"""LLaVA's answer files: `{"question_id", "prompt", "text"}` lines (arXiv 2310.03744), VCD's too.

In: records. Out: answers with the id of their question and the prompt. For MME the id is
`task/image.png`, shared by an image's two questions. A caption file of this form has the image's
name as id.
"""

from lvlm_prune.eval.answer_files_contract import (
    Answer,
    Record,
    RecordFormat,
    id_of,
    optional,
    text_of,
)


def fits(record: Record) -> bool:
    """A question's id and a text that is an answer: question files have `text` and `label`."""
    return "question_id" in record and "text" in record and "label" not in record


def read(record: Record, place: str) -> Answer:
    """The answer of one line."""
    text = text_of(record, ("text",), place)
    name = id_of(record, ("question_id",), place)
    task, slash, image = name.rpartition("/")
    return Answer(
        text,
        place,
        id=name,
        question=optional(record, "prompt"),
        split=task if slash else optional(record, "category"),
        image=image if slash else optional(record, "image"),
    )


FORMAT = RecordFormat("llava", '{"question_id": ..., "prompt": ..., "text": ...}', fits, read)
