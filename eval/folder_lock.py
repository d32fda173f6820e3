"""One evaluation at a time writes to a folder.

In: a folder. Out: for the length of a block, the only evaluation there; a second one is refused at
once and told which processes the first one has. The system lets go of the lock when a process ends,
however it ends. Processes of one evaluation share the folder: the first one holds the lock, the
others add who they are, as they go on for a while where only their launcher was killed.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

NAME = ".running"
# Beside the lock: some versions of filelock empty the file that they fail to lock.
HOLDERS = ".running-by"


class FolderInUseError(ValueError):
    """Another evaluation writes to the folder."""


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if it is absent.

    Raises:
        FolderInUseError: somebody else holds it.
        OSError: it cannot be written to.
    """
    lock = FileLock(folder / NAME)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise FolderInUseError(
            f"another evaluation writes to {folder}{_held_by(folder)}; wait for it, or pass "
            "another --out"
        ) from None
    except OSError as error:
        raise OSError(f"cannot write to {folder} ({error}); pass another --out") from error
    try:
        (folder / HOLDERS).unlink(missing_ok=True)  # of one that was killed
        note_holder(folder)
        yield
    finally:
        (folder / HOLDERS).unlink(missing_ok=True)
        (folder / NAME).unlink(missing_ok=True)
        lock.release()
        if not any(folder.iterdir()):
            folder.rmdir()  # nothing came of it


def note_holder(folder: Path) -> None:
    """Add this process to those that a refusal names."""
    line = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
    with (folder / HOLDERS).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def _held_by(folder: Path) -> str:
    """Who holds a folder and how to end it, if that can be read."""
    pids: dict[str, list[str]] = {}
    try:
        for line in (folder / HOLDERS).read_text(encoding="utf-8").splitlines():
            holder = json.loads(line)
            pids.setdefault(str(holder["host"]), []).append(str(int(holder["pid"])))
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # it has just begun or ended
    ended_by = [f"`kill {' '.join(each)}` on {host}" for host, each in pids.items()]
    return f", and {' and '.join(ended_by)} ends it" if ended_by else ""
