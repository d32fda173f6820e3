"""Images that are not there: which, how many, where from; and the command that checks a folder."""

import json

import pytest
import typer
from typer.testing import CliRunner

from lvlm_prune.commands.benchmarks import benchmarks
from lvlm_prune.eval.benchmark import Benchmark, Item
from lvlm_prune.eval.benchmarks import BENCHMARKS
from lvlm_prune.eval.missing import (
    MissingImagesError,
    addresses,
    check_images,
    missing_images,
    write_missing,
)

app = typer.Typer(rich_markup_mode=None)
app.command()(benchmarks)


def named(number):
    return f"COCO_val2014_{number:012d}.jpg"


def made_up(folder, names, name="pope"):
    """A benchmark whose every image has two questions, and one question without an image."""
    items = [
        Item(f"{name}/{image}/{number}", image, f"Question {number}?", "yes", name, "random")
        for image in (*names, None)
        for number in (range(2) if image else range(1))
    ]
    files = {image: folder / image for image in names}
    return Benchmark(name, tuple(items), files, {}, {}, {}, "made up")


@pytest.fixture
def half(tmp_path):
    """Thirty images, of which every other one is there."""
    names = [named(number) for number in range(30)]
    for image in names[::2]:
        (tmp_path / image).write_bytes(b"an image")
    return made_up(tmp_path, names)


def test_names_in_order_of_use(half):
    assert missing_images(half) == [named(number) for number in range(1, 30, 2)]


def test_nothing_missing_is_no_error(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"an image")
    check_images(made_up(tmp_path, ["a.jpg"]))
    check_images(made_up(tmp_path, []))


def test_the_message_counts_names_places_and_where_from(half, tmp_path):
    with pytest.raises(MissingImagesError) as caught:
        check_images(half)
    message = str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    assert message.startswith("15 of 30 images of pope are missing: ")
    assert all(named(number) in message for number in range(1, 20, 2))
    assert named(21) not in message
    assert "and 5 more" in message
    assert str(tmp_path) in message
    assert f"http://images.cocodataset.org/val2014/{named(1)}" in message
    assert "--images" in message
    assert caught.value.missing == missing_images(half)


def test_names_that_coco_does_not_have_come_from_the_authors(tmp_path):
    with pytest.raises(MissingImagesError, match=r"github.com/junyangwang0410/AMBER"):
        check_images(made_up(tmp_path, ["AMBER_1.jpg"], "amber"))
    with pytest.raises(MissingImagesError, match="1 of 1 images of mine are missing: a.jpg"):
        check_images(made_up(tmp_path, ["a.jpg"], "mine"))


def test_a_folder_or_a_name_without_a_file_is_missing(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    found = made_up(tmp_path, ["a.jpg", "b.jpg"])
    nowhere = Benchmark("x", found.items, {"a.jpg": tmp_path / "a.jpg"}, {}, {}, {}, "")
    assert missing_images(nowhere) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("COCO_val2014_000000000042.jpg", ["val2014/COCO_val2014_000000000042.jpg"]),
        ("val2014/COCO_train2014_000000000042.jpg", ["train2014/COCO_train2014_000000000042.jpg"]),
        ("000000006040.jpg", ["val2017/000000006040.jpg", "train2017/000000006040.jpg"]),
        ("2405722.jpg", []),
        ("COCO_val2014_42.jpg", []),
        ("posters/0001.jpg", []),
    ],
)
def test_addresses(name, expected):
    assert addresses(name) == [f"http://images.cocodataset.org/{rest}" for rest in expected]


def test_the_list_has_one_name_a_line_with_its_address(half, tmp_path):
    path = tmp_path / "lists" / "missing.txt"
    assert write_missing(half, path) == 15
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    assert lines == [[name, *addresses(name)] for name in missing_images(half)]


@pytest.fixture
def pope(tmp_path):
    rows = [
        {"question_id": n, "image": named(n // 2), "text": f"Is it {n}?", "label": label}
        for n, label in enumerate(("yes", "no") * 3, 1)
    ]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (tmp_path / "coco_pope_random.json").write_text(text)
    return tmp_path


def test_the_command_checks_a_folder(pope, tmp_path):
    listed = tmp_path / "missing.txt"
    call = ["pope", "--data", str(pope), "--missing", str(listed)]
    found = CliRunner().invoke(app, call)
    assert found.exit_code == 1
    assert "6 lines, 6 different prompts: random 6" in found.output
    assert "images     4, missing 4" in found.output
    assert BENCHMARKS["pope"].licence in found.output
    assert len(listed.read_text().splitlines()) == 4
    (pope / "images").mkdir()
    for number in range(4):
        (pope / "images" / named(number)).write_bytes(b"an image")
    found = CliRunner().invoke(app, call)
    assert (found.exit_code, listed.read_text()) == (0, "")
    assert "missing 0" in found.output


@pytest.mark.parametrize("where", ["folder", "below a file"])
def test_a_list_that_cannot_be_written_is_named(pope, tmp_path, where):
    (tmp_path / "file").touch()
    path = tmp_path if where == "folder" else tmp_path / "file" / "missing.txt"
    result = CliRunner().invoke(app, ["pope", "--data", str(pope), "--missing", str(path)])
    assert isinstance(result.exception, OSError)
    assert str(result.exception).startswith(f"--missing {path} cannot be written: ")
    assert "Errno" not in str(result.exception)


@pytest.mark.parametrize(("stem", "own"), [("coco", False), ("gqa", False), ("shelf", True)])
def test_the_licence_of_questions_of_ones_own_is_not_popes(tmp_path, stem, own):
    record = {"image": "1.jpg", "text": "Is there a cup?", "label": "yes"}
    path = tmp_path / f"{stem}_pope_random.json"
    path.write_text(json.dumps(record))
    words = " ".join(CliRunner().invoke(app, ["pope", "--data", str(path)]).stdout.split())
    assert ("your own questions" in words) == own
    assert ("questions MIT" in words) != own


def test_the_command_lists_all_and_tells_what_one_needs():
    every = CliRunner().invoke(app, [])
    assert every.exit_code == 0
    for name, entry in BENCHMARKS.items():
        assert f"\n{name} " in every.output
        one = CliRunner().invoke(app, [name])
        text = " ".join(one.output.split())
        assert one.exit_code == 0
        assert entry.needs in text
        assert entry.licence in text
        assert max(map(len, one.output.splitlines())) <= 100


def test_the_command_refuses_what_it_cannot_check():
    unknown = CliRunner().invoke(app, ["popes"])
    assert "no benchmark 'popes'; there are probe, pope, mme" in str(unknown.exception)
    nameless = CliRunner().invoke(app, ["--data", "somewhere"])
    assert "--data is about one benchmark" in str(nameless.exception)
