"""Ending the server on a signal, at once and whatever it does, with the uploads deleted.

In: a block of work and the folder of the uploads. Out: exit code 128 + the signal's number, as of a
program that a signal ended: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, which comes when
a terminal is closed, unless `nohup` has it ignored. A pass of a large model takes
longer than anybody wants to wait and cannot be broken off, so the process leaves without it.
"""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
PATIENCE = 1.0  # seconds that the work has to come to an end in order


class EndedError(KeyboardInterrupt):
    """A signal to end.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


@contextmanager
def ending(uploads: Path) -> Iterator[None]:
    """End the process on a signal inside the block; a second signal does not even wait for that.

    Args:
        uploads: a folder that is deleted then.
    """

    def at_once(number: int, frame: Any) -> None:
        _leave(128 + number, uploads)

    def first(number: int, frame: Any) -> None:
        for other in heard:
            signal.signal(other, at_once)
        # Also where the exception gets lost, as in a destructor, or something waits for the model.
        late = Timer(PATIENCE, _leave, (128 + number, uploads))
        late.daemon = True
        late.start()
        raise EndedError(number)

    ignored = {number for number in SIGNALS[2:] if signal.getsignal(number) == signal.SIG_IGN}
    heard = {*SIGNALS} - ignored
    before = {number: signal.signal(number, first) for number in heard}
    try:
        yield
    except EndedError as end:
        _leave(end.code, uploads)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(code: int, uploads: Path) -> None:
    """End the process without waiting for its threads."""
    shutil.rmtree(uploads, ignore_errors=True)
    try:
        sys.stdout.flush()
    finally:
        os._exit(code)
