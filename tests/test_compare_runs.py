"""Evaluations side by side: other data are refused, other settings are said."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from made_up_results import results_of, write_results
from made_up_runs import benchmark
from typer.testing import CliRunner

from lvlm_prune.commands.compare import compare
from lvlm_prune.eval.compare_files import Evaluation, read_evaluations
from lvlm_prune.eval.compare_runs import (
    compare_folders,
    data_differences,
    joined_sections,
    setting_differences,
)
from lvlm_prune.eval.report_about import about_parts
from lvlm_prune.eval.report_guide import guide_parts
from lvlm_prune.eval.report_html import html_text
from lvlm_prune.eval.report_markdown import markdown_text
from lvlm_prune.eval.report_tables import main_table, parser_table, split_table
from lvlm_prune.eval.report_words import verdict


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


def test_what_weakens_an_evaluation_is_said_beside_the_others(compared):
    """Made-up answers end with a full stop, which one of the two parsers does not read."""
    text = (compared.folder / "report.md").read_text(encoding="utf-8")
    for name in ("one", "two"):
        assert f"> - {name}/probe, haunted / spots: Parsers disagree: f1 of" in text


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
        ({"generation": {"do_sample": True}}, "The generation settings differ: "),
        ({"fingerprint": "11"}, "The model fingerprint differs: "),
        ({"planted_sinks": True}, "The planted sinks differ: "),
        ({"dtype": "bfloat16"}, "The number type differs: "),
    ],
)
def test_each_setting_is_watched(folders, tmp_path, changes, words):
    other = write_results(tmp_path / "other", **changes)
    found = setting_differences(read_evaluations([folders[0], other]))
    assert any(words in warning for warning in found)


def generation(one, other):
    """What `compare` says of two evaluations with other generation settings."""
    settings = [{"generation": values} for values in (one, other)]
    found = [Evaluation(n, Path(n), v) for n, v in zip("ab", settings, strict=True)]
    return setting_differences(found)


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ({"max_new_tokens": {"pope": 4}}, {"max_new_tokens": {"pope": 8}},
         "a: `max_new_tokens.pope=4`; b: `max_new_tokens.pope=8`"),
        ({"max_new_tokens": {"pope": 4, "mme": 4}}, {"max_new_tokens": {"pope": 4, "mme": 9}},
         "a: `max_new_tokens.mme=4`; b: `max_new_tokens.mme=9`"),
        ({"max_new_tokens": {"pope": 4}}, {"max_new_tokens": 4},
         "a: `max_new_tokens.pope=4`; b: `max_new_tokens=4`"),
        ({"generation_config": {"num_beams": 1}}, {"generation_config": {}},
         "a: `generation_config.num_beams=1`; b: `none`"),
        ({"do_sample": False, "max_new_tokens": {"pope": 4}},
         {"do_sample": True, "max_new_tokens": {"pope": 4}}, "a: `do_sample=False`; b: `do_sam"),
    ],
)  # fmt: skip
def test_what_differs_of_the_generation_is_said_and_nothing_else(one, other, words):
    (sentence,) = generation(one, other)
    assert sentence.startswith(f"The generation settings differ: {words}")


def test_a_benchmark_that_one_evaluation_lacks_is_no_other_setting():
    assert generation({"max_new_tokens": {"a": 4}}, {"max_new_tokens": {"a": 4, "b": 512}}) == []


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


def test_only_files_that_differ_are_told():
    versions = [{"same.json": "aa", "other.json": "bb"}, {"same.json": "aa", "limit": "2"}]
    found = [
        Evaluation(n, Path(n), {"benchmarks": {"pope": {"version": version, "lines": 6}}})
        for n, version in zip("ab", versions, strict=True)
    ]
    (sentence,) = data_differences(found)
    assert sentence == "pope is not the same data in a (other.json=bb) and in b (limit=2)."


def test_fewer_lines_are_other_data(folders, tmp_path):
    values = results_of(benchmark(images=5), {("cls", 49): (0.1, 36)})
    with pytest.raises(ValueError, match="lines=84.*lines=35"):
        compare_folders([folders[0], write_results(tmp_path / "few", **values)], tmp_path / "out")


def test_a_folder_of_models_is_read_as_its_models(folders, tmp_path):
    for name in ("llava", "qwen"):
        write_results(tmp_path / "models" / name)
    # What `eval` writes beside the folders of several models.
    (tmp_path / "models" / "results.json").write_text('[{"model": "llava"}]', encoding="utf-8")
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
        ("[" * 100_000, "no JSON file"),
        ("[]", "its content is empty, not an object"),
        ("null", "its content is null, not an object"),
        ('{"runs": []}', "no model and no benchmarks"),
        ('{"model": "a", "generation": {"stop": "\\ud83d"}}', "no JSON file .*surrogates"),
        ('{"model": "a", "benchmarks": {}, "runs": []}', "its benchmarks is empty, not an object"),
        ('{"model": "a", "benchmarks": {"b": {"version": {}}}, "runs": []}', "b.headlines"),
    ],
)
def test_broken_result_files_are_named(folders, tmp_path, text, words):
    (tmp_path / "results.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words) as refused:
        compare_folders([folders[0], tmp_path], tmp_path / "out")
    assert str(refused.value).startswith(str(tmp_path / "results.json"))
    assert not (tmp_path / "out").exists()


def places(value, path=()):
    """Every place of nested values."""
    yield path
    if isinstance(value, dict | list):
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(each, (*path, name))


def test_values_that_no_evaluation_writes_are_shown_or_refused_by_name(folders, tmp_path):
    """Any place may hold anything: what comes back is a table or a sentence."""
    rng = np.random.default_rng(0)
    text = (folders[0] / "results.json").read_text(encoding="utf-8")
    every = [path for path in places(json.loads(text)) if path]
    shallow = [path for path in every if len(path) < 4]
    bad = [None, "x", -1, 1e300, float("nan"), [], {}, [None], {"x": None}, True, 10**400]
    refused = []
    for number in range(400):
        values = json.loads(text)
        among = shallow if number % 2 else every
        *path, last = among[rng.integers(len(among))]
        inner = values
        for name in path:
            inner = inner[name]
        inner[last] = bad[rng.integers(len(bad))]
        (tmp_path / "results.json").write_text(json.dumps(values), encoding="utf-8")
        try:
            found = read_evaluations([folders[1], tmp_path])
            sections = joined_sections(found)
        except ValueError as error:
            refused.append(str(error))
            continue
        data_differences(found)
        setting_differences(found)
        for section in sections:
            verdict(section)
            assert main_table(section).rows
            parser_table(section)
            split_table(section)
        parts = [*about_parts(found[1].results), *guide_parts(sections, {})]
        assert html_text(parts, tmp_path)
        assert markdown_text(parts)
    assert 100 < len(refused) < 400, "some values are free, most are not"
    assert all(str(tmp_path / "results.json") in words for words in refused)
    assert not any("\n" in words for words in refused)


@pytest.mark.parametrize("out", ["/proc/x", "{file}", "{file}/below"])
def test_a_folder_that_cannot_be_written_is_refused_in_a_sentence(folders, tmp_path, out):
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    out = out.format(file=file)
    with pytest.raises(ValueError, match=r"^--out .* cannot be made or written \(.+\); name a"):
        compare_folders(folders, Path(out))


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
