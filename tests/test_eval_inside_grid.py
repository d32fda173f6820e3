"""A grid with stages, reweightings and captions on tiny models: runs, files, controls, tables."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny_chatters import tiny_internvl
from tiny_probe import tiny_loaded, write_probe

from lvlm_prune.eval.benchmarks import load_benchmark
from lvlm_prune.eval.caption import load_scenes
from lvlm_prune.eval.compare import changed_share
from lvlm_prune.eval.eval_settings import EvalSettings
from lvlm_prune.eval.evaluate import evaluate_benchmark
from lvlm_prune.eval.grid import Grid
from lvlm_prune.eval.inside import UNPRUNED, inside_configs, parse_inside
from lvlm_prune.eval.inside_models import inside_text
from lvlm_prune.eval.inside_table import stage_control
from lvlm_prune.eval.interval import paired_bootstrap
from lvlm_prune.layers.schedule import LayerSchedule

MAKERS = {"small-llava": tiny_loaded, "small-internvl": tiny_internvl}
INSIDE = parse_inside("fastv@1:5,exit,random@1:5,zipvl", "pai,pai:code,restore", combine=False)
ZIPVL = LayerSchedule("zipvl", options={"share": 0.5})
EXIT = LayerSchedule("exit", options={"tolerance": float("inf"), "patience": 1, "after": 0.2})
OPTIONS = {"zipvl": ZIPVL, "exit": EXIT}
NAMES = {
    "fastv-1-5", "exit", "random-1-5", "zipvl",
    "random-as-exit", "random-as-zipvl", "pai", "pai-code",
}  # fmt: skip


@pytest.fixture(scope="module")
def probe_folder(tmp_path_factory):
    return write_probe(tmp_path_factory.mktemp("probe") / "probe")


@pytest.fixture(scope="module")
def ran(tmp_path_factory, probe_folder):
    """The results and the folder of one command with two models."""
    parent = tmp_path_factory.mktemp("models")
    for name, make in MAKERS.items():
        loaded = make()
        loaded.model.save_pretrained(parent / name)
        loaded.processor.save_pretrained(parent / name)
    out = tmp_path_factory.mktemp("out") / "out"
    # Random weights are no trained model's: thresholds under which adaptive methods drop something.
    layers = tuple(OPTIONS.get(one.method, one) for one in INSIDE.layers)
    settings = EvalSettings(
        models=[str(parent / name) for name in MAKERS],
        methods=["identity", "visionzip"],
        keeps=[8],
        batch_size=5,
        limit=2,
        inside=replace(INSIDE, layers=layers),
        captions=True,
        data={"probe": probe_folder},
    )
    return evaluate_benchmark(settings, out), out


def by_name(model):
    return {result.name: result for result in model.results}


def test_every_stage_and_reweighting_ran_on_every_base(ran):
    found, out = ran
    for model, folder in zip(found, MAKERS, strict=True):
        results = by_name(model)
        names = {"unpruned", "visionzip-8"}
        names |= {f"{base}-{name}" for base in ("unpruned", "visionzip-8") for name in NAMES}
        assert set(results) == names | {"visionzip-8-restore"}
        assert "identity + restore" in model.about["left_out"]
        for name in results:
            assert [path.name for path in (out / folder / name).iterdir()] == ["probe"]
        assert model.results[0].unpruned
        inside = [result.inside for result in model.results]
        assert inside == sorted(inside)


def test_tokens_of_each_layer(ran):
    for model in ran[0]:
        for base, entered in (("unpruned", model.results[0].total), ("visionzip-8", 8)):
            results = by_name(model)
            assert results[f"{base}-fastv-1-5"].use.tokens_per_layer == (entered, 5, 5)
            assert results[base].use.tokens_per_layer == (entered,) * 3
            assert results[f"{base}-exit"].use.last == 0
        assert by_name(model)["unpruned"].use.prefill_share == pytest.approx(1)
        assert 0 < by_name(model)["visionzip-8"].use.prefill_share < 1


def test_controls_have_the_same_tokens_at_each_layer(ran):
    for model in ran[0]:
        results = by_name(model)
        for base in ("unpruned", "visionzip-8"):
            for name, control in (("fastv-1-5", "random-1-5"), ("exit", "random-as-exit"),
                                  ("zipvl", "random-as-zipvl")):  # fmt: skip
                ours, theirs = results[f"{base}-{name}"], results[f"{base}-{control}"]
                assert theirs.config.layers.method == "random"
                assert theirs.use.tokens_per_layer == pytest.approx(
                    ours.use.tokens_per_layer, abs=0.5
                )
                images = list(dict.fromkeys(item.image for item in ours.items))
                right, asked = ours.right(images)
                expected = paired_bootstrap(right, theirs.right(images)[0], asked)
                assert ours.against_random == expected
                assert theirs.against_random is None
                assert stage_control(ours, model.results) is theirs
                assert stage_control(theirs, model.results) is None


def test_runs_are_compared_with_their_base(ran):
    for model in ran[0]:
        for result in model.inside:
            base = by_name(model)["unpruned" if result.base == "unpruned" else "visionzip-8"]
            difference = result.accuracy - base.accuracy
            assert result.against_base.difference == pytest.approx(difference)
            said = dict(zip([i.id for i in base.items], base.answers, strict=True))
            mine = zip(result.items, result.answers, strict=True)
            changed = [answer != said[i.id] for i, answer in mine if i.benchmark == "pope"]
            assert result.changed == pytest.approx(np.mean(changed))
            assert all(item.benchmark == "pope" for item in result.items)
        assert any(result.changed for result in model.inside)
        assert changed_share(model.results[0], model.results[0]) == 0


def test_result_files_say_what_ran(ran):
    found, out = ran
    for model, folder in zip(found, MAKERS, strict=True):
        runs = json.loads((out / folder / "results.json").read_text())["runs"]
        by_run = {run["run"]: run for run in runs}
        saved = by_run["visionzip-8-zipvl"]
        assert saved["layers"]["method"] == "zipvl"
        assert saved["layers"]["options"] == {"share": 0.5}
        assert set(saved["layers"]["ran"].values()) == {None}
        assert len(saved["layers"]["tokens_per_layer"]) == 3
        assert saved["reweight"] is None
        control = by_run["visionzip-8-random-as-zipvl"]
        assert control["layers"]["control_of"] == "zipvl"
        saved = by_run["unpruned-pai-code"]
        assert saved["reweight"] == {"method": "pai", "preset": "code", "options": {}}
        assert saved["presence"]["minus_base"]["low"] <= saved["presence"]["minus_base"]["high"]
        assert saved["config"]["reweight"] == saved["reweight"]
        assert model.about["asked"] == 18, "captions are no benchmark questions"
        for result in model.results:
            assert json.loads(json.dumps(result.to_dict()))["captions"]["captions"] == 2


def test_captions_are_those_of_the_images(ran, probe_folder):
    scenes = load_scenes(probe_folder)
    for model, folder in zip(ran[0], MAKERS, strict=True):
        for result in model.results:
            lines = (ran[1] / folder / "samples.jsonl").read_text().splitlines()
            rows = [json.loads(line) for line in lines if '"caption/' in line]
            rows = [row for row in rows if row["run"] == result.name]
            assert [row["image"] for row in rows] == list(scenes.present)[:2]
            assert [row["text"] for row in rows] == result.captions.texts


def test_tables_are_complete(ran):
    found, out = ran
    for model, folder in zip(found, MAKERS, strict=True):
        text = (out / folder / "table.md").read_text()
        for base in ("the unpruned prompt", "visionzip (8 of"):
            stages = text.split(f"## Stages inside the LLM, on {base}")[1].split("##")[0]
            rows = [line for line in stages.splitlines() if line.startswith("|")]
            assert len(rows) == 2 + 1 + 6
            assert len({line.count("|") for line in rows}) == 1
            assert "## Reweighting of attention, on " + base in text
        captions = text.split("## Captions")[1]
        rows = [line for line in captions.splitlines() if line.startswith("|")]
        assert len(rows) == 2 + len(model.results) + 1
    text = (out / "inside.md").read_text()
    assert text == inside_text(found)
    for heading, rows in (("yes-ratio / F1", 5), ("a layer on average", 5), ("answers", 4)):
        section = next(part for part in text.split("\n## ")[1:] if heading in part.split("\n")[0])
        lines = [line for line in section.splitlines() if line.startswith("|")]
        assert len(lines) == 2 + rows
        assert len({line.count("|") for line in lines}) == 1
        assert all(name in lines[0] for name in MAKERS)
    restore = next(line for line in text.splitlines() if line.startswith("| restore"))
    assert [cell.strip() == "-" for cell in restore.split("|")[2:-1]] == [True, False, True, False]


def test_the_picture_is_drawn(ran):
    for folder in MAKERS:
        with Image.open(ran[1] / folder / "inside.png") as image:
            assert min(image.size) > 300
            assert np.asarray(image.convert("L")).std() > 10


def test_equal_runs_are_one(probe_folder):
    """49 and 0.25 can be the same budget, a schedule the default, a preset without effect."""
    loaded, probe = tiny_loaded(), load_benchmark("probe", probe_folder, limit=1)
    inside = parse_inside("fastv,fastv@2:0.5,fastv@2:0.25", "pai,pai")
    configs = inside_configs([UNPRUNED, replace(UNPRUNED, seed=4)], inside)
    results = Grid(loaded, probe, configs).run()
    labels = [result.label for result in results]
    assert labels == ["unpruned", "fastv", "fastv 2:0.25", "pai", "random 2:0.5", "random 2:0.25"]
    assert [result.name for result in results if result.same_as] == []


def test_combined_runs_stand_on_the_stage_alone(probe_folder):
    loaded, probe = tiny_loaded(), load_benchmark("probe", probe_folder, limit=2)
    configs = inside_configs([UNPRUNED], parse_inside("fastv@1:3", "pai", combine=True))
    results = {run.label: run for run in Grid(loaded, probe, configs).run()}
    assert list(results) == ["unpruned", "fastv 1:3", "pai", "fastv 1:3 + pai", "random 1:3"]
    both, alone = results["fastv 1:3 + pai"], results["fastv 1:3"]
    assert both.use.tokens_per_layer == alone.use.tokens_per_layer
    assert both.against_base.difference == pytest.approx(both.accuracy - alone.accuracy)
    assert both.changed == changed_share(both, alone)
    assert both.against_random is None


def test_only_the_unpruned_prompt(tmp_path, probe_folder):
    """Without a method before the LLM there is nothing to draw of one."""
    settings = EvalSettings(
        keeps=[0.5],
        methods=["identity"],
        limit=1,
        inside=parse_inside("fastv", "none"),
        data={"probe": probe_folder},
    )
    evaluate_benchmark(settings, tmp_path / "out")
    files = {path.name for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert {"results.json", "table.md", "inside.md", "inside.png", "report.html"} <= files
    assert not {"accuracy.png", "overlays.png", "budgets.png"} & files


def test_a_stage_that_a_model_cannot_run_is_named(tmp_path, probe_folder):
    settings = EvalSettings(
        keeps=[0.5],
        methods=["visionzip"],
        inside=parse_inside("fastv@4:0.5", "none"),
        data={"probe": probe_folder},
    )
    with pytest.raises(ValueError, match="llava-pictogram: layer 4 is out of range"):
        evaluate_benchmark(settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()
