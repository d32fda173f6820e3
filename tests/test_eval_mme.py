"""MME pair scores by the official rule, on made-up questions."""

import pytest

from lvlm_prune.eval.mme import parse, score

IMAGES = ("a.jpg", "b.jpg", "c.jpg")


def rows(*said: str) -> list[tuple[str, str, str]]:
    """Answers to a yes and a no question about each image."""
    keys = [(image, label) for image in IMAGES for label in ("yes", "no")]
    return [(*key, answer) for key, answer in zip(keys, said, strict=True)]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (("Yes", "No") * 3, 200),
        (("Yes", "Yes") * 3, 50),
        (("No", "No") * 3, 50),
        (("No", "Yes") * 3, 0),
        (("Yes", "No", "Yes", "Yes", "No", "Yes"), 50 + 100 / 3),
    ],
)
def test_task_score(said, expected):
    assert score(rows(*said)).score == pytest.approx(expected)


def test_order_of_the_rows_does_not_matter():
    mixed = rows("Yes", "No", "Yes", "Yes", "No", "No")
    assert score(reversed(mixed)) == score(mixed)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes", "yes"),
        ("no", "no"),
        ("Yes, it is", "yes"),
        ("not at all", "no"),
        ("know", "no"),
        (" Yes", "yes"),
        ("  Yes", "other"),
        ("\nNo", "no"),
        ("**No**", "no"),
        ("**Yes**", "other"),
        ("Answer: Yes", "other"),
        ("", "other"),
    ],
)
def test_parse(answer, said):
    assert parse(answer) == said


def test_other_answers_are_wrong_and_counted():
    found = score(rows("Answer: Yes", "No", "Yes", "No", "Yes", "No"))
    assert (found.right, found.both, found.other) == (5, 2, 1)


@pytest.mark.parametrize(
    "broken", [rows(*["Yes", "No"] * 3)[:-1], [("a", "yes", "Yes"), ("a", "yes", "No")], []]
)
def test_incomplete_pairs_are_refused(broken):
    with pytest.raises(ValueError, match="question"):
        score(broken)
