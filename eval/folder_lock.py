"""One evaluation at a time writes to a folder.

In: a folder. Out: for the length of a block, the only evaluation there; a second one is refused at
once. The system lets go of the lock when a process ends, however it ends. Processes of one
evaluation share the folder: the first one holds the lock.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

NAME = ".running"
RESULTS = "results.json"


class FolderInUseError(ValueError):
    """Another evaluation writes to the folder, or another program has."""


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if it is absent.

    Raises:
        FolderInUseError: somebody else holds it, or it has a results.json of another program.
        OSError: it cannot be written to.
    """
    _check_ours(folder / RESULTS)
    lock = FileLock(folder / NAME)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise FolderInUseError(
            f"another evaluation writes to {folder}; wait for it, or pass another --out"
        ) from None
    except OSError as error:
        raise OSError(f"cannot write to {folder} ({error}); pass another --out") from error
    try:
        yield
    finally:
        (folder / NAME).unlink(missing_ok=True)
        lock.release()
        if not any(folder.iterdir()):
            folder.rmdir()  # nothing came of it


def _check_ours(results: Path) -> None:
    """Refuse to replace a file that no evaluation wrote."""
    if not results.exists():
        return
    try:
        values = json.loads(results.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        values = None
    models = values if isinstance(values, list) else [values]
    if not all(isinstance(each, dict) and "lvlm_prune" in each for each in models):
        raise FolderInUseError(
            f"{results} is of another program and would be replaced; pass another --out"
        )
