"""MMVP on made-up choices: reading a letter, pairs, the two pairs that were corrected."""

import csv
import itertools

import numpy as np
import pytest

from lvlm_prune.eval.benchmark import Item
from lvlm_prune.eval.mmvp import SCORING, load

OPTIONS = "(a) Open (b) Closed"
HEAD = ("Index", "Question", "Options", "Correct Answer")


def write(folder, lines):
    with (folder / "Questions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEAD, *lines])
    return folder


def lines(count=300):
    return [
        (number, "Is the door open or closed?", OPTIONS, "(a)" if number % 2 else "(b)")
        for number in range(1, count + 1)
    ]


@pytest.fixture
def benchmark(tmp_path):
    return load(write(tmp_path, lines()))


def test_a_line_is_asked_with_its_options(benchmark, tmp_path):
    assert len(benchmark.items) == 300
    first, second = benchmark.items[:2]
    assert first.question == "Is the door open or closed? (a) Open (b) Closed"
    assert (first.label, second.label) == ("a", "b")
    assert first.facts["pair"] == second.facts["pair"] != benchmark.items[2].facts["pair"]
    assert benchmark.files["1.jpg"] == tmp_path / "MMVP Images" / "1.jpg"


def test_two_pairs_are_corrected_unless_asked_otherwise(tmp_path):
    folder = write(tmp_path, lines())
    corrected, original = load(folder), load(folder, "original")
    changed = [
        (ours.id, ours.label)
        for ours, theirs in zip(corrected.items, original.items, strict=True)
        if ours.label != theirs.label
    ]
    expected = {99: "b", 100: "a", 279: "b", 280: "a"}
    assert changed == [(f"mmvp/{number}", label) for number, label in expected.items()]
    assert (corrected.version["answers"], original.version["answers"]) == ("corrected", "original")
    right = [(*line[:3], f"({expected.get(line[0], line[3][1])})") for line in lines()]
    again = load(write(tmp_path, right))
    assert [item.label for item in again.items] == [item.label for item in corrected.items]


@pytest.mark.parametrize(
    ("answer", "official", "letter_or_text"),
    [
        ("A", "a", "a"),
        ("(b)", "b", "b"),
        ("B.", "b", "b"),
        ("(a) Open", "a", "a"),
        ("b) Closed", "b", "b"),
        ("The answer is (B), as seen", "b", "b"),
        ("I choose option b because", "b", "unparsed"),
        ("A dog is seen", "a", "unparsed"),
        ("Open", "unparsed", "a"),
        ("It is closed.", "unparsed", "b"),
        ("open, not closed", "unparsed", "unparsed"),
        ("No idea", "a", "unparsed"),
        ("both", "b", "unparsed"),
        ("unclear", "unparsed", "unparsed"),
        (" ", "empty", "empty"),
    ],
)
def test_what_an_answer_says(answer, official, letter_or_text):
    item = Item("mmvp/1", "1.jpg", "Which?", "a", "mmvp", "mmvp", {"pair": 1, "options": OPTIONS})
    said = [SCORING.parse(item, answer, parser) for parser in ("official", "letter-or-text")]
    assert said == [official, letter_or_text]
    assert SCORING.right(item, answer, "official") == (official == "a")


@pytest.mark.parametrize("seed", range(4))
def test_pairs_agree_with_a_loop(benchmark, seed):
    rng = np.random.default_rng(seed)
    answers = [None if rng.random() < 0.1 else str(rng.choice(["A", "(b)"])) for _ in range(300)]
    right = [
        None if answer is None else answer.strip("()").lower() == item.label
        for answer, item in zip(answers, benchmark.items, strict=True)
    ]
    given = [one for one in right if one is not None]
    pairs = [pair for pair in zip(right[::2], right[1::2], strict=True) if None not in pair]
    order = rng.permutation(300)
    counted = SCORING.tally(
        [benchmark.items[place] for place in order], [answers[place] for place in order], "official"
    )
    found = SCORING.metrics(counted.columns, counted.total, "official")
    assert found["accuracy"] == pytest.approx(sum(given) / len(given))
    assert found["pair_accuracy"] == pytest.approx(sum(map(all, pairs)) / len(pairs))
    assert len(counted.units) == 150


def test_always_the_same_letter_is_right_for_half_and_for_no_pair(benchmark):
    for answer, parser in itertools.product(("A", "(b)"), SCORING.parsers):
        counted = SCORING.tally(benchmark.items, [answer] * 300, parser)
        found = SCORING.layout(SCORING.metrics(counted.columns, counted.total, parser))
        assert (found["accuracy"], found["pair_accuracy"]) == (0.5, 0)
        assert found["a_ratio"] == (answer == "A")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ((0, "Is it?", OPTIONS, "(a)"), "Index of row 301 .* is '0'"),
        (("x", "Is it?", OPTIONS, "(a)"), "Index of row 301 .* is 'x'"),
        ((301, "Is it?", OPTIONS, "(c)"), r"Correct Answer of row 301 .* is '\(c\)'"),
        ((301, "", OPTIONS, "(a)"), "row 301 .* has no Question"),
        ((301, "Is it?"), "row 301 .* has no Options, Correct Answer"),
        ((7, "Is it?", OPTIONS, "(a)"), "mmvp/7 appear more than once"),
    ],
)
def test_broken_lines_are_refused(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path, [*lines(), line]))


def test_other_files_and_subsets_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Questions.csv is absent"):
        load(tmp_path)
    with pytest.raises(ValueError, match="is empty"):
        load(write(tmp_path, []))
    with pytest.raises(ValueError, match="no subset 'hard' of MMVP"):
        load(write(tmp_path, lines(4)), "hard")
    (tmp_path / "Questions.csv").write_bytes(b'Index,Question\n1,"open \xff')
    with pytest.raises(ValueError, match="is no text"):
        load(tmp_path)
