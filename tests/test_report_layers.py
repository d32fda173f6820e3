"""A stage inside the LLM is shown at the tokens that its layers have, not at those that enter."""

import json

import pytest
from made_up_results import results_of
from made_up_runs import benchmark

from lvlm_prune.eval.report_check import check_results
from lvlm_prune.eval.report_pictures import section_pictures
from lvlm_prune.eval.report_sections import sections_of
from lvlm_prune.eval.report_tables import main_table
from lvlm_prune.eval.report_words import verdict
from lvlm_prune.eval.report_write import write_report

LAYERS = [196.0, 196.0, 49.0, 49.0]
AVERAGE = 122.5  # of 196, 196, 49, 49
STAGE = "unpruned + fastv 2:0.25"


def values(average=AVERAGE):
    """Results of runs before the LLM and of one inside."""
    found = json.loads(json.dumps(results_of(benchmark(images=40))))
    stage = {**found["runs"][1], "run": "unpruned-fastv", "label": STAGE, "kept": 196.0}
    stage["layers"] = {"tokens_per_layer": LAYERS, "average": average}
    if average is None:
        del stage["layers"]["average"]
    found["runs"].append(stage)
    return found


@pytest.fixture(scope="module")
def section():
    return sections_of(values())[0]


def test_the_average_is_what_a_run_spends(section):
    spent = {entry.run: entry.spent for entry in section.entries}
    assert spent.pop("unpruned-fastv") == sum(LAYERS) / len(LAYERS)
    assert spent == {entry.run: entry.kept for entry in section.entries[:-1]}
    assert section.staged


def test_the_plots_draw_and_name_the_average(section, tmp_path):
    pictures = {part.file: part for part in section_pictures(section, tmp_path)}
    plot = pictures[f"{section.stem}-tokens.png"]
    assert "visual tokens (average over layers)" in plot.caption
    assert "visual tokens, average over layers (logarithmic)" in plot.svg
    for name in ("tokens", "time"):
        picture = pictures[f"{section.stem}-{name}.png"]
        assert ">122.5<" in picture.svg
        assert "visual tokens (average over layers)" in picture.caption


def test_tables_and_words_say_both(section):
    table = main_table(section)
    column = table.heads.index("average over layers")
    kept = table.heads.index("kept")
    row = next(row for row in table.rows if row[0] == STAGE)
    assert (row[kept], row[column]) == ("196 of 196", "122.5")
    assert any("tokens that enter the LLM" in sentence for sentence in verdict(section))


@pytest.mark.parametrize("average", [None, 0.0])
def test_without_an_average_it_is_what_enters(average):
    entry = sections_of(values(average))[0].entries[-1]
    assert entry.spent == entry.kept == 196


def test_without_stages_nothing_is_said_of_layers(tmp_path):
    found = json.loads(json.dumps(results_of(benchmark(images=40))))
    write_report(tmp_path, found)
    assert "average over layers" not in (tmp_path / "report.md").read_text()
    assert "that enter the LLM (logarithmic)" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("average", ["many", -1e12, [3]])
def test_an_average_that_is_no_number_is_refused(average):
    check_results(values())
    with pytest.raises(ValueError, match=r"runs\[7\].layers.average"):
        check_results(values(average))
