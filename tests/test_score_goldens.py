"""`lvlm-prune score` on the golden answers of the official scripts, called as a user calls it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark_goldens import DATA, benchmark_folder
from typer.testing import CliRunner

from lvlm_prune.cli import app

# The official name of a crash, and ours.
CRASHES = {
    ("pope", "null_answer"): "null_answer",
    ("pope", "wrong_key"): "missing_key",
    ("mme", "answer_prefix"): "nothing_parsed",
    ("mme", "tab_in_answer"): "tab_in_answer",
    ("mme", "missing_answer_column"): "missing_column",
    ("mme", "missing_line"): "incomplete_pair",
    ("mme", "missing_file"): "missing_task",
}
PARTIAL = ("extra_line_end", "missing_line_end")


def cases(benchmark: str) -> list:
    """Names of the golden cases with what is expected; one skipped case if there are none."""
    path = DATA / benchmark / "goldens" / "expected.json"
    if not path.is_file():
        reason = f"golden scores of {benchmark} are absent ({benchmark}/goldens)"
        return [pytest.param(None, None, marks=pytest.mark.skip(reason=reason))]
    saved = json.loads(path.read_text(encoding="utf-8"))
    return [pytest.param(*each, id=each[0]) for each in saved.get("expected", saved).items()]


def score(benchmark: str, answers: Path, *options: object) -> dict:
    """The JSON object of one call, after checks of what surrounds it."""
    call = ["score", "--benchmark", benchmark, "--answers", str(answers), "--json"]
    result = CliRunner().invoke(app, [*call, *map(str, options)])
    found = json.loads(result.stdout)
    assert result.exit_code == ("error" in found)
    assert ("error" in found) == bool(result.stderr)
    if "error" not in found:
        said = sum(found["counts"].values())
        assert said == found["n"] or said == found["counts"]["empty"], "captions say no word"
    return found


def holds(found: object, expected: object) -> bool:
    """Whether all expected numbers are there, in the same nesting."""
    if isinstance(expected, dict):
        return all(name in found and holds(found[name], expected[name]) for name in expected)
    return found == expected or found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("case", "expected"), cases("pope"))
def test_pope(case, expected):
    goldens = benchmark_folder("pope") / "goldens"
    partial = ["--allow-partial"] * (case in PARTIAL)
    answers = goldens / f"{case}.answers.jsonl"
    found = score("pope", answers, "--labels", goldens / "labels24.jsonl", *partial)
    if "error" in expected:
        assert found["error"]["name"] == CRASHES["pope", case]
    else:
        assert holds(found, expected)


@pytest.mark.parametrize("case", PARTIAL)
def test_pope_with_another_number_of_lines_is_refused(case):
    goldens = benchmark_folder("pope") / "goldens"
    answers = goldens / f"{case}.answers.jsonl"
    found = score("pope", answers, "--labels", goldens / "labels24.jsonl")
    assert found["error"]["name"] == "line_count"


def test_pope_whole_split():
    folder = benchmark_folder("pope")
    expected = json.loads((folder / "goldens/expected_full3000.json").read_text())["random"]
    answers = folder / "goldens/full_random.answers.jsonl"
    found = score("pope", answers, "--labels", folder / "coco_pope_random.json", "--parser", "all")
    assert holds(found, expected)
    assert holds(found["parsers"]["official"], expected)
    assert list(found["parsers"]) == ["official", "lmms-eval", "vlmevalkit", "vcd", "first-word"]
    legacy = folder / "legacy_e3e3926_coco_pope_random.json"
    refused = score("pope", answers, "--labels", legacy, "--allow-partial")
    assert refused["error"]["name"] == "question_mismatch"


@pytest.mark.parametrize(("case", "expected"), cases("mme"))
def test_mme(case, expected):
    answers = benchmark_folder("mme") / "goldens" / case
    found = score("mme", answers)
    if "error" in expected:
        assert found["error"]["name"] == CRASHES["mme", case]
    else:
        expected = {name: expected[name] for name in ("perception", "cognition", "tasks")}
        assert holds(found, expected)


def test_mme_with_labels_of_its_own():
    goldens = benchmark_folder("mme") / "goldens"
    case = goldens / "malformed"
    expected = json.loads((goldens / "expected.json").read_text())["expected"]["malformed"]
    assert holds(score("mme", case, "--labels", goldens / "perfect"), expected)


@pytest.mark.parametrize(("case", "expected"), cases("chair"))
def test_chair(case, expected):
    goldens = benchmark_folder("chair") / "goldens"
    labels = goldens / "gt_objects.json"
    assert holds(score("chair", goldens / f"{case}.json", "--labels", labels), expected)


@pytest.mark.parametrize(("case", "expected"), cases("amber"))
def test_amber(case, expected):
    folder = benchmark_folder("amber")
    call = ("amber", folder / f"goldens/{case}.json", "--labels", folder / "annotations.json")
    found = score(*call, "--allow-partial")
    assert holds(found, expected["scores"])
    answered = len(json.loads((folder / f"goldens/{case}.json").read_text()))
    assert (found["n"], found["total"]) == (answered, 15220)
    groups = [name for name in found if isinstance(found[name], dict) and name != "counts"]
    assert groups == list(expected["scores"])


def test_a_part_of_amber_is_refused():
    folder = benchmark_folder("amber")
    answers = folder / "goldens/perfect.json"
    assert score("amber", answers, "--labels", folder)["error"]["name"] == "missing_ids"


@pytest.mark.parametrize(("case", "expected"), cases("hallusionbench"))
def test_hallusionbench(case, expected):
    folder = benchmark_folder("hallusionbench")
    answers = folder / f"goldens/{case}.json"
    assert holds(score("hallusionbench", answers, "--labels", folder), expected)


def test_the_command_as_a_process():
    goldens = benchmark_folder("pope") / "goldens"
    call = [sys.executable, "-m", "lvlm_prune.cli", "score", "--benchmark", "pope", "--json"]
    call += ["--labels", goldens / "labels24.jsonl"]
    done = subprocess.run(
        [*call, "--answers", goldens / "null_answer.answers.jsonl"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["name"] == "null_answer"
    assert done.stderr.startswith("lvlm-prune: line 4 has null")
    assert done.stderr.count("\n") == 1
