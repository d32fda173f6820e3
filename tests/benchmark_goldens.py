"""Outputs of the benchmarks' official scripts, where the shared data folder stands beside us."""

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def benchmark_folder(name: str) -> Path:
    """The folder of a benchmark with its `goldens`; the test is skipped without it."""
    folder = DATA / name
    if not (folder / "goldens" / "expected.json").is_file():
        pytest.skip(f"golden scores of {name} are absent ({folder.name}/goldens)")
    return folder
