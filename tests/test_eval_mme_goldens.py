"""MME's official numbers on golden answers in the eval tool's format."""

import json
from pathlib import Path

import pytest

from lvlm_prune.eval.mme import SCORING, incomplete, load

GOLDENS = Path(__file__).resolve().parents[2] / "shared" / "data" / "mme" / "goldens"
CRASHES = (
    "answer_prefix",
    "missing_answer_column",
    "missing_file",
    "missing_line",
    "tab_in_answer",
)
pytestmark = pytest.mark.skipif(
    not GOLDENS.is_dir(), reason="no ../shared/data/mme/goldens beside the repository"
)


def cases() -> list[str]:
    """The cases that have numbers."""
    return sorted({path.parent.name for path in GOLDENS.glob("*/count.txt")} - set(CRASHES))


def answers(case: str) -> list[str]:
    """The fourth column, in the order of the loaded questions."""
    tasks = dict.fromkeys(item.split for item in load(GOLDENS / case).items)
    lines = [
        line
        for task in tasks
        for line in (GOLDENS / case / f"{task}.txt").read_text(encoding="utf-8").split("\n")
    ]
    return [line.split("\t")[3] for line in lines if line]


@pytest.mark.parametrize("case", cases())
def test_official_results(case):
    expected = json.loads((GOLDENS / "expected.json").read_text())["expected"][case]
    benchmark = load(GOLDENS / case)
    tally = SCORING.tally(benchmark.items, answers(case), "official")
    found = SCORING.layout(SCORING.metrics(tally.columns, tally.total, "official"))
    assert found["tasks"] == pytest.approx(expected["tasks"], abs=1e-9)
    for name in ("perception", "cognition"):
        assert found[name] == pytest.approx(expected[name], abs=1e-9)


def test_questions_without_a_partner_are_named():
    benchmark = load(GOLDENS / "missing_line")
    assert len(incomplete(benchmark.items, ["Yes"] * len(benchmark.items))) == 1


def test_a_missing_task_is_said_and_refused_where_it_was_asked_for():
    assert "without color" in load(GOLDENS / "missing_file").source
    with pytest.raises(FileNotFoundError, match="lacks MME's color"):
        load(GOLDENS / "missing_file", "hallucination")


def test_answers_are_not_part_of_the_version():
    assert load(GOLDENS / "all_yes").version == load(GOLDENS / "perfect").version
