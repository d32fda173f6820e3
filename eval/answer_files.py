"""Files of answers that people already have, read by what they hold and not by their names.

In: a path. Out: an `AnswerFile`: POPE, LLaVA, lmms-eval samples, VLMEvalKit tables, MME's folder of
text files, AMBER, HallusionBench, captions, answers by id, and our own runs. One reader stands in
each `answer_files_<format>`; here is only which of them reads a file. Whatever cannot be read is a
`ScoreError` that names the line.
"""

from pathlib import Path
from typing import Any

from lvlm_prune.eval import (
    answer_files_amber,
    answer_files_by_id,
    answer_files_captions,
    answer_files_hallusionbench,
    answer_files_llava,
    answer_files_lmms_eval,
    answer_files_mme,
    answer_files_pope,
    answer_files_rows,
    answer_files_vlmevalkit,
)
from lvlm_prune.eval.answer_files_contract import Answer, AnswerFile, Record, RecordFormat
from lvlm_prune.eval.answer_files_text import decode, json_values, lines_of, read_bytes
from lvlm_prune.eval.score_error import ScoreError

# Where a record fits several formats, the first one reads it: the most telling keys stand first.
FORMATS = (
    answer_files_rows.FORMAT,
    answer_files_lmms_eval.FORMAT,
    answer_files_vlmevalkit.FORMAT,
    answer_files_hallusionbench.FORMAT,
    answer_files_amber.FORMAT,
    answer_files_pope.FORMAT,
    answer_files_llava.FORMAT,
    answer_files_captions.FORMAT,
    answer_files_by_id.FORMAT,
)
LABELS = ("label", "gt_answer", "truth")
ROWS = "answers-*.jsonl"  # of a run, one file a process
DEEPEST = 4  # folders below that of an evaluation: model, run, benchmark, settings
WITH_MME = ("mme", "probe")  # benchmarks with MME's tasks
STRINGS, MME = "strings", "mme"


def read_answers(path: Path, benchmark: str) -> AnswerFile:
    """Read a file, or a folder of MME or of one of our runs.

    Args:
        path: of the answers.
        benchmark: its name; of our own rows, which name theirs, only its own are read.

    Raises:
        ScoreError: the file cannot be read, is of no known format, or holds what is no answer.
    """
    if path.is_dir():
        return _read_folder(path, benchmark)
    content = read_bytes(path)
    if content.startswith(b"PK"):
        rows = answer_files_vlmevalkit.table_records(content, None, path)
        return _from_records(rows, path, benchmark)
    text = decode(content, path)
    start = text.lstrip()[:1]
    if start in ("{", "["):
        return _from_json(json_values(text, path), path, benchmark)
    lines = lines_of(text)
    if "prediction" not in lines[0]:
        if any(answer_files_mme.is_mme_line(line) for line in lines):
            return AnswerFile(MME, tuple(answer_files_mme.read_task(path)))
        if not any(mark in lines[0] for mark in ",\t;"):
            raise ScoreError("unknown_format", f"{path} is no answer file; {_known()}")
    rows = answer_files_vlmevalkit.table_records(content, text, path)
    return _from_records(rows, path, benchmark)


def _read_folder(folder: Path, benchmark: str) -> AnswerFile:
    """A folder of MME's text files, or the files that the processes of one of our runs wrote.

    Raises:
        ScoreError: neither (`directory`), or a folder of several runs (`several_runs`).
    """
    if ours := _rows_of_a_run(folder, benchmark):
        values = [
            (f"{file.name} {place}", value)
            for file in ours
            for place, value in json_values(decode(read_bytes(file), file), file)
        ]
        return _from_json(values, folder, benchmark)
    if benchmark in WITH_MME and answer_files_mme.is_mme_folder(folder):
        answers, notes = answer_files_mme.read_folder(folder)
        return AnswerFile(MME, tuple(answers), tuple(notes))
    others = sorted({file.parent.name for file in folder.glob(f"*/{ROWS}")})
    has = f" (this one has answers to {', '.join(others)})" if others else ""
    texts = " nor MME's <task>.txt" if benchmark in WITH_MME else ""
    raise ScoreError(
        "directory",
        f"{folder} has no answers-*.jsonl{texts}; pass one file of answers, or the folder of a run "
        f"of lvlm-prune eval, OUT/RUN, which holds {benchmark}/answers-0.jsonl and so on{has}",
    )


def _rows_of_a_run(folder: Path, benchmark: str) -> list[Path]:
    """The files of a run's folder, or of the only run in the folder of an evaluation.

    A run's answers to a benchmark stand in a folder of its name, those of a control in one below
    that, named after what it was to match.

    Raises:
        ScoreError: there are several runs, or a control with several settings (`several_runs`).
    """
    for place in (folder, folder / benchmark):
        if found := sorted(place.glob(ROWS)):
            return found
    places: dict[Path, list[Path]] = {}
    for depth in range(1, DEEPEST + 1):
        for file in sorted(folder.glob("*/" * depth + ROWS)):
            if benchmark in (file.parents[0].name, file.parents[1].name):
                places.setdefault(file.parent, []).append(file)
    if len(places) > 1:
        runs = sorted(place.parent if place.name == benchmark else place for place in places)
        names = ", ".join(str(run.relative_to(folder)) for run in runs[:6])
        raise ScoreError(
            "several_runs",
            f"{folder} holds {len(runs)} runs ({names}{', ...' * (len(runs) > 6)}); pass the "
            f"folder of one of them, such as {runs[0]}",
        )
    return next(iter(places.values()), [])


def _from_json(values: list[tuple[str, Any]], path: Path, benchmark: str) -> AnswerFile:
    """Answers of JSON values: records, or nothing but strings."""
    values = [(place, value) for place, value in values if not answer_files_rows.is_header(value)]
    if not values:
        raise ScoreError("empty_file", f"{path} holds no answers")
    if any(isinstance(value, str) for _, value in values) and not any(
        isinstance(value, dict) for _, value in values
    ):
        if benchmark != answer_files_hallusionbench.BENCHMARK:
            raise ScoreError(
                "unknown_format",
                f"{path} is a list of texts, which do not say what they answer; {_known()}",
            )
        return AnswerFile(STRINGS, tuple(answer_files_hallusionbench.read_strings(values)))
    for place, value in values:
        if not isinstance(value, dict):
            raise ScoreError("bad_line", f"{place} of {path} is {value!r:.60}, which is no record")
    return _from_records(values, path, benchmark)


def _from_records(records: list[tuple[str, Record]], path: Path, benchmark: str) -> AnswerFile:
    """Answers of records, read by the format that most of them fit."""
    fitting = [sum(each.fits(record) for _, record in records) for each in FORMATS]
    found: RecordFormat = FORMATS[fitting.index(max(fitting))]
    if not max(fitting):
        _refuse_unknown(records, path)
    if found is answer_files_rows.FORMAT:
        records = answer_files_rows.of_one_run(records, benchmark)
    answers: list[Answer] = [found.read(record, place) for place, record in records]
    notes: list[str] = []
    if found is answer_files_rows.FORMAT:
        answers = answer_files_rows.asked_again(answers)
    if found is answer_files_vlmevalkit.FORMAT and benchmark == "pope":
        answers = list(answer_files_vlmevalkit.by_split(answers))
    if found is answer_files_lmms_eval.FORMAT and any(answer.text == "" for answer in answers):
        empty = sum(answer.text == "" for answer in answers)
        notes.append(
            f"{empty} answers are empty: lmms-eval's Hugging Face models write '' for a call that "
            "failed"
        )
    return AnswerFile(found.name, tuple(answers), tuple(notes))


def _refuse_unknown(records: list[tuple[str, Record]], path: Path) -> None:
    """Say what the records look like instead.

    Raises:
        ScoreError: always.
    """
    keys = list(records[0][1])
    if any(label in keys for label in LABELS):
        raise ScoreError(
            "labels_as_answers",
            f"{path} holds questions and labels ({keys[:8]}) and no answers; pass it as --labels",
        )
    raise ScoreError("unknown_format", f"{path} holds records of {keys[:8]}; {_known()}")


def _known() -> str:
    """All formats."""
    examples = "; ".join(f"{each.name} {each.example}" for each in FORMATS)
    return f"known: {examples}; HallusionBench's list of texts; MME's folder of <task>.txt"
