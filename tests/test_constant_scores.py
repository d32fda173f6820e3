"""What is the same in every unit has an interval of width zero, under every scoring rule.

Each case has a split, a label or a kind of question that stands in few units, so that many draws of
the bootstrap miss it; the official 0 of such a draw is no measurement.
"""

import numpy as np
import pytest
from tiny_amber import OBJECTS, write_amber

from lvlm_prune.eval import (
    amber_generative,
    do_you_see_me_scoring,
    hallusionbench_scoring,
    mme_scoring,
    mmvp_scoring,
    pope_scoring,
)
from lvlm_prune.eval.amber import load
from lvlm_prune.eval.amber_discriminative import DISCRIMINATIVE
from lvlm_prune.eval.benchmark import Item
from lvlm_prune.eval.bootstrap import LEAST, draw_weights, drawn_numbers, numbers_of, with_ends
from lvlm_prune.eval.chair import SCORING as CHAIR

SHARES_OF_LABELS = ("yes_ratio", "a_ratio", "Len")  # these differ between units, rightly


def mme(few=2):
    """Eight images of one task, a few of another."""
    return [
        Item(f"mme/{task}/{n}/{label}", f"{task}/{n}.jpg", "?", label, "mme", task)
        for task, images in (("existence", 8), ("count", few))
        for n in range(images)
        for label in ("yes", "no")
    ]


def pope():
    """One image out of ten is in all splits, and one has all the questions with a yes."""
    return [
        Item(f"{split}/{n}/{k}", f"{n}.jpg", "?", label, "pope", split)
        for n in range(10)
        for split in (("random", "popular", "adversarial") if n == 3 else ("random",))
        for k, label in enumerate(("yes", "no") if n == 3 else ("no", "no"))
    ]


def amber():
    """Relations are asked for in two images out of twelve."""
    splits = [(n, "existence", "no") for n in range(12)] * 9
    splits += [(n, "relation", label) for n in range(2) for label in ("yes", "no")] * 9
    return [
        Item(str(k), f"{n}.jpg", "?", label, "amber", split)
        for k, (n, split, label) in enumerate(splits)
    ]


def hallusion():
    """One set out of eight is of the other category and has edited figures."""
    return [
        Item(
            f"{n}/{k}", None, "?", ("yes", "no")[k], "hallusionbench", "VS" if n == 0 else "VD",
            {"set": f"set {n}", "category": "VS" if n == 0 else "VD", "question_id": str(k),
             "figure_id": "1", "visual_input": "2" if n == 0 else "1"},
        )
        for n in range(8)
        for k in range(2)
    ]  # fmt: skip


def mmvp():
    """One pair of five is complete."""
    return [
        Item(f"{n}/{k}", f"{n}{k}.jpg", "?", "ab"[k], "mmvp", "mmvp", {"pair": n, "options": ""})
        for n in range(5)
        for k in range(2 if n == 0 else 1)
    ]


def figures():
    """Two dimensions, one with a single figure."""
    return [
        Item(f"{n}", f"{n}.png", "?", "3", "dysm", "shapes" if n else "letters") for n in range(7)
    ]


def caption_items():
    """Objects are there in one image of six, and named in it alone."""
    return [
        Item(f"{n}", f"{n}.jpg", "?", "", "chair", "chair", {"objects": ("dog",) if n < 1 else ()})
        for n in range(6)
    ]


def right(items):
    return [{"yes": "Yes", "no": "No"}.get(item.label, item.label) for item in items]


CASES = {
    "pope": (pope_scoring.SCORING, pope()),
    "mme": (mme_scoring.SCORING, mme()),
    "mme, one pair": (mme_scoring.SCORING, mme(1)),
    "amber": (DISCRIMINATIVE, amber()),
    "hallusionbench": (hallusionbench_scoring.SCORING, hallusion()),
    "mmvp": (mmvp_scoring.SCORING, mmvp()),
    "do-you-see-me": (do_you_see_me_scoring.SCORING, figures()),
}


def intervals(scoring, items, answers):
    """All numbers with an interval, but shares of labels."""
    tally = scoring.tally(items, answers, "official")
    weights = draw_weights(len(tally.units), 0)
    found = numbers_of(scoring.metrics, tally, "official", weights)
    return {
        name: number
        for name, number in found.items()
        if number.low is not None and name.rpartition("/")[2] not in SHARES_OF_LABELS
    }


@pytest.mark.parametrize("case", CASES)
def test_all_right(case):
    scoring, items = CASES[case]
    found = intervals(scoring, items, right(items))
    assert scoring.headline in found
    # AMBER divides by counts + 0.001 and rounds, so that 100.0 is 99.9 where little was drawn.
    slack = 0.11 if scoring is DISCRIMINATIVE else 1e-9
    for name, number in found.items():
        ends = (number.low, number.high)
        assert ends == pytest.approx((number.value, number.value), abs=slack), name


@pytest.mark.parametrize("word", ["Yes", "No"])
def test_one_word_for_everything_is_50_in_every_task_of_mme(word):
    found = intervals(mme_scoring.SCORING, mme(), [word] * len(mme()))
    for name in ("score_mean", "count/score", "existence/score"):
        assert (found[name].low, found[name].value, found[name].high) == (50, 50, 50)


def test_captions_that_make_nothing_up():
    items = caption_items()
    found = intervals(CHAIR, items, ["A dog." if n < 1 else "A view." for n in range(6)])
    assert (found["Recall"].low, found["Recall"].high) == (1, 1)
    assert (found["CHAIRi"].low, found["CHAIRi"].high) == (0, 0)


def test_descriptions_that_name_what_is_there(tmp_path):
    items = load(write_amber(tmp_path), "generative").items
    answers = [" ".join(dict.fromkeys(truth)) for truth, _ in OBJECTS]
    found = intervals(amber_generative.GENERATIVE, items, answers)
    assert (found["CHAIR"].low, found["CHAIR"].high) == (0, 0)


def test_an_interval_is_that_of_the_draws_that_say_something():
    """The slow way: each draw by itself, those without a pair of a task left out."""
    items = mme()
    answers = ["Yes" if n % 3 else "No" for n in range(len(items))]
    tally = mme_scoring.SCORING.tally(items, answers, "official")
    weights = draw_weights(len(tally.units), 3)
    task = np.array([unit.split("/")[0] == "count" for unit in tally.units])
    own = [
        mme_scoring.SCORING.metrics(tally.columns, row.astype(np.int64) @ tally.counts, "official")
        for row in weights
        if 0 < row[task].sum() < row.sum()
    ]
    assert 0.05 * len(weights) < len(weights) - len(own) < 0.2 * len(weights)
    number = numbers_of(mme_scoring.SCORING.metrics, tally, "official", weights)["score_mean"]
    ends = np.quantile([float(each["score_mean"]) for each in own], (0.025, 0.975))
    assert (number.low, number.high) == pytest.approx(tuple(ends))


def test_hardly_any_draw_gives_no_interval():
    tasks = mme_scoring.TASKS
    items = [
        Item(f"{task}/{label}", f"{task}/0.jpg", "?", label, "mme", task)
        for task in tasks
        for label in ("yes", "no")
    ]
    tally = mme_scoring.SCORING.tally(items, right(items), "official")
    weights = draw_weights(len(tally.units), 0)
    drawn = drawn_numbers(mme_scoring.SCORING.metrics, tally, "official", weights)["score_mean"]
    assert np.isnan(drawn).mean() > 0.99
    assert with_ends(200.0, drawn).low is None
    few = np.r_[np.full(LEAST, 1.0), np.full(5, np.nan)]
    assert with_ends(1.0, few).low == 1.0
    assert with_ends(1.0, few[1:]).low is None
