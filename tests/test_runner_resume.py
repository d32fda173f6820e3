"""A run cut at any point, by any number of processes, ends with the answers of a whole one."""

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from runner_pope import PROMPTS, pope_grid, said, write_pope
from tiny_probe import tiny_loaded

from lvlm_prune.eval.inside import UNPRUNED
from lvlm_prune.eval.layer_use import matched_stages
from lvlm_prune.eval.passes import AnswerPass
from lvlm_prune.eval.processes import Processes
from lvlm_prune.layers.schedule import parse_layers

IMAGES = 4
METHODS = ("random", "visionzip", "cdpruner")  # drawn, merged, and chosen by the question
RUNS = ("unpruned", "random-9", "visionzip-9", "cdpruner-9")
# Nothing, half a header, a header alone, half a row, some rows, all but half a row, in bytes or
# lines of the file of the run that was under way.
CUTS = ("nothing", "header", "header and break", "row", "five rows", "last row")


class Alone(Processes):
    """One of several processes, which the test runs one after the other."""

    def wait(self) -> None:
        """The others have ended or have yet to begin."""


@pytest.fixture(scope="module")
def loaded():
    return tiny_loaded()


@pytest.fixture(scope="module")
def ran(loaded, tmp_path_factory):
    """A whole run: its questions, its folder, its answers."""
    folder = tmp_path_factory.mktemp("resume")
    write_pope(folder / "pope", IMAGES)
    results = pope_grid(loaded, folder / "pope", folder / "out", METHODS).run()
    return folder, said(results)


def cut(data: bytes, where: str) -> bytes:
    """The beginning of a file of answers."""
    breaks = [place + 1 for place, byte in enumerate(data) if byte == 10]
    ends = {
        "nothing": 0,
        "header": breaks[0] // 2,
        "header and break": breaks[0],
        "row": (breaks[0] + breaks[1]) // 2,
        "five rows": breaks[5],
        "last row": breaks[-1] - 1,
    }
    return data[: ends[where]]


def stop(whole: Path, out: Path, run: int, where: str) -> None:
    """What is on disk after a kill within a run: all before it, some of it, nothing after it."""
    for name in RUNS[: run + 1]:
        shutil.copytree(whole / name, out / name)
    path = out / RUNS[run] / "pope" / "answers-0.jsonl"
    path.write_bytes(cut(path.read_bytes(), where))


def finish(loaded, folder: Path, out: Path, count: int) -> dict:
    """Resume with some processes, the first one last, which makes the results."""
    for rank in reversed(range(count)):
        processes = Alone(rank, count) if count > 1 else Processes()
        grid = pope_grid(loaded, folder / "pope", out, METHODS, processes=processes)
        if rank:
            AnswerPass(grid, grid.runs).run()
    return said(grid.run())


@pytest.mark.parametrize("where", CUTS)
@pytest.mark.parametrize(("run", "count"), [(0, 2), (1, 1), (2, 3), (3, 2)])
def test_what_was_left_is_answered_and_nothing_else(loaded, ran, tmp_path, run, count, where):
    folder, whole = ran
    out = tmp_path / "out"
    stop(folder / "out", out, run, where)
    assert finish(loaded, folder, out, count) == whole
    for name in RUNS:
        lines = [
            line
            for path in (out / name).rglob("answers-*.jsonl")
            for line in path.read_text().split("\n")[:-1]
            if not line.startswith('{"header"')
        ]
        assert len(lines) == PROMPTS * IMAGES, name


def test_several_kills_with_another_count_each(loaded, ran, tmp_path):
    """1, then 3, then 2, then 1: each leaves a part, whose files the next one reads."""
    folder, whole = ran
    out = tmp_path / "out"
    stop(folder / "out", out, 0, "five rows")
    for count in (3, 2):
        finish(loaded, folder, out, count)
        for path in sorted(out.rglob("answers-*.jsonl"))[::2]:
            path.write_bytes(cut_in_half(path.read_bytes()))
    assert finish(loaded, folder, out, 1) == whole


def cut_in_half(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_any_number_of_processes_gives_the_same(loaded, ran, tmp_path, count):
    folder, whole = ran
    assert finish(loaded, folder, tmp_path / "out", count) == whole
    files = {path.name for path in (tmp_path / "out").rglob("*.jsonl")}
    assert files == {f"answers-{rank}.jsonl" for rank in range(min(count, IMAGES))}


def test_a_control_follows_the_tokens_that_it_matches(loaded, tmp_path):
    """More images, other means: the control is answered anew, and nothing is refused."""
    write_pope(tmp_path / "pope", 5)
    zipvl = [replace(UNPRUNED, layers=parse_layers("zipvl"))]
    stages = []
    for limit in (1, 3, 5):
        results = pope_grid(
            loaded, tmp_path / "pope", tmp_path / "out", (), inner=zipvl, limit=limit
        ).run()
        run, control = results[1:]
        assert control.name == "unpruned-random-as-zipvl"
        assert control.config.layers.stages == matched_stages(run.use, dict(run.stages))
        stages.append(control.config.layers.stages)
        fresh = pope_grid(loaded, tmp_path / "pope", None, (), inner=zipvl, limit=limit).run()
        assert said(fresh) == said(results)
    assert any(one != other for one, other in pairwise(stages)), "or this test could not fail"
