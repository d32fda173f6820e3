"""Several models at once: a folder for each, one table, methods that a model cannot run."""

import json

import pytest
from tiny_chatters import tiny_internvl, tiny_qwen
from tiny_probe import tiny_loaded, write_probe

from lvlm_prune.config import PruneConfig
from lvlm_prune.errors import MissingSignalError
from lvlm_prune.eval.benchmark import Item
from lvlm_prune.eval.configs import CONTROLS, follows, grid_configs
from lvlm_prune.eval.eval_settings import EvalSettings
from lvlm_prune.eval.evaluate import evaluate_benchmark
from lvlm_prune.eval.interval import Interval
from lvlm_prune.eval.models_table import ModelResults, models_table
from lvlm_prune.eval.results import RunResult, score_pope
from lvlm_prune.eval.table import not_above
from lvlm_prune.methods import METHODS

MAKERS = {"small-llava": tiny_loaded, "small-qwen": tiny_qwen, "small-internvl": tiny_internvl}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Saved models and their processors."""
    parent = tmp_path_factory.mktemp("models")
    for name, make in MAKERS.items():
        loaded = make()
        loaded.model.save_pretrained(parent / name)
        loaded.processor.save_pretrained(parent / name)
    return [str(parent / name) for name in MAKERS]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Where the probe is."""
    return {"probe": write_probe(tmp_path_factory.mktemp("probe") / "probe")}


@pytest.fixture(scope="module")
def ran(folders, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    settings = EvalSettings(keeps=[0.25], models=folders, limit=2, data=data)
    return evaluate_benchmark(settings, out), out


def test_a_folder_for_each_model(ran):
    found, out = ran
    assert {path.name for path in out.iterdir()} == {*MAKERS, "table.md", "results.json"}
    for name, model in zip(MAKERS, found, strict=True):
        assert model.about["model"] == name
        assert (out / name / "table.md").is_file()
        assert len(model.results) == len(list((out / name).glob("*/probe/answers-0.jsonl")))
    saved = json.loads((out / "results.json").read_text())
    assert [len(each["runs"]) for each in saved] == [len(model.results) for model in found]


def test_all_leaves_out_what_a_model_cannot_run(ran):
    found, out = ran
    for model in found:
        ran_methods = {result.config.method for result in model.results}
        assert ran_methods | set(model.about["left_out"]) == set(METHODS)
        assert not ran_methods & set(model.about["left_out"])
    assert "downsample" in found[2].about["left_out"]
    rows = [line for line in (out / "table.md").read_text().splitlines() if "downsample" in line]
    assert len(rows) == 2
    assert all(row.split("|")[4].strip() == "-" for row in rows), "and not for InternVL"


def test_the_table_has_every_method_model_and_budget(ran):
    found, out = ran
    text = (out / "table.md").read_text()
    for heading in ("Presence accuracy", "Yes-ratio"):
        section = text.split(f"## {heading}")[1].split("##")[0]
        lines = [line for line in section.splitlines() if line.startswith("|")]
        assert len(lines) == 2 + sum(method.drops for method in METHODS.values())
        assert {line.count("|") for line in lines} == {5}
        assert all(name in lines[0] for name in MAKERS)
    for model in found:
        assert f"{100 * model.results[1].accuracy:.1f}" in text
        assert f"**{model.about['model']}.** {not_above(model.results)}" in text


def test_a_method_that_is_named_must_run_on_every_model(folders, data, tmp_path):
    settings = EvalSettings(keeps=[4], models=folders, methods=["cls", "downsample"], data=data)
    with pytest.raises(ValueError, match="small-internvl: method 'downsample'"):
        evaluate_benchmark(settings, tmp_path / "out")
    assert not (tmp_path / "out").exists(), "found before the first model ran"


def test_settings_that_leave_no_method(folders, data, tmp_path):
    settings = EvalSettings(keeps=[4], models=folders[1:2], order="sinks_first", data=data)
    with pytest.raises(MissingSignalError, match="order='sinks_first' moves single patches"):
        evaluate_benchmark(settings, tmp_path / "out")


def test_models_of_one_name_are_refused(folders, data, tmp_path):
    other = tmp_path / "small-llava"
    other.symlink_to(folders[0])
    models = [folders[0], str(other)]
    settings = EvalSettings(keeps=[4], models=models, methods=["cls"], data=data)
    with pytest.raises(ValueError, match="share a folder"):
        evaluate_benchmark(settings, tmp_path / "out")


def run(method, kept, verdict):
    """A run that stands to random as the verdict says."""
    items = [Item("1", "a.png", "?", "yes", "pope", "random")]
    ends = {"above": (0.1, 0.3), "level": (-0.1, 0.1), "below": (-0.3, -0.1), None: (0, 0)}
    against = None if verdict is None else Interval(sum(ends[verdict]) / 2, *ends[verdict])
    config = PruneConfig(method=method, keep=0.5)
    scores = score_pope(items, ["yes"])
    return RunResult(
        config, method, "", kept, 36, items, ["yes"], scores, {}, against_random=against
    )


def test_selectors_that_are_no_better_than_random_are_named():
    runs = [
        run("identity", 36, None),
        run("cls", 9, "above"),
        run("cls", 4, "level"),
        run("mmtok", 9, "above"),
        run("mmtok", 4, "below"),
        run("pool", 4, "below"),
        run("random", 4, None),
    ]
    wanted = "at 9 tokens none of 2; at 4 tokens cls, mmtok."
    assert not_above(runs) == f"Selectors that do not stand above `random`: {wanted}"
    assert not_above(runs[:1]) == "No selector was compared with `random`."
    text = models_table(
        [
            ModelResults(
                runs, {"model": "m", "benchmark": "b", "images": 1, "questions": 1, "asked": 1}
            )
        ]
    )
    row = next(line for line in text.splitlines() if line.startswith("| cls "))
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["cls", "100.0", "100.0 °"]
    assert "100.0 †" in next(line for line in text.splitlines() if line.startswith("| mmtok"))


def test_methods_follow_the_sink_policies_that_they_can():
    assert set(CONTROLS) == {"identity", "random", "grid", "pool", "downsample"}
    assert follows("cls", "query")
    assert not follows("divprune", "query")
    assert not follows("grid", "drop")
    configs = grid_configs(["cls", "divprune", "grid"], [9], ["drop", "query"], per="tile")
    assert [(config.method, config.sinks) for config in configs] == [
        ("cls", "drop"),
        ("cls", "query"),
        ("divprune", "drop"),
        ("divprune", "ignore"),
        ("grid", "ignore"),
    ]
    assert {config.per for config in configs} == {"tile"}
