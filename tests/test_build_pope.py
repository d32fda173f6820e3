"""Questions about one's own images: POPE's rules, the same for every order, and POPE itself."""

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lvlm_prune.commands.build_pope import build_pope
from lvlm_prune.eval.build_pope import Objects, build, negatives, question
from lvlm_prune.eval.object_annotations import read_annotations
from lvlm_prune.eval.pope import load

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SPLITS = ("random", "popular", "adversarial")
THINGS = (
    "apple",
    "book",
    "chair",
    "dog",
    "elk",
    "fork",
    "goat",
    "hat",
    "ink",
    "jar",
    "kite",
    "urn",
)
needs_goldens = pytest.mark.skipif(
    not (DATA / "chair/pope500_gt_objects.json").is_file(),
    reason="no ../shared/data/chair/pope500_gt_objects.json beside the repository",
)


def scenes(count: int = 40, seed: int = 0) -> dict[str, list[str]]:
    """Images with 2 to 6 objects, the first ones of the alphabet more often."""
    rng = random.Random(seed)
    return {
        f"{n:03d}.jpg": sorted({rng.choice(THINGS[: rng.randint(4, 12)]) for _ in range(6)})
        for n in range(count)
    }


def name_in(record: dict) -> str:
    """The object that a question asks for."""
    found = re.fullmatch(r"Is there an? (.+) in the image\?", record["text"])
    assert found is not None
    return found.group(1)


def by_image(records: list[dict]) -> dict[str, list[dict]]:
    """The questions about each image, in order."""
    found: dict[str, list[dict]] = {}
    for record in records:
        found.setdefault(record["image"], []).append(record)
    return found


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("per_image", "min_objects"), [(6, 3), (2, 1), (4, 4)])
def test_questions_of_a_split(split, per_image, min_objects):
    there = scenes()
    used = sorted(image for image, names in there.items() if len(names) >= min_objects)
    records = build(there, 3, per_image, min_objects)[split]
    assert [record["question_id"] for record in records] == list(range(1, len(records) + 1))
    assert list(by_image(records)) == used
    for image, block in by_image(records).items():
        assert [record["label"] for record in block] == ["yes", "no"] * (per_image // 2)
        assert len({name_in(record) for record in block}) == per_image
        for record in block:
            assert (name_in(record) in there[image]) == (record["label"] == "yes")


def test_the_same_objects_are_asked_for_with_yes_in_all_splits():
    built = build(scenes())
    yes = [[each for each in built[split] if each["label"] == "yes"] for split in SPLITS]
    assert yes[0] == yes[1] == yes[2]


@pytest.mark.parametrize("seed", range(3))
def test_popular_and_adversarial_equal_a_slow_count(seed):
    there = scenes(seed=seed)
    used = [names for names in there.values() if len(names) >= 3]
    built = build(there, seed)
    for split in ("popular", "adversarial"):
        for image, block in by_image(built[split]).items():
            taken = set(there[image])
            for yes, no in zip(block[::2], block[1::2], strict=True):
                beside = name_in(yes) if split == "adversarial" else None
                counts = {
                    name: sum(name in names and beside in (None, *names) for names in used)
                    for name in THINGS
                    if name not in taken
                }
                best = max(counts.values())
                first = min(name for name in counts if counts[name] == best)
                assert name_in(no) == first or best == 0
                taken.add(name_in(no))


def test_random_objects_are_drawn_from_all():
    drawn = Counter(
        name_in(record)
        for seed in range(20)
        for record in build(scenes(), seed)["random"]
        if record["label"] == "no"
    )
    assert set(drawn) == set(THINGS)
    assert max(drawn.values()) < 0.2 * sum(drawn.values())


def test_the_seed_and_nothing_else_decides():
    there = scenes()
    reverse = {image: there[image][::-1] * 2 for image in reversed(there)}
    assert build(there, 5) == build(reverse, 5)
    assert build(there, 5) != build(there, 6)


def test_each_image_has_its_own_draw():
    alike = {f"{n}.jpg": THINGS[:6] for n in range(30)} | {"other.jpg": THINGS[6:]}
    blocks = by_image(build(alike)["popular"])
    asked = {image: tuple(map(name_in, block[::2])) for image, block in blocks.items()}
    assert len(set(asked.values())) > 15
    fewer = {image: alike[image] for image in ("7.jpg", "other.jpg")}
    alone = by_image(build(fewer)["popular"])["7.jpg"]
    assert tuple(map(name_in, alone[::2])) == asked["7.jpg"]


def test_a_sample_of_the_images():
    built = build(scenes(), sample=7)
    images = {split: list(by_image(built[split])) for split in SPLITS}
    assert images["random"] == images["popular"] == images["adversarial"]
    assert len(images["random"]) == 7
    assert images["random"] != list(by_image(build(scenes(), 1, sample=7)["random"]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dog", "Is there a dog in the image?"),
        ("elk", "Is there an elk in the image?"),
        ("Umbrella", "Is there an Umbrella in the image?"),
        ("dining table", "Is there a dining table in the image?"),
    ],
)
def test_articles(name, text):
    assert question(name) == text


@pytest.mark.parametrize(
    ("there", "settings", "message"),
    [
        ({"a.jpg": ["cat"], "b.jpg": list(THINGS)}, {"min_objects": 1}, "a.jpg has 1 objects, 3"),
        ({"a.jpg": THINGS, "b.jpg": THINGS[:4]}, {}, "a.jpg has too many objects: 0 known"),
        ({"a.jpg": ["cat", "dog"]}, {}, "0 of 1 images have 3 objects"),
        ({"a.jpg": THINGS[:3], "b.jpg": THINGS[3:6]}, {"sample": 3}, "2 of 2 .* 3 needed"),
        ({"a.jpg": THINGS}, {"per_image": 5}, "must be an even number, got 5"),
    ],
)
def test_what_cannot_be_asked_is_named(there, settings, message):
    with pytest.raises(ValueError, match=message):
        build(there, **settings)


def lines(there: dict[str, list[str]]) -> str:
    """JSON Lines."""
    return "".join(json.dumps({"image": k, "objects": v}) + "\n" for k, v in there.items())


def instances(there: dict[str, list[str]]) -> str:
    """COCO's format, each object annotated twice."""
    images = [{"id": 10 + n, "file_name": name} for n, name in enumerate(there)]
    categories = [{"id": 90 - n, "name": name} for n, name in enumerate(THINGS)]
    ids = {one["name"]: one["id"] for one in categories}
    annotations = [
        {"image_id": image["id"], "category_id": ids[name]}
        for image, names in zip(images, there.values(), strict=True)
        for name in names * 2
    ]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


FORMATS = {
    "lines": lines,
    "array": lambda there: json.dumps([{"image": k, "objects": v} for k, v in there.items()]),
    "by image": json.dumps,
    "instances": instances,
}


@pytest.mark.parametrize("form", FORMATS)
def test_annotations_in_all_formats(tmp_path, form):
    path = tmp_path / "shelf.json"
    path.write_text(FORMATS[form](scenes()), encoding="utf-8")
    assert read_annotations(path) == {image: frozenset(v) for image, v in scenes().items()}


def test_one_object_has_one_name(tmp_path):
    path = tmp_path / "shelf.json"
    spelled = {
        "a.jpg": ["Dog", "dog ", " DOG", "traffic  light", "TV"],
        "b.jpg": ["Dog", "Traffic light", "tv", "Elk"],
        "c.jpg": ["dog", "traffic\tlight", "TV", "elk"],
    }
    alike = {
        "a.jpg": {"dog", "traffic light", "TV"},
        "b.jpg": {"dog", "traffic light", "TV", "elk"},
        "c.jpg": {"dog", "traffic light", "TV", "elk"},
    }
    for turned in (spelled, dict(reversed(spelled.items()))):
        path.write_text(lines(turned), encoding="utf-8")
        assert read_annotations(path) == alike
    path.write_text(lines({"a.jpg": ["Stra\u00dfe"], "b.jpg": ["STRASSE"]}), encoding="utf-8")
    assert len(set(read_annotations(path).values())) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no records"),
        (lines({"a.jpg": ["dog\nYes"]}), "the object 'dog.+Yes'; a name stands on one line"),
        ('{"image": "a.jpg"}', "image needs|needs a list of names"),
        ('{"image": "a.jpg", "objects": "dog"}', "line 1 needs a list of names"),
        ('{"image": "a.jpg", "objects": ["dog", 5]}', "line 1 needs a list of names"),
        ('{"image": 5, "objects": ["dog"]}', "line 1 needs a text under image"),
        ('{"image": "../a.jpg", "objects": []}', "not inside a folder of images"),
        (lines({"a.jpg": ["dog"]}) * 2, "line 2 is about a.jpg, which appeared before"),
        (lines({"a.jpg": ["dog"]}) + "{", "line 2 is no JSON"),
        ('{"images": [], "annotations": [{}], "categories": []}', "no file of COCO instances"),
    ],
)
def test_broken_annotations_are_named(tmp_path, text, message):
    path = tmp_path / "shelf.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_annotations(path)


def command(*arguments: str):
    """Run the command alone."""
    app = typer.Typer()
    app.command()(build_pope)
    return CliRunner().invoke(app, list(arguments))


def test_the_command_writes_files_that_the_loader_reads(tmp_path):
    annotations, images, out = tmp_path / "shelf.jsonl", tmp_path / "photos", tmp_path / "out"
    annotations.write_text(lines(scenes()), encoding="utf-8")
    images.mkdir()
    for image in scenes():
        (images / image).touch()
    settings = ["--out", str(out), "--images", str(images), "--seed", "4"]
    assert command(str(annotations), *settings).exit_code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(before) == {f"shelf_pope_{split}.json" for split in SPLITS}
    again = command(str(annotations), *settings)
    assert isinstance(again.exception, FileExistsError)
    assert "shelf_pope_random.json" in str(again.exception)
    assert "--overwrite" in str(again.exception)
    assert command(str(annotations), *settings, "--overwrite").exit_code == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    benchmark, built = load(out, images=images), build(scenes(), 4)
    assert [item.question for item in benchmark.items] == [
        record["text"] for split in SPLITS for record in built[split]
    ]
    assert all(path.is_file() for path in benchmark.files.values())


def test_files_that_are_there_stay_as_they_are(tmp_path):
    annotations, out = tmp_path / "shelf.jsonl", tmp_path / "out"
    annotations.write_text(lines(scenes()), encoding="utf-8")
    out.mkdir()
    (out / "shelf_pope_adversarial.json").write_text("mine")
    found = command(str(annotations), "--out", str(out))
    assert "adversarial" in str(found.exception)
    assert [path.read_text() for path in out.iterdir()] == ["mine"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    annotations, out = tmp_path / "shelf.jsonl", tmp_path / "out"
    annotations.write_text(lines(scenes()), encoding="utf-8")
    out.write_text("a file")
    found = command(str(annotations), "--out", str(out))
    assert isinstance(found.exception, OSError)
    assert str(found.exception).startswith(f"--out {out} cannot be written")


def test_images_that_are_not_there_are_named(tmp_path):
    path = tmp_path / "shelf.json"
    path.write_text(lines(scenes()), encoding="utf-8")
    found = command(str(path), "--out", str(tmp_path / "out"), "--images", str(tmp_path))
    assert isinstance(found.exception, FileNotFoundError)
    assert "images are not in" in str(found.exception)
    assert not (tmp_path / "out").exists()


@needs_goldens
@pytest.mark.parametrize("split", ["popular", "adversarial"])
def test_popes_own_objects_are_chosen(split):
    there = read_annotations(DATA / "chair/pope500_gt_objects.json")
    published = load(DATA / "pope", f"coco/{split}").items
    records = [{"image": i.image, "text": i.question, "label": i.label} for i in published]
    counts = Objects.of(there.values())
    asked = 0
    for image, block in by_image(records).items():
        taken = set(there[image])  # of objects that tie, POPE took what came first in its file
        for yes, no in zip(block[::2], block[1::2], strict=True):
            positive, theirs = name_in(yes), name_in(no)
            (ours,) = negatives(split, [positive], taken, counts, "0")
            score = counts.images if split == "popular" else counts.together[positive]
            assert (score[theirs], theirs in taken) == (score[ours], False)
            taken.add(theirs)
            asked += 1
    assert asked == 1500
