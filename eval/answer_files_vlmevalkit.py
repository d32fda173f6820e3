"""VLMEvalKit's result tables: a row with `index`, `question`, `answer` (the label), `prediction`.

In: the rows of an .xlsx, .tsv or .csv file, or records of the same columns. Out: answers with image
path, category and label where the table has them; the index counts its own rows. POPE's 5,127 rows
name several splits in one category (`random,popular,adversarial`) and become one answer for each.
An empty cell is an empty answer; the sentence that VLMEvalKit writes for a failed call is one.
"""

import csv
import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lvlm_prune.eval.answer_files_contract import Answer, Record, RecordFormat, optional, text_of
from lvlm_prune.eval.score_error import ScoreError

FAILED = "Failed to obtain answer"
SPLITS = ("random", "popular", "adversarial")
LONGEST_CELL = 10_000_000
LARGEST_SHEET = 1 << 30  # bytes when unpacked
# What the reader of .xlsx files raises on those that are none; its XML errors are SyntaxErrors.
BROKEN = (zipfile.BadZipFile, zlib.error, LookupError, ValueError, TypeError, SyntaxError, OSError)


def fits(record: Record) -> bool:
    """A row of a result table, or of one without its predictions."""
    return "prediction" in record and ("index" in record or "question" in record)


def read(record: Record, place: str) -> Answer:
    """The answer of one row."""
    text = text_of(record, ("prediction",), place)
    return Answer(
        None if text.startswith(FAILED) else text,
        place,
        image=optional(record, "image_path", "image"),
        question=optional(record, "question"),
        split=optional(record, "category"),
        label=optional(record, "answer"),
        facts=_parts(record),
    )


FORMAT = RecordFormat(
    "vlmevalkit", "a table with the columns index, question, prediction", fits, read
)


def by_split(answers: list[Answer]) -> Iterator[Answer]:
    """One answer for each POPE split that a row names."""
    for answer in answers:
        named = [] if answer.split is None else [one.strip() for one in answer.split.split(",")]
        if named and set(named) <= set(SPLITS):
            yield from (replace(answer, split=one) for one in named)
        else:
            yield answer


def table_records(content: bytes, text: str | None, path: Path) -> list[tuple[str, Record]]:
    """Rows of a table by column, each with its place.

    Args:
        content: bytes of an .xlsx file.
        text: text of any other table; None for an .xlsx file.
        path: of the file, for messages.

    Raises:
        ScoreError: the table cannot be read (`bad_table`) or has no predictions (`missing_column`).
    """
    rows = _sheet(content, path) if text is None else _delimited(text, path)
    head = [str(cell or "").strip() for cell in rows[0]]
    repeated = sorted({name for name in head if name and head.count(name) > 1})
    if "prediction" not in head or repeated:
        wrong = f"the columns {repeated} twice" if repeated else "no column 'prediction'"
        raise ScoreError(
            "missing_column", f"{path} has {wrong}, only {head[:12]}; pass the table of results"
        )
    records: list[tuple[str, Record]] = []
    for number, row in enumerate(rows[1:], 2):
        if len(row) > len(head):
            raise ScoreError("bad_table", f"row {number} of {path} has {len(row)} cells")
        cells = dict(zip(head, [*row, *[None] * (len(head) - len(row))], strict=True))
        if any(cell not in (None, "") for cell in cells.values()):
            filled = {name: "" if cell is None else cell for name, cell in cells.items()}
            said = filled["prediction"]
            filled["prediction"] = said if isinstance(said, str) else str(said)
            records.append((f"row {number}", filled))
    if not records:
        raise ScoreError("empty_file", f"{path} holds no answers")
    return records


def _delimited(text: str, path: Path) -> list[list[Any]]:
    """Rows of a .tsv or .csv file."""
    csv.field_size_limit(LONGEST_CELL)
    head = text.split("\n", 1)[0]
    mark = "\t" if "\t" in head else ";" if head.count(";") > head.count(",") else ","
    try:
        rows: list[list[Any]] = list(csv.reader(io.StringIO(text), delimiter=mark, strict=True))
    except csv.Error as error:
        raise ScoreError("bad_table", f"{path} is no table: {error}") from error
    return [row for row in rows if row]


def _sheet(content: bytes, path: Path) -> list[list[Any]]:
    """Rows of the first sheet of an .xlsx file."""
    try:
        import openpyxl
    except ImportError as error:
        raise ScoreError(
            "missing_package",
            f"{path} is an .xlsx file: pip install 'lvlm-prune[eval]' (openpyxl), or save it as "
            ".tsv",
        ) from error
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            size = sum(part.file_size for part in packed.infolist())
        if size > LARGEST_SHEET:
            raise ScoreError("bad_table", f"{path} unpacks to {size} bytes")
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        rows = [list(row) for row in book.worksheets[0].iter_rows(values_only=True)]
    except ScoreError:
        raise
    except BROKEN as error:
        raise ScoreError("bad_table", f"{path} is no .xlsx table: {error}") from error
    if not rows:
        raise ScoreError("empty_file", f"{path} holds no answers")
    return rows


def _parts(record: Record) -> dict[str, str]:
    """HallusionBench's names of set, figure and question, which stand in the index."""
    area = optional(record, "l2-category")
    words = (optional(record, "index") or "").split("_")
    if area is None or len(words) < 6:
        return {}
    names = ("set_id", "figure_id", "question_id")
    return {"subcategory": area.split("_")[-1], **dict(zip(names, words[3:6], strict=True))}
