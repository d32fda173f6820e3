"""AMBER against the official script's own numbers, on a part of its questions."""

import json

import pytest
from benchmark_goldens import DATA, benchmark_folder

from lvlm_prune.eval.amber import load

PATH = DATA / "amber" / "goldens" / "expected.json"
EXPECTED = json.loads(PATH.read_text())["expected"] if PATH.is_file() else {"absent": {}}


@pytest.fixture(scope="module")
def benchmark():
    return load(benchmark_folder("amber"))


@pytest.mark.parametrize("case", EXPECTED)
def test_numbers(benchmark, case):
    rows = json.loads((benchmark_folder("amber") / "goldens" / f"{case}.json").read_text())
    by_id = {item.id: item for item in benchmark.items}
    items = [by_id[f"amber/{row['id']}"] for row in rows]
    scoring = benchmark.scorings[items[0].benchmark]
    tally = scoring.tally(items, [row["response"] for row in rows], "official")
    numbers = scoring.metrics(tally.columns, tally.total, "official")
    found = scoring.layout({name: float(value) for name, value in numbers.items()})
    groups = {name: value for name, value in found.items() if isinstance(value, dict)}
    assert groups == EXPECTED[case]["scores"]
    if EXPECTED[case]["type"] == "g":
        assert (found["nouns"], found["similarity"]) == ("split", "exact")


def test_all_questions(benchmark):
    splits = [item.split for item in benchmark.items]
    found = {split: splits.count(split) for split in dict.fromkeys(splits)}
    assert found == {
        "generative": 1004,
        "state": 4764,
        "number": 2072,
        "action": 792,
        "existence": 4924,
        "relation": 1664,
    }
    assert len(benchmark.images) == 1004
