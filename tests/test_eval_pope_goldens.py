"""POPE's official script reproduced on its golden answers."""

import json
from pathlib import Path

import pytest

from lvlm_prune.eval.pope import SCORING, load, score

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "pope"
NUMBERS = ("accuracy", "precision", "recall", "f1", "yes_ratio")
REFUSED = ("extra_line_end", "missing_line_end", "null_answer", "wrong_key")
pytestmark = pytest.mark.skipif(
    not (DATA / "goldens").is_dir(), reason="no ../shared/data/pope/goldens beside the repository"
)


def answers(name: str) -> list:
    """The answers of a golden case."""
    lines = (DATA / f"goldens/{name}.answers.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line).get("answer") for line in lines]


def cases() -> list[str]:
    """All cases that are there, but the whole split."""
    found = (path.name.split(".")[0] for path in (DATA / "goldens").glob("*.answers.jsonl"))
    return sorted(name for name in found if not name.startswith("full_"))


@pytest.mark.parametrize("case", [name for name in cases() if name not in REFUSED])
def test_official_results(case):
    expected = json.loads((DATA / "goldens/expected.json").read_text())["expected"][case]
    benchmark = load(DATA / "goldens/labels24.jsonl")
    tally = SCORING.tally(benchmark.items, answers(case), "official")
    found = SCORING.layout(SCORING.metrics(tally.columns, tally.total, "official"))
    assert found == pytest.approx(expected, abs=1e-12)
    assert int(tally.total[-4:].sum()) == 24


@pytest.mark.parametrize("split", ["random"])
def test_official_results_of_a_whole_split(split):
    expected = json.loads((DATA / "goldens/expected_full3000.json").read_text())[split]
    benchmark = load(DATA, f"coco/{split}")
    tally = SCORING.tally(benchmark.items, answers(f"full_{split}"), "official")
    found = SCORING.layout(SCORING.metrics(tally.columns, tally.total, "official"))
    assert found == pytest.approx(expected, abs=1e-12)
    assert len(tally.units) == 500


@pytest.mark.parametrize("case", ["extra_line_end", "missing_line_end"])
def test_another_number_of_answers_is_refused(case):
    items = load(DATA / "goldens/labels24.jsonl").items
    with pytest.raises(ValueError, match="join them by id"):
        SCORING.tally(items, answers(case), "official")


@pytest.mark.parametrize("case", ["null_answer", "wrong_key"])
def test_answers_that_are_no_text_are_refused(case):
    labels = [item.label for item in load(DATA / "goldens/labels24.jsonl").items]
    with pytest.raises(TypeError, match="cannot be scored"):
        score(labels, answers(case))


@pytest.mark.parametrize(
    ("subset", "lines", "edition"),
    [
        (None, [3000, 3000, 3000], "current"),
        ("coco", [3000, 3000, 3000], "current"),
        ("popular", [3000], "current"),
        ("legacy", [2910], "legacy"),
        ("aokvqa", [3000], "current"),
        ("gqa/random", [3000], "current"),
    ],
)
def test_the_published_files(subset, lines, edition):
    benchmark = load(DATA, subset)
    splits = list(dict.fromkeys(item.split for item in benchmark.items))
    assert splits == ["random", "popular", "adversarial"][: len(lines)] or subset == "popular"
    assert [sum(item.split == split for item in benchmark.items) for split in splits] == lines
    assert (len(benchmark.images), benchmark.version["edition"]) == (500, edition)
    assert len({item.id for item in benchmark.items}) == sum(lines)


def test_a_third_of_the_questions_stand_in_all_three_splits():
    items = load(DATA).items
    assert len({(item.image, item.question) for item in items}) == 5127
