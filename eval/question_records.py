"""Records of a question file: JSON Lines and JSON arrays alike, with the place of each.

In: a file. Out: its JSON objects in file order, each with its place for error messages, and checked
texts out of them. Knows no benchmark.
"""

import codecs
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from lvlm_prune.eval.absent import absent

Record = Mapping[str, Any]


def read_text(path: Path) -> str:
    """Text of a file, UTF-8 or marked UTF-16, its line breaks as `\\n`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a folder, or no text.
    """
    if not path.exists():
        raise FileNotFoundError(absent(path))
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a file of questions")
    content = path.read_bytes()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: {error}") from error
    return text.replace("\r\n", "\n")


def read_records(path: Path) -> list[tuple[str, Record]]:
    """The JSON objects of a file, each with its place, such as `labels.json, line 3`.

    Args:
        path: a JSON array of objects, or one object a line; empty lines are skipped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no text, broken JSON, something that is no object, or no record at all.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        listed = _parsed(text, str(path))
        places = [(f"{path}, record {number}", each) for number, each in enumerate(listed, 1)]
    else:
        lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
        places = [
            (f"{path}, line {number}", _parsed(line, f"{path}, line {number}"))
            for number, line in lines
        ]
    if not places:
        raise ValueError(f"{path} holds no records")
    for place, record in places:
        if not isinstance(record, Mapping):
            raise ValueError(f"{place} is {type(record).__name__}, not an object with named values")
    return places


def text_of(record: Record, place: str, *keys: str) -> str:
    """The text under the first of some keys.

    Raises:
        ValueError: none of the keys is there, or the value is no text or empty.
    """
    found = next((record[key] for key in keys if key in record), None)
    if not isinstance(found, str) or not found.strip():
        raise ValueError(f"{place} needs a text under {' or '.join(keys)}, got {found!r}")
    return found


def label_of(text: str, place: str) -> str:
    """A right answer in lower case.

    Raises:
        ValueError: it is neither yes nor no.
    """
    label = text.strip().lower()
    if label not in ("yes", "no"):
        raise ValueError(f"{place} has the label {text!r}; allowed: yes, no")
    return label


def image_name(text: str, place: str) -> str:
    """The name of an image file.

    Raises:
        ValueError: it leads out of the folder of images.
    """
    path = PurePosixPath(text.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{place} has the image {text!r}, which is not inside a folder of images")
    return text


def _parsed(text: str, place: str) -> Any:
    """JSON, or an error that says where it is broken."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{place} is no JSON: {error}") from error
