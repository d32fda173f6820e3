"""The bundled probe and model through the evaluation: formats, loading, planted sinks, timing."""

from collections import Counter

import pytest
import torch
from tiny_models import prompts, tiny_llava

from lvlm_prune.assets import ASSETS, model_path, probe_path
from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.config import PruneConfig
from lvlm_prune.eval.benchmarks import load_benchmark
from lvlm_prune.eval.configs import grid_configs
from lvlm_prune.eval.grid import Grid
from lvlm_prune.eval.prefill import StageTimes, interleaved, medians
from lvlm_prune.eval.probe import MME_TASKS, POPE_SPLITS, load_probe
from lvlm_prune.loading import load

needs_model = pytest.mark.skipif(
    not (ASSETS / "models" / "llava-pictogram" / "model.safetensors").is_file(),
    reason="the bundled model is absent",
)


@pytest.fixture(scope="module")
def probe():
    if not (ASSETS / "probe" / "pope_random.jsonl").is_file():
        pytest.skip("the bundled probe is absent")
    return load_probe(probe_path())


def test_splits_are_balanced_in_every_image(probe):
    per_image = Counter((i.split, i.image, i.label) for i in probe.items if i.benchmark == "pope")
    assert set(per_image.values()) == {3}
    assert len(per_image) == len(POPE_SPLITS) * len(probe.images) * 2


def test_mme_pairs_are_complete(probe):
    pairs = Counter((i.split, i.image) for i in probe.items if i.benchmark == "mme")
    assert set(pairs.values()) == {2}
    assert {split for split, _ in pairs} == set(MME_TASKS)


def test_images_exist(probe):
    assert all((probe.folder / name).is_file() for name in probe.images)


def test_broken_lines_are_refused(tmp_path):
    (tmp_path / "mme").mkdir()
    line = '{"question_id": 1, "image": "a.jpg", "text": "Is there a cat?", "label": "maybe"}\n'
    for split in POPE_SPLITS:
        (tmp_path / f"pope_{split}.jsonl").write_text(line)
    for task in MME_TASKS:
        (tmp_path / "mme" / f"{task}.txt").write_text("")
    with pytest.raises(ValueError, match="pope/random/1 has the label 'maybe'"):
        load_probe(tmp_path)
    double = line.replace("maybe", "yes") * 2
    (tmp_path / "pope_random.jsonl").write_text(double)
    with pytest.raises(ValueError, match="pope/random/1 appears twice|has the label 'maybe'"):
        load_probe(tmp_path)


@needs_model
def test_bundled_model_answers_and_prunes(probe):
    loaded = load()
    assert loaded.processor.tokenizer.padding_side == "left"
    assert next(loaded.model.parameters()).dtype == torch.float32
    assert not loaded.model.training
    few = load_benchmark("probe", limit=8)
    grid = Grid(loaded, few, grid_configs(["cls", "random"], [0.25], ["ignore"]))
    full, cls, random = grid.run()
    assert full.accuracy > 0.75
    assert (full.total, cls.kept, random.kept) == (196, 49, 49)
    assert all(score.unparsed == score.empty == 0 for score in full.pope.values())


@needs_model
def test_planted_sinks_are_found_kept_and_dropped(probe):
    loaded = load(model_path(), plant=False)
    assert loaded.label == "llava-pictogram"
    planted = load(plant=True)
    assert planted.label == "llava-pictogram (planted sinks)"
    few = load_benchmark("probe", limit=8)
    _, ignored, dropped = Grid(
        planted, few, grid_configs(["cls"], [12], ["ignore", "drop"], seed=0)
    ).run()
    assert ignored.sinks.found == dropped.sinks.found > 0
    assert ignored.sinks.kept > 0
    assert dropped.sinks.kept == 0


@pytest.mark.parametrize(("seconds", "rounds"), [(60, 2), (0, 1)])
def test_timing_is_interleaved_and_bounded(seconds, rounds):
    model = tiny_llava()
    configs = [PruneConfig(method="identity", keep=1.0), PruneConfig(method="cls", keep=4)]
    unpruned, stage = (BoundaryStage(model, config) for config in configs)
    inputs = prompts("tit", "ttit")
    base, (timing,), done = interleaved(model, unpruned, [stage], inputs, 2, seconds)
    assert done == rounds
    assert min(base.encode, base.prefill, timing.times.encode, timing.times.prefill) > 0
    assert timing.llm_ratio > 0
    assert timing.total_ratio > 0


def test_medians_stage_by_stage():
    times = [StageTimes(1, 2, 3, 4), StageTimes(5, 0, 3, 2), StageTimes(2, 1, 9, 3)]
    assert medians(times) == StageTimes(2, 1, 3, 3)
    assert medians(times).total == 9
