"""POPE scores against the official script's own results, and against its rule read aloud."""

import json
from pathlib import Path

import pytest

from lvlm_prune.eval.pope import parse, score

DATA = Path(__file__).parents[2] / "shared" / "data" / "pope"
NUMBERS = ("accuracy", "precision", "recall", "f1", "yes_ratio")
CASES = [
    "abbrev",
    "all_yes",
    "chinese",
    "dot_before",
    "leading_space",
    "multi_sentence_no_in_second",
    "no_semicolon",
    "no_with_exclaim",
    "nope",
    "uppercase",
    "with_not",
]
needs_goldens = pytest.mark.skipif(
    not (DATA / "goldens").is_dir(), reason="no ../shared/data/pope/goldens beside the repository"
)


def lines(name: str) -> list[dict]:
    """The records of a golden file."""
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def answers(name: str) -> list[str]:
    """The answers of a golden case."""
    return [row.get("answer") for row in lines(f"goldens/{name}.answers.jsonl")]


def labels() -> list[str]:
    """The 24 golden labels."""
    return [row["label"] for row in lines("goldens/labels24.jsonl")]


@needs_goldens
@pytest.mark.parametrize("case", CASES)
def test_official_results(case):
    expected = json.loads((DATA / "goldens/expected.json").read_text())["expected"][case]
    found = score(labels(), answers(case))
    assert [found.tp, found.fp, found.tn, found.fn] == [
        expected[name] for name in ("TP", "FP", "TN", "FN")
    ]
    for name in NUMBERS:
        assert getattr(found, name) == pytest.approx(expected[name], abs=1e-12)


@needs_goldens
def test_official_results_of_a_whole_split():
    expected = json.loads((DATA / "goldens/expected_full3000.json").read_text())
    expected = expected.get("expected", expected)
    wanted = next(value for key, value in expected.items() if "random" in key)
    truth = [row["label"] for row in lines("coco_pope_random.json")]
    found = score(truth, answers("full_random"))
    for name in NUMBERS:
        assert getattr(found, name) == pytest.approx(wanted[name], abs=1e-12)


@needs_goldens
@pytest.mark.parametrize("case", ["extra_line_end", "missing_line_end"])
def test_another_number_of_answers_is_refused(case):
    with pytest.raises(ValueError, match="join them by id"):
        score(labels(), answers(case))


@needs_goldens
@pytest.mark.parametrize("case", ["null_answer", "wrong_key"])
def test_answers_that_are_no_text_are_refused(case):
    with pytest.raises(TypeError, match="cannot be scored"):
        score(labels(), answers(case))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("No", "no"),
        ("no, there is not", "no"),
        ("There is not a cat.", "no"),
        ("The no. 5 bus", "no"),
        ("Yes. No.", "yes"),
        ("NO", "yes"),
        ("No!", "yes"),
        ("\nNo", "yes"),
        ("isn't", "yes"),
        ("", "yes"),
        (". No", "yes"),
    ],
)
def test_parse(answer, said):
    assert parse(answer) == said


def test_all_no_gives_zeros():
    found = score(["yes", "no"] * 3, ["No"] * 6)
    assert (found.precision, found.recall, found.f1, found.yes_ratio) == (0, 0, 0, 0)
    assert found.accuracy == 0.5


def test_odd_answers_are_counted():
    found = score(["yes"] * 5, ["Yes", "maybe", "", "  ", "YES, a cat"])
    assert (found.tp, found.unparsed, found.empty) == (5, 1, 2)


def test_unknown_labels_are_refused():
    with pytest.raises(ValueError, match="allowed: yes, no"):
        score(["Yes"], ["Yes"])
