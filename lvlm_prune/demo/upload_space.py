"""How much the uploads may take of the disk, all users together.

In: the length of each upload before it is stored. Out: whether there is room. Every upload is first
counted as the most that it can take; only where that fills the folder is it measured, so that a
picture costs nothing but an addition. It knows nothing of requests.
"""

import os
import time
from pathlib import Path
from threading import Lock

LIMIT = 2**30  # bytes
BLOCK = 4096  # bytes that the smallest file takes, and its folder
FILES = 1000  # that gradio takes from one request
SHORTEST = 64  # bytes of a request around a file of it
AGAIN = 5.0  # seconds between two measurements
BROKEN_OFF = 600.0  # seconds without a new byte, after which an upload goes on no more


class UploadSpace:
    """The room of an upload folder.

    Args:
        folder: of the uploads; each lies in a folder of its own, unless it is being written.
        limit: bytes.
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self.folder = folder
        self.limit = limit
        self._used = self._writing = 0
        self._measured = -AGAIN
        self._lock = Lock()

    def take(self, size: int) -> int | None:
        """Take room for a request.

        Args:
            size: bytes of the request.

        Returns:
            Bytes that were taken, for `written`; None where there is no room.
        """
        cost = size + 2 * BLOCK * min(FILES, size // SHORTEST + 1)
        with self._lock:
            if self._used + cost > self.limit and time.monotonic() - self._measured >= AGAIN:
                self._used = self._writing + self._measure()
                self._measured = time.monotonic()
            if self._used + cost > self.limit:
                return None
            self._used += cost
            self._writing += cost
        return cost

    def written(self, cost: int) -> None:
        """An upload is stored, or was broken off; what it takes is measured from now on."""
        with self._lock:
            self._writing -= cost

    def _measure(self) -> int:
        """Bytes in the folder, in whole blocks; what was broken off is deleted."""
        total = 0
        for place, folders, files in os.walk(self.folder):
            total += BLOCK * len(folders)
            for name in files:
                path = Path(place, name)
                try:
                    found = path.stat()
                    if Path(place) == self.folder and time.time() - found.st_mtime > BROKEN_OFF:
                        path.unlink()
                        continue
                except FileNotFoundError:
                    continue  # gradio deletes old uploads at any time
                total += -(-found.st_size // BLOCK) * BLOCK
        return total
