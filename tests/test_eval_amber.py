"""AMBER on made-up questions: against slow loops of the official script's rule, and its files."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from tiny_amber import KINDS, OBJECTS, RELATED, SAFE, write_amber

from lvlm_prune.eval.amber import DISCRIMINATIVE, GENERATIVE, load
from lvlm_prune.eval.amber_discriminative import round_as_python
from lvlm_prune.eval.amber_generative import Associations, count
from lvlm_prune.eval.amber_nouns import is_list, nouns_of
from lvlm_prune.eval.eval_settings import EvalSettings, load_benchmarks

SAID = ["Yes", "No", "yes", "No.", "", "no", "Yes, it is", "maybe"]
ASSOCIATIONS = Associations({key: tuple(more) for key, more in RELATED.items()}, frozenset(SAFE))


@pytest.fixture
def folder(tmp_path):
    return write_amber(tmp_path / "data")


def numbers(scoring, items, answers, parser="official"):
    """The layout of one run."""
    tally = scoring.tally(items, answers, parser)
    found = scoring.metrics(tally.columns, tally.total, parser)
    return scoring.layout({name: float(value) for name, value in found.items()})


def slowly(rows, counters=1, in_f1=0.0001):
    """The four numbers of one group, as the script counts them; rows of label and answer."""
    asked = said_no = label_no = 0.001 * counters
    right = right_no = 0
    for label, answer in rows:
        asked += 1
        right += answer == label.capitalize()
        label_no += label == "no"
        said_no += answer == "No"
        right_no += label == "no" and answer == "No"
    accuracy = round(right / asked * 100, 1)
    precision = round(right_no / said_no * 100, 1)
    recall = round(right_no / label_no * 100, 1)
    p, r = precision / 100, recall / 100
    f1 = round(2 * p * r / (p + r + in_f1) * 100, 1)
    return {"Accuracy": accuracy, "Precision": precision, "Recall": recall, "F1": f1}


def groups(items, answers):
    """The groups of a run of type d, slowly."""
    rows = [(i.split, i.label, a) for i, a in zip(items, answers, strict=True) if a is not None]

    def of(*splits):
        return [(label, answer) for split, label, answer in rows if split in splits]

    return {
        "Descriminative Task": slowly([row[1:] for row in rows]),
        "Exsitence": slowly(of("existence"), in_f1=0.001),
        "Attribute": slowly(of("state", "number", "action"), counters=3),
        "State": slowly(of("state")),
        "Number": slowly(of("number")),
        "Action": slowly(of("action")),
        "Relation": slowly(of("relation")),
    }


@pytest.mark.parametrize("words", [SAID[:2], SAID, ["No"], ["Yes"], ["no"], [""], ["Yes", None]])
def test_discriminative_numbers_equal_a_slow_loop(folder, words):
    rng = np.random.default_rng(len(words))
    items = load(folder, "discriminative").items
    for _ in range(20):
        answers = rng.choice(np.array(words, dtype=object), len(items)).tolist()
        assert numbers(DISCRIMINATIVE, items, answers) == groups(items, answers)


def test_draws_of_images_give_what_repeated_images_give(folder):
    rng = np.random.default_rng(3)
    items = load(folder, "discriminative").items
    answers = rng.choice(SAID, len(items)).tolist()
    tally = DISCRIMINATIVE.tally(items, answers, "official")
    assert tally.units == tuple(f"AMBER_{number}.jpg" for number in range(1, 5))
    draws = rng.multinomial(4, [1 / 4] * 4, 10)
    found = DISCRIMINATIVE.metrics(tally.columns, draws @ tally.counts, "official")
    for place, times in enumerate(draws):
        repeat = dict(zip(tally.units, times, strict=True))
        drawn = [i for i, item in enumerate(items) for _ in range(repeat[item.image])]
        expected = groups([items[i] for i in drawn], [answers[i] for i in drawn])
        for group, values in expected.items():
            for name, value in values.items():
                assert found[f"{group}/{name}"][place] == value
        assert found["F1"][place] == expected["Descriminative Task"]["F1"]


@pytest.mark.parametrize(
    ("subset", "printed"),
    [
        ("existence", ["Exsitence"]),
        ("attribute", ["Attribute", "State", "Number", "Action"]),
        ("state", ["Attribute", "State", "Number", "Action"]),
        ("relation", ["Relation"]),
        ("existence,relation", ["Exsitence", "Relation"]),
    ],
)
def test_what_was_asked_says_what_is_printed(folder, subset, printed):
    items = load(folder, subset).items
    found = numbers(DISCRIMINATIVE, items, ["No"] * len(items))
    assert list(found) == printed


@pytest.mark.parametrize(
    ("answer", "official", "vlmevalkit", "first"),
    [
        ("Yes", "yes", "yes", "yes"),
        ("No", "no", "no", "no"),
        ("no", "unparsed", "no", "no"),
        ("No.", "unparsed", "no", "no"),
        (" Yes", "unparsed", "yes", "yes"),
        ("Yes, no doubt", "unparsed", "unparsed", "yes"),
        ("It is", "unparsed", "unparsed", "unparsed"),
        (" ", "empty", "empty", "empty"),
    ],
)
def test_parsers(folder, answer, official, vlmevalkit, first):
    item = load(folder, "existence").items[0]
    said = [DISCRIMINATIVE.parse(item, answer, parser) for parser in DISCRIMINATIVE.parsers]
    assert said == [official, vlmevalkit, first]
    right = [DISCRIMINATIVE.right(item, answer, parser) for parser in DISCRIMINATIVE.parsers]
    assert right == [word == "no" for word in said], "no such thing is there, ever"


def test_the_class_no_is_positive(folder):
    items = load(folder, "existence,relation").items
    found = numbers(DISCRIMINATIVE, items, ["No"] * len(items))
    assert found["Exsitence"]["Recall"] == found["Relation"]["Recall"] == 100.0
    assert found["Relation"]["Precision"] == found["Relation"]["Accuracy"] < 100


def test_rounding_is_pythons():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.random((50, 4)) * 100, np.arange(200).reshape(50, 4) / 20])
    found = round_as_python(values)
    assert found.shape == values.shape
    assert [round(value, 1) for value in values.ravel().tolist()] == found.ravel().tolist()
    assert round_as_python(np.asarray(0.15)) == round(0.15, 1) != np.round(0.15, 1)


def count_slowly(nouns, truth, hallu, alike):
    """The script's own book-keeping: one list of words, associations first, and one of marks."""
    names = [[more for word in own for more in RELATED[word]] + own for own in (truth, hallu)]
    owner = [
        [place for place, word in enumerate(own) for _ in RELATED[word]] + list(range(len(own)))
        for own in (truth, hallu)
    ]
    marks = [[0] * len(truth), [0] * len(hallu)]

    def mark(side, same):
        for place, word in enumerate(names[side]):
            if same(word):
                marks[side][owner[side][place]] = 1
                return True
        return False

    flags = []
    for noun in nouns:
        bad = 0
        if noun not in SAFE and not mark(0, lambda word, noun=noun: word == noun):
            mark(1, lambda word, noun=noun: word == noun)
            mark(1, lambda word, noun=noun: alike(noun, word))
            bad = int(not mark(0, lambda word, noun=noun: alike(noun, word)))
        flags.append(bad)
    clean = int(sum(flags) == 0)
    return [len(nouns), sum(flags), len(truth), sum(marks[0]), len(hallu), sum(marks[1]), clean, 1]


@pytest.mark.parametrize(
    "alike",
    [
        str.__eq__,
        lambda one, other: one[0] == other[0],
        lambda one, other: len(one) == len(other),
    ],
    ids=["equal", "first letter", "length"],
)
@pytest.mark.parametrize("truth_and_hallu", OBJECTS)
def test_generative_counts_equal_a_slow_loop(truth_and_hallu, alike):
    rng = np.random.default_rng(5)
    truth, hallu = truth_and_hallu
    facts = {"truth": tuple(truth), "hallu": tuple(hallu), "words": ASSOCIATIONS}
    words = sorted(ASSOCIATIONS.vocabulary)
    for _ in range(100):
        nouns = rng.choice(words, rng.integers(0, 10)).tolist()
        assert count(nouns, facts, alike) == count_slowly(nouns, truth, hallu, alike)


def test_the_first_match_wins():
    facts = {"truth": ("tree", "forest", "tree"), "hallu": ("dog",), "words": ASSOCIATIONS}
    assert count(["tree", "forest"], facts, str.__eq__)[3] == 2, "each is the other's association"
    assert count(["bush", "tree", "wood"], facts, str.__eq__)[3] == 2, (
        "the second tree is never named"
    )


def test_generative_numbers_by_hand(folder):
    items = load(folder, "generative").items
    answers = ["tree lake dog", "", "orange sea knife cat", "cat kitten"]
    found = numbers(GENERATIVE, items, answers)
    assert found == {
        "Generative Task": {
            "CHAIR": round(3 / 9.001 * 100, 1),
            "Cover": round(4 / 9.001 * 100, 1),
            "Hal": round(100 - 2 / 4.001 * 100, 1),
            "Cog": round(2 / 9.001 * 100, 1),
        },
        "nouns": "split",
        "similarity": "exact",
    }
    assert [GENERATIVE.parse(items[0], text, "official") for text in ("a", " ")] == [
        "caption",
        "empty",
    ]


def test_failed_calls_are_left_out_of_descriptions(folder):
    items = load(folder, "generative").items
    tally = GENERATIVE.tally(items, ["dog", None, None, "dog"], "official")
    assert tally.counts[:, tally.columns.index("captions")].tolist() == [1, 0, 0, 1]
    found = numbers(GENERATIVE, items, [None] * 4)
    assert found["Generative Task"] == {"CHAIR": 0.0, "Cover": 0.0, "Hal": 100.0, "Cog": 0.0}


@pytest.mark.parametrize(
    ("answer", "nouns"),
    [
        ("Two knives, cats and a TV.", ["knife", "cat", "TV"]),
        ("Trees by the lakes; bushes!", ["lake", "bush"]),
        ("the seaside", []),
        ("an orange dog", ["orange", "dog"]),
    ],
)
def test_words_of_a_sentence_without_a_tagger(answer, nouns):
    assert nouns_of(answer, "words", ASSOCIATIONS.vocabulary) == nouns
    assert not is_list(answer, ASSOCIATIONS.vocabulary)


def test_a_sentence_needs_a_tagger(folder):
    items = load(folder, "generative").items[:1]
    found = numbers(GENERATIVE, items, ["A dog by two trees."], "words")
    assert (found["nouns"], found["Generative Task"]["CHAIR"]) == ("words", 50.0)
    if find_spec("nltk") is not None:
        pytest.skip("nltk is installed here")
    with pytest.raises(ImportError, match="pip install nltk, then python -m nltk.downloader"):
        numbers(GENERATIVE, items, ["A dog by two trees."])


def test_spacy_is_offered_only_where_it_is():
    there = find_spec("spacy") is not None and find_spec("en_core_web_lg") is not None
    assert GENERATIVE.parsers == (
        ("official", "words", "spacy-lg") if there else ("official", "words")
    )


def test_items_of_the_files(folder):
    benchmark = load(folder)
    assert benchmark.items == load(folder / "annotations.json").items
    assert len(benchmark.items) == 4 + 4 * 2 * len(KINDS)
    assert [item.id for item in benchmark.items[:2]] == ["amber/1", "amber/2"]
    assert {item.benchmark for item in benchmark.items} == set(benchmark.scorings)
    for item in benchmark.items[4:]:
        assert item.split == KINDS[item.facts["type"]]
    assert benchmark.files["AMBER_1.jpg"] == folder / "images" / "AMBER_1.jpg"
    assert set(benchmark.version) == {path.name for path in folder.iterdir()}
    assert set(load(folder, "relation").version) == {"annotations.json", "query_all.json", "subset"}


def test_questions_alone_need_no_words(folder):
    (folder / "relation.json").unlink()
    assert set(load(folder, "discriminative").scorings) == {"amber"}
    with pytest.raises(FileNotFoundError, match="lacks relation.json"):
        load(folder)
    (folder / "query").mkdir()
    (folder / "query_all.json").rename(folder / "query" / "query_all.json")
    assert load(folder, "existence").items


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"type": "discriminative"}, "type of id 5 is 'discriminative'"),
        ({"type": ["relation"]}, "type of id 5 is"),
        ({"truth": "No"}, "truth of id 5 is 'No'; allowed: yes, no"),
        ({"id": 6}, "the id 6, which is no number or stands twice"),
        ({"id": "5"}, "the id '5', which is no number"),
        ({"id": 500}, "has no id 5, which query_all.json asks"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(folder, change, says):
    rows = json.loads((folder / "annotations.json").read_text())
    rows[4].update(change)
    (folder / "annotations.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=says):
        load(folder)


@pytest.mark.parametrize("truth", ["dog", ["dragon"], [["dog"]], None])
def test_objects_that_are_no_words_are_refused(folder, truth):
    rows = json.loads((folder / "annotations.json").read_text())
    rows[0]["truth"] = truth
    (folder / "annotations.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="truth of id 1"):
        load(folder)


def test_unknown_names_are_refused(folder):
    items = load(folder, "relation").items
    with pytest.raises(ValueError, match="no subset 'colour' of AMBER; there are discriminative"):
        load(folder, "existence,colour")
    for scoring in (DISCRIMINATIVE, GENERATIVE):
        with pytest.raises(ValueError, match="no .*parser 'lmms-eval'"):
            scoring.tally(items, ["Yes"] * len(items), "lmms-eval")


def test_descriptions_are_refused_before_they_are_made_where_nouns_cannot_be_found(tmp_path):
    """Nobody wants to learn after a thousand descriptions that NLTK is missing."""
    if find_spec("nltk") is not None:
        pytest.skip("NLTK is installed")
    folder = write_amber(tmp_path)
    (folder / "images").mkdir(exist_ok=True)
    for number in range(1, len(OBJECTS) + 1):
        (folder / "images" / f"AMBER_{number}.jpg").touch()
    settings = {"data": {"amber": folder}, "keeps": [0.5], "benchmarks": ["amber"]}
    with pytest.raises(ImportError, match="pip install nltk.*--subset discriminative") as refused:
        load_benchmarks(EvalSettings(**settings, subsets={"amber": "generative"}))
    assert "--parser" not in str(refused.value), "eval has no such option"
    (questions,) = load_benchmarks(EvalSettings(**settings, subsets={"amber": "discriminative"}))
    assert list(questions.scorings) == ["amber"]
