"""Share a CPU between batches instead of between the threads of one operation.

In: the model's device. Out: how many batches to run at a time, with torch's threads divided among
them. Threads inside one operation wait for each other, so on a busy machine they cost more than the
work itself; batches do not. On a GPU there is one worker.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

CPU_WORKERS = 2


@contextmanager
def divided_threads(device: torch.device) -> Iterator[int]:
    """Divide torch's threads among workers inside the block.

    Args:
        device: where the model is.

    Yields:
        The number of workers. Each has `torch.get_num_threads()` threads, also new ones, as the
        setting is the process's.
    """
    threads = torch.get_num_threads()
    workers = min(CPU_WORKERS, threads) if device.type == "cpu" else 1
    torch.set_num_threads(threads // workers)
    try:
        yield workers
    finally:
        torch.set_num_threads(threads)
