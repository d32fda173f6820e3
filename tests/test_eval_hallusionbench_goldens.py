"""HallusionBench's own questions: four runs, counted by its official script."""

import json

import pytest
from benchmark_goldens import benchmark_folder

from lvlm_prune.eval.hallusionbench import SCORING, load


@pytest.fixture(scope="module")
def folder():
    return benchmark_folder("hallusionbench")


@pytest.mark.parametrize("run", ["all_yes", "all_no", "perfect", "all_unclear"])
def test_numbers_are_those_of_the_official_script(folder, run):
    expected = json.loads((folder / "goldens" / "expected.json").read_text())["expected"][run]
    answers = json.loads((folder / "goldens" / f"{run}.json").read_text())
    counted = SCORING.tally(load(folder).items, answers, "official")
    numbers = SCORING.metrics(counted.columns, counted.total, "official")
    found = SCORING.layout({name: float(value) for name, value in numbers.items()})
    assert found.pop("mode") == "string match"
    assert found == expected


@pytest.mark.parametrize(
    ("subset", "lines"), [("text", 178), ("image", 951), ("VD", 591), ("VS", 538), ("VS,text", 178)]
)
def test_subsets_have_their_published_sizes(folder, subset, lines):
    found = load(folder, subset)
    assert len(found.items) == lines
    assert len(found.images) == (0 if "text" in subset else len(found.files))


def test_every_question_with_a_figure_names_one_of_346(folder):
    found = load(folder / "HallusionBench.json")
    assert len(found.images) == len(found.files) == 346
    assert all(name.startswith(("VD/", "VS/")) for name in found.images)
