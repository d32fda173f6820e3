"""A harness that is not installed is named with the command that installs it."""

import runpy
import sys

import pytest

MODULE = "lvlm_prune.eval.integrations.vlmevalkit"
SAYS = r"VLMEvalKit cannot be imported .*pip install ms-vlmeval==\d"


@pytest.fixture(autouse=True)
def absent(monkeypatch):
    """VLMEvalKit cannot be imported, whether it is installed or not."""
    monkeypatch.setitem(sys.modules, "vlmeval", None)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)


def test_whoever_imports_it_gets_an_import_error():
    with pytest.raises(ImportError, match=SAYS) as refused:
        __import__(MODULE)
    assert type(refused.value) is ImportError


def test_whoever_runs_it_gets_a_sentence_and_exit_code_1(monkeypatch):
    monkeypatch.setattr(sys, "argv", [MODULE, "--help"])
    with pytest.raises(SystemExit, match=SAYS):  # Python prints a text and exits with 1
        runpy.run_module(MODULE, run_name="__main__")
