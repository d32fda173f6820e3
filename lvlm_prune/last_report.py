"""The report of an attachment's last call: that of the asking thread, or else of any thread.

A script that streams calls `generate` in a thread of its own and reads the report outside.
"""

import threading
from typing import Any, Generic, TypeVar

from lvlm_prune.errors import NoReportError

Report = TypeVar("Report")


class LastReport(Generic[Report]):
    """Keeps one report a thread, and the newest of all.

    Args:
        missing: what to tell who asks before there is any.
    """

    def __init__(self, missing: str) -> None:
        self._missing = missing
        self._newest: Report | None = None
        self._here = _OfThread()

    def keep(self, report: Report) -> None:
        """Remember a report."""
        self._here.report = self._newest = report

    def get(self) -> Report:
        """The last report.

        Raises:
            NoReportError: there is none yet.
        """
        report: Report | None = self._here.report or self._newest
        if report is None:
            raise NoReportError(self._missing)
        return report


class _OfThread(threading.local):
    """The report of each thread; a copy of it starts empty."""

    report: Any = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _OfThread, ()
