"""Two evaluations never write to one folder; one that ended, however, is in nobody's way."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from lvlm_prune.eval.folder_lock import HOLDERS, NAME, FolderInUseError, only_one

HOLD = """
import sys, time
from pathlib import Path
from lvlm_prune.eval.folder_lock import only_one
with only_one(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""

JOIN = """
import sys
from pathlib import Path
from lvlm_prune.eval.folder_lock import note_holder
note_holder(Path(sys.argv[1]))
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
        says = rf"`kill {process.pid}` on {re.escape(socket.gethostname())} ends it"
        for _ in range(2):
            with pytest.raises(FolderInUseError, match=says), only_one(folder):
                pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert (folder / NAME).exists(), "the file stays, but nobody holds it"
    with only_one(folder):
        (line,) = (folder / HOLDERS).read_text().splitlines()
        assert json.loads(line)["pid"] == os.getpid(), "those of the killed one are forgotten"
    assert not folder.exists()


def test_all_processes_of_an_evaluation_are_named(tmp_path):
    """Where only the launcher was killed each of them still runs."""
    with only_one(tmp_path):
        with subprocess.Popen(
            [sys.executable, "-c", JOIN, str(tmp_path)], stdin=subprocess.DEVNULL
        ) as other:
            other.wait()
        says = f"`kill {os.getpid()} {other.pid}` on"
        with pytest.raises(FolderInUseError, match=says), only_one(tmp_path):
            pass
    assert list(tmp_path.parent.glob(f"{tmp_path.name}/*")) == []


@pytest.mark.parametrize("holders", ["", "no json\n", '{"pid": "x"}\n', "3\n"])
def test_a_folder_is_refused_whatever_its_list_of_holders_says(tmp_path, holders):
    with only_one(tmp_path):
        (tmp_path / HOLDERS).write_text(holders)
        says = f"writes to {re.escape(str(tmp_path))}; wait for it"
        with pytest.raises(FolderInUseError, match=says), only_one(tmp_path):
            pass
