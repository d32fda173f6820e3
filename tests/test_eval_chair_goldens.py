"""CHAIR against the official script's own words and numbers on real captions."""

import json

import pytest
from benchmark_goldens import benchmark_folder

from lvlm_prune.eval.chair import SCORING, load
from lvlm_prune.eval.chair_words import coco_vocabulary, split

FILES = ("Instruction1_llava_150", "Instruction2_llava_150")
WORDS = coco_vocabulary()


def read(name):
    """A golden file."""
    return json.loads((benchmark_folder("chair") / "goldens" / f"{name}.json").read_text())


def test_tricky_captions():
    """Words outside the list keep their plural here, which no count depends on."""
    for row in read("tricky"):
        tokens = WORDS.tokens(row["caption"])
        assert WORDS.words(row["caption"]) == row["words"]
        assert WORDS.mentions(row["caption"]) == row["node_words"]
        assert len(tokens) == len(row["tokens"]), "so many tokens, which is the length"
        outside = set(split(row["caption"])) - set(WORDS.singular)
        pairs = zip(tokens, row["tokens"], strict=True)
        assert all(mine == theirs or mine in outside for mine, theirs in pairs)


@pytest.mark.parametrize("name", FILES)
def test_words_of_every_caption(name):
    for row in read(name):
        assert WORDS.words(row["caption"]) == row["words"]
        assert WORDS.mentions(row["caption"]) == row["node_words"]


@pytest.mark.parametrize("name", FILES)
def test_numbers(name):
    items = {
        item.id: item
        for item in load(benchmark_folder("chair") / "goldens" / "gt_objects.json").items
    }
    rows = read(name)
    lines = [items[f"chair/{row['image_id']}"] for row in rows]
    tally = SCORING.tally(lines, [row["caption"] for row in rows], "official")
    numbers = SCORING.metrics(tally.columns, tally.total, "official")
    found = SCORING.layout({key: float(value) for key, value in numbers.items()})
    expected = read("expected")[name]
    assert {key: found[key] for key in expected} == expected


def test_the_objects_of_popes_images():
    found = load(benchmark_folder("chair") / "pope500_gt_objects.json")
    assert len(found.items) == len(found.images) == 500


def test_every_form_of_the_table():
    """The bundled table leaves out the forms that are their own singular, and pairs of words."""
    table = json.loads((benchmark_folder("chair") / "surface_to_lemma.json").read_text())
    single = {form: lemma for form, lemma in table.items() if " " not in form}
    assert {form: WORDS.singular.get(form, form) for form in single} == single
