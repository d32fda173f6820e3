"""The files that `compare` reads, and the folder that it writes.

In: folders of `eval` with a `results.json`, or folders that hold such folders (one a model). Out:
evaluations with names that tell them apart. A file that is damaged or of another version is refused
in one sentence that names it.
"""

import codecs
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from lvlm_prune.eval.absent import absent
from lvlm_prune.eval.own_files import check_comparison
from lvlm_prune.eval.report_check import check_results

FILE = "results.json"


@dataclass(frozen=True)
class Evaluation:
    """A folder of `eval`.

    Args:
        name: as short as it can be told from the others.
        folder: where it lies.
        results: values of its `results.json`.
    """

    name: str
    folder: Path
    results: Mapping[str, Any]


def read_evaluations(folders: Sequence[Path]) -> list[Evaluation]:
    """Read the result files, each with the shortest name that tells it from the others."""
    every = (path for folder in folders for path in _result_folders(folder))
    found = list({path.resolve(): path for path in every}.values())
    names = _short_names([folder.resolve() for folder in found])
    return [
        Evaluation(name, folder, _read(folder / FILE))
        for name, folder in zip(names, found, strict=True)
    ]


def _result_folders(folder: Path) -> list[Path]:
    """The folder itself, or those of its models."""
    inside = sorted(path.parent for path in folder.glob(f"*/{FILE}"))
    if (folder / FILE).is_file() and not (inside and _lists_models(folder / FILE)):
        return [folder]
    if not inside:
        raise FileNotFoundError(
            f"no {FILE} in {folder} or in its folders; name a folder that `lvlm-prune eval --out` "
            "wrote"
        )
    return inside


def _lists_models(path: Path) -> bool:
    """Whether it is the list that `eval` writes beside the folders of several models."""
    with path.open("rb") as file:
        return file.read(64).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["


def _read(path: Path) -> Mapping[str, Any]:
    """The values of a result file that this version can show."""
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
        # Half of a pair such as "\ud83d" is read, but no report can be written with it.
        json.dumps(values, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file ({error}); run eval again") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from error
    try:
        check_results(values)
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged or not of this version of eval: {error}; run eval again, which "
            "reuses the answers"
        ) from error
    return dict(values)


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as make all of them differ."""
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def check_out(out: Path, evaluations: Sequence[Evaluation]) -> None:
    """Refuse a folder for the report that holds another one's.

    Raises:
        ValueError: it leads nowhere, is one of the evaluations, or has a report that no comparison
            wrote.
    """
    if out.is_symlink() and not out.exists():
        raise ValueError(f"--out must name a folder, but {absent(out)}")
    if any(evaluation.folder.resolve() == out.resolve() for evaluation in evaluations):
        raise ValueError(f"--out {out} is one of the evaluations, whose own report would be lost")
    check_comparison(out)


def make_folder(out: Path) -> None:
    """Make the folder of the report, and see that files can be written there.

    Raises:
        ValueError: it cannot be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ValueError(
            f"--out {out} cannot be made or written ({error.strerror}); name a folder that can"
        ) from error
