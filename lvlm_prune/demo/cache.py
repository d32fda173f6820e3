"""Results by key, the least recently used ones forgotten when they hold too many bytes.

In: hashable keys and values with `nbytes`. It may be used from several threads.
"""

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Any


class ByteLimitedCache:
    """A dictionary whose values never hold more than a number of bytes together.

    Args:
        limit: in bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> Any:
        """The value of a key, which becomes the most recently used one, or None."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def put(self, key: Hashable, value: Any) -> None:
        """Remember a value; one that is larger than the limit alone is not kept."""
        with self._lock:
            if key in self._values:
                self.nbytes -= self._values.pop(key).nbytes
            if value.nbytes > self.limit:
                return
            self._values[key] = value
            self.nbytes += value.nbytes
            while self.nbytes > self.limit:
                _, oldest = self._values.popitem(last=False)
                self.nbytes -= oldest.nbytes
