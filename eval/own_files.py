"""Which files of a folder an evaluation or a comparison may replace: those that one wrote.

In: a folder and the names of files to be written there. Out: nothing, or an error that names the
first file of somebody else. A folder is an evaluation's if its results.json says so, or while there
is none if it holds answers; a report is a comparison's if its title says so.
"""

import json
from collections.abc import Sequence
from pathlib import Path

RESULTS = "results.json"
REPORTS = ("report.md", "report.html")
PICTURES = ("overlays.png", "budgets.png")
EVERY = (RESULTS, "samples.jsonl", *REPORTS, *PICTURES)  # of every benchmark
OF_PROBE = ("table.md", "accuracy.png", "inside.md", "inside.png")
OF_MODELS = (RESULTS, "table.md", "inside.md")  # beside the folders of several models
ANSWERS = ("*/*/answers-*.jsonl", "*/*/*/answers-*.jsonl")  # of one model, and of several
COMPARED = "Compared: "  # what the title of a comparison begins with


class ForeignFileError(ValueError):
    """A file that another command or program wrote would be replaced."""


def check_evaluation(folder: Path, names: Sequence[str]) -> None:
    """Refuse to evaluate into a folder where that would replace somebody else's files.

    Args:
        folder: of the results; it may not be there.
        names: files that will be written.

    Raises:
        ForeignFileError: a file that no evaluation wrote.
        ValueError: a folder of such a name.
    """
    _check_files(folder, names)
    results = folder / RESULTS
    ours = _is_ours(results) if results.exists() else _has_answers(folder)
    there = [folder / name for name in names if (folder / name).exists()]
    if there and not ours:
        raise _foreign(results if results.exists() else there[0])


def check_comparison(folder: Path) -> None:
    """Refuse to write a comparison over a report that is none.

    Raises:
        ForeignFileError: another report.
        ValueError: a folder of its name.
    """
    _check_files(folder, REPORTS)
    for path in (folder / name for name in REPORTS):
        if path.exists():
            text = path.read_bytes().decode("utf-8", errors="replace")
            if not text.startswith(f"# {COMPARED}") and f"<title>{COMPARED}" not in text:
                raise _foreign(path)


def _check_files(folder: Path, names: Sequence[str]) -> None:
    """Refuse folders where files are to be."""
    for path in (folder / name for name in names):
        if path.is_dir():
            raise ValueError(
                f"{path} is a folder, where a file is to be written; move it, or pass another --out"
            )


def _is_ours(results: Path) -> bool:
    """Whether an evaluation wrote a file of results."""
    try:
        values = json.loads(results.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError):
        return False
    models = values if isinstance(values, list) else [values]
    return all(isinstance(each, dict) and "lvlm_prune" in each for each in models)


def _has_answers(folder: Path) -> bool:
    """Whether an evaluation began here and did not come to its results."""
    return any(True for pattern in ANSWERS for _ in folder.glob(pattern))


def _foreign(path: Path) -> ForeignFileError:
    """The error about a file of somebody else."""
    return ForeignFileError(
        f"{path} was not written by this command and would be replaced; move it, or pass another "
        "--out"
    )
