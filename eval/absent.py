"""What is said of a file that is not there, and of a link that leads nowhere."""

import os
from pathlib import Path


def absent(path: Path) -> str:
    """One clause about a path that does not exist."""
    if path.is_symlink():
        return f"{path} is a link to {os.readlink(path)}, which is not there"
    return f"there is no file {path}"
