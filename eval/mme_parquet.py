"""MME from parquet files as on the hub (columns question_id, image, question, answer, category).

In: parquet files, or rows that were read elsewhere. Out: the questions, and their images as files
in a folder; a file of the same size that is already there is left alone. The two questions of a
pair have the same `question_id`, such as `code_reasoning/0020.png`, which names the image.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lvlm_prune.eval.mme_files import Line
from lvlm_prune.eval.question_records import image_name, label_of, text_of

_COLUMNS = ["question_id", "image", "question", "answer", "category"]
_ROWS = 32  # at once; an image takes about a third of a MiB


def read_parquet(paths: Sequence[Path], wanted: Sequence[str], folder: Path) -> list[Line]:
    """Read parquet files.

    Args:
        paths: the files.
        wanted: tasks to read; the images of others are not written.
        folder: where images are written, a folder for each task.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: a file that is no parquet file or lacks a column, or a row that is no question.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "parquet files are read with pyarrow: pip install 'lvlm-prune[eval]'"
        ) from error
    lines: list[Line] = []
    for path in paths:
        try:
            table = pyarrow.parquet.ParquetFile(path)
            for batch in table.iter_batches(batch_size=_ROWS, columns=_COLUMNS):
                absent = [name for name in _COLUMNS if name not in batch.schema.names]
                if absent:
                    raise ValueError(f"{path} has no column {', '.join(absent)}")
                lines += from_rows(batch.to_pylist(), wanted, folder, str(path))
        except pyarrow.ArrowException as error:
            raise ValueError(f"{path} cannot be read as a parquet file: {error}") from error
    return lines


def from_rows(
    rows: Iterable[Mapping[str, Any]], wanted: Sequence[str], folder: Path, place: str
) -> list[Line]:
    """Questions of rows, whose images are written.

    Args:
        rows: with the columns of the hub's table; `image` holds `bytes`.
        wanted: tasks to read.
        folder: where images are written.
        place: where the rows are from, for errors.

    Raises:
        ValueError: a row that is no question.
    """
    lines = []
    for row in rows:
        task = text_of(row, place, "category")
        if task not in wanted:
            continue
        key = text_of(row, place, "question_id")
        where = f"{place}, {key}"
        image = image_name(key.removeprefix(f"{task}/"), where)
        line = Line(
            task=task,
            image=image,
            question=text_of(row, where, "question"),
            label=label_of(text_of(row, where, "answer"), where),
            file=folder / task / image,
        )
        _write_image(folder / task / image, row.get("image"), where)
        lines.append(line)
    return lines


def _write_image(path: Path, image: Any, place: str) -> None:
    """Write an image in one step."""
    content = image.get("bytes") if isinstance(image, Mapping) else None
    if not isinstance(content, bytes) or not content:
        raise ValueError(f"{place} holds no image bytes")
    if path.is_file() and path.stat().st_size == len(content):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
