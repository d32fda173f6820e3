"""Scores of a run: joined by name, every parser, intervals over images, nothing lost silently."""

import json
from dataclasses import replace

import numpy as np
import pytest
from made_up_runs import SPLITS, YES_NO, benchmark, rows_of

from lvlm_prune.eval.amber_discriminative import DISCRIMINATIVE
from lvlm_prune.eval.benchmark import Item
from lvlm_prune.eval.bootstrap import DRAWS, draw_weights, numbers_of, plain_counts
from lvlm_prune.eval.mme_scoring import HALLUCINATION
from lvlm_prune.eval.mme_scoring import SCORING as MME
from lvlm_prune.eval.pope_scoring import SCORING as POPE
from lvlm_prune.eval.row import Row
from lvlm_prune.eval.scored import scored

BENCH = benchmark()


@pytest.fixture(scope="module")
def block():
    return scored(BENCH, rows_of(BENCH, 0.2, odd=(0,), failed=(7,))).blocks["spots"]


def slow_f1(items, texts, strict=False):
    """F1 of one list of lines, by counting."""
    tp = fp = fn = 0
    for item, text in zip(items, texts, strict=True):
        said = text if strict else text.lower().rstrip(".")
        tp += item.label == "yes" and said == "yes"
        fp += item.label == "no" and said == "yes"
        fn += item.label == "yes" and said == "no"
    return 2 * tp / (2 * tp + fp + fn) if tp else 0.0


def texts_by_line(rows):
    return {name: row.text for row in rows for name in row.items}


@pytest.mark.parametrize("parser", YES_NO.parsers)
def test_values_are_those_of_counting(parser):
    rows = rows_of(BENCH, 0.3, seed=4)
    said = texts_by_line(rows)
    numbers = scored(BENCH, rows).blocks["spots"].parsers[parser]
    means = []
    for split in SPLITS:
        items = [item for item in BENCH.items if item.split == split]
        expected = slow_f1(items, [said[item.id] for item in items], parser == "strict")
        assert numbers[f"{split}/f1"].value == pytest.approx(expected)
        means.append(expected)
    assert numbers["f1"].value == pytest.approx(sum(means) / 2)


def test_interval_is_that_of_drawing_images_one_by_one():
    rows = rows_of(BENCH, 0.3, seed=1)
    said = texts_by_line(rows)
    items = [item for item in BENCH.items if item.benchmark == "spots"]
    tally = YES_NO.tally(items, [said[item.id] for item in items], "official")
    weights = draw_weights(len(tally.units), 7)
    number = numbers_of(YES_NO.metrics, tally, "official", weights)["f1"]
    values = []
    for row in weights:
        drawn = [u for u, times in zip(tally.units, row, strict=True) for _ in range(int(times))]
        by_split = []
        for split in SPLITS:
            lines = [i for u in drawn for i in items if i.image == u and i.split == split]
            by_split.append(slow_f1(lines, [said[i.id] for i in lines]))
        values.append(sum(by_split) / 2)
        if len(values) == 200:
            break
    first = YES_NO.metrics(
        tally.columns, (weights[:200] @ tally.counts).astype(np.int64), "official"
    )
    assert first["f1"] == pytest.approx(values)
    assert number.low < number.value < number.high
    assert weights.shape == (DRAWS, 30)
    assert (weights.sum(axis=1) == 30).all(), "each draw has as many images as there are"


def test_interval_covers_the_truth_about_as_often_as_it_says():
    small = benchmark(images=40)
    items = [item for item in small.items if item.benchmark == "spots"]
    inside = 0
    for seed in range(60):
        said = texts_by_line(rows_of(small, 0.25, seed=seed))
        tally = YES_NO.tally(items, [said[item.id] for item in items], "official")
        number = numbers_of(YES_NO.metrics, tally, "official", draw_weights(40, seed))["f1"]
        # One yes of three lines and a quarter wrong: 2 * .75 / (2 * .75 + .5 + .25).
        inside += number.low <= 1.5 / 2.25 <= number.high
    assert inside >= 52


def test_same_seed_same_numbers(block):
    again = scored(BENCH, rows_of(BENCH, 0.2, odd=(0,), failed=(7,))).blocks["spots"]
    other = scored(BENCH, rows_of(BENCH, 0.2, odd=(0,), failed=(7,)), seed=1).blocks["spots"]
    assert again == block
    assert other.parsers["official"]["f1"].low != block.parsers["official"]["f1"].low
    assert other.parsers["official"]["f1"].value == block.parsers["official"]["f1"].value


def test_what_was_answered_is_counted(block):
    lines = sum(item.benchmark == "spots" for item in BENCH.items)
    assert block.total == lines
    assert block.says["unparsed"] == 2, "one prompt of two lines"
    assert block.says["error"] > 0
    assert sum(block.says.values()) == lines
    assert block.answered == lines - block.says["error"]
    assert any("calls failed" in note for note in block.notes)
    assert any("mean over near, far" in note for note in block.notes)


def test_plain_counts_have_no_interval(block):
    numbers = block.parsers["official"]
    assert numbers["n"].value == block.answered
    assert numbers["n"].low is None
    assert numbers["near/n"].high is None
    assert numbers["near/f1"].low is not None


def test_a_zero_is_not_taken_for_a_count():
    items = [item for item in BENCH.items if item.benchmark == "spots"]
    tally = YES_NO.tally(items, ["no"] * len(items), "official")
    assert plain_counts(YES_NO.metrics, tally, "official") == {"n", "near/n", "far/n"}


@pytest.mark.parametrize("word", ["no", "yes"])
def test_one_word_for_everything_is_a_note(word):
    rows = [replace(row, text=word) for row in rows_of(BENCH, 0)]
    block = scored(BENCH, rows).blocks["spots"]
    assert any(f"Every answer says {word}" in note for note in block.notes)
    assert block.parsers["official"]["f1"].value == (0 if word == "no" else 0.5)


def test_lines_without_a_row_are_counted_as_missing():
    rows = rows_of(BENCH, 0.2)
    block = scored(BENCH, rows[:10]).blocks["spots"]
    assert block.answered < block.total
    missing = block.total - block.answered
    assert any(f"{missing} of {block.total} lines have no answer" in note for note in block.notes)


def test_nothing_answered_gives_no_numbers():
    rows = [replace(row, text=None, error="ValueError: no") for row in rows_of(BENCH, 0)]
    for block in scored(BENCH, rows).blocks.values():
        assert block.answered == 0
        assert block.parsers["official"] == {}
        assert block.official == {}


def test_one_image_has_no_interval():
    one = benchmark(images=1)
    block = scored(one, rows_of(one, 0)).blocks["spots"]
    assert block.parsers["official"]["f1"].value == 1
    assert block.parsers["official"]["f1"].low is None


def test_each_scoring_rule_has_its_block():
    found = scored(BENCH, rows_of(BENCH, 0.2)).to_dict()
    assert list(found) == ["spots", "ghosts"]
    assert found["ghosts"]["lower_is_better"]
    assert found["ghosts"]["parsers"]["official"]["words"]["low"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_unknown_and_repeated_lines_are_refused():
    rows = rows_of(BENCH, 0.2)
    with pytest.raises(ValueError, match="'nowhere', which haunted does not have"):
        scored(BENCH, [replace(rows[0], items=("nowhere",))])
    with pytest.raises(ValueError, match="is answered by the rows"):
        scored(BENCH, [*rows, replace(rows[0], id="again")])


def of_mme(lost):
    """MME's hallucination tasks with right answers, but for some of the lines."""
    items = [
        Item(f"mme/{task}/{n}/{label}", f"{task}/{n}.jpg", "?", label, "mme", task)
        for task in HALLUCINATION
        for n in range(3)
        for label in ("yes", "no")
    ]
    bench = replace(BENCH, items=tuple(items), scorings={"mme": MME}, longest={"mme": 4})
    return scored(bench, [
        Row(item.id, (item.id,), item.image, "?", "?",
            None if item.id in lost else item.label.capitalize(), 1, 1)
        for item in items
        if lost.get(item.id) != "missing"
    ]).blocks["mme"]  # fmt: skip


@pytest.mark.parametrize("way", ["failed", "missing"])
@pytest.mark.parametrize("labels", [("no",), ("yes", "no")])
def test_a_task_of_mme_without_pairs_is_absent(way, labels):
    lost = {f"mme/count/{n}/{label}": way for n in range(3) for label in labels}
    block = of_mme(lost)
    assert (block.official["score_mean"], block.official["tasks"]) == (
        200,
        {"existence": 200, "position": 200, "color": 200},
    )
    for numbers in block.parsers.values():
        assert not {"perception", "hallucination", "count/score"} & set(numbers)
    assert "no perception and no hallucination sum: count has no complete pair" in " ".join(
        block.notes
    )
    whole = of_mme({})
    assert (whole.official["perception"], whole.official["hallucination"]) == (800, 800)
    assert not any("sum" in note for note in whole.notes)


def test_nothing_but_broken_pairs_is_no_number():
    lost = {f"mme/{task}/{n}/no": "failed" for task in HALLUCINATION for n in range(3)}
    block = of_mme(lost)
    assert block.answered == 12
    assert all(numbers == {} for numbers in block.parsers.values())
    assert block.official == {}


@pytest.mark.parametrize("scoring", [DISCRIMINATIVE, MME, POPE], ids=lambda each: each.name)
@pytest.mark.parametrize("word", ["Yes", "No"])
def test_notes_on_one_word_hold_under_every_rule(scoring, word):
    """AMBER's precision is that of no, so a note on the precision of yes would be wrong there."""
    items = tuple(
        Item(f"{n}/{label}", f"{n}.jpg", "?", label, "one", "existence")
        for n in range(4)
        for label in ("yes", "no")
    )
    bench = replace(BENCH, items=items, scorings={"one": scoring}, longest={"one": 4})
    rows = [Row(item.id, (item.id,), item.image, "?", "?", word, 1, 1) for item in items]
    notes = " ".join(scored(bench, rows).blocks["one"].notes)
    assert f"Every answer says {word.lower()}: the numbers are those of a constant answer" in notes
    empty = {("pope", "No"): "precision", ("amber", "Yes"): "Precision"}.get((scoring.name, word))
    assert ("for want of anything to divide by" in notes) == (empty is not None)
    assert empty is None or f"{empty} is 0 for want" in notes
