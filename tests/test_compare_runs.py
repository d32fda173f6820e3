"""Evaluations side by side: other data are refused, other settings are said."""

import json

import pytest
import typer
from made_up_results import results_of, write_results
from made_up_runs import benchmark
from typer.testing import CliRunner

from lvlm_prune.commands.compare import compare
from lvlm_prune.eval.compare_runs import (
    compare_folders,
    data_differences,
    joined_sections,
    read_evaluations,
    setting_differences,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [
        write_results(root / "one" / "probe"),
        write_results(root / "two" / "probe", prompt="{question}\nYes or no?"),
    ]


@pytest.fixture(scope="module")
def compared(folders, tmp_path_factory):
    return compare_folders(folders, tmp_path_factory.mktemp("compared"))


def other_data(folder):
    values = results_of(benchmark(images=12, version="ffffffffffffffff"), {("cls", 49): (0.1, 36)})
    return write_results(folder, **values)


def test_names_are_as_short_as_they_can_be_told_apart(folders):
    assert [one.name for one in read_evaluations(folders)] == ["one/probe", "two/probe"]


def test_one_table_and_one_plot_hold_all_runs(folders, compared):
    text = (compared.folder / "report.md").read_text(encoding="utf-8")
    for name in ("one/probe: unpruned", "one/probe: cls", "two/probe: unpruned", "two/probe: cls"):
        assert name in text
        assert name in compared.text
    assert "(haunted-spots-tokens.png)" in text
    assert (compared.folder / "haunted-spots-tokens.png").is_file()
    assert (compared.folder / "report.html").is_file()
    assert text.count("f1 is the mean over near, far") == 1, "said once for all runs"


def test_holm_counts_the_runs_of_all_folders(folders):
    section = joined_sections(read_evaluations(folders))[0]
    entries = [entry for entry in section.entries if entry.answers]
    assert len(entries) == 2
    least = min(entry.answers["mcnemar_p"] for entry in entries)
    assert min(entry.holm for entry in entries) == pytest.approx(min(1, 2 * least))


def test_other_settings_are_said(compared):
    (warning,) = compared.warnings
    assert "The prompt differs" in warning
    assert "one/probe: `{question}\\nAnswer with one word.`" in warning
    assert "two/probe: `{question}\\nYes or no?`" in warning


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"generation": {"do_sample": True}}, "generation settings differs"),
        ({"fingerprint": "11"}, "model fingerprint differs"),
        ({"planted_sinks": True}, "planted sinks differs"),
    ],
)
def test_each_setting_is_watched(folders, tmp_path, changes, words):
    other = write_results(tmp_path / "other", **changes)
    found = setting_differences(read_evaluations([folders[0], other]))
    assert any(words in warning for warning in found)


def test_other_data_are_refused_with_both_versions(folders, tmp_path):
    other = other_data(tmp_path / "other")
    with pytest.raises(ValueError, match=r"0011223344556677.*ffffffffffffffff.*--force"):
        compare_folders([folders[0], other], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "not the same data" in data_differences(read_evaluations([folders[0], other]))[0]


def test_force_compares_other_data_and_says_so(folders, tmp_path):
    other = other_data(tmp_path / "other")
    forced = compare_folders([folders[0], other], tmp_path / "out", force=True)
    assert "not the same data" in forced.warnings[0]
    assert "not the same data" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_fewer_lines_are_other_data(folders, tmp_path):
    values = results_of(benchmark(images=5), {("cls", 49): (0.1, 36)})
    with pytest.raises(ValueError, match="lines=84.*lines=35"):
        compare_folders([folders[0], write_results(tmp_path / "few", **values)], tmp_path / "out")


def test_a_folder_of_models_is_read_as_its_models(folders, tmp_path):
    for name in ("llava", "qwen"):
        write_results(tmp_path / "models" / name)
    found = read_evaluations([tmp_path / "models", tmp_path / "models" / "qwen"])
    assert [one.name for one in found] == ["llava", "qwen"], "the same folder counts once"


def test_what_is_no_evaluation_is_refused(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no results.json in .*empty"):
        compare_folders([folders[0], tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(ValueError, match="needs two evaluations"):
        compare_folders([folders[0], folders[0]], tmp_path / "out")
    with pytest.raises(ValueError, match="own report would be lost"):
        compare_folders(folders, folders[1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON file"),
        ("[]", "no benchmarks and no runs"),
        ('{"runs": []}', "no benchmarks"),
        ('{"benchmarks": {"a": {"version": {}, "lines": 1}}, "runs": []}', "no value 'headlines'"),
    ],
)
def test_broken_result_files_are_named(folders, tmp_path, text, words):
    (tmp_path / "results.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        compare_folders([folders[0], tmp_path], tmp_path / "out")


def test_other_headlines_do_not_share_a_table(folders, tmp_path):
    values = json.loads((folders[0] / "results.json").read_text(encoding="utf-8"))
    values["benchmarks"]["haunted"]["headlines"]["spots"]["metric"] = "n"
    with pytest.raises(ValueError, match="headed by f1 and by n"):
        compare_folders([folders[0], write_results(tmp_path / "n", **values)], tmp_path / "out")


def test_the_command_prints_the_table_and_the_warnings(folders, tmp_path):
    app = typer.Typer()
    app.command()(compare)
    found = CliRunner().invoke(app, [*map(str, folders), "--out", str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert "one/probe: cls" in found.stdout
    assert "report.html" in found.stdout
    assert "warning: The prompt differs" in found.stderr
