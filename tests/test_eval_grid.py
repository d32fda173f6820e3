"""A whole grid on the tiny model: files, table, comparison with random, timing, pictures."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny_probe import tiny_loaded, write_probe

from lvlm_prune.eval.benchmarks import load_benchmark
from lvlm_prune.eval.configs import grid_configs
from lvlm_prune.eval.eval_settings import EvalSettings
from lvlm_prune.eval.evaluate import evaluate_benchmark
from lvlm_prune.eval.grid import Grid
from lvlm_prune.eval.grid_settings import GridSettings
from lvlm_prune.eval.interval import paired_bootstrap
from lvlm_prune.eval.plot import check_plot_extra, spread
from lvlm_prune.methods import METHODS

RUNS = ["unpruned", "cls-9", "cls-4", "cls-9-sinks-keep", "cls-4-sinks-keep", "mmtok-9"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    loaded = tiny_loaded()
    loaded.model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def settings(model_folder, tmp_path_factory):
    return EvalSettings(
        models=[str(model_folder)],
        methods=["cls", "mmtok", "random", "pool"],
        keeps=[9, 4],
        sinks=["ignore", "keep"],
        pairs=["random"],
        limit=2,
        batch_size=4,
        data={"probe": write_probe(tmp_path_factory.mktemp("data") / "probe")},
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory, settings):
    """The results and the folder of one grid."""
    folder = tmp_path_factory.mktemp("grid")
    (found,) = evaluate_benchmark(settings, folder / "out")
    return found.results, folder / "out"


@pytest.fixture(scope="module")
def loaded_grid(tmp_path_factory):
    """Three runs straight from `Grid`."""
    probe = load_benchmark("probe", write_probe(tmp_path_factory.mktemp("same") / "probe"), limit=2)
    configs = grid_configs(["cls", "vtc_cls", "pool"], [9], ["ignore"])
    configs[1] = replace(configs[1], options={"start_layer": 2})
    return Grid(tiny_loaded(), probe, configs, GridSettings(pairs=["vtc_cls"])).run()[1:]


def test_runs_and_their_folders(ran):
    results, out = ran
    names = [result.name for result in results]
    assert names[:6] == RUNS
    assert len(names) == 1 + 3 * 2 * 2 + 2, "pool ranks nothing, so it knows one sink policy"
    files = {path.name for path in out.iterdir() if not path.name.startswith("probe-")}
    assert files == {
        *names, "results.json", "samples.jsonl", "report.md", "report.html", "table.md",
        "accuracy.png", "overlays.png", "budgets.png",
    }  # fmt: skip
    for name in names:
        assert [path.name for path in (out / name).rglob("*.jsonl")] == ["answers-0.jsonl"]


def samples(out):
    lines = (out / "samples.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_answers_are_rows_of_the_benchmark(ran, settings):
    results, out = ran
    lines = {item.id for item in load_benchmark("probe", settings.data["probe"], limit=2).items}
    for result in results:
        rows = [row for row in samples(out) if row["run"] == result.name]
        pairs = result.config.method in ("identity", "random")
        assert len(rows) == len({row["id"] for row in rows}) == 2 * (3 + 6 * pairs)
        said = [name for row in rows for name in row["items"]]
        assert len(said) == len(set(said)) == 2 * (6 + 10 * pairs)
        assert lines.issuperset(said)
        for row in rows:
            assert row["kept"] == result.kept
            assert row["total"] == 36
            assert row["error"] is None
            assert row["parsed"]["official"] in ("yes", "no", "unparsed")


def test_results_repeat_what_the_answers_say(ran, settings):
    results, out = ran
    labels = {item.id: item.label for item in load_benchmark("probe", settings.data["probe"]).items}
    saved = {run["run"]: run for run in json.loads((out / "results.json").read_text())["runs"]}
    assert list(saved) == [result.name for result in results]
    for result in results:
        rows = [row for row in samples(out) if row["run"] == result.name]
        said = {name: row["parsed"]["official"] for row in rows for name in row["items"]}
        right = [said[name] == labels[name] for name in said if name.startswith("pope/")]
        own = saved[result.name]
        assert own["presence"]["accuracy"] == pytest.approx(np.mean(right))
        written = json.loads(json.dumps(result.to_dict()))
        # The baseline's own times stand beside the others' here.
        assert {**written, "prefill": own["prefill"]}.items() <= own.items()
        assert own["prefill"]["llm_ratio"] == 1 if result.unpruned else own["prefill"] is not None
        block = own["benchmarks"]["probe"]["pope"]
        assert block["parsers"]["official"]["accuracy"]["value"] == pytest.approx(np.mean(right))
        assert (own["against_baseline"] is None) == result.unpruned


def test_every_run_but_random_is_compared_with_random(ran):
    results, _ = ran
    for result in results:
        compared = result.against_random is not None
        plain_random = result.name in ("random-9", "random-4")
        assert compared == (not plain_random and not result.unpruned)
        assert (result.timing is None) == result.unpruned


def test_kept_sinks_are_counted(ran):
    results, _ = ran
    for result in results:
        if result.config.method == "mmtok":
            assert result.sinks is None, "every question has its own tokens"
            continue
        assert result.sinks.kept <= result.sinks.found
        if result.unpruned or result.config.sinks == "keep":
            assert result.sinks.kept == result.sinks.found


def test_runs_with_the_same_rows_are_named(loaded_grid):
    """From layer 2 of 4 on, the last layer but one is all that vtc_cls reads, as cls does."""
    cls, vtc, pool = loaded_grid
    assert cls.same_as is None
    assert pool.same_as is None
    assert vtc.same_as == "cls-9"
    assert vtc.answers[: len(cls.answers)] == cls.answers
    assert len(vtc.answers) > len(cls.answers), "its MME pairs were asked as well"


def test_table_lists_every_run(ran):
    results, out = ran
    text = (out / "table.md").read_text()
    section = text.split("## Every run")[1].split("##")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(results)
    assert len({line.count("|") for line in rows}) == 1
    assert "| unpruned " in text
    assert "| random " in text.split("## MME pairs")[1]
    assert "| cls " not in text.split("## MME pairs")[1].split("##")[0]


@pytest.mark.parametrize("name", ["accuracy.png", "overlays.png", "budgets.png"])
def test_pictures_are_drawn(ran, name):
    _, out = ran
    with Image.open(out / name) as image:
        assert min(image.size) > 300
        assert np.asarray(image.convert("L")).std() > 10


def test_unknown_benchmark(settings):
    with pytest.raises(ValueError, match="no benchmark 'mmbench'; there are probe, pope"):
        replace(settings, benchmarks=["mmbench"])


def test_settings_are_checked_before_the_first_answer(settings, tmp_path):
    with pytest.raises(ValueError, match="keep=37"):
        evaluate_benchmark(replace(settings, keeps=[9, 37]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_plot_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"lvlm-prune\[plot\]"):
        check_plot_extra()


def test_grid_leaves_the_baseline_out_and_repeats_nothing():
    configs = grid_configs([*METHODS, "cls"], [0.5, 0.5], ["ignore", "drop"], seed=7)
    assert len(configs) == len(set(map(str, configs)))
    names = {config.method for config in configs}
    assert names == {name for name, method in METHODS.items() if method.drops}
    for config in configs:
        assert config.seed == 7
        assert config.sinks == "ignore" or METHODS[config.method].ranks


def test_equal_budgets_are_one_run(tmp_path):
    probe = load_benchmark("probe", write_probe(tmp_path / "probe"), limit=1)
    configs = grid_configs(["cls", "grid"], [9, 0.25, 4], ["ignore"])
    stages = Grid(tiny_loaded(), probe, configs).stages
    assert [(s.config.method, s.config.keep) for s in stages] == [
        ("identity", 1.0), ("cls", 9), ("cls", 4), ("grid", 9), ("grid", 4)
    ]  # fmt: skip


def test_bootstrap_interval():
    rng = np.random.default_rng(0)
    asked = np.full((200, 3), 6)
    worse = rng.binomial(6, 0.6, (200, 3))
    better = np.minimum(worse + rng.binomial(1, 0.5, (200, 3)), 6)
    found = paired_bootstrap(better, worse, asked)
    assert found.difference == pytest.approx((better - worse).sum(0).mean() / 1200)
    assert found.low < found.difference < found.high
    assert found.verdict == "above"
    assert paired_bootstrap(worse, better, asked).verdict == "below"
    assert paired_bootstrap(worse, worse, asked).verdict == "level"
    # Against the normal interval of the mean over images.
    each = (better - worse).mean(1) / 6
    width = 2 * 1.96 * each.std(ddof=1) / 200**0.5
    assert found.high - found.low == pytest.approx(width, rel=0.1)


def test_bootstrap_depends_on_the_seed_only():
    rng = np.random.default_rng(1)
    ours, theirs = rng.binomial(6, 0.5, (2, 50, 3))
    asked = np.full((50, 3), 6)
    assert paired_bootstrap(ours, theirs, asked, 1) == paired_bootstrap(ours, theirs, asked, 1)
    assert paired_bootstrap(ours, theirs, asked, 1) != paired_bootstrap(ours, theirs, asked, 2)


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [3, 1, 2], [0, 10, 10.5, 11], [5], []])
def test_labels_are_spread_in_order(values):
    places = spread(values, 2)
    order = np.argsort(values, kind="stable")
    assert all(np.diff(np.asarray(places)[order]) >= 2 - 1e-9)
    if values:
        assert np.mean(places) == pytest.approx(np.mean(values))


def test_labels_stay_below_the_top():
    assert spread([1, 9, 9.5], 2, top=10) == [1, 8, 10]
    assert spread([9, 9, 9], 2, top=9) == [5, 7, 9]
