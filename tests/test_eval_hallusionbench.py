"""HallusionBench on made-up sets: counting against a slow loop, reading, loading."""

import itertools
import json
from collections import defaultdict

import numpy as np
import pytest

from lvlm_prune.eval.hallusionbench import SCORING, load

WORDS = ("Yes, it does.", "no", "I cannot tell", "", "The answer is no", "**Yes**", "Yes or no?")


def record(category, area, set_id, figure, question, edited, label):
    file = None if (category, figure) == ("VS", 0) else f"./{category}/{area}/{set_id}_{figure}.png"
    return {
        "category": category,
        "subcategory": area,
        "visual_input": "2" if edited else "1" if file else "0",
        "set_id": str(set_id),
        "figure_id": str(figure),
        "question_id": str(question),
        "question": f"Is line {question} of figure {figure} longer?",
        "gt_answer": str(label),
        "filename": file,
    }


@pytest.fixture(scope="module")
def records():
    rng = np.random.default_rng(0)
    kinds = itertools.product([("VD", "math"), ("VS", "map")], range(3), range(3), range(2))
    return [
        record(*kind, set_id, figure, question, figure == 2, rng.integers(2))
        for kind, set_id, figure, question in kinds
        if (set_id, figure, question) != (1, 2, 1)
    ]


@pytest.fixture
def benchmark(records, tmp_path):
    (tmp_path / "HallusionBench.json").write_text(json.dumps(records))
    return load(tmp_path)


def scores(items, answers, parser="official"):
    counted = SCORING.tally(items, answers, parser)
    numbers = SCORING.metrics(counted.columns, counted.total, parser)
    return counted, {name: float(value) for name, value in numbers.items()}


def slow_scores(records, correct):
    """The official script's counting, question by question."""
    good = [
        int(one == 1 or (one == 2 and each["category"] == "VS" and each["figure_id"] == "0"))
        for one, each in zip(correct, records, strict=True)
    ]

    def all_right(key, chosen):
        groups = defaultdict(list)
        for one, each in zip(good, records, strict=True):
            if chosen(each):
                name = (each["category"], each["subcategory"], each["set_id"], each[key])
                groups[name].append(one)
        return 100 * sum(all(group) for group in groups.values()) / len(groups)

    has_figure = lambda each: each["filename"] is not None  # noqa: E731
    labels = [int(each["gt_answer"]) for each in records]
    wrong = [label for label, one in zip(labels, good, strict=True) if not one]
    said = [int(one == label) for one, label in zip(good, labels, strict=True)]
    return {
        "aAcc": 100 * sum(good) / len(good),
        "qAcc": all_right("question_id", lambda each: True),
        "fAcc": all_right("figure_id", has_figure),
        "easy": all_right("question_id", lambda each: each["visual_input"] != "2"),
        "hard": all_right("question_id", lambda each: each["visual_input"] == "2"),
        "yes_diff": sum(said) / len(said) - sum(labels) / len(labels),
        "fp": (len(wrong) - sum(wrong)) / len(wrong),
    }


@pytest.mark.parametrize("seed", range(5))
def test_counting_agrees_with_a_loop_over_questions(records, benchmark, seed):
    rng = np.random.default_rng(seed)
    answers = list(rng.choice(["Yes", "no.", "unsure"], len(records), p=[0.6, 0.3, 0.1]))
    read = {"Yes": "1", "no.": "0", "unsure": None}
    correct = [
        2 if read[answer] is None else int(read[answer] == each["gt_answer"])
        for answer, each in zip(answers, records, strict=True)
    ]
    expected = slow_scores(records, correct)
    found = scores(benchmark.items, answers)[1]
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_sets_add_up(benchmark):
    answers = [WORDS[number % len(WORDS)] for number in range(len(benchmark.items))]
    whole, _ = scores(benchmark.items, answers)
    assert len(whole.units) == 6
    for row, unit in enumerate(whole.units):
        own = [place for place, item in enumerate(benchmark.items) if item.facts["set"] == unit]
        part, _ = scores([benchmark.items[place] for place in own], [answers[i] for i in own])
        for name, count in zip(part.columns, part.total, strict=True):
            assert whole.counts[row, whole.columns.index(name)] == count


@pytest.mark.parametrize(
    ("answer", "official", "vlmevalkit", "first_word"),
    [
        ("Yes, it does.", "yes", "yes", "yes"),
        ("**No**.", "no", "unparsed", "no"),
        ("The answer is no", "unparsed", "no", "no"),
        ("Yes or no?", "yes", "unparsed", "yes"),
        ("Not at all", "unparsed", "unparsed", "unparsed"),
        ("nope", "unparsed", "unparsed", "unparsed"),
        (" \n", "empty", "empty", "empty"),
    ],
)
def test_what_an_answer_says(benchmark, answer, official, vlmevalkit, first_word):
    said = {parser: SCORING.parse(benchmark.items[0], answer, parser) for parser in SCORING.parsers}
    assert said == {"official": official, "vlmevalkit": vlmevalkit, "first-word": first_word}


def test_not_to_know_is_right_only_without_a_figure(benchmark):
    for item in benchmark.items:
        assert SCORING.right(item, "Hard to say", "official") == (item.image is None)
        assert not SCORING.right(item, "Hard to say", "vlmevalkit")


def test_a_failed_call_takes_its_groups_along(benchmark):
    answers = ["Yes" if item.label == "yes" else "No" for item in benchmark.items]
    failed = next(place for place, item in enumerate(benchmark.items) if item.image is not None)
    answers[failed] = None
    found = SCORING.layout(scores(benchmark.items, answers)[1])
    assert (found["aAcc"], found["qAcc"], found["fAcc"]) == (100, 100, 100)
    full = SCORING.layout(scores(benchmark.items, ["Yes"] * len(answers))[1])["totals"]
    lost = {name: full[name] - found["totals"][name] for name in ("q", "pairs", "figs")}
    assert lost == {"q": 1, "pairs": 1, "figs": 1}


def test_nothing_wrong_has_no_share_of_wrong_answers(benchmark):
    answers = ["Yes" if item.label == "yes" else "No" for item in benchmark.items]
    found = SCORING.layout(scores(benchmark.items, answers)[1])
    assert (found["yes_diff"], found["fp"], found["aAcc"]) == (None, None, 100)


def test_figures_are_found_in_either_layout(records, tmp_path):
    (tmp_path / "HallusionBench.json").write_text(json.dumps(records))
    beside = load(tmp_path)
    name = beside.images[0]
    assert beside.files[name] == tmp_path / name
    (tmp_path / "hallusion_bench").mkdir()
    assert load(tmp_path).files[name] == tmp_path / "hallusion_bench" / name
    assert load(tmp_path, images=tmp_path / "other").files[name] == tmp_path / "other" / name


@pytest.mark.parametrize(
    ("subset", "chosen"),
    [
        ("text", lambda item: item.image is None),
        ("VD", lambda item: item.split == "VD"),
        ("image, VS", lambda item: item.image is not None and item.split == "VS"),
        ("map", lambda item: item.facts["subcategory"] == "map"),
        ("VD,VS", lambda item: True),
    ],
)
def test_subsets(records, tmp_path, subset, chosen):
    (tmp_path / "HallusionBench.json").write_text(json.dumps(records))
    whole, part = load(tmp_path), load(tmp_path, subset)
    assert [item.id for item in part.items] == [item.id for item in whole.items if chosen(item)]
    assert part.version != whole.version


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.append(rows[0]), "VD/math/0/0/0 appear more than once"),
        (lambda rows: rows[3].pop("question_id"), "record 4 has no question_id"),
        (lambda rows: rows[3].update(gt_answer="2"), "gt_answer of .*, record 4 is '2'"),
        (lambda rows: rows.insert(1, "text"), "record 2 is str, not an object"),
        (lambda rows: rows[5].update(filename="../secret.png"), "record 6 has the image"),
        (lambda rows: rows.clear(), "holds no records"),
    ],
)
def test_broken_files_are_refused(records, tmp_path, change, message):
    broken = [dict(each) for each in records]
    change(broken)
    (tmp_path / "HallusionBench.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_what_is_no_json_or_absent_is_refused(records, tmp_path):
    with pytest.raises(FileNotFoundError, match="HallusionBench.json is absent"):
        load(tmp_path)
    (tmp_path / "HallusionBench.json").write_text(json.dumps(records)[:-9])
    with pytest.raises(ValueError, match="HallusionBench.json"):
        load(tmp_path)
    (tmp_path / "HallusionBench.json").write_text(json.dumps(records))
    with pytest.raises(ValueError, match="no subset 'chart' of HallusionBench; there are image"):
        load(tmp_path, "chart")
