"""Files of other programs are not replaced, and what is in the way of ours is named beforehand."""

import json
import shutil

import pytest
from runner_pope import exit_code, write_model, write_pope

from lvlm_prune.eval.own_files import (
    COMPARED,
    EVERY,
    ForeignFileError,
    check_comparison,
    check_evaluation,
)

OURS = '{"lvlm_prune": "0.4.0"}'


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model and questions."""
    folder = tmp_path_factory.mktemp("own")
    write_model(folder / "model")
    write_pope(folder / "pope", 3)
    return folder


def command(place, out, *more):
    """A short evaluation."""
    words = (
        f"eval --benchmark pope --data {place / 'pope'} --model {place / 'model'} "
        f"--method random --keep 9 --max-new-tokens 2 --out {out}"
    )
    return [*words.split(), *map(str, more)]


@pytest.mark.parametrize("content", ['{"a": 1}', "[]x", '["results"]', "3", "", "\xff"])
def test_results_of_another_program_are_not_replaced(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ForeignFileError, match="results.json was not written by this command"):
        check_evaluation(tmp_path, EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_no_file_of_another_program_is(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ForeignFileError, match=f"{name} was not written by this command"):
        check_evaluation(tmp_path, EVERY)
    check_evaluation(tmp_path, [other for other in EVERY if other != name])


@pytest.mark.parametrize("content", [OURS, f"[{OURS}, {OURS}]", f"\ufeff{OURS}"])
def test_files_beside_results_of_an_evaluation_are(tmp_path, content):
    for name in EVERY:
        (tmp_path / name).write_text("old")
    (tmp_path / "results.json").write_text(content, encoding="utf-8")
    check_evaluation(tmp_path, EVERY)


@pytest.mark.parametrize("folder", ["random-9/pope", "model/random-9/pope"])
def test_files_of_an_evaluation_that_was_killed_are(tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "answers-0.jsonl").touch()
    (tmp_path / "overlays.png").touch()
    check_evaluation(tmp_path, EVERY)


@pytest.mark.parametrize("name", ["report.md", "report.html"])
def test_a_comparison_replaces_comparisons_alone(tmp_path, name):
    (tmp_path / "report.md").write_text(f"# {COMPARED}a, b\n")
    (tmp_path / "report.html").write_text(f"<html><title>{COMPARED}a, b</title>")
    check_comparison(tmp_path)
    (tmp_path / name).write_text(f"# probe on a model\n{COMPARED}")
    with pytest.raises(ForeignFileError, match=name):
        check_comparison(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"{name} is a folder, where a file"):
        check_comparison(tmp_path)


@pytest.mark.parametrize("name", ["report.html", "overlays.png"])
def test_eval_refuses_before_any_answer(place, tmp_path, monkeypatch, capsys, name):
    (tmp_path / name).write_text("mine")
    assert exit_code(monkeypatch, *command(place, tmp_path)) == 1
    assert f"{tmp_path / name} was not written by this command" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_eval_replaces_what_it_wrote_itself_and_compare_too(place, tmp_path, monkeypatch, capsys):
    """A byte order mark, which an editor may write into a file, changes nothing."""
    assert exit_code(monkeypatch, *command(place, tmp_path / "a")) == 0
    path = tmp_path / "a" / "results.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    pair = ("compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out")
    for _ in range(2):
        assert exit_code(monkeypatch, *pair, str(tmp_path / "c")) == 0
    assert exit_code(monkeypatch, *command(place, tmp_path / "a")) == 0
    assert exit_code(monkeypatch, *command(place, tmp_path / "c")) == 1
    assert "c/report.md was not written by this command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("where", "what", "says"),
    [
        ("random-9/pope/answers-0.jsonl", "folder", "cannot be read at"),
        ("random-9/pope/answers-0.jsonl", "link", "cannot be written at"),
        ("random-9", "file", "cannot be written at"),
        ("random-9", "link", "cannot be written at"),
        ("random-9/pope", "file", "cannot be written at"),
        ("samples.jsonl", "folder", "is a folder, where a file is to be written"),
        ("report.md", "folder", "is a folder, where a file is to be written"),
    ],
)
def test_what_is_in_the_way_is_a_sentence(place, tmp_path, monkeypatch, capsys, where, what, says):
    out = tmp_path / "out"
    path = out / where
    path.parent.mkdir(parents=True)
    put = {
        "folder": path.mkdir,
        "file": path.touch,
        "link": lambda: path.symlink_to(tmp_path / "nowhere" / "x"),
    }
    put[what]()
    assert exit_code(monkeypatch, *command(place, out)) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert says in said
    assert str(path) in said
    assert "another --out" in said


def test_links_that_lead_nowhere_are_named_as_such(place, tmp_path, monkeypatch, capsys):
    link, loop = tmp_path / "link", tmp_path / "loop"
    link.symlink_to(tmp_path / "nowhere")
    loop.symlink_to(loop)
    labels = place / "pope" / "coco_pope_random.json"
    score = ("score", "--benchmark", "pope", "--labels")
    for path, target in ((link, tmp_path / "nowhere"), (loop, loop)):
        for words in (
            command(place, path),
            (*score, labels, "--answers", path),
            ("build-pope", path, "--out", tmp_path / "built"),
        ):
            assert exit_code(monkeypatch, *map(str, words)) == 1
            said = capsys.readouterr().err
            assert f"{path} is a link to {target}, which is not there" in said
        assert exit_code(monkeypatch, *map(str, (*score, path, "--answers", labels))) == 1
        assert "Traceback" not in capsys.readouterr().err


def test_annotations_with_a_byte_order_mark_are_read(tmp_path, monkeypatch):
    pairs = (["cat", "dog"], ["bus", "car"])
    objects = [{"image": f"{n}.png", "objects": pair} for n, pair in enumerate(pairs)]
    (tmp_path / "o.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(objects).encode())
    built = ("build-pope", str(tmp_path / "o.json"), "--out", str(tmp_path / "built"))
    assert exit_code(monkeypatch, *built, "--per-image", "2", "--min-objects", "1") == 0
