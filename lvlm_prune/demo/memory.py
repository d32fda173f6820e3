"""Keep the server's memory where it was: the C allocator's share of it.

glibc gives every thread an arena of its own and keeps what was freed in each. A web server whose
threads take turns then grows by hundreds of MiB that nobody uses. Other C libraries have neither
function; there nothing is done.
"""

import ctypes
from collections.abc import Callable
from functools import cache

ARENA_MAX = -8  # M_ARENA_MAX of glibc's malloc.h
ARENAS = 2


def limit_arenas() -> None:
    """Let all threads that begin after this share a few arenas."""
    if (limit := _glibc("mallopt")) is not None:
        limit(ARENA_MAX, ARENAS)


def give_back() -> None:
    """Return freed memory to the system; some milliseconds."""
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)


@cache
def _glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc, or None elsewhere."""
    try:
        return getattr(ctypes.CDLL("libc.so.6"), name)
    except (OSError, AttributeError):
        return None
