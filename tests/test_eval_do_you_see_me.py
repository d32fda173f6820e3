"""Do-You-See-Me on made-up dimensions: what counts as the same answer, and its folders."""

import csv

import numpy as np
import pytest

from lvlm_prune.eval.benchmark import Item
from lvlm_prune.eval.do_you_see_me import QUESTIONS, SCORING, load


def write(folder, rows, columns=("filename", "question", "answer", "sweep")):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "dataset_info.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture
def folder(tmp_path):
    rows = [("0.svg", f"How many dots, round {n}?", n, "(3, 3)") for n in range(3)]
    write(tmp_path / "2D_DoYouSeeMe" / "visual_spatial", rows)
    rows = [("a.png", "Which letters?", "XBB", "[1]"), ("b.png", "Which letters?", "Q", "[2]")]
    write(tmp_path / "3D_DoYouSeeMe" / "3D_letter_disambiguation", rows)
    rows = [("1.png", 4, "[0.1]"), ("2.png", 2, "[0.1]")]
    columns = ("filename", "answer", "sweep")
    write(tmp_path / "2D_DoYouSeeMe" / "visual_closure", rows, columns)
    return tmp_path


@pytest.mark.parametrize(
    ("label", "answer", "official", "last"),
    [
        ("3", "3", True, True),
        ("3", "There are three.", True, True),
        ("3", "Option 3, the right one", True, True),
        ("3", "Option 3. Yes, option 3.", True, True),
        ("3", "2 and 1 make 3", False, True),
        ("3", "3 of 5", False, False),
        ("3", "13", False, False),
        ("3", "None", False, False),
        ("0", "zero", True, True),
        ("2", "2.0", True, True),
        ("No", "no, they differ", True, True),
        ("No", "Yes. Or no", False, True),
        ("No", "Nope", False, False),
        ("XBB", "XBB", True, True),
        ("XBB", "x, b, b.", True, False),
        ("XBB", "The letters are X, B, B", False, True),
        ("XBB", "XB", False, False),
        ("Q", "I see the letter Q.", False, True),
        ("Q", "", False, False),
    ],
)
def test_the_same_answer(label, answer, official, last):
    item = Item("x/1", "1.png", "?", label, "do-you-see-me", "x")
    assert SCORING.right(item, answer, "official") == official
    assert SCORING.right(item, answer, "last") == last


@pytest.mark.parametrize("label", ["3", "no", "XBB"])
def test_what_cannot_be_read(label):
    item = Item("x/1", "1.png", "?", label, "do-you-see-me", "x")
    assert SCORING.parse(item, "  ", "official") == "empty"
    assert SCORING.parse(item, "this picture is far too blurred for me", "official") == "unparsed"


def test_dimensions_are_found_at_any_depth(folder):
    found = load(folder)
    assert [item.id for item in found.items] == [
        *(f"do-you-see-me/visual_closure/{n}" for n in (1, 2)),
        *(f"do-you-see-me/visual_spatial/{n}" for n in (1, 2, 3)),
        *(f"do-you-see-me/3D_letter_disambiguation/{n}" for n in (1, 2)),
    ]
    assert found.items[0].question == QUESTIONS["visual_closure"]
    # A drawing stands for the picture beside it, and questions share it.
    assert {item.image for item in found.items[2:5]} == {"visual_spatial/0.png"}
    spatial = folder / "2D_DoYouSeeMe" / "visual_spatial"
    assert found.files["visual_spatial/0.png"] == spatial / "0.png"
    assert set(found.files) == set(found.images)
    alone = load(spatial)
    assert [item.id for item in alone.items] == [item.id for item in found.items[2:5]]
    assert load(spatial / "dataset_info.csv").items == alone.items


@pytest.mark.parametrize(
    ("subset", "dimensions"),
    [
        ("2D", {"visual_closure", "visual_spatial"}),
        ("3D", {"3D_letter_disambiguation"}),
        ("3D, visual_closure", {"visual_closure", "3D_letter_disambiguation"}),
    ],
)
def test_subsets(folder, subset, dimensions):
    assert {item.split for item in load(folder, subset).items} == dimensions


def test_accuracy_is_the_mean_over_dimensions(folder):
    found = load(folder)
    rng = np.random.default_rng(0)
    answers = [item.label if rng.random() < 0.6 else "?" for item in found.items]
    answers[3] = None
    right: dict[str, list[bool]] = {}
    for item, answer in zip(found.items, answers, strict=True):
        if answer is not None:
            right.setdefault(item.split, []).append(answer == item.label)
    counted = SCORING.tally(found.items, answers, "official")
    numbers = SCORING.layout(SCORING.metrics(counted.columns, counted.total, "official"))
    own = {split: sum(each) / len(each) for split, each in right.items()}
    every = [one for each in right.values() for one in each]
    assert numbers["dimensions"] == pytest.approx(own)
    assert numbers["accuracy"] == pytest.approx(sum(own.values()) / len(own))
    assert numbers["pooled"] == pytest.approx(sum(every) / len(every))
    assert 0 < numbers["accuracy"] < 1
    assert len(counted.units) == 5


def test_what_is_missing_is_named(folder):
    with pytest.raises(FileNotFoundError, match="holds no dataset_info.csv"):
        load(folder / "images")
    with pytest.raises(ValueError, match="no subset 'letters' of do-you-see-me; there are 2D, 3D"):
        load(folder, "letters")
    write(folder / "dataset" / "visual_spatial", [("0.png", "How many?", 1, "")])
    with pytest.raises(ValueError, match="visual_spatial is in .* pass one"):
        load(folder)
    write(folder / "dataset" / "color", [("0.png", "How many?", "", "")])
    with pytest.raises(ValueError, match="line 1 of .* has no answer"):
        load(folder / "dataset" / "color")
    write(folder / "dataset" / "color", [("0.png", 3)], ("filename", "answer"))
    with pytest.raises(ValueError, match="line 1 of .* has no question"):
        load(folder / "dataset" / "color")
    write(folder / "dataset" / "color", [("../0.png", "How many?", 1, "")])
    with pytest.raises(ValueError, match="line 1 of .* has the image '../0.png'"):
        load(folder / "dataset" / "color")
