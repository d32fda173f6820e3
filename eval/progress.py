"""A progress bar with rate and remaining time, for a terminal and for a log file.

In: how much there is to do. Out: tqdm's bar on stderr: one that moves in a terminal, and a line now
and then in a file.
"""

import sys

from tqdm import tqdm


def progress(
    total: int, unit: str, title: str = "", quiet: bool = False, done: int = 0
) -> "tqdm[None]":
    """Begin a bar.

    Args:
        total: how much there is.
        unit: what is counted, such as ` answers`.
        title: what it is about.
        quiet: show nothing.
        done: what was done before, which does not count for the rate.
    """
    pause = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=total,
        initial=done,
        desc=title or None,
        unit=unit,
        mininterval=pause,
        smoothing=0.05,
        disable=quiet,
    )
