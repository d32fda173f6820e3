"""`*_samples_*.jsonl` of lmms-eval: what the task saw and the filtered response.

In: records with `doc_id`, `filtered_resps`, `target`, and `doc` or, in newer versions that drop it,
`input` (the prompt) and the metrics' own `question_id`. Out: answers with whatever of the question
is left; `doc_id` is the place in its data set. It records a failed call as an empty answer, which
cannot be told from a real one.
"""

from collections.abc import Mapping
from typing import Any

from lvlm_prune.eval.answer_files_contract import (
    Answer,
    Record,
    RecordFormat,
    optional,
    text_of,
)

RESPONSES = ("filtered_resps", "resps")
# Columns of the tasks' data sets that name parts of a HallusionBench question.
PARTS = ("subcategory", "set_id", "figure_id", "question_id")


def fits(record: Record) -> bool:
    """A document's number and its responses."""
    return "doc_id" in record and any(key in record for key in RESPONSES)


def read(record: Record, place: str) -> Answer:
    """The answer of one sample."""
    said = {key: _alone(record[key]) for key in RESPONSES if key in record}
    doc = _document(record)
    name = optional(doc, "question_id", "image_id", "id", "Index")
    number = record.get("doc_id")
    task, slash, image = (name or "").rpartition("/")
    return Answer(
        text_of(said or record, RESPONSES, place),
        place,
        id=name,
        split=task if slash else optional(doc, "category"),
        image=image if slash else optional(doc, "image_source", "image_name", "image_id"),
        question=optional(doc, "question") or optional(record, "input"),
        label=optional(record, "target") or optional(doc, "answer"),
        facts=_parts(doc),
        order=number if isinstance(number, int) else None,
    )


def _alone(response: Any) -> Any:
    """The only response of nested lists."""
    while isinstance(response, list) and len(response) == 1:
        response = response[0]
    return response


def _document(record: Record) -> Mapping[str, Any]:
    """The data set's row, or what a metric kept of it."""
    if isinstance(record.get("doc"), dict):
        return dict(record["doc"])
    names = {"question_id", "image_id", "id"}
    kept = (value for value in record.values() if isinstance(value, dict) and names & set(value))
    return next(kept, {})


def _parts(doc: Mapping[str, Any]) -> dict[str, str]:
    """HallusionBench's names of set, figure and question."""
    if "set_id" not in doc:
        return {}
    return {part: found for part in PARTS if (found := optional(doc, part)) is not None}


FORMAT = RecordFormat(
    "lmms-eval", '{"doc_id": ..., "filtered_resps": ..., "target": ...}', fits, read
)
