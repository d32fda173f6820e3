"""Caption files for CHAIR: `{"image_id", "caption"}` (arXiv 1809.02156), as JSON or JSON Lines.

In: records, with the caption also under `text`, `response` or `answer`, and the image also under
`image`, as caption files made with LLaVA's code have it. Out: answers that know their image.
"""

from lvlm_prune.eval.answer_files_contract import (
    Answer,
    Record,
    RecordFormat,
    id_of,
    optional,
    text_of,
)

IMAGES = ("image_id", "image", "image_name")
CAPTIONS = ("caption", "text", "response", "answer")


def fits(record: Record) -> bool:
    """An image and a caption, and no label, which a question would have."""
    named = any(key in record for key in IMAGES)
    return named and any(key in record for key in CAPTIONS) and "label" not in record


def read(record: Record, place: str) -> Answer:
    """The caption of one record."""
    return Answer(
        text_of(record, CAPTIONS, place),
        place,
        id=optional(record, "id", "question_id"),
        image=id_of(record, IMAGES, place),
        question=optional(record, "prompt", "question"),
    )


FORMAT = RecordFormat("captions", '{"image_id": ..., "caption": ...}', fits, read)
