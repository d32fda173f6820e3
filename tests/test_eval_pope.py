"""POPE scores: each harness's counting, in one split and in several."""

import random

import numpy as np
import pytest

from lvlm_prune.eval import parsers
from lvlm_prune.eval.benchmark import Item
from lvlm_prune.eval.pope import SCORING, parse, score

SAYINGS = ("Yes", "No", "yes.", "No!", "Maybe", "", "I know", "Yes, no doubt", "NO", "not here")
NAMES = {
    "official": parsers.pope_official,
    "lmms-eval": parsers.exact,
    "vlmevalkit": parsers.one_of_two,
    "first-word": parsers.first_word,
}


def lines(*splits: str, images: int = 9, seed: int = 0) -> tuple[list[Item], list[str | None]]:
    """Questions about some images in each split, and random answers."""
    rng = random.Random(seed)
    items = [
        Item(f"pope/{split}/{image}-{n}", f"{image}.jpg", f"{n}?", ("yes", "no")[n % 2], "", split)
        for split in splits
        for image in range(images)
        for n in range(6)
    ]
    return items, [rng.choice(SAYINGS) for _ in items]


def numbers(items, answers, parser="official") -> dict[str, float]:
    """All numbers of a run."""
    tally = SCORING.tally(items, answers, parser)
    found = SCORING.metrics(tally.columns, tally.total, parser)
    return {name: float(value) for name, value in found.items()}


def share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def slow(items, answers, parser) -> dict[str, float]:
    """One split, counted answer by answer as each harness does."""
    tp = fp = tn = fn = right = says_yes = 0
    for item, answer in zip(items, answers, strict=True):
        if parser == "vcd":
            hit = item.label in answer.lower()
            said = item.label if hit else {"yes": "no", "no": "yes"}[item.label]
        else:
            said = NAMES[parser](answer)
        right += said == item.label
        says_yes += said == "yes"
        tp += item.label == "yes" and said == "yes"
        tn += item.label == "no" and said == "no"
        unread = said not in ("yes", "no")
        fn += item.label == "yes" and (
            said == "no" or (unread and parser in ("vlmevalkit", "first-word"))
        )
        fp += item.label == "no" and (said == "yes" or (unread and parser == "first-word"))
    precision, recall = share(tp, tp + fp), share(tp, tp + fn)
    return {
        "TP": tp,
        "FP": fp,
        "TN": tn,
        "FN": fn,
        "accuracy": share(right, len(items)),
        "precision": precision,
        "recall": recall,
        "f1": share(2 * precision * recall, precision + recall),
        "yes_ratio": share(says_yes, len(items)),
    }


@pytest.mark.parametrize("parser", SCORING.parsers)
@pytest.mark.parametrize("seed", range(5))
def test_one_split_equals_a_slow_count(parser, seed):
    items, answers = lines("random", seed=seed)
    found = numbers(items, answers, parser)
    expected = slow(items, answers, parser)
    tally = SCORING.tally(items, answers, parser)
    assert SCORING.layout(found) == pytest.approx(expected)
    assert {name: found[f"random/{name}"] for name in expected} == pytest.approx(expected)
    assert sum(tally.total[-4:]) == len(items)


@pytest.mark.parametrize("parser", SCORING.parsers)
def test_several_splits_give_means_and_the_pooled_numbers(parser):
    items, answers = lines("popular", "random", "adversarial")
    found = SCORING.layout(numbers(items, answers, parser))
    by_split = {}
    for split in ("random", "popular", "adversarial"):
        places = [n for n, item in enumerate(items) if item.split == split]
        own = [[each[n] for n in places] for each in (items, answers)]
        by_split[split] = slow(*own, parser)
    assert list(found["splits"]) == ["random", "popular", "adversarial"]
    for split, expected in by_split.items():
        assert found["splits"][split] == pytest.approx(expected)
    for name in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
        assert found[name] == pytest.approx(sum(each[name] for each in by_split.values()) / 3)
    assert found["pooled"] == pytest.approx(slow(items, answers, parser))


def test_counts_add_up_over_images_in_any_order():
    items, answers = lines("random", "popular")
    tally = SCORING.tally(items, answers, "official")
    weights = np.random.default_rng(0).integers(0, 4, (7, len(tally.units)))
    drawn = SCORING.metrics(tally.columns, weights @ tally.counts, "official")
    for draw, weight in enumerate(weights):
        again = [
            (item, answer)
            for image, times in zip(tally.units, weight, strict=True)
            for item, answer in zip(items, answers, strict=True)
            if item.image == image
            for _ in range(times)
        ]
        alone = numbers(*zip(*again, strict=True))
        assert {name: value[draw] for name, value in drawn.items()} == pytest.approx(alone)
    order = random.Random(1).sample(range(len(items)), len(items))
    mixed = numbers([items[k] for k in order], [answers[k] for k in order])
    assert mixed == pytest.approx(numbers(items, answers))


def test_failed_calls_are_left_out():
    items, answers = lines("random")
    kept = [(i, a) for n, (i, a) in enumerate(zip(items, answers, strict=True)) if n % 5]
    holes = [answer if n % 5 else None for n, answer in enumerate(answers)]
    assert numbers(items, holes) == pytest.approx(numbers(*zip(*kept, strict=True)))
    everything_failed = numbers(items, [None] * len(items))
    assert set(everything_failed.values()) == {0.0}


def test_a_run_and_its_baseline_have_the_same_rows_and_columns():
    items, answers = lines("random")
    ours, theirs = (
        SCORING.tally(items, each, "official") for each in (answers, [None] * len(items))
    )
    assert (ours.columns, ours.units) == (theirs.columns, theirs.units)


def said(answers: list[str], parser: str) -> list[int]:
    """How many of some answers name yes, no, neither, or nothing."""
    items = [Item(str(n), None, "", "no", "pope", "random") for n in range(len(answers))]
    tally = SCORING.tally(items, answers, parser)
    assert tally.columns[-4:] == ("said/yes", "said/no", "said/unparsed", "said/empty")
    return tally.total[-4:].tolist()


@pytest.mark.parametrize(
    ("parser", "expected"),
    [
        ("official", [1, 1, 3, 2]),
        ("lmms-eval", [1, 1, 3, 2]),
        ("vlmevalkit", [1, 2, 2, 2]),
        ("vcd", [1, 3, 1, 2]),
        ("first-word", [1, 2, 2, 2]),
    ],
)
def test_answers_that_name_neither_are_counted_even_where_they_are_read(parser, expected):
    assert said(["Yes", "No", "No!", "nothing", "perhaps", "", " "], parser) == expected


def test_always_no_gives_zeros():
    items, _ = lines("random")
    for parser in SCORING.parsers:
        found = numbers(items, ["No"] * len(items), parser)
        assert [found[name] for name in ("precision", "recall", "f1", "yes_ratio")] == [0] * 4
        assert found["accuracy"] == 0.5


def test_a_perfect_answer_with_a_full_stop():
    items, _ = lines("random")
    answers = [f"{item.label.title()}." for item in items]
    f1 = {parser: numbers(items, answers, parser)["f1"] for parser in SCORING.parsers}
    assert f1 == {**dict.fromkeys(SCORING.parsers, 1.0), "lmms-eval": 0.0}


@pytest.mark.parametrize(
    ("if_yes", "if_no", "accuracy"),
    [
        ("Yes. There is no doubt.", "No. Yes, really.", [1, 0, 0, 1, 1]),
        ("", "", [0.5, 0, 0, 0, 0]),
        ("Yes", "NO", [0.5, 1, 1, 1, 1]),
        ("Answer: Yes", "Answer: No", [1, 0, 1, 1, 1]),
    ],
)
def test_the_same_answers_and_five_harnesses(if_yes, if_no, accuracy):
    items, _ = lines("random")
    answers = [if_yes if item.label == "yes" else if_no for item in items]
    found = [numbers(items, answers, parser)["accuracy"] for parser in SCORING.parsers]
    assert found == accuracy


def test_what_the_contract_asks_of_a_scoring():
    item = Item("1", "a.jpg", "?", "no", "pope", "random")
    assert SCORING.parsers[0] == "official"
    assert [SCORING.parse(item, "", parser) for parser in SCORING.parsers] == [
        "yes",
        "empty",
        "empty",
        "yes",
        "empty",
    ]
    assert SCORING.right(item, "not here", "official")
    with pytest.raises(ValueError, match="no POPE parser 'best'; there are official"):
        SCORING.parse(item, "no", "best")
    with pytest.raises(ValueError, match="allowed: yes, no"):
        SCORING.tally([Item("1", "a", "?", "Yes", "pope", "random")], ["Yes"], "official")


@pytest.mark.parametrize(
    ("answer", "reading"),
    [
        ("No", "no"),
        ("no, there is not", "no"),
        ("There is not a cat.", "no"),
        ("The no. 5 bus", "no"),
        ("Yes. No.", "yes"),
        ("NO", "yes"),
        ("isn't", "yes"),
        ("", "yes"),
    ],
)
def test_parse(answer, reading):
    assert parse(answer) == reading


def test_odd_answers_are_counted():
    found = score(["yes"] * 5, ["Yes", "maybe", "", "  ", "YES, a cat"])
    assert (found.tp, found.unparsed, found.empty) == (5, 1, 2)
    assert found.to_dict()["yes"] == 5


def test_a_score_is_the_official_numbers_of_one_split():
    items, answers = lines("all")
    found, expected = score([item.label for item in items], answers), numbers(items, answers)
    for name in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
        assert getattr(found, name) == expected[name]


def test_answers_that_cannot_be_scored_are_refused():
    with pytest.raises(ValueError, match="allowed: yes, no"):
        score(["Yes"], ["Yes"])
    with pytest.raises(ValueError, match="join them by id"):
        score(["yes"], ["Yes", "No"])
    with pytest.raises(TypeError, match="cannot be scored"):
        score(["yes"], [None])
