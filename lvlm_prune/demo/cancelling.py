"""Ending work that nobody waits for any more, between two of its steps.

In: the key of a browser session or client. Out: a `Job` for each piece of work, which `check`s
whether it was cancelled; while an answer is generated, that is before every token. Sessions know
nothing of each other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock
from typing import Any


class CancelledError(RuntimeError):
    """The work was cancelled by the one who asked for it."""


class Job:
    """One piece of work that can be cancelled from another thread."""

    def __init__(self) -> None:
        self._cancelled = Event()

    def cancel(self) -> None:
        """Let the next `check` fail."""
        self._cancelled.set()

    def check(self) -> None:
        """Go on, or not.

        Raises:
            CancelledError: it was cancelled.
        """
        if self._cancelled.is_set():
            raise CancelledError("Cancelled.")

    @contextmanager
    def watching(self, model: Any) -> Iterator[None]:
        """Check before every pass of a model inside the block.

        Args:
            model: a torch module; it is left as it was.
        """
        handle = model.register_forward_pre_hook(lambda *_: self.check())
        try:
            yield
        finally:
            handle.remove()


class Jobs:
    """The running jobs of each session."""

    def __init__(self) -> None:
        self._running: dict[str, set[Job]] = {}
        self._closed = False
        self._lock = Lock()

    @contextmanager
    def job(self, session: str) -> Iterator[Job]:
        """A job of a session while the block runs."""
        job = Job()
        with self._lock:
            self._running.setdefault(session, set()).add(job)
            if self._closed:
                job.cancel()
        try:
            yield job
        finally:
            with self._lock:
                self._running[session].discard(job)
                if not self._running[session]:
                    del self._running[session]

    def cancel(self, session: str) -> int:
        """Cancel a session's jobs and return how many there were."""
        with self._lock:
            jobs = list(self._running.get(session, ()))
        for job in jobs:
            job.cancel()
        return len(jobs)

    def close(self) -> None:
        """Cancel the jobs of all sessions, and every one that begins after this."""
        with self._lock:
            self._closed = True
            for jobs in self._running.values():
                for job in jobs:
                    job.cancel()

    def __len__(self) -> int:
        """Running jobs of all sessions."""
        with self._lock:
            return sum(map(len, self._running.values()))
