"""Golden arrays of the official implementations, where the shared data folder stands beside us."""

from pathlib import Path

import numpy as np
import pytest
import torch

METHODS = Path(__file__).resolve().parents[2] / "shared" / "data" / "methods"


def golden_files(method: str) -> list:
    """The .npz files of a method as test parameters; one skipped parameter if there are none."""
    files = sorted((METHODS / method).glob("*.npz"))
    if files:
        return [pytest.param(path, id=path.stem) for path in files]
    reason = f"golden outputs of {method} are absent ({METHODS.name}/{method})"
    return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]


def load(path: Path) -> dict:
    """Arrays as tensors, 0-d arrays as Python numbers."""
    arrays = np.load(path)
    return {
        name: torch.from_numpy(arrays[name]) if arrays[name].ndim else arrays[name].item()
        for name in arrays.files
    }
