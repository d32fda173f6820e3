"""Batches that fit: halve the batch size whenever memory runs out, and remember it.

In: work on a list of things that may run out of memory. Out: the results of its batches, in order,
as few as fit. Only running out of memory is caught; alone, a thing that still
does not fit is the caller's error.
"""

import gc
from collections.abc import Callable, Sequence
from threading import Lock
from typing import TypeVar

import torch

Given = TypeVar("Given")
Made = TypeVar("Made")
# How torch's CPU allocator says it, in a plain RuntimeError.
CPU_WORDS = ("DefaultCPUAllocator", "not enough memory")


class BatchLimit:
    """The largest batch that has not run out of memory.

    Args:
        size: things in a batch at first.
        say: told when the size is halved.
    """

    def __init__(self, size: int, say: Callable[[str], None] = lambda sentence: None) -> None:
        self.size = size
        self._say = say
        self._lock = Lock()

    def run(self, work: Callable[[Sequence[Given]], Made], things: Sequence[Given]) -> list[Made]:
        """Do the work on all things, in batches of at most `size`.

        Args:
            work: a batch to its result.
            things: any number of them.

        Returns:
            The results of the batches, in order.

        Raises:
            torch.OutOfMemoryError: one thing alone does not fit.
        """
        made: list[Made] = []
        start = 0
        while start < len(things):
            batch = things[start : start + self.size]
            error: BaseException | None = None
            try:
                made.append(work(batch))
                start += len(batch)
            except (torch.OutOfMemoryError, RuntimeError, MemoryError) as caught:
                if len(batch) == 1 or not out_of_memory(caught):
                    raise
                # Its traceback holds the tensors that are in the way.
                error = caught.with_traceback(None)
            if error is not None:
                self._halve(len(batch), error)
        return made

    def _halve(self, tried: int, error: BaseException) -> None:
        """Note that a size does not fit, and give back what it took."""
        del error
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        with self._lock:
            # Another thread may have halved it already.
            if tried // 2 < self.size:
                self.size = tried // 2
                self._say(f"out of memory with {tried} at a time; going on with {self.size}")


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(words in str(error) for words in CPU_WORDS)
