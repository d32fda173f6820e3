"""A run beside its baseline: flips, exact p values and paired intervals, by slow counting."""

import json
from dataclasses import replace
from fractions import Fraction
from itertools import product
from math import comb

import pytest
from made_up_runs import BENCH_LINES, benchmark, rows_of

from lvlm_prune.eval.mcnemar import holm, mcnemar
from lvlm_prune.eval.paired import paired
from lvlm_prune.eval.scored import scored

BENCH = benchmark()


@pytest.fixture(scope="module")
def runs():
    return rows_of(BENCH, 0.35, seed=3), rows_of(BENCH, 0.1, seed=2, failed=(7,))


@pytest.fixture(scope="module")
def pairs(runs):
    return paired(BENCH, *runs).pairs


def slow_p(worse, better):
    """Share of all outcomes of fair coins that are at least as uneven."""
    changed = worse + better
    extreme = sum(
        comb(changed, heads)
        for heads in range(changed + 1)
        if abs(2 * heads - changed) >= abs(worse - better)
    )
    return float(Fraction(extreme, 2**changed))


@pytest.mark.parametrize(("worse", "better"), [*product(range(7), repeat=2), (40, 70), (3, 900)])
def test_mcnemar_is_the_coin_test(worse, better):
    assert mcnemar(worse, better) == pytest.approx(slow_p(worse, better))


def test_mcnemar_known_values():
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == 1
    assert mcnemar(0, 6) == 2 / 64
    assert 0 <= mcnemar(9000, 0) < 1e-300, "no overflow"
    with pytest.raises(ValueError, match="-1"):
        mcnemar(-1, 2)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_flips_are_those_of_counting(runs, pairs):
    ours, theirs = ({n: r.text for r in rows for n in r.items} for rows in runs)
    flips = {"yes_to_no": 0, "no_to_yes": 0, "right_to_wrong": 0, "wrong_to_right": 0}
    lines = yes = 0
    for item in BENCH.items:
        if item.benchmark != "spots" or ours[item.id] is None or theirs[item.id] is None:
            continue
        was, now = theirs[item.id].lower().rstrip("."), ours[item.id].lower().rstrip(".")
        lines += 1
        yes += (now == "yes") - (was == "yes")
        flips["yes_to_no"] += (was, now) == ("yes", "no")
        flips["no_to_yes"] += (was, now) == ("no", "yes")
        flips["right_to_wrong"] += was == item.label != now
        flips["wrong_to_right"] += now == item.label != was
    found = pairs["spots"].answers.to_dict()
    assert {name: found[name] for name in flips} == flips
    assert min(flips.values()) > 0
    assert pairs["spots"].lines == lines < BENCH_LINES
    assert found["yes_shift"] == pytest.approx(yes / lines)


def test_a_shared_prompt_counts_once_in_p(runs, pairs):
    ours, theirs = runs
    worse = better = 0
    labels = {item.id: item.label for item in BENCH.items}
    for our, their in zip(ours, theirs, strict=True):
        if our.text is None or their.text is None or not labels[our.id]:
            continue
        was, now = (row.text.lower().rstrip(".") == labels[our.id] for row in (their, our))
        worse += was and not now
        better += now and not was
    answers = pairs["spots"].answers
    assert (answers.prompts_worse, answers.prompts_better) == (worse, better)
    assert worse < answers.right_to_wrong, "the yes questions stand in both splits"
    assert answers.p == pytest.approx(slow_p(worse, better))
    assert answers.p_lines < answers.p


def test_difference_is_that_of_the_scores_on_the_common_lines(runs, pairs):
    ours, theirs = runs
    answered = {n for row in theirs if row.text is not None for n in row.items}
    ours = [row for row in ours if set(row.items) <= answered]
    theirs = [row for row in theirs if row.text is not None]
    f1 = [scored(BENCH, rows).blocks["spots"].parsers["official"]["f1"].value
          for rows in (ours, theirs)]  # fmt: skip
    number = pairs["spots"].differences["f1"]
    assert number.value == pytest.approx(f1[0] - f1[1])
    assert number.low < number.value < number.high < 0


def test_a_run_beside_itself_does_not_differ(runs):
    for pair in paired(BENCH, runs[0], runs[0]).pairs.values():
        assert pair.changed == 0
        for number in pair.differences.values():
            assert (number.value, number.low, number.high) == (0, 0, 0)
        if pair.answers is not None:
            assert pair.answers.p == 1


def test_pairing_is_tighter_than_two_intervals(runs):
    """Few changed answers: both runs see the same hard images, so their difference is sure."""
    base = rows_of(BENCH, 0.3, seed=5)
    few = rows_of(BENCH, 0.3, seed=5)
    spots = [i for i, row in enumerate(few) if row.text.startswith("Y")][:3]
    for i in spots:
        few[i] = replace(few[i], text="No.")
    difference = paired(BENCH, few, base).pairs["spots"].differences["f1"]
    own = scored(BENCH, base).blocks["spots"].parsers["official"]["f1"]
    assert difference.high - difference.low < (own.high - own.low) / 2


def test_captions_have_differences_alone(pairs):
    assert pairs["ghosts"].answers is None
    assert {"ghosts_i", "recall"} <= set(pairs["ghosts"].differences)
    assert "words" not in pairs["ghosts"].differences, "a plain count"
    assert pairs["ghosts"].differences["ghosts_i"].low > 0


def test_nothing_in_common_is_no_difference(runs):
    ours = [replace(row, text=None, error="ValueError: no") for row in runs[0]]
    found = paired(BENCH, ours, runs[1])
    assert found.pairs["spots"].lines == 0
    assert found.pairs["spots"].differences == {}
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()
