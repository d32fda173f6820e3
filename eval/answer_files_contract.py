"""What the readers of answer files agree on: an answer, a file of them, and a format of records.

In: records, the JSON objects or table rows of a file. Out: `Answer`s that hold what their format
knows about the question, and nothing guessed. Which benchmark line an answer belongs to is decided
later, in `join`; no benchmark is known here.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lvlm_prune.eval.score_error import ScoreError

Record = Mapping[str, Any]
ID_KEYS = ("id", "question_id", "doc_id", "index", "Index", "image_id")


@dataclass(frozen=True)
class Answer:
    """One answer, as its file has it.

    Args:
        text: raw answer; None is a failed call that the file itself records as failed.
        place: where it stands, such as `line 4`.
        id: name of the question in its file; None if the format has none.
        items: names of the benchmark lines it answers, in our own files.
        image: file name of the image.
        question: the question or the whole prompt.
        split: POPE split, MME task.
        label: the right answer, as the file repeats it.
        facts: other parts of a question's name, such as HallusionBench's set and figure.
        order: place of the question in its data set; None is the place in the file.
    """

    text: str | None
    place: str
    id: str | None = None
    items: tuple[str, ...] = ()
    image: str | None = None
    question: str | None = None
    split: str | None = None
    label: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict, hash=False)
    order: int | None = None


@dataclass(frozen=True)
class AnswerFile:
    """A file, or a folder, of answers.

    Args:
        format: name of its format, such as `llava`.
        answers: in file order.
        notes: what a reader of the scores has to know about the file.
    """

    format: str
    answers: tuple[Answer, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecordFormat:
    """A format whose file is a list of records.

    Args:
        name: of the format.
        example: a record, for the message of an unknown format.
        fits: whether a record is of this format.
        read: record and its place to an answer.
    """

    name: str
    example: str
    fits: Callable[[Record], bool]
    read: Callable[[Record, str], Answer]


def text_of(record: Record, keys: Sequence[str], place: str) -> str:
    """The raw answer under the first of the keys that the record has.

    Raises:
        ScoreError: no such key (`missing_key`), null (`null_answer`), or no text (`bad_answer`).
    """
    key = next((key for key in keys if key in record), None)
    if key is None:
        wanted = " or ".join(map(repr, keys))
        raise ScoreError("missing_key", f"{place} has no {wanted}, only {list(record)[:8]}")
    value = record[key]
    if value is None:
        raise ScoreError(
            "null_answer", f"{place} has null for {key!r}; an answer is a text, and '' is an answer"
        )
    if not isinstance(value, str):
        raise ScoreError("bad_answer", f"{place} has {value!r:.60} for {key!r}, which is no text")
    return value


def id_of(record: Record, keys: Sequence[str], place: str) -> str:
    """The question's name under the first of the keys, as text, whether it is a number or a string.

    Raises:
        ScoreError: no such key (`missing_key`), or neither a number nor a text (`bad_id`).
    """
    key = next((key for key in keys if key in record), None)
    if key is None:
        wanted = " or ".join(map(repr, keys))
        raise ScoreError("missing_key", f"{place} has no {wanted}, only {list(record)[:8]}")
    name = plain(record[key])
    if name is None or not name.strip():
        raise ScoreError("bad_id", f"{place} has {record[key]!r:.60} for {key!r}")
    return name.strip()


def plain(value: object) -> str | None:
    """A number or a text as text, 3.0 as 3; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)


def optional(record: Record, *keys: str) -> str | None:
    """The first of the keys that holds a number or a text, as text; None if there is none."""
    return next((found for key in keys if (found := plain(record.get(key))) is not None), None)


def image_number(name: str) -> str:
    """The number that a COCO-like image name ends in, without zeros; other names as they are.

    `COCO_val2014_000000000042.jpg`, `000000000042.jpg`, `42` and 42 are the same image.
    """
    stem = re.sub(
        r"\.(jpe?g|png|webp)$", "", name.replace("\\", "/").rsplit("/", 1)[-1], flags=re.I
    )
    found = re.fullmatch(r"(?:COCO_(?:train|val)\d{4}_)?0*(\d+)", stem)
    return found[1] if found else stem
