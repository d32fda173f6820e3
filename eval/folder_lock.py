"""One evaluation at a time writes to a folder.

In: a folder. Out: for the length of a block, the only evaluation there; a second one is refused at
once. The system lets go of the lock when a process ends, however it ends. Processes of one
evaluation share the folder: the first one holds the lock.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

NAME = ".running"


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
