"""POPE's question files: JSON Lines, arrays, folders as people have them, current and legacy."""

import json
from pathlib import Path

import pytest

from lvlm_prune.eval.pope import load

SPLITS = ("random", "popular", "adversarial")


def rows(count: int = 6, thing: str = "lamp", place: str = "image") -> list[dict]:
    """Questions about one image for each six."""
    return [
        {
            "question_id": n + 1,
            "image": f"shelf_{n // 6}.jpg",
            "text": f"Is there a {thing} {n % 6} in the {place}?",
            "label": ("yes", "no")[n % 2],
        }
        for n in range(count)
    ]


def write(path: Path, records: list[dict], array: bool = False) -> Path:
    """A question file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(json.dumps(each) for each in records) + "\n"
    path.write_text(json.dumps(records, indent=1) if array else text, encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """POPE's output folder: coco as lines, aokvqa and gqa as arrays."""
    for split in SPLITS:
        write(tmp_path / f"output/coco/coco_pope_{split}.json", rows(12, split))
        write(tmp_path / f"output/seem/aokvqa/aokvqa_pope_seem_{split}.json", rows(), array=True)
    write(tmp_path / "output/seem/gqa/gqa_pope_seem_random.json", rows(), array=True)
    return tmp_path


@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        (None, ["random"] * 12 + ["popular"] * 12 + ["adversarial"] * 12),
        ("coco", ["random"] * 12 + ["popular"] * 12 + ["adversarial"] * 12),
        ("coco/popular", ["popular"] * 12),
        ("adversarial", ["adversarial"] * 12),
        ("aokvqa", ["random"] * 6 + ["popular"] * 6 + ["adversarial"] * 6),
        ("gqa", ["random"] * 6),
    ],
)
def test_subsets(folder, subset, expected):
    benchmark = load(folder, subset)
    assert [item.split for item in benchmark.items] == expected
    assert len({item.id for item in benchmark.items}) == len(expected)
    first = benchmark.items[0]
    assert first.id == f"pope/{first.split}/1"
    assert (first.label, first.image, first.benchmark) == ("yes", "shelf_0.jpg", "pope")
    assert set(benchmark.scorings) == set(benchmark.longest) == {"pope"}


def test_lines_and_arrays_hold_the_same(tmp_path):
    lines = load(write(tmp_path / "coco_pope_random.json", rows()))
    array = load(write(tmp_path / "array/coco_pope_random.json", rows(), array=True))
    assert lines.items == array.items


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_at_the_start_and_other_line_breaks(tmp_path, encoding):
    text = "\r\n".join(json.dumps(each) for each in rows()) + "\r\n\r\n"
    path = tmp_path / "coco_pope_random.json"
    path.write_bytes(text.encode(encoding))
    assert len(load(path).items) == 6


@pytest.mark.parametrize(
    ("name", "source", "split"),
    [
        ("labels24.jsonl", "own", "labels24"),
        ("my popular questions.json", "own", "popular"),
        ("pope_adversarial.jsonl", "own", "adversarial"),
        ("shelf_pope_random.json", "shelf", "random"),
        ("old_coco_pope_random.json", "coco", "random"),
    ],
)
def test_what_a_file_name_says(tmp_path, name, source, split):
    benchmark = load(write(tmp_path / name, rows()))
    assert benchmark.version["subset"] == f"{source}/{split}"
    assert {item.split for item in benchmark.items} == {split}


def test_legacy_files_are_told_apart(tmp_path):
    write(tmp_path / "a/coco_pope_random.json", rows(2910))
    write(tmp_path / "a/coco_pope_popular.json", rows(6, place="imange"))
    assert load(tmp_path).version["edition"] == "legacy"
    write(tmp_path / "b/coco_pope_random.json", rows(12))
    assert load(tmp_path).version["edition"] == "random current, popular legacy"
    assert len(load(tmp_path, "random").items) == 12
    legacy = load(tmp_path, "legacy")
    assert legacy.version["edition"] == "legacy"
    assert len(legacy.items) == 2916
    assert legacy.version != load(tmp_path).version


def test_a_question_that_stands_twice_is_two_lines(tmp_path):
    twice = [*rows(), {**rows()[1], "question_id": 7}]
    assert len(load(write(tmp_path / "gqa_pope_adversarial.json", twice)).items) == 7


@pytest.mark.parametrize("place", ["images", "val2014", "coco/val2014"])
def test_images_are_looked_for_beside_the_questions(tmp_path, place):
    write(tmp_path / "coco/coco_pope_random.json", rows())
    assert load(tmp_path).files == {"shelf_0.jpg": tmp_path / "images/shelf_0.jpg"}
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "shelf_0.jpg").touch()
    assert load(tmp_path).files == {"shelf_0.jpg": tmp_path / place / "shelf_0.jpg"}


def test_images_of_a_folder_that_is_named(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    files = load(folder, images=elsewhere).files
    assert set(files.values()) == {elsewhere / "shelf_0.jpg", elsewhere / "shelf_1.jpg"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "maybe"}, "line 3 has the label 'maybe'"),
        ({"label": None}, "line 3 needs a text under label"),
        ({"text": 5}, "line 3 needs a text under text or question"),
        ({"image": ""}, "line 3 needs a text under image"),
        ({"image": "../secret.jpg"}, "line 3 has the image '../secret.jpg'"),
        ({"question_id": 1}, "line 3 has the question id 1"),
    ],
)
def test_broken_records_are_named(tmp_path, change, message):
    broken = rows()
    broken[2] |= change
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path / "coco_pope_random.json", broken))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no records"),
        (b'{"question_id": 1, "image": "a.jpg"\n', "line 1 is no JSON"),
        (b"[1, 2]", "record 1 is int"),
        (b"\xff\xd8\xff\xe0", "is no text"),
        (b"[" * 100_000, "is no JSON"),
    ],
)
def test_broken_files_are_named(tmp_path, content, message):
    path = tmp_path / "coco_pope_random.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(path)


def test_what_is_not_there_is_named(folder, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match="there is no"):
        load(folder / "nowhere")
    with pytest.raises(FileNotFoundError, match="no question file such as"):
        load(tmp_path_factory.mktemp("empty"))
    with pytest.raises(ValueError, match="no POPE subset 'rare'; here are"):
        load(folder, "rare")
    with pytest.raises(FileNotFoundError, match="no question file of the subset 'gqa/popular'"):
        load(folder, "gqa/popular")


def test_a_choice_between_sources_is_the_users(folder):
    for path in folder.glob("output/coco/*"):
        path.unlink()
    with pytest.raises(ValueError, match="aokvqa, gqa; name one as the subset"):
        load(folder)


def test_two_files_of_a_split_must_agree(folder):
    write(folder / "copy/coco_pope_random.json", rows(12, "random"))
    assert len(load(folder, "coco/random").items) == 12
    write(folder / "copy/coco_pope_random.json", rows(12, "other"))
    with pytest.raises(ValueError, match="different questions of random"):
        load(folder, "coco/random")
