"""`lvlm-prune score` where something is missing: failed calls, tasks, labels, packages."""

import json
from importlib.util import find_spec

import pytest
from made_up_answers import as_rows, mme_lines, pope_records, said, write_lines, write_mme
from tiny_amber import write_amber
from typer.testing import CliRunner

from lvlm_prune.cli import app
from lvlm_prune.eval.mme_scoring import HALLUCINATION, TASKS

without_nltk = pytest.mark.skipif(find_spec("nltk") is not None, reason="NLTK is installed")


def score(benchmark, answers, *options) -> dict:
    """The JSON object of one call."""
    call = ["score", "--benchmark", benchmark, "--answers", str(answers), "--json"]
    result = CliRunner().invoke(app, [*call, *map(str, options)])
    found = json.loads(result.stdout)
    assert result.exit_code == ("error" in found), result.stderr
    return found


def right(task, images=3):
    """Lines of a task with the right answers."""
    return [[*line, line[2]] for line in mme_lines(task, images)]


@pytest.mark.parametrize("failed", [1, 3])
def test_failed_calls_are_refused_as_missing_answers_are(tmp_path, failed):
    records = pope_records("random")
    labels = write_lines(tmp_path / "made_pope_random.json", records)
    rows = as_rows(records, said(records), "random")
    for row in rows[1 : 1 + failed]:
        row |= {"text": None, "error": "OutOfMemoryError: ..."}
    file = write_lines(tmp_path / "answers-0.jsonl", rows)
    error = score("pope", file, "--labels", labels)["error"]
    assert error["name"] == "failed_calls"
    assert f"{failed} of 24 calls failed" in error["message"]
    found = score("pope", file, "--labels", labels, "--allow-partial")
    assert (found["n"], found["total"], found["counts"]["error"]) == (24 - failed, 24, failed)


def test_a_split_whose_calls_all_failed_is_no_0_in_the_mean(tmp_path):
    rows = []
    for split in ("random", "popular"):
        records = pope_records(split)
        write_lines(tmp_path / f"made_pope_{split}.json", records)
        rows += as_rows(records, [record["label"] for record in records], split)[1:]
    for row in rows[24:]:
        row |= {"text": None, "error": "OutOfMemoryError: ..."}
    file = write_lines(tmp_path / "answers.jsonl", rows)
    found = score("pope", file, "--labels", tmp_path, "--allow-partial")
    assert (found["f1"], found["accuracy"], found["n"]) == (1, 1, 24)


@pytest.mark.parametrize("answer", ["Yes", "No"])
@pytest.mark.parametrize("partial", [[], ["--allow-partial"]])
def test_a_line_that_stands_twice_in_files_that_are_their_own_labels(tmp_path, answer, partial):
    lines = right("count")
    lines.append([*lines[0][:3], answer])
    folder = write_mme(tmp_path / "mme", {"count": lines})
    error = score("mme", folder, "--subset", "count", *partial)["error"]
    assert error["name"] == "duplicate_id"
    assert "count.txt line 1 and count.txt line 7" in error["message"]
    assert f"{int(answer == 'No')} of them with different" in error["message"]
    labels = write_mme(tmp_path / "labels", {"count": mme_lines("count")})
    assert score("mme", folder, "--labels", labels)["error"]["name"] == "duplicate_id"
    assert score("mme", folder, "--labels", labels, "--allow-partial")["tasks"] == {"count": 200}


def test_the_same_question_with_both_labels_is_a_pair(tmp_path):
    """The official tool takes them as one; the label, not the question, tells the lines apart."""
    lines = [["a.jpg", "Is it?", label, label] for label in ("Yes", "No")]
    folder = write_mme(tmp_path / "mme", {"count": lines})
    assert score("mme", folder, "--subset", "count")["tasks"] == {"count": 200}


def test_a_part_of_mme_is_no_whole(tmp_path):
    folder = write_mme(tmp_path / "mme", {task: right(task) for task in ("existence", "OCR")})
    found = score("mme", folder, "--allow-partial")
    assert (found["n"], found["total"]) == (12, 2374)
    assert found["tasks"] == {"existence": 200, "OCR": 200}
    assert not {"perception", "cognition", "hallucination"} & set(found)
    notes = " ".join(found["notes"])
    assert "12/2374 lines are scored" in notes
    assert "existence has 3 of MME's 30 images" in notes
    assert "the total counts all 60 questions" in notes
    assert "no perception sum: count, position" in notes
    one = score("mme", folder, "--subset", "OCR")
    assert (one["n"], one["total"], one["perception"]) == (6, 40, 200)


def test_a_task_without_pairs_has_no_score(tmp_path):
    lines = {task: right(task, 4) for task in HALLUCINATION}
    lines["count"] = [line for line in lines["count"] if line[2] == "Yes"]
    folder = write_mme(tmp_path / "mme", lines)
    labels = write_mme(tmp_path / "labels", {task: mme_lines(task, 4) for task in HALLUCINATION})
    for options in (["--labels", labels], ["--subset", "hallucination"]):
        found = score("mme", folder, *options, "--allow-partial", "--parser", "all")
        assert found["score_mean"] == 200
        assert set(found["tasks"]) == {"existence", "position", "color"}
        for numbers in (found, *found["parsers"].values()):
            assert not {"perception", "hallucination"} & set(numbers)
        assert "no perception and no hallucination sum: count" in " ".join(found["notes"])
    folder = write_mme(tmp_path / "halves", {"count": lines["count"]})
    error = score("mme", folder, "--subset", "count", "--allow-partial")["error"]
    assert error["name"] == "incomplete_pair"


def test_all_of_mme_has_all_sums(tmp_path):
    folder = write_mme(tmp_path / "mme", {task: right(task) for task in TASKS})
    found = score("mme", folder)
    assert (found["perception"], found["cognition"], found["hallucination"]) == (2000, 800, 800)
    assert not any("sum" in note for note in found["notes"])


@pytest.mark.parametrize("word", ["Yes", "No"])
def test_notes_on_one_word_name_no_other_rule(tmp_path, word):
    labels = write_amber(tmp_path / "data")
    known = json.loads((labels / "annotations.json").read_text())
    file = tmp_path / "answers.json"
    answers = [{"id": one["id"], "response": word} for one in known if one["type"] != "generative"]
    file.write_text(json.dumps(answers))
    found = score("amber", file, "--labels", labels, "--subset", "discriminative")
    assert f"every answer says {word.lower()}: the numbers are those" in " ".join(found["notes"])


def amber_answers(tmp_path, description):
    """A folder of labels, and a file of answers to all of it."""
    labels = write_amber(tmp_path / "data")
    known = json.loads((labels / "annotations.json").read_text())
    file = tmp_path / "answers.json"
    said = [description if one["type"] == "generative" else one["truth"] for one in known]
    texts = [text.capitalize() if text in ("yes", "no") else text for text in said]
    answers = [{"id": n, "response": text} for n, text in enumerate(texts, 1)]
    file.write_text(json.dumps(answers))
    return file, labels


@without_nltk
def test_all_parsers_without_a_package_that_some_need(tmp_path):
    file, labels = amber_answers(tmp_path, "A dog by two trees.")
    found = score("amber", file, "--labels", labels, "--parser", "all")
    parsers = found["parsers"]
    assert list(parsers)[:3] == ["official", "vlmevalkit", "first-word"]
    assert all("Descriminative Task" in numbers for numbers in parsers.values())
    assert "Generative Task" in parsers["words"]
    assert "Generative Task" not in parsers["official"]
    (note,) = [note for note in found["notes"] if "pip install nltk" in note]
    assert note.startswith("amber_generative is left out under official, vlmevalkit, first-word:")
    options = ("--labels", labels, "--subset", "generative", "--allow-partial")
    assert list(score("amber", file, *options, "--parser", "all")["parsers"]) == ["words"]


@without_nltk
def test_one_parser_without_the_package_that_it_needs(tmp_path):
    file, labels = amber_answers(tmp_path, "A dog by two trees.")
    error = score("amber", file, "--labels", labels)["error"]
    assert error["name"] == "missing_package"
    for step in ("pip install nltk", "--parser words", "--parser all", "--subset discriminative"):
        assert step in error["message"]
    assert "Generative Task" in score("amber", file, "--labels", labels, "--parser", "words")


def test_what_is_said_of_labels_speaks_of_labels(tmp_path):
    records = pope_records("random")
    rows = write_lines(tmp_path / "answers-0.jsonl", as_rows(records, said(records), "random"))
    absent = score("pope", rows, "--labels", tmp_path / "absent")["error"]
    assert absent["name"] == "missing_labels"
    assert f"there is no {tmp_path / 'absent'}; --labels of pope takes" in absent["message"]
    for benchmark in ("pope", "chair", "amber", "hallusionbench", "mmvp", "do-you-see-me"):
        for options in ([], ["--labels", tmp_path / "absent"]):
            message = score(benchmark, rows, *options)["error"]["message"]
            assert "--data" not in message
            assert "--images" not in message
    subset = score("probe", rows, "--subset", "colour")["error"]
    assert "colour" in subset["message"], "not that labels are missing"


def test_folders_that_are_no_run(tmp_path):
    """The folder of a whole evaluation holds runs; which one is meant has to be said."""
    records = pope_records("random")
    labels = write_lines(tmp_path / "made_pope_random.json", records)
    out, empty = tmp_path / "out", tmp_path / "empty"
    for run in ("unpruned", "visionzip-49"):
        (out / run / "pope").mkdir(parents=True)
        rows = as_rows(records, said(records), "random")
        write_lines(out / run / "pope" / "answers-0.jsonl", rows)
    error = score("pope", out, "--labels", labels)["error"]
    assert error["name"] == "several_runs"
    assert "2 runs (unpruned, visionzip-49)" in error["message"]
    assert f"such as {out / 'unpruned'}" in error["message"]
    assert score("pope", out / "unpruned", "--labels", labels)["n"] == 24
    other = score("chair", out / "unpruned", "--labels", labels)["error"]
    assert (other["name"], "this one has answers to pope" in other["message"]) == (
        "directory",
        True,
    )
    empty.mkdir()
    (empty / "notes.txt").write_text("x")
    error = score("pope", empty, "--labels", labels)["error"]
    assert error["name"] == "directory"
    assert "the folder of a run of lvlm-prune eval" in error["message"]
