"""CHAIR against counting by hand and by slow loops, and on the bundled probe."""

import json

import numpy as np
import pytest
from tiny_probe import write_probe

from lvlm_prune.assets import probe_path
from lvlm_prune.eval.caption import (
    Captioned,
    CaptionScore,
    Scenes,
    caption_items,
    caption_lines,
    load_scenes,
    score_captions,
    score_next,
)
from lvlm_prune.eval.probe import load_probe

CLASSES = ("bus", "cat", "dog", "person", "orange", "glass")
SCENES = Scenes(
    CLASSES,
    {
        "a": frozenset({"cat", "dog"}),
        "b": frozenset({"bus", "person", "orange"}),
        "c": frozenset({"cat"}),
    },
)


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("a cat , two dogs and a bus .", ["cat", "dog", "bus"]),
        ("two cats , three cats .", ["cat", "cat"]),
        ("Two Buses and people.", ["bus", "person"]),
        ("a catalogue of dogma", []),
        ("a glass , a bu and a s", ["glass"]),
        ("orange dogs", ["orange", "dog"]),
        ("", []),
        ("nothing .", []),
    ],
)
def test_mentions(caption, named):
    assert SCENES.mentions(caption) == named


def test_the_three_numbers_by_hand():
    captions = ["a cat , two dogs and a bus .", "a bus and a cat , a cat .", "nothing ."]
    score = score_captions(captions, ["a", "b", "c"], SCENES)
    assert score.chair_s == pytest.approx(2 / 3), "a bus in a, cats in b"
    assert score.chair_i == pytest.approx(3 / 6), "a repeated mention counts again"
    assert score.recall == pytest.approx(3 / 6), "cat, dog; bus; nothing"
    assert score.mean_mentions == pytest.approx(2)
    assert score.to_dict()["captions"] == 3


def test_equals_a_slow_count():
    rng = np.random.default_rng(0)
    images = [f"{number}.jpg" for number in range(30)]
    present = {i: frozenset(rng.choice(CLASSES, 3, replace=False).tolist()) for i in images}
    said = [rng.choice(CLASSES, rng.integers(0, 6)).tolist() for _ in images]
    score = score_captions([" , ".join(s) for s in said], images, Scenes(CLASSES, present))
    mentions = made_up = sentences = found = there = 0
    for image, names in zip(images, said, strict=True):
        wrong = [name for name in names if name not in present[image]]
        mentions, made_up, sentences = (
            mentions + len(names), made_up + len(wrong), sentences + bool(wrong)
        )  # fmt: skip
        there += len(present[image])
        found += len({name for name in names if name in present[image]})
    assert score.chair_i == pytest.approx(made_up / mentions)
    assert score.chair_s == pytest.approx(sentences / len(images))
    assert score.recall == pytest.approx(found / there)


def test_captions_that_name_nothing():
    score = score_captions(["", "?"], ["a", "b"], SCENES)
    assert (score.chair_s, score.chair_i, score.recall) == (0, 0, 0)


def test_blind_captions_are_those_of_the_next_scene():
    captions = ["cat and dog", "bus , person , orange", "cat"]
    assert score_captions(captions, ["a", "b", "c"], SCENES).chair_i == 0
    blind = score_next(captions, ["a", "b", "c"], SCENES)
    assert blind.made_up.tolist() == [2, 3, 0]
    assert blind.found.tolist() == [0, 0, 1]


def test_unequal_lists():
    with pytest.raises(ValueError, match="1 captions but 2 images"):
        score_captions(["cat"], ["a", "b"], SCENES)


def test_rows_of_the_result_file_add_up():
    captions, images = ["a cat and a bus", "people", ""], ["a", "b", "c"]
    found = Captioned(captions, images, SCENES)
    rows = caption_lines(captions, images, SCENES)
    assert rows == found.lines()
    assert [row["made_up"] for row in rows] == [["bus"], [], []]
    assert [row["missed"] for row in rows] == [["dog"], ["bus", "orange"], ["cat"]]
    assert sum(len(row["mentions"]) for row in rows) == found.score.mentions.sum()
    assert json.loads(json.dumps(found.to_dict()))["against_next_image"]["captions"] == 3


def test_the_probe_says_what_is_in_every_image():
    scenes, probe = load_scenes(probe_path()), load_probe(probe_path())
    assert set(probe.images) <= set(scenes.present)
    for item in probe.items:
        if item.benchmark == "pope":
            noun = item.question.removesuffix(" in the image?").split(" ", 3)[3]
            assert (noun in scenes.present[item.image]) == (item.label == "yes")


def test_every_class_is_found_in_a_description_of_all():
    """The plurals are those that the bundled models were trained on."""
    scenes = load_scenes(probe_path())
    plurals = {"bus": "buses", "person": "people"}
    for name in scenes.classes:
        assert scenes.mentions(f"a {name} .") == [name]
        assert scenes.mentions(f"two {plurals.get(name, name + 's')} .") == [name]


def test_one_request_for_each_image(tmp_path):
    probe = load_probe(write_probe(tmp_path / "probe"))
    items = caption_items(probe.images)
    assert [item.image for item in items] == probe.images
    assert len({item.question for item in items}) == 1
    assert isinstance(
        score_captions(["cat"] * 3, probe.images, load_scenes(tmp_path / "probe")), CaptionScore
    )
