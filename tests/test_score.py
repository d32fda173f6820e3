"""`lvlm-prune score` on made-up answers: each format gives the numbers of a plain loop."""

import json
import random

import pytest
from made_up_answers import (
    SPLITS,
    WITH_NAMES,
    as_ids,
    as_llava,
    as_lmms_eval,
    as_pope,
    as_rows,
    as_vlmevalkit,
    pope_records,
    said,
    write_lines,
    write_table,
)
from typer.testing import CliRunner

from lvlm_prune.cli import app

ALL_FORMATS = (as_pope, *WITH_NAMES)


def score(benchmark, answers, *options) -> dict:
    """The JSON object of one call; stdout holds nothing else."""
    call = ["score", "--benchmark", benchmark, "--answers", str(answers), "--json"]
    result = CliRunner().invoke(app, [*call, *map(str, options)])
    found = json.loads(result.stdout, parse_constant=pytest.fail)
    assert result.exit_code == ("error" in found), result.stderr
    return found


def refused(*call) -> str:
    """The name of the error."""
    return score(*call)["error"]["name"]


def labels(folder, split="random", images=4):
    return write_lines(folder / f"made_pope_{split}.json", pope_records(split, images))


def slow_official(records, answers) -> dict:
    """POPE's five numbers and four counts by its published rule."""
    tp = fp = tn = fn = 0
    for record, text in zip(records, answers, strict=False):
        words = (text[: text.find(".")] if "." in text else text).replace(",", "").split(" ")
        no = any(word in ("No", "no", "not") for word in words)
        if record["label"] == "yes":
            tp, fn = tp + (not no), fn + no
        else:
            fp, tn = fp + (not no), tn + no
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    return {
        "TP": tp,
        "FP": fp,
        "TN": tn,
        "FN": fn,
        "accuracy": (tp + tn) / (tp + fp + tn + fn),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall),
        "yes_ratio": (tp + fp) / (tp + fp + tn + fn),
    }


def holds(found, expected) -> bool:
    return {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("writer", ALL_FORMATS, ids=lambda writer: writer.__name__)
@pytest.mark.parametrize("split", ["random", "labels24"])
def test_every_format_gives_the_official_numbers(tmp_path, writer, split):
    records = pope_records(split)
    answers = said(records)
    stem = "made_pope_random.json" if split == "random" else "labels24.jsonl"
    path = write_lines(tmp_path / stem, records)
    file = write_lines(tmp_path / "answers.whatever", writer(records, answers, split))
    found = score("pope", file, "--labels", path)
    assert holds(found, slow_official(records, answers))
    assert (found["n"], found["total"]) == (24, 24)
    assert sum(found["counts"].values()) == 24
    assert found["counts"]["empty"] == answers.count("")


@pytest.mark.parametrize("writer", WITH_NAMES, ids=lambda writer: writer.__name__)
def test_the_order_of_named_answers_does_not_matter(tmp_path, writer):
    records = pope_records("random")
    lines = writer(records, said(records), "random")
    kept = lines[1:] if writer is as_rows else lines
    random.Random(0).shuffle(kept)
    file = write_lines(tmp_path / "answers.jsonl", kept)
    found = score("pope", file, "--labels", labels(tmp_path))
    assert holds(found, slow_official(records, said(records)))


@pytest.mark.parametrize("writer", WITH_NAMES, ids=lambda writer: writer.__name__)
def test_missing_and_repeated_answers_need_allow_partial(tmp_path, writer):
    records = pope_records("random")
    answers = said(records)
    lines = [line for line in writer(records, answers, "random") if "header" not in line]
    path = labels(tmp_path)
    fewer = write_lines(tmp_path / "fewer.jsonl", lines[:10] + lines[12:])
    assert refused("pope", fewer, "--labels", path) == "missing_ids"
    found = score("pope", fewer, "--labels", path, "--allow-partial")
    kept = answers[:10] + answers[12:]
    assert holds(found, slow_official(records[:10] + records[12:], kept))
    assert (found["n"], found["total"]) == (22, 24)
    assert "22/24" in " ".join(found["notes"])
    twice = write_lines(tmp_path / "twice.jsonl", [*lines, lines[3]])
    assert refused("pope", twice, "--labels", path) == "duplicate_id"
    again = score("pope", twice, "--labels", path, "--allow-partial")
    assert holds(again, slow_official(records, answers))
    assert any("more than once: 1" in note for note in again["notes"])


@pytest.mark.parametrize(("lost", "kept"), [(23, 23), (0, None), (11, None), (22, None)])
def test_a_lost_line_of_pope(tmp_path, lost, kept):
    records = pope_records("random")
    lines = as_pope(records, said(records), "random")
    file = write_lines(tmp_path / "answers.jsonl", lines[:lost] + lines[lost + 1 :])
    path = labels(tmp_path)
    if kept is None:
        assert refused("pope", file, "--labels", path) == "question_mismatch"
        error = score("pope", file, "--labels", path, "--allow-partial")["error"]
        assert error["name"] == "question_mismatch"
        assert f"line {lost + 1} " in error["message"]
    else:
        assert refused("pope", file, "--labels", path) == "line_count"
        found = score("pope", file, "--labels", path, "--allow-partial")
        assert holds(found, slow_official(records[:kept], said(records)[:kept]))
        assert (found["n"], found["total"]) == (23, 24)


@pytest.mark.parametrize(("more", "yes"), [("Yes", 1), ("No", 0)])
def test_lines_after_the_last_count_in_the_official_yes_ratio(tmp_path, more, yes):
    records = pope_records("random")
    answers = said(records)
    lines = [*as_pope(records, answers, ""), {"question": "Is it?", "answer": more}]
    file = write_lines(tmp_path / "answers.jsonl", lines)
    path = labels(tmp_path)
    assert refused("pope", file, "--labels", path) == "line_count"
    found = score("pope", file, "--labels", path, "--allow-partial", "--parser", "all")
    expected = slow_official(records, answers)
    ratio = (expected["TP"] + expected["FP"] + yes) / 25
    assert holds(found, {**expected, "yes_ratio": ratio})
    exact = write_lines(tmp_path / "exact.jsonl", lines[:-1])
    others = score("pope", exact, "--labels", path, "--parser", "all")["parsers"]
    for parser in ("lmms-eval", "vlmevalkit", "vcd", "first-word"):
        assert found["parsers"][parser] == others[parser]
    assert found["n"] == 24


@pytest.mark.parametrize("text", ["No", "no.", "There is not"])
def test_all_no_is_zero_and_a_note(tmp_path, text):
    records = pope_records("random")
    file = write_lines(tmp_path / "answers.jsonl", as_pope(records, [text] * 24, ""))
    found = score("pope", file, "--labels", labels(tmp_path))
    assert (found["precision"], found["recall"], found["f1"], found["yes_ratio"]) == (0, 0, 0, 0)
    assert found["accuracy"] == 0.5
    assert "divides by zero" in " ".join(found["notes"])


def splits_folder(tmp_path):
    for split in SPLITS:
        labels(tmp_path, split)
    return tmp_path


def means(per_split) -> dict:
    names = ("accuracy", "precision", "recall", "f1", "yes_ratio")
    return {name: sum(each[name] for each in per_split) / 3 for name in names}


@pytest.mark.parametrize("writer", ALL_FORMATS, ids=lambda writer: writer.__name__)
def test_three_splits_in_one_file(tmp_path, writer):
    folder = splits_folder(tmp_path)
    lines, per_split = [], []
    for number, split in enumerate(("adversarial", "popular", "random")):
        records = pope_records(split)
        per_split.append(slow_official(records, said(records)))
        for line in writer(records, said(records), split):
            if "doc_id" in line:
                line["doc_id"] += 24 * number
            lines.append(line)
    if writer is as_ids:
        lines = [{**line, "id": f"{split}/{line['id']}"} for line, split in with_splits(lines)]
    file = write_lines(tmp_path / "answers.jsonl", lines)
    found = score("pope", file, "--labels", folder, "--parser", "all")
    assert holds(found, means(per_split))
    assert holds(found["splits"]["popular"], per_split[1])
    assert found["n"] == 72
    assert list(found["parsers"]) == ["official", "lmms-eval", "vlmevalkit", "vcd", "first-word"]


def with_splits(lines):
    names = [split for split in ("adversarial", "popular", "random") for _ in range(24)]
    return zip(lines, names, strict=True)


@pytest.mark.parametrize("mark", ["\t", ",", "xlsx"])
def test_one_row_for_several_splits(tmp_path, mark):
    """VLMEvalKit asks 5,127 questions once and names the splits of each."""
    folder = splits_folder(tmp_path)
    rows: dict[tuple, dict] = {}
    per_split = []
    for split in SPLITS:
        records = pope_records(split)
        per_split.append(slow_official(records, said(records)))
        for record, row in zip(records, as_vlmevalkit(records, said(records), split), strict=True):
            known = rows.setdefault((record["image"], record["text"]), row)
            if known is not row:
                known["category"] += f",{split}"
    file = tmp_path / "made_POPE.data"
    if mark == "xlsx":
        openpyxl = pytest.importorskip("openpyxl", reason="the eval extra is not installed")
        book = openpyxl.Workbook()
        book.active.append(list(next(iter(rows.values()))))
        for row in rows.values():
            book.active.append(list(row.values()))
        book.save(file)
    else:
        write_table(file, list(rows.values()), mark)
    assert len(rows) == 12 + 3 * 12
    found = score("pope", file, "--labels", folder)
    assert holds(found, means(per_split))
    one = score("pope", file, "--labels", folder / "made_pope_popular.json")
    assert holds(one, per_split[1])
    assert any("left out" in note for note in one["notes"])


def test_failed_calls_are_no_answers(tmp_path):
    records = pope_records("random")
    answers = said(records)
    rows = as_rows(records, answers, "random")
    rows[5] |= {"text": None, "error": "OutOfMemoryError: ..."}
    rows[9] |= {"text": None, "error": "OutOfMemoryError: ..."}
    asked_again = [*rows, as_rows(records, answers, "random")[9]]
    file = write_lines(tmp_path / "answers-0.jsonl", asked_again)
    table = as_vlmevalkit(records, answers, "random")
    table[4]["prediction"] = "Failed to obtain answer via API."
    other = write_table(tmp_path / "table.tsv", table, "\t")
    run = tmp_path / "run"
    (run / "pope").mkdir(parents=True)
    (run / "pope" / file.name).write_bytes(file.read_bytes())
    for path in (file, other, tmp_path, run):
        assert refused("pope", path, "--labels", labels(tmp_path)) == "failed_calls"
        found = score("pope", path, "--labels", labels(tmp_path), "--allow-partial")
        assert holds(found, slow_official(records[:4] + records[5:], answers[:4] + answers[5:]))
        assert (found["n"], found["total"], found["counts"]["error"]) == (23, 24, 1)
        assert sum(found["counts"].values()) == 24


def test_rows_of_several_runs_are_refused(tmp_path):
    records = pope_records("random")
    rows = as_rows(records, said(records), "random")[1:]
    named = [{**row, "run": run, "benchmark": "pope"} for run in ("a", "b") for row in rows]
    other = [{**rows[0], "run": "a", "benchmark": "mme"}]
    path = labels(tmp_path)
    both = write_lines(tmp_path / "samples.jsonl", named)
    assert refused("pope", both, "--labels", path) == "several_runs"
    one = write_lines(tmp_path / "one.jsonl", [*named[:24], *other])
    assert holds(score("pope", one, "--labels", path), slow_official(records, said(records)))


def test_answers_made_from_other_labels_are_refused(tmp_path):
    popular = pope_records("popular")
    path = labels(tmp_path)
    for writer in (as_pope, as_llava, as_lmms_eval):
        file = write_lines(tmp_path / "answers.jsonl", writer(popular, said(popular), "popular"))
        assert refused("pope", file, "--labels", path) == "question_mismatch"
        assert refused("pope", file, "--labels", path, "--allow-partial") == "question_mismatch"
    file = write_lines(tmp_path / "answers.jsonl", as_rows(popular, said(popular), "popular"))
    assert refused("pope", file, "--labels", path) == "unknown_ids"


def test_the_table_shows_what_the_object_says(tmp_path):
    records = pope_records("random")
    file = write_lines(tmp_path / "answers.jsonl", as_pope(records, said(records), ""))
    call = ["score", "--benchmark", "pope", "--answers", str(file), "--parser", "all"]
    call += ["--labels", str(labels(tmp_path))]
    shown = CliRunner().invoke(app, call).stdout
    found = json.loads(CliRunner().invoke(app, [*call, "--json"]).stdout)
    rows = {line.split("  ")[0]: line.split()[-5:] for line in shown.splitlines() if line}
    for name in ("accuracy", "f1", "yes_ratio"):
        assert rows[name] == [f"{each[name]:.4f}" for each in found["parsers"].values()]
    for name in ("yes", "no", "unparsed", "empty", "error"):
        counts = [str(each["counts"][name]) for each in found["parsers"].values()]
        assert rows[f"says {name}"] == counts


def test_an_unknown_parser_names_the_known_ones(tmp_path):
    records = pope_records("random")
    file = write_lines(tmp_path / "answers.jsonl", as_pope(records, said(records), ""))
    error = score("pope", file, "--labels", labels(tmp_path), "--parser", "loose")["error"]
    assert error["name"] == "unknown_parser"
    assert "official, lmms-eval, vlmevalkit, vcd, first-word, all" in error["message"]


def test_help_teaches():
    shown = CliRunner().invoke(app, ["score", "--help"]).stdout
    for word in ("pope", "mme", "chair", "amber", "--allow-partial", "--parser", "n/N"):
        assert word in shown
    assert shown.count("\n    lvlm-prune score --benchmark") >= 5, "examples on lines of their own"
