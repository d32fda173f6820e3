"""HallusionBench's results: its own records with a `model_prediction` added (arXiv 2310.14566).

In: records, or a plain list of strings, one a question in the file's order. Out: answers that know
the subcategory, set, figure and question they belong to; strings know only their place.
"""

from typing import Any

from lvlm_prune.eval.answer_files_contract import Answer, Record, RecordFormat, optional, text_of
from lvlm_prune.eval.score_error import ScoreError

BENCHMARK = "hallusionbench"
PARTS = ("category", "subcategory", "set_id", "figure_id", "question_id")


def fits(record: Record) -> bool:
    """The benchmark's record with a prediction."""
    return "model_prediction" in record and "set_id" in record


def read(record: Record, place: str) -> Answer:
    """The answer of one record."""
    text = text_of(record, ("model_prediction",), place)
    parts = {part: found for part in PARTS if (found := optional(record, part)) is not None}
    missing = [part for part in PARTS if part not in parts]
    if missing:
        raise ScoreError("missing_key", f"{place} has no {missing}, so its question has no name")
    question, label = optional(record, "question"), optional(record, "gt_answer")
    return Answer(text, place, question=question, label=label, facts=parts)


FORMAT = RecordFormat("hallusionbench", '{..., "model_prediction": ...}', fits, read)


def read_strings(values: list[tuple[str, Any]]) -> list[Answer]:
    """Answers of a list of strings.

    Raises:
        ScoreError: null (`null_answer`) or no text (`bad_answer`) among them.
    """
    return [Answer(text_of({"": value}, ("",), place), place) for place, value in values]
