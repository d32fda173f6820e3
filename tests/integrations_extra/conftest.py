"""The real harnesses, run as their users run them; each test skips with a reason without its own.

`make lmms` sets LVLM_PRUNE_LMMS, and then a missing lmms-eval is a failure.
"""

import importlib.util
import os
import subprocess
import sys

import pytest

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def lmms_eval():
    """lmms-eval is there, or a skip."""
    if importlib.util.find_spec("lmms_eval") is None:
        if os.environ.get("LVLM_PRUNE_LMMS"):
            pytest.fail("LVLM_PRUNE_LMMS is set, and lmms_eval is not installed")
        pytest.skip("lmms_eval is not installed here; make lmms runs these tests")


@pytest.fixture
def command(tmp_path):
    """Run a Python module in an empty folder and without a network; return the process."""

    def run(*words, launcher=(), **variables):
        environment = {**os.environ, **OFFLINE, "HF_HOME": str(tmp_path / "hub"), **variables}
        return subprocess.run(
            [sys.executable, *launcher, "-m", *map(str, words)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run
