"""Share a CPU between batches instead of between the threads of one operation.

In: the model's device. Out: how many batches to run at a time, with torch's threads divided among
them. Threads inside one operation wait for each other, so on a busy machine they cost more than the
work itself; batches do not. On a GPU there is one worker.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

CPU_WORKERS = 2
Given = TypeVar("Given")
Made = TypeVar("Made")


@contextmanager
def divided_threads(device: torch.device, most: int = CPU_WORKERS) -> Iterator[int]:
    """Divide torch's threads among workers inside the block.

    Args:
        device: where the model is.
        most: workers on a CPU at most.

    Yields:
        The number of workers. Each has `torch.get_num_threads()` threads, also new ones, as the
        setting is the process's.
    """
    threads = torch.get_num_threads()
    workers = min(most, threads) if device.type == "cpu" else 1
    torch.set_num_threads(threads // workers)
    try:
        yield workers
    finally:
        torch.set_num_threads(threads)


@contextmanager
def giving_up(pool: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    """End a pool without the work that has not begun, which after an exception nobody wants."""
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def in_parallel(
    device: torch.device, function: Callable[[Given], Made], items: Sequence[Given]
) -> list[Made]:
    """Apply a function to each item without gradients, as many at a time as there are workers.

    Returns:
        The results in the order of the items.
    """

    def work(item: Given) -> Made:
        # The mode is the thread's own.
        with torch.inference_mode():
            return function(item)

    with divided_threads(device) as workers, giving_up(ThreadPoolExecutor(workers)) as pool:
        return list(pool.map(work, items))
