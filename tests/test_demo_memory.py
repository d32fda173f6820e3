"""What the demo frees goes back to the system, on glibc."""

import ctypes
import platform
from pathlib import Path

import pytest

from lvlm_prune.demo.memory import give_back

SIZE, COUNT = 60_000, 2000  # below the size from which glibc maps blocks one by one


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library frees by itself")
def test_freed_memory_goes_back():
    library = ctypes.CDLL("libc.so.6")
    library.malloc.restype = ctypes.c_void_p
    blocks = [library.malloc(ctypes.c_size_t(SIZE)) for _ in range(COUNT)]
    for block in blocks:
        ctypes.memset(block, 1, SIZE)
    # The last block stays, and with it the top of the heap.
    for block in blocks[:-1]:
        library.free(ctypes.c_void_p(block))
    before = resident()
    give_back()
    assert before - resident() > SIZE * COUNT // 2
    library.free(ctypes.c_void_p(blocks[-1]))
