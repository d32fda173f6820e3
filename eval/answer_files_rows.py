"""Our own answers, as `row.Row` writes them: the names of all lines that a prompt answers.

In: records of a run's `answers-*.jsonl`, each file begun by a header line, or of `samples.jsonl`,
where each names its run and benchmark too. Out: answers by item. A row with an error is a failed
call, unless a later row answers the same prompt.
"""

from collections.abc import Iterable

from lvlm_prune.eval.answer_files_contract import (
    Answer,
    Record,
    RecordFormat,
    id_of,
    optional,
    text_of,
)
from lvlm_prune.eval.score_error import ScoreError


def is_header(value: object) -> bool:
    """Whether a value is the header of a run, which is no answer."""
    return isinstance(value, dict) and "header" in value


def fits(record: Record) -> bool:
    """A row that names its items."""
    return "items" in record and "id" in record


def read(record: Record, place: str) -> Answer:
    """The answer of one row."""
    items = record.get("items")
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ScoreError("bad_line", f"{place} has {items!r:.60} for 'items', no list of names")
    failed = record.get("error") is not None
    text = None if failed else text_of(record, ("text",), place)
    name = id_of(record, ("id",), place)
    question = optional(record, "question")
    return Answer(text, place, id=name, items=tuple(items) or (name,), question=question)


FORMAT = RecordFormat("lvlm-prune", '{"id": ..., "items": [...], "text": ...}', fits, read)


def of_one_run(records: list[tuple[str, Record]], benchmark: str) -> list[tuple[str, Record]]:
    """The rows of one run to one benchmark.

    Raises:
        ScoreError: the rows are of several runs (`several_runs`).
    """
    ours = [
        (place, record)
        for place, record in records
        if record.get("benchmark", benchmark) == benchmark
    ]
    runs = sorted({str(record["run"]) for _, record in ours if "run" in record})
    if len(runs) > 1:
        raise ScoreError(
            "several_runs",
            f"the file holds answers of {len(runs)} runs ({', '.join(runs[:6])}); pass the folder "
            "of one of them",
        )
    return ours


def asked_again(answers: Iterable[Answer]) -> list[Answer]:
    """The answers without failed calls that were asked again and answered."""
    listed = list(answers)
    good = {answer.id for answer in listed if answer.text is not None}
    last = {answer.id: answer for answer in listed if answer.text is None}
    return [
        answer
        for answer in listed
        if answer.text is not None or (answer.id not in good and last[answer.id] is answer)
    ]
