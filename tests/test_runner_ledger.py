"""Answers on disk: whatever a kill leaves, whole lines count and the rest is written anew."""

import json

import pytest

from lvlm_prune.eval.ledger import Ledger, remove_answers, stored
from lvlm_prune.eval.row import Row
from lvlm_prune.eval.run_header import Header, OtherRunError

HEADER = Header("cls-9", "pope", {"prompt": "déjà vu {question}", "generation": {"seed": 0}})
TEXTS = ("yes", "nein, größer als 5\n", "猫がいます", "")


def row(name: str, text: str | None = "yes", error: str | None = None) -> Row:
    return Row(f"pope/{name}", (f"pope/{name}",), "a.png", "?", "USER: ?", text, error=error)


def rows() -> list[Row]:
    return [row(str(number), text) for number, text in enumerate(TEXTS)]


def write(folder, found, rank=0):
    ledger = Ledger(folder, HEADER, rank)
    ledger.add(found)
    ledger.close()
    return ledger


def test_rows_are_read_as_they_were_written(tmp_path):
    full = Row(
        "pope/9", ("pope/9", "pope/7"), None, "q", "p", "t", {"official": "yes"}, None, 0.5, 9, 36,
        77.5, "cls-9", (9, 9, 4), 12, (3, 1),
    )  # fmt: skip
    write(tmp_path / "run", [*rows(), full])
    found = Ledger(tmp_path / "run", HEADER).rows
    assert list(found.values()) == [*rows(), full]
    header, again = stored(tmp_path / "run" / "answers-0.jsonl")
    assert header["hash"] == HEADER.hash
    assert list(again) == [*rows(), full]


def test_every_row_is_on_disk_when_it_was_added(tmp_path):
    ledger = Ledger(tmp_path, HEADER)
    for number, one in enumerate(rows()):
        ledger.add([one])
        assert len((tmp_path / "answers-0.jsonl").read_text().splitlines()) == number + 2


def test_nothing_is_written_before_the_first_row(tmp_path):
    ledger = Ledger(tmp_path / "run", HEADER)
    ledger.add([])
    assert ledger.rows == {}
    assert not (tmp_path / "run").exists()


def test_a_file_cut_at_any_byte_goes_on(tmp_path):
    """Within the header, at a line break, in the middle of a line, in the middle of a character."""
    write(tmp_path / "whole", rows())
    data = (tmp_path / "whole" / "answers-0.jsonl").read_bytes()
    for cut in range(len(data) + 1):
        folder = tmp_path / "cut"
        folder.mkdir(exist_ok=True)
        path = folder / "answers-0.jsonl"
        path.write_bytes(data[:cut])
        ledger = Ledger(folder, HEADER)
        left = max(data[:cut].count(b"\n") - 1, 0)
        assert list(ledger.rows.values()) == rows()[:left], cut
        ledger.add([one for one in rows() if not ledger.answered(one.id)])
        ledger.close()
        # An added row may come twice where nothing was left to add; the file is whole anyway.
        assert path.read_bytes() == (data[:cut] if left == len(TEXTS) else data), cut
        path.unlink()


def test_a_cut_file_of_another_process_is_read_and_left_alone(tmp_path):
    write(tmp_path, rows(), rank=1)
    path = tmp_path / "answers-1.jsonl"
    path.write_bytes(path.read_bytes()[:-3])
    before = path.read_bytes()
    ledger = Ledger(tmp_path, HEADER, rank=0)
    assert list(ledger.rows.values()) == rows()[:-1]
    ledger.add(rows()[-1:])
    assert path.read_bytes() == before
    assert sorted(Ledger(tmp_path, HEADER).rows) == sorted(one.id for one in rows())


@pytest.mark.parametrize("ranks", [(0, 0), (0, 1), (1, 0)])
@pytest.mark.parametrize("good_first", [False, True])
def test_a_good_row_counts_beside_a_failed_call(tmp_path, ranks, good_first):
    good, bad = row("1", "yes"), row("1", None, "RuntimeError: no")
    for rank, one in zip(ranks, (good, bad) if good_first else (bad, good), strict=True):
        write(tmp_path, [one], rank)
    ledger = Ledger(tmp_path, HEADER)
    assert ledger.rows == {"pope/1": good}
    assert ledger.answered("pope/1")


def test_a_failed_call_is_no_answer(tmp_path):
    ledger = Ledger(None, HEADER)
    ledger.add([row("1", None, "RuntimeError: no"), row("2", "")])
    assert not ledger.answered("pope/1")
    assert ledger.answered("pope/2"), "an empty answer is one"
    assert not ledger.answered("pope/3")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3 of .*answers-0.jsonl is no row"),
        ("[]", "line 3"),
        ("7", "line 3"),
        ("null", "line 3"),
        ('{"id": "pope/9"}', "line 3"),
        (json.dumps({**json.loads(row("9").to_json()), "colour": 1}), "unknown keys .'colour'."),
    ],
)
def test_a_whole_line_that_is_no_row_is_named(tmp_path, line, message):
    write(tmp_path, rows()[:1])
    with (tmp_path / "answers-0.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        Ledger(tmp_path, HEADER)


@pytest.mark.parametrize("line", ["", "{}", "[]", '{"header": 5}', "not json", '{"header": {}}'])
def test_a_whole_first_line_that_is_no_header_is_refused(tmp_path, line):
    (tmp_path / "answers-0.jsonl").write_text(f"{line}\n")
    with pytest.raises(ValueError, match="answers-0.jsonl"):
        Ledger(tmp_path, HEADER)


def test_bytes_that_are_no_text_are_named(tmp_path):
    write(tmp_path, rows()[:1])
    with (tmp_path / "answers-0.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\n")
    with pytest.raises(ValueError, match="answers-0.jsonl"):
        Ledger(tmp_path, HEADER)


def test_answers_of_other_settings_are_not_mixed_in(tmp_path):
    write(tmp_path, rows())
    other = Header("cls-9", "pope", {"prompt": "{question}", "generation": {"seed": 0}})
    with pytest.raises(
        OtherRunError, match="prompt is 'déjà vu {question}' there and '{question}'"
    ):
        Ledger(tmp_path, other)
    remove_answers(tmp_path)
    assert Ledger(tmp_path, other).rows == {}
