"""Files that are no answers, or broken ones: each ends in one named sentence."""

import gzip
import json

import pytest
from made_up_answers import as_ids, as_pope, pope_records, said, write_lines
from typer.testing import CliRunner

from lvlm_prune.cli import app

RECORDS = pope_records("random")
LINES = [json.dumps(line) for line in as_pope(RECORDS, said(RECORDS), "")]
TEXT = "\n".join(LINES) + "\n"
IDS = as_ids(RECORDS, said(RECORDS), "")


@pytest.fixture
def labels(tmp_path):
    return write_lines(tmp_path / "made_pope_random.json", RECORDS)


def call(answers, labels, *options, benchmark="pope"):
    asked = ["score", "--benchmark", benchmark, "--answers", answers, "--labels", labels, *options]
    return CliRunner().invoke(app, [*map(str, asked), "--json"])


def name_of(answers, labels, *options, benchmark="pope") -> str:
    """The name of the error, after checks of how it is told."""
    result = call(answers, labels, *options, benchmark=benchmark)
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert set(error) == {"name", "message"}
    assert error["message"] in result.stderr
    assert result.stderr.startswith("lvlm-prune: ")
    assert "Traceback" not in result.output
    return error["name"]


def changed(line: str, number: int = 4) -> str:
    """The answers with one line replaced."""
    return "\n".join([*LINES[: number - 1], line, *LINES[number:]]) + "\n"


BROKEN = {
    "null": (changed('{"question": "Is it?", "answer": null}'), "null_answer"),
    "number": (changed('{"question": "Is it?", "answer": 1}'), "bad_answer"),
    "not a number": (changed('{"question": "Is it?", "answer": NaN}'), "bad_answer"),
    "true": (changed('{"question": "Is it?", "answer": true}'), "bad_answer"),
    "list": (changed('{"question": "Is it?", "answer": ["Yes"]}'), "bad_answer"),
    "other key": (changed('{"question": "Is it?", "text": "Yes"}'), "missing_key"),
    "no question": (changed('{"question": null, "answer": "Yes"}'), "missing_key"),
    "blank": (changed(""), "blank_line"),
    "blank at the end": (TEXT + "\n", "blank_line"),
    "spaces": (changed("   "), "blank_line"),
    "cut off": (TEXT[:-9], "bad_line"),
    "no JSON": (changed("Yes"), "bad_line"),
    "single quotes": (changed("{'question': 'Is it?', 'answer': 'Yes'}"), "bad_line"),
    "number as a line": (changed("7"), "bad_line"),
    "huge number": (changed("1" * 5000), "bad_line"),
    "deep": (changed("[" * 100_000), "bad_line"),
    "two objects": (changed(LINES[3] + LINES[3]), "bad_line"),
    "another question": (changed('{"question": "Is it?", "answer": "Yes"}'), "question_mismatch"),
    "empty": ("", "empty_file"),
    "only spaces": ("\n \n", "empty_file"),
    "empty list": ("[]", "empty_file"),
    "broken list": ("[" + LINES[0], "bad_json"),
    "list of lists": ("[[1], [2]]", "bad_line"),
    "list of numbers": ("[1, 2]", "bad_line"),
    "list of texts": (json.dumps(said(RECORDS)), "unknown_format"),
    "one object": (json.dumps({"accuracy": 1.0}), "unknown_format"),
    "other records": ('{"colour": "red"}\n', "unknown_format"),
    "only a header": ('{"header": {}}\n', "empty_file"),
    "prose": ("Yes\nNo\n", "unknown_format"),
    "table": ("question,answer\nIs it?,Yes\n", "missing_column"),
    "table without rows": ("index\tquestion\tprediction\n", "empty_file"),
    "table with two such columns": ("index\tprediction\tprediction\n1\ta\tb\n", "missing_column"),
    "table with a wide row": ("index\tprediction\n1\tYes\tNo\n", "bad_table"),
    "table with an open quote": ('index\tprediction\n1\t"Yes\n', "bad_table"),
    "MME lines": ("a.jpg\tIs it?\tYes\tYes\n", "question_mismatch"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_text(tmp_path, labels, case):
    text, name = BROKEN[case]
    path = tmp_path / "answers.jsonl"
    path.write_text(text, encoding="utf-8")
    assert name_of(path, labels) == name


BYTES = {
    "gzip": (gzip.compress(TEXT.encode()), "not_text"),
    "pickle": (b"\x80\x04\x95" + b"\x00" * 20, "not_text"),
    "parquet": (b"PAR1" + b"\x00" * 20, "not_text"),
    "latin-1": (TEXT.replace("Yes", "S\u00ed").encode("latin-1"), "not_text"),
    "zeros": (b"\x00" * 64, "empty_file"),
    "zip that is none": (b"PK\x03\x04" + b"\x00" * 40, {"bad_table", "missing_package"}),
    "cut UTF-16": (("\ufeff" + TEXT).encode("utf-16-le")[:-1], "not_text"),
    "picture": (b"\x89PNG\r\n\x1a\n" + b"\x00" * 30, "not_text"),
}


@pytest.mark.parametrize("case", BYTES)
def test_broken_bytes(tmp_path, labels, case):
    content, names = BYTES[case]
    path = tmp_path / "answers.jsonl"
    path.write_bytes(content if case != "latin-1" else content.replace(b'"Yes', b'"S\xed'))
    assert name_of(path, labels) in ({names} if isinstance(names, str) else names)


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        b"\xef\xbb\xbf" + TEXT.encode(),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.encode()[:-1],
        TEXT.encode("utf-16"),
        ("\ufeff" + TEXT).encode("utf-16-be"),
        json.dumps([json.loads(line) for line in LINES], indent=1).encode(),
    ],
    ids=["plain", "mark", "CRLF", "no last break", "UTF-16", "UTF-16 BE", "array"],
)
def test_encodings_and_line_ends_do_not_matter(tmp_path, labels, content):
    plain = write_lines(tmp_path / "plain.jsonl", [json.loads(line) for line in LINES])
    path = tmp_path / "answers.txt"
    path.write_bytes(content)
    assert call(path, labels).stdout == call(plain, labels).stdout


@pytest.mark.parametrize("text", ["Yes\u2028No", "\u00a0Yes", "\u662f", "Yes\x0b", "No \U0001f600"])
def test_line_separators_of_unicode_end_no_line(tmp_path, labels, text):
    records = as_pope(RECORDS, [text] * 24, "")
    found = json.loads(call(write_lines(tmp_path / "answers.jsonl", records), labels).stdout)
    assert found["n"] == 24


@pytest.mark.parametrize("change", [int, str, float, lambda name: f" {name} "])
def test_ids_are_the_same_as_numbers_and_as_texts(tmp_path, labels, change):
    plain = write_lines(tmp_path / "plain.jsonl", IDS)
    other = [{**line, "id": change(line["id"])} for line in IDS]
    path = write_lines(tmp_path / "answers.jsonl", other)
    assert json.loads(call(path, labels).stdout)["n"] == 24
    assert call(path, labels).stdout == call(plain, labels).stdout


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (10**30, "unknown_ids"),
        ("twelve", "unknown_ids"),
        (None, "bad_id"),
        (True, "bad_id"),
        ([1], "bad_id"),
        ("", "bad_id"),
        (2, "duplicate_id"),
        ("2", "duplicate_id"),
    ],
)
def test_one_wrong_id(tmp_path, labels, wrong, name):
    lines = [*IDS[:-1], {**IDS[-1], "id": wrong}]
    assert name_of(write_lines(tmp_path / "answers.jsonl", lines), labels) == name


@pytest.mark.parametrize("odd", ["\ud800", "a\nb", "\x1b[31m", "\u202e"])
def test_odd_names_are_shown_escaped(tmp_path, labels, odd):
    lines = [*IDS[:-1], {**IDS[-1], "id": odd}]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    result = call(path, labels)
    assert json.loads(result.stdout)["error"]["name"] == "unknown_ids"
    assert result.stderr.count("\n") == 1
    assert result.stderr.removesuffix("\n").isprintable()


def test_no_id_is_known(tmp_path, labels):
    lines = [{**line, "id": f"x{line['id']}"} for line in IDS]
    path = write_lines(tmp_path / "answers.jsonl", lines)
    assert name_of(path, labels) == "unknown_ids"
    assert name_of(path, labels, "--allow-partial") == "unknown_ids"


def test_paths_that_are_no_files(tmp_path, labels):
    answers = write_lines(tmp_path / "answers.jsonl", [json.loads(line) for line in LINES])
    folder = tmp_path / "folder"
    folder.mkdir()
    assert name_of(folder, labels) == "directory"
    assert name_of(tmp_path / "absent", labels) == "missing_file"
    assert name_of(answers, tmp_path / "absent") == "missing_labels"
    assert name_of(answers, folder) == "missing_labels"


def test_labels_are_no_answers(tmp_path, labels):
    copy = tmp_path / "copy.json"
    copy.write_bytes(labels.read_bytes())
    assert name_of(labels, labels) == "labels_as_answers"
    assert name_of(copy, labels) == "labels_as_answers"
    answers = write_lines(tmp_path / "answers.jsonl", [json.loads(line) for line in LINES])
    assert name_of(copy, answers) == "labels_as_answers"
    assert name_of(answers, labels, benchmark="papa") == "unknown_benchmark"


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1]", '[{"question_id": 1}]', "\x00\x01"])
def test_broken_labels(tmp_path, text):
    answers = write_lines(tmp_path / "answers.jsonl", [json.loads(line) for line in LINES])
    path = tmp_path / "labels.json"
    path.write_text(text, encoding="utf-8")
    assert name_of(answers, path) == "bad_labels"


def test_all_calls_failed(tmp_path, labels):
    rows = [
        {"id": f"pope/random/{number}", "items": [], "text": None, "error": "OutOfMemoryError"}
        for number in range(1, 25)
    ]
    assert name_of(write_lines(tmp_path / "rows.jsonl", rows), labels) == "nothing_answered"
    rows[3]["error"] = None
    assert name_of(write_lines(tmp_path / "rows.jsonl", rows), labels) == "null_answer"
