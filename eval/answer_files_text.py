"""Bytes of an answer file to text, and text to JSON records with their places.

In: a path. Out: text without its byte order mark and with line breaks as `\\n`, or `(place, value)`
for each line of JSON Lines or each element of a JSON array. UTF-8 and UTF-16 with a mark are read;
what cannot be text is a named error. No format of answers is known here.
"""

import codecs
import json
from pathlib import Path
from typing import Any

from lvlm_prune.eval.absent import absent
from lvlm_prune.eval.score_error import ScoreError

# First bytes of what people pass by mistake.
BINARY = {
    b"\x1f\x8b": "gzip-compressed: unpack it first",
    b"BZh": "bzip2-compressed: unpack it first",
    b"\xfd7zXZ": "xz-compressed: unpack it first",
    b"\x28\xb5\x2f\xfd": "zstd-compressed: unpack it first",
    b"PAR1": "a parquet file: export its answers as JSON Lines",
    b"\x80\x04": "a Python pickle, which is never opened: pass VLMEvalKit's .xlsx or .tsv",
    b"\x80\x05": "a Python pickle, which is never opened: pass VLMEvalKit's .xlsx or .tsv",
}


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        ScoreError: `missing_file`, `directory`, `empty_file` or `unreadable_file`.
    """
    if path.is_dir():
        raise ScoreError(
            "directory", f"{path} is a folder, where a file of answers is to be; pass one file"
        )
    if not path.exists():
        raise ScoreError("missing_file", absent(path))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ScoreError("unreadable_file", f"{path} cannot be read: {error.strerror}") from error
    if not content.strip(b"\x00 \t\r\n\xef\xbb\xbf"):
        raise ScoreError("empty_file", f"{path} holds no answers")
    return content


def decode(content: bytes, path: Path) -> str:
    """Text of a file, its line breaks as `\\n`.

    Raises:
        ScoreError: the bytes are no text (`not_text`).
    """
    for magic, kind in BINARY.items():
        if content.startswith(magic):
            raise ScoreError("not_text", f"{path} is {kind}")
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScoreError(
            "not_text", f"{path} is not UTF-8 at byte {error.start}: {error.reason}"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def lines_of(text: str) -> list[str]:
    """Lines without their breaks; only line breaks part them, unlike `str.splitlines`."""
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def json_values(text: str, path: Path) -> list[tuple[str, Any]]:
    """Elements of a JSON array, or values of JSON Lines, each with its place.

    Raises:
        ScoreError: a line that is blank (`blank_line`) or no JSON (`bad_line`), or a broken array
            (`bad_json`).
    """
    if text.lstrip().startswith("["):
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ScoreError("bad_json", f"{path} is no JSON array: {error}") from error
        return [(f"element {number}", value) for number, value in enumerate(values, 1)]
    values = []
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip():
            raise ScoreError("blank_line", f"line {number} of {path} is blank")
        try:
            values.append((f"line {number}", json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise ScoreError("bad_line", f"line {number} of {path} is no JSON: {error}") from error
    return values
