"""The answers of one run to one benchmark, on disk as they come.

In: rows, one at a time. Out: a folder with one JSONL file for each process number; each begins with
the run's header, and every row is written and flushed when it is there. A run that was killed goes
on from what the files hold, with any number of processes: all files are read, each process writes
its own. A line that was cut off is dropped. A failed call is asked again; the last good row of an
id counts.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from lvlm_prune.eval.row import Row
from lvlm_prune.eval.run_header import Header

PATTERN = "answers-*.jsonl"


class Ledger:
    """The files of one run and benchmark.

    Args:
        folder: where they are; it is made with the first row. None keeps rows in memory alone.
        header: of the run.
        rank: number of this process.

    Raises:
        OtherRunError: a file of another run.
        ValueError: a line that is no row.
    """

    def __init__(self, folder: Path | None, header: Header, rank: int = 0) -> None:
        self.folder, self.header, self.rank = folder, header, rank
        self.rows: dict[str, Row] = {}
        self._file: TextIO | None = None
        self.read()

    def read(self) -> None:
        """Read what all processes have written so far."""
        if self.folder is None:
            return
        self.rows = {}
        for path in sorted(self.folder.glob(PATTERN)):
            lines = _whole_lines(path)
            if not lines:
                continue
            self.header.check(header_of(lines[0], path), path)
            for number, line in enumerate(lines[1:], 2):
                self._take(_row(line, path, number))

    def answered(self, name: str) -> bool:
        """Whether there is an answer with this id, and no failed call."""
        return name in self.rows and self.rows[name].error is None

    def add(self, rows: Sequence[Row]) -> None:
        """Write rows; no rows make no file."""
        for row in rows:
            self._take(row)
        if self.folder is None or not rows:
            return
        if self._file is None:
            self._file = self._opened(self.folder)
        self._file.write("".join(f"{row.to_json()}\n" for row in rows))
        self._file.flush()

    def close(self) -> None:
        """Close the file; a later row opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _take(self, row: Row) -> None:
        """A row counts unless there is a good one and it is a failed call."""
        known = self.rows.get(row.id)
        if known is None or known.error is not None:
            self.rows[row.id] = row

    def _opened(self, folder: Path) -> TextIO:
        """This process's file, ready for the next line."""
        path = folder / f"answers-{self.rank}.jsonl"
        kept = "".join(f"{line}\n" for line in _whole_lines(path))
        if path.exists() and len(kept.encode()) < path.stat().st_size:
            with path.open("r+b") as file:
                file.truncate(len(kept.encode()))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            opened = path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise _unusable(path, "written", error) from error
        if not kept:
            opened.write(self.header.to_json() + "\n")
        return opened


def remove_answers(folder: Path) -> None:
    """Delete all answers in a run's folder."""
    for path in folder.glob(PATTERN):
        path.unlink()


def header_of(line: str, path: Path) -> Mapping[str, Any]:
    """The header of a file of answers.

    Raises:
        ValueError: its first line is none.
    """
    try:
        return dict(json.loads(line)["header"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the first line of {path} is no header of a run; pass another --out"
        ) from error


def stored(path: Path) -> tuple[Mapping[str, Any], Iterator[Row]]:
    """The header and the rows of one file, for whoever reads it without a run."""
    lines = _whole_lines(path)
    if not lines:
        raise ValueError(f"{path} is empty")
    rows = (_row(line, path, number) for number, line in enumerate(lines[1:], 2))
    return header_of(lines[0], path), rows


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file up to its last line break, without a half character of a cut line.

    Raises:
        OSError: it cannot be read.
        ValueError: bytes that are no text.
    """
    if not path.exists():
        return []
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unusable(path, "read", error) from error
    try:
        return data[: data.rfind(b"\n") + 1].decode("utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line} of {path} is no UTF-8 text; remove the line and run again, or pass "
            "--restart"
        ) from error


def _unusable(path: Path, done: str, error: OSError) -> OSError:
    """The error about a place where answers are to be and something else is."""
    where = "" if error.filename is None else f": {error.filename}"
    return OSError(
        f"answers cannot be {done} at {path} ({error.strerror}{where}); move what is in the way, "
        "or pass another --out"
    )


def _row(line: str, path: Path, number: int) -> Row:
    """Read a row."""
    try:
        return Row.from_dict(json.loads(line))
    except (json.JSONDecodeError, TypeError, ValueError) as error:
        raise ValueError(
            f"line {number} of {path} is no row of answers ({error}); remove the line and run "
            "again, or pass --restart"
        ) from error
