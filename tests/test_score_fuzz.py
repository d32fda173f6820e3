"""Files whose bytes were changed at random: `score` gives numbers or a named error."""

import json
import random
import re

import pytest
from made_up_answers import (
    WITH_NAMES,
    as_pope,
    as_vlmevalkit,
    mme_lines,
    pope_records,
    said,
    write_lines,
    write_mme,
    write_table,
)

from lvlm_prune.eval.score import Request, score
from lvlm_prune.eval.score_error import ScoreError

RECORDS = pope_records("random")
VALUES = (b"null", b"1", b'""', b"[]", b"{}", b"true", b"NaN", b"1e999", b'"\\ud800"', b"\t", b"\n")
VALUE = re.compile(rb'(?<=: )("[^"]*"|\d+|\[[^\]]*\])')


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The bytes with one to three changes: a byte, a cut, a repetition, another value."""
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(content) + 1)
        end = place + draw.randint(1, 40)
        found = list(VALUE.finditer(content))
        kind = draw.randrange(6)
        if kind == 0:
            content = content[:place] + bytes([draw.randrange(256)]) + content[place + 1 :]
        elif kind == 1:
            content = content[:place] + content[end:]
        elif kind == 2:
            content = content[:end] + content[place:]
        elif kind == 3:
            content = content[:place]
        elif kind == 4 or not found:
            content = content[:place] + draw.choice(VALUES) + content[place:]
        else:
            value = draw.choice(found)
            content = content[: value.start()] + draw.choice(VALUES) + content[value.end() :]
    return content


def outcome(request: Request) -> str:
    """The name of the error; the numbers must be JSON."""
    try:
        json.dumps(score(request), allow_nan=False)
    except ScoreError as error:
        found = error
    else:
        return "scored"
    assert re.fullmatch(r"[a-z_]+", found.name)
    assert str(found).isprintable()
    return found.name


@pytest.mark.parametrize("name", ["as_pope", "table", *[each.__name__ for each in WITH_NAMES]])
def test_damaged_answers(tmp_path, name):
    labels = write_lines(tmp_path / "made_pope_random.json", RECORDS)
    writers = {each.__name__: each for each in (as_pope, *WITH_NAMES)}
    path = tmp_path / "answers"
    if name == "table":
        write_table(path, as_vlmevalkit(RECORDS, said(RECORDS), "random"), "\t")
    else:
        write_lines(path, writers[name](RECORDS, said(RECORDS), "random"))
    whole, draw = path.read_bytes(), random.Random(name)
    assert outcome(Request("pope", path, labels)) == "scored"
    seen = set()
    for number in range(150):
        path.write_bytes(damaged(whole, draw))
        seen.add(outcome(Request("pope", path, labels, "all", allow_partial=number % 2 > 0)))
    assert len(seen) > 2, "the damage must reach different checks"


def test_damaged_labels(tmp_path):
    labels = write_lines(tmp_path / "made_pope_random.json", RECORDS)
    path = write_lines(tmp_path / "answers", as_pope(RECORDS, said(RECORDS), ""))
    whole, draw = labels.read_bytes(), random.Random(0)
    for _ in range(200):
        labels.write_bytes(damaged(whole, draw))
        outcome(Request("pope", path, labels))


def test_damaged_mme(tmp_path):
    lines = [[*line, "Yes"] for line in mme_lines("count", 4)]
    folder = write_mme(tmp_path / "mme", {"count": lines})
    whole, draw = (folder / "count.txt").read_bytes(), random.Random(0)
    seen = set()
    for number in range(200):
        (folder / "count.txt").write_bytes(damaged(whole, draw))
        seen.add(outcome(Request("mme", folder, subset="count", allow_partial=number % 2 > 0)))
    assert {"scored", "incomplete_pair"} <= seen
