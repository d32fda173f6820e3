"""MME pair scores by the official rule and others, on made-up questions."""

import random

import numpy as np
import pytest

from lvlm_prune.eval import parsers
from lvlm_prune.eval.benchmark import Item
from lvlm_prune.eval.mme import SCORING, incomplete, parse, score
from lvlm_prune.eval.mme_scoring import (
    COGNITION,
    HALLUCINATION,
    PERCEPTION,
    TASKS,
    partial_sums,
)

IMAGES = ("a.jpg", "b.jpg", "c.jpg")
SAYINGS = ("Yes", "No", "  Yes", "**No**", "Answer: Yes", "", "Yes, no doubt", "n", "Not there")
READ = {
    "official": parsers.mme_official,
    "lmms-eval": parsers.mme_stripped,
    "vlmevalkit": parsers.one_of_two,
    "first-word": parsers.first_word,
}


def rows(*said: str) -> list[tuple[str, str, str]]:
    """Answers to a yes and a no question about each image."""
    keys = [(image, label) for image in IMAGES for label in ("yes", "no")]
    return [(*key, answer) for key, answer in zip(keys, said, strict=True)]


def pairs(*tasks: str, images: int = 5, seed: int = 0) -> tuple[list[Item], list[str]]:
    """Pairs of questions of each task, and random answers."""
    rng = random.Random(seed)
    items = [
        Item(f"mme/{task}/{n}/{label}", f"{task}/{n}.jpg", "?", label, "mme", task)
        for task in tasks
        for n in range(images)
        for label in ("yes", "no")
    ]
    return items, [rng.choice(SAYINGS) for _ in items]


def numbers(items, answers, parser="official") -> dict[str, float]:
    """All numbers of a run."""
    tally = SCORING.tally(items, answers, parser)
    found = SCORING.metrics(tally.columns, tally.total, parser)
    return {name: float(value) for name, value in found.items()}


def slow(answers, parser) -> float:
    """Score of one task whose lines are yes, no, yes, no, as the script does."""
    right = both = 0
    for place in range(0, len(answers), 2):
        pair = [READ[parser](answer) for answer in answers[place : place + 2]]
        right += (pair[0] == "yes") + (pair[1] == "no")
        both += pair == ["yes", "no"]
    return right / len(answers) * 100 + both / (len(answers) / 2) * 100


@pytest.mark.parametrize("parser", SCORING.parsers)
@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_a_slow_count(parser, seed):
    items, answers = pairs(*TASKS, seed=seed)
    expected = {
        task: slow(answers[10 * place : 10 * place + 10], parser)
        for place, task in enumerate(TASKS)
    }
    found = SCORING.layout(numbers(items, answers, parser))
    assert found["tasks"] == pytest.approx(expected)
    assert list(found["tasks"]) == list(TASKS)
    for name, group in (
        ("perception", PERCEPTION),
        ("cognition", COGNITION),
        ("hallucination", HALLUCINATION),
    ):
        assert found[name] == pytest.approx(sum(expected[task] for task in group))
    assert found["score_mean"] == pytest.approx(sum(expected.values()) / 14)
    for task, parts in found["details"].items():
        assert parts["acc"] + parts["acc_plus"] == pytest.approx(expected[task])


@pytest.mark.parametrize(
    ("answer", "task_score"),
    [("Yes", 50), ("No", 50), ("maybe", 0), ("", 0)],
)
def test_the_same_answer_to_everything(answer, task_score):
    items, _ = pairs(*TASKS)
    found = SCORING.layout(numbers(items, [answer] * len(items)))
    assert (found["perception"], found["cognition"]) == (10 * task_score, 4 * task_score)
    assert (found["hallucination"], found["score_mean"]) == (4 * task_score, task_score)


def test_sums_are_of_the_tasks_that_were_asked():
    items, answers = pairs("count", "color", "relation")
    found = SCORING.layout(numbers(items, answers))
    tasks = found["tasks"]
    assert list(tasks) == ["count", "color", "relation"]
    assert found["perception"] == pytest.approx(tasks["count"] + tasks["color"])
    assert found["score_mean"] == pytest.approx(sum(tasks.values()) / 3)
    assert "cognition" not in found
    assert "hallucination" not in found


@pytest.mark.parametrize("seed", range(3))
def test_lines_are_paired_by_image_and_never_by_position(seed):
    items, answers = pairs("count", "OCR", images=7)
    order = random.Random(seed).sample(range(len(items)), len(items))
    mixed = numbers([items[k] for k in order], [answers[k] for k in order])
    assert mixed == pytest.approx(numbers(items, answers))


def test_counts_add_up_over_images():
    items, answers = pairs("count", "OCR")
    tally = SCORING.tally(items, answers, "official")
    weights = np.random.default_rng(0).integers(0, 4, (7, len(tally.units)))
    drawn = SCORING.metrics(tally.columns, weights @ tally.counts, "official")
    for draw, weight in enumerate(weights):
        for place, task in enumerate(("count", "OCR")):
            times = np.repeat(np.arange(5), weight[5 * place : 5 * place + 5])
            again = [answers[10 * place + 2 * n + k] for n in times for k in (0, 1)]
            assert drawn[f"{task}/score"][draw] == pytest.approx(slow(again, "official"))


def test_pairs_that_lack_something_are_not_scored_but_named():
    items, answers = pairs("count", "OCR", images=3)
    whole = numbers(items[2:], answers[2:])
    holes = [None, *answers[1:]]
    assert incomplete(items, answers) == []
    assert incomplete(items, holes) == incomplete(items[1:], answers[1:]) == ["count/0.jpg"]
    assert numbers(items, holes) == numbers(items[1:], answers[1:]) == pytest.approx(whole)
    tally = SCORING.tally(items, holes, "official")
    assert tally.total[-4:].sum() == len(items) - 1  # its partner is counted as an answer
    assert numbers(items, [None] * len(items)) == {}


@pytest.mark.parametrize("lost", [None, "missing"])
def test_a_task_without_a_complete_pair_has_no_score(lost):
    """A 0 would lower the mean and the sums, which are those of the tasks that have pairs."""
    items, answers = pairs(*HALLUCINATION, images=3)
    gone = [item.split == "count" and item.label == "no" for item in items]
    rest = [item.split != "count" for item in items]
    if lost is None:
        asked, said = items, [None if away else a for a, away in zip(answers, gone, strict=True)]
    else:
        asked, said = ([x for x, away in zip(xs, gone, strict=True) if not away]
                       for xs in (items, answers))  # fmt: skip
    others = ([x for x, there in zip(xs, rest, strict=True) if there] for xs in (items, answers))
    found = numbers(asked, said)
    assert found == numbers(*others)
    assert not any(name.startswith("count/") for name in found)
    assert "hallucination" not in found
    assert list(SCORING.layout(found)["tasks"]) == ["existence", "position", "color"]


def test_sums_that_lack_a_task_which_was_asked():
    assert partial_sums(TASKS, TASKS) == {}
    assert partial_sums(("existence", "OCR"), ("existence", "OCR")) == {}
    lacking = partial_sums(TASKS, set(TASKS) - {"count", "code_reasoning"})
    assert lacking == {
        "perception": ["count"],
        "hallucination": ["count"],
        "cognition": ["code_reasoning"],
    }


def test_an_image_of_coco_is_named_with_its_task():
    items = [Item(str(n), "000000000009.jpg", "?", "yes", "mme", "count") for n in range(2)]
    assert incomplete(items, ["Yes", "Yes"]) == ["count/000000000009.jpg"]


def test_what_answers_name():
    items, _ = pairs("count", images=4)
    answers = ["Yes", "No", "nope", "  Yes", "Answer: No", "", "\n", "YES!"]
    tally = SCORING.tally(items, answers, "official")
    assert tally.columns[-4:] == ("said/yes", "said/no", "said/unparsed", "said/empty")
    assert tally.total[-4:].tolist() == [2, 2, 2, 2]
    stripped = SCORING.tally(items, answers, "lmms-eval")
    assert stripped.total[-4:].tolist() == [3, 2, 1, 2]


def test_what_the_contract_asks_of_a_scoring():
    item = Item("1", "a.jpg", "?", "no", "mme", "count")
    assert SCORING.parsers[0] == "official"
    assert [SCORING.parse(item, answer, "official") for answer in ("**No**", "?", "")] == [
        "no",
        "unparsed",
        "empty",
    ]
    assert SCORING.right(item, "none", "official")
    assert SCORING.headline == "score_mean"
    assert SCORING.scale == 200
    with pytest.raises(ValueError, match="no MME parser 'vcd'; there are official"):
        SCORING.parse(item, "no", "vcd")
    with pytest.raises(ValueError, match="join them by id"):
        SCORING.tally([item], [], "official")


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
    ("answer", "said"), [("Yes", "yes"), ("know", "no"), ("**Yes**", "other"), ("", "other")]
)
def test_parse(answer, said):
    assert parse(answer) == said


def test_other_answers_are_wrong_and_counted():
    found = score(rows("Answer: Yes", "No", "Yes", "No", "Yes", "No"))
    assert (found.right, found.both, found.other) == (5, 2, 1)
    assert (found.accuracy, found.accuracy_plus) == pytest.approx((5 / 6, 2 / 3))


@pytest.mark.parametrize(
    "broken", [rows(*["Yes", "No"] * 3)[:-1], [("a", "yes", "Yes"), ("a", "yes", "No")], []]
)
def test_incomplete_pairs_are_refused(broken):
    with pytest.raises(ValueError, match="question"):
        score(broken)
