"""Two evaluations never write to one folder; one that ended, however, is in nobody's way."""

import os
import signal
import subprocess
import sys

import pytest

from lvlm_prune.eval.folder_lock import NAME, FolderInUseError, only_one

HOLD = """
import sys, time
from pathlib import Path
from lvlm_prune.eval.folder_lock import only_one
with only_one(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_one_is_refused_at_once(tmp_path):
    folder = tmp_path / "out"
    with only_one(folder):
        with pytest.raises(FolderInUseError, match="pass another --out"), only_one(folder):
            pass
        (folder / "table.md").touch()
        with only_one(tmp_path / "other"):
            pass
    assert [path.name for path in folder.iterdir()] == ["table.md"]
    with only_one(folder):
        pass


def test_a_folder_in_which_nothing_came_about_is_not_left(tmp_path):
    with pytest.raises(KeyError), only_one(tmp_path / "out"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    says = r"cannot write to .*file/out .*pass another --out"
    with pytest.raises(OSError, match=says), only_one(tmp_path / "file" / "out"):
        pass


def test_a_killed_process_holds_nothing(tmp_path):
    folder = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline().strip() == "held"
        with pytest.raises(FolderInUseError), only_one(folder):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert (folder / NAME).exists(), "the file stays, but nobody holds it"
    with only_one(folder):
        pass


@pytest.mark.parametrize("content", ['{"a": 1}', "[]x", '["results"]', "3"])
def test_results_of_another_program_are_not_replaced(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(FolderInUseError, match="of another program"), only_one(tmp_path):
        pass
    assert (tmp_path / "results.json").read_text() == content


def test_results_of_an_evaluation_are(tmp_path):
    (tmp_path / "results.json").write_text('[{"lvlm_prune": "0.4.0"}, {"lvlm_prune": "0.4.0"}]')
    with only_one(tmp_path):
        pass
