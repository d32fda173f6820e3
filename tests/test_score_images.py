"""Captions are joined by the image's exact name, and else by the number in it."""

import json
import random

import pytest
from made_up_answers import write_lines

from lvlm_prune.eval.chair import load
from lvlm_prune.eval.score import Request, score
from lvlm_prune.eval.score_error import ScoreError

# Of the names in each group, CHAIR's tools would take the same number.
NAMES = (
    ("7.jpg", "COCO_val2014_000000000007.jpg"),
    ("a/1.jpg", "b/1.jpg", "1.jpg"),
    ("7", "7.jpg", "007.jpg"),
    ("img_12.jpg", "photo_12.jpg", "12.jpg"),
)
THINGS = ("dog", "cat", "car")


def labels_of(folder, names):
    """Each image holds another object."""
    path = folder / "objects.json"
    path.write_text(json.dumps({name: [thing] for name, thing in zip(names, THINGS, strict=False)}))
    return path


@pytest.mark.parametrize("key", ["image_id", "image", "id"])
@pytest.mark.parametrize("names", NAMES)
def test_an_exact_name_is_that_image(tmp_path, names, key):
    captions = [
        {key: name, "caption": f"A {thing}."} for name, thing in zip(names, THINGS, strict=False)
    ]
    random.Random(0).shuffle(captions)
    file = write_lines(tmp_path / "captions.jsonl", captions)
    found = score(Request("chair", file, labels_of(tmp_path, names)))
    assert (found["n"], found["CHAIRi"], found["Recall"]) == (len(names), 0, 1)


@pytest.mark.parametrize("turned", [False, True])
def test_exact_names_come_before_numbers_and_running_ids(tmp_path, turned):
    """Two captions name their image, one gives its number alone; `question_id` just counts."""
    labels = labels_of(tmp_path, ("7.jpg", "COCO_val2014_000000000008.jpg", "0"))
    captions = [
        {"image_id": "7.jpg", "question_id": 0, "caption": "A dog."},
        {"image_id": 8, "question_id": 7, "caption": "A cat."},
        {"image_id": 0, "question_id": 8, "caption": "A car."},
    ]
    file = write_lines(tmp_path / "captions.jsonl", captions[:: -1 if turned else 1])
    found = score(Request("chair", file, labels))
    assert (found["n"], found["CHAIRi"], found["Recall"]) == (3, 0, 1)


def test_a_number_that_two_images_have_is_no_name(tmp_path):
    labels = labels_of(tmp_path, NAMES[0])
    captions = [{"image_id": "7.jpg", "caption": "A dog."}, {"image_id": "07", "caption": "A cat."}]
    file = write_lines(tmp_path / "captions.jsonl", captions)
    with pytest.raises(ScoreError, match="belong to no line") as refused:
        score(Request("chair", file, labels))
    assert refused.value.name == "unknown_ids"


@pytest.mark.parametrize("names", NAMES)
def test_a_list_of_images_names_them_exactly(tmp_path, names):
    labels, listed = labels_of(tmp_path, names), tmp_path / "list.txt"
    for name in names:
        listed.write_text(f"{name}\n")
        (item,) = load(labels, str(listed)).items
        assert item.id == f"chair/{name}"


def test_a_list_with_a_number_that_two_images_have(tmp_path):
    labels, listed = labels_of(tmp_path, NAMES[0]), tmp_path / "list.txt"
    listed.write_text("0007\n")
    with pytest.raises(ValueError, match="may be 7.jpg or COCO_val2014_0+7.jpg"):
        load(labels, str(listed))
