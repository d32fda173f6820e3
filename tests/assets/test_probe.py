"""The frozen probe is whole, balanced and agrees with its own truth."""

import json
from collections import Counter, defaultdict

import pytest
from PIL import Image

from lvlm_prune.assets import asset, example_images, probe_path

PROBE = probe_path()
TRUTH = json.loads((PROBE / "scenes.json").read_text())
SCENES = {scene["image"]: scene for scene in TRUTH["scenes"]}
SPLITS = ("random", "popular", "adversarial")


def pope(split):
    return [json.loads(line) for line in (PROBE / f"pope_{split}.jsonl").read_text().splitlines()]


def mme(kind):
    lines = (PROBE / "mme" / f"{kind}.txt").read_text().splitlines()
    return [line.split("\t") for line in lines]


def mme_kinds():
    return sorted(path.stem for path in (PROBE / "mme").glob("*.txt"))


def present(image):
    return {thing["class"] for thing in SCENES[image]["objects"]}


def blind_bound(questions):
    answers = defaultdict(Counter)
    for text, answer in questions:
        answers[text][answer] += 1
    return sum(max(c.values()) for c in answers.values()) / len(questions)


def test_images_match_the_truth_and_are_small():
    files = sorted((PROBE / "images").iterdir())
    assert [path.name for path in files] == list(SCENES)
    assert len(files) == 320
    assert sum(p.stat().st_size for p in PROBE.rglob("*") if p.is_file()) <= 6_000_000
    for path in files[::20]:
        with Image.open(path) as image:
            assert (image.format, image.size) == ("JPEG", (112, 112))
    assert example_images(2) == files[:2]


def test_boxes_lie_inside_and_patch_labels_lie_on_their_boxes():
    classes = TRUTH["classes"]
    for scene in SCENES.values():
        boxes = defaultdict(list)
        for thing in scene["objects"]:
            x0, y0, x1, y1 = thing["box"]
            assert 0 <= x0 < x1 <= 112
            assert 0 <= y0 < y1 <= 112
            boxes[thing["class"]].append((x0, y0, x1, y1))
        for row, labels in enumerate(scene["patch_labels"]):
            for column, label in enumerate(labels):
                assert -2 <= label < len(classes)
                if label >= 0:
                    x, y = 8 * column, 8 * row
                    near = boxes[classes[label]]
                    assert any(a < x + 8 and x < c and b < y + 8 and y < d for a, b, c, d in near)


def test_about_one_object_in_eight_is_in_a_held_out_rendering():
    things = [thing for scene in SCENES.values() for thing in scene["objects"]]
    held = [thing for thing in things if thing["held_out"]]
    assert 0.08 < len(held) / len(things) < 0.17
    assert {thing["class"] for thing in held} == set(TRUTH["classes"])
    seen = {(t["class"], t["rendering"]) for t in things if not t["held_out"]}
    assert not seen & {(t["class"], t["rendering"]) for t in held}


@pytest.mark.parametrize("split", SPLITS)
def test_pope_records_have_popes_format_and_true_labels(split):
    rows = pope(split)
    assert [row["question_id"] for row in rows] == list(range(1, 6 * len(SCENES) + 1))
    assert [row["label"] for row in rows] == ["yes", "no"] * (3 * len(SCENES))
    for start in range(0, len(rows), 6):
        assert len({(row["image"], row["text"]) for row in rows[start : start + 6]}) == 6
    for row in rows:
        words = row["text"].split()
        assert (words[:2], words[4:]) == (["Is", "there"], ["in", "the", "image?"])
        assert words[2] == ("an" if words[3][0] in "aeiou" else "a")
        assert (words[3] in present(row["image"])) == (row["label"] == "yes")


def test_pope_splits_share_their_yes_questions():
    yes = [{(r["image"], r["text"]) for r in pope(s) if r["label"] == "yes"} for s in SPLITS]
    assert yes[0] == yes[1] == yes[2]


def test_popular_negatives_are_the_most_frequent_absent_classes():
    often = Counter(label for image in SCENES for label in present(image))
    rows = pope("popular")
    for image in SCENES:
        asked = {r["text"].split()[3] for r in rows if r["image"] == image and r["label"] == "no"}
        rest = set(TRUTH["classes"]) - present(image) - asked
        assert min(often[label] for label in asked) >= max(often[label] for label in rest)


@pytest.mark.parametrize("kind", mme_kinds())
def test_mme_records_are_pairs_of_yes_and_no(kind):
    rows = mme(kind)
    assert len(rows) >= 100
    assert [answer for _, _, answer in rows] == ["Yes", "No"] * (len(rows) // 2)
    assert all(text.endswith(" Please answer yes or no.") for _, text, _ in rows)
    images = [image for image, _, _ in rows]
    assert images[::2] == images[1::2]
    assert len(set(images)) == len(rows) // 2


def test_mme_colors_and_counts_agree_with_the_truth():
    for image, text, answer in mme("color"):
        words = text.split()
        found = {(t["color"], t["class"]) for t in SCENES[image]["objects"]}
        assert ((words[3], words[4]) in found) == (answer == "Yes")


@pytest.mark.parametrize("kind", [k for k in mme_kinds() if k != "relation"])
def test_a_blind_answerer_is_right_half_of_the_time(kind):
    assert blind_bound([(text, answer) for _, text, answer in mme(kind)]) == pytest.approx(0.5)


def test_a_missing_asset_is_an_error_that_lists_what_exists():
    with pytest.raises(FileNotFoundError, match=r"scenes\.json"):
        asset("probe", "scene.json")
