"""A run that is killed goes on with any number of processes, and ends as one that never stopped."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from runner_pope import exit_code, lasting, results, samples, write_model, write_pope, written

IMAGES = 4
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines",
              "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
              "-m")  # fmt: skip
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
PATIENCE = 60


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model and questions."""
    folder = tmp_path_factory.mktemp("killed")
    write_model(folder / "model")
    write_pope(folder / "pope", IMAGES)
    return folder


def arguments(place: Path, out: Path, *more: str) -> list[str]:
    """The command line, three runs and a control."""
    words = (
        f"eval --benchmark pope --data {place / 'pope'} --model {place / 'model'} "
        "--method identity,random --keep 9 --layers fastv@1:4 --max-new-tokens 6 "
        f"--batch-size 1 --out {out}"
    )
    return [*words.split(), *more]


def start(place: Path, out: Path, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start the command, alone or by a launcher."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    command = [sys.executable, "-m", *launcher, "lvlm_prune.cli", *arguments(place, out)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )


def rows(out: Path) -> int:
    """Whole rows on disk."""
    files = list(out.rglob("answers-*.jsonl"))
    return sum(max(path.read_bytes().count(b"\n") - 1, 0) for path in files)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL a command and all that it started; launchers give each process its own group."""
    parent = psutil.Process(process.pid)
    everyone = [*parent.children(recursive=True), parent]
    for one in everyone:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.communicate()
    psutil.wait_procs(everyone, timeout=PATIENCE)


def kill_at(process: subprocess.Popen[str], reached, where: str) -> None:
    """SIGKILL a command and all that it started as soon as a point is reached."""
    until = time.monotonic() + PATIENCE
    while not reached():
        if process.poll() is not None:
            pytest.fail(f"ended before {where}: {process.communicate()[1][-2000:]}")
        if time.monotonic() > until:
            kill(process)
            pytest.fail(f"never came to {where}")
        time.sleep(0.002)
    kill(process)


def ends(process: subprocess.Popen[str]) -> None:
    """Wait for a good end."""
    try:
        said = process.communicate(timeout=PATIENCE)[1]
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    assert process.returncode == 0, said[-2000:]


@pytest.fixture(scope="module")
def whole(place):
    """The folder of a run that nothing stopped, in one process."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert exit_code(monkeypatch, *arguments(place, place / "whole")) == 0
    return place / "whole"


def cut_last_line(path: Path) -> None:
    """What a kill in the middle of a write leaves."""
    data = path.read_bytes()
    path.write_bytes(data[: data[:-1].rfind(b"\n") + 20])


def check_equal(out: Path, whole: Path) -> None:
    """Every answer is there exactly once, and all scores are the same."""
    ours, theirs = written(out), written(whole)
    assert ours == theirs
    assert len({run for run, _, _ in ours}) == 6
    assert len(ours) == 6 * 3 * IMAGES
    assert results(out) == results(whole)


@pytest.mark.slow
def test_killed_alone_and_resumed_by_two(place, whole):
    """Killed while reading, after some rows of the first run, in a line; torchrun ends it."""
    out = place / "alone"
    process = start(place, out)
    kill_at(process, lambda: "reading" in (process.stderr.readline() or ""), "reading")
    assert not list(out.rglob("*.jsonl"))
    kill_at(start(place, out), lambda: rows(out) >= 3, "three rows")
    assert rows(out) < len(written(whole))
    cut_last_line(next(out.rglob("answers-0.jsonl")))
    ends(start(place, out, TORCHRUN))
    assert list(out.rglob("answers-1.jsonl")), "the second process answered as well"
    check_equal(out, whole)


@pytest.mark.slow
def test_killed_as_two_and_resumed_alone(place, whole):
    """accelerate's two are killed within the second run; one file is cut in its header."""
    out = place / "two"
    first = out / "unpruned" / "pope"

    def both_are_within() -> bool:
        """Either may be ahead of the other."""
        second = len(list(out.rglob("answers-1.jsonl"))) > 1 and rows(out) > 3 * IMAGES
        return second and (first / "answers-0.jsonl").is_file()

    kill_at(start(place, out, ACCELERATE), both_are_within, "the second run")
    before = rows(out)
    assert before < len(written(whole))
    (header,) = first.glob("answers-1.jsonl")
    header.write_bytes(header.read_bytes()[:30])
    ends(start(place, out))
    check_equal(out, whole)


def test_the_same_command_again_gives_the_same_files(place, whole, monkeypatch):
    before = samples(whole), results(whole)
    assert exit_code(monkeypatch, *arguments(place, whole)) == 0
    assert (samples(whole), results(whole)) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--prompt", "{question} ?"], "template is '{question}' there and '{question} ?' now"),
        (["--max-new-tokens", "7"], "generation.max_new_tokens is 6 there and 7 now"),
        (["--seed", "1"], "prune.seed is 0 there and 1 now"),
    ],
)  # fmt: skip
def test_a_changed_setting_ends_with_both_values_and_exit_code_1(
    place, whole, monkeypatch, capsys, change, message
):
    before = samples(whole)
    assert exit_code(monkeypatch, *arguments(place, whole, *change)) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert samples(whole) == before


def test_restart_begins_anew(place, whole, tmp_path, monkeypatch):
    more = ("--method", "random", "--layers", "none", "--limit", "2")
    out = tmp_path / "out"
    assert exit_code(monkeypatch, *arguments(place, out, *more)) == 0
    again = (*more, "--max-new-tokens", "2")
    assert exit_code(monkeypatch, *arguments(place, out, *again)) == 1
    assert exit_code(monkeypatch, *arguments(place, out, *again, "--restart")) == 0
    assert all(len(str(row["text"]).split()) <= 2 for row in samples(out))
    assert len(samples(out)) == 2 * 2 * 3


def test_what_is_measured_is_all_that_is_left_out(whole):
    """So that equal results mean equal scores."""
    values = json.loads((whole / "results.json").read_text())
    kept = lasting(values)
    assert kept["runs"][1]["benchmarks"]["pope"] == values["runs"][1]["benchmarks"]["pope"]
    assert "f1" in json.dumps(kept["runs"][0]["benchmarks"])
