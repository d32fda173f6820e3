"""Which file exactly: a short name of its contents.

In: files. Out: the first 16 hex digits of the SHA-256 of each, by file name, as they stand in
`Benchmark.version`. Two runs with the same version were asked the same questions.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

DIGITS = 16


def file_version(path: Path) -> str:
    """The first hex digits of the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS]


def file_versions(paths: Iterable[Path], root: Path) -> dict[str, str]:
    """The versions of several files, by their path below a folder.

    Args:
        paths: the files, each below `root`.
        root: the folder that their names start from.
    """
    return {path.relative_to(root).as_posix(): file_version(path) for path in sorted(paths)}
