"""Answers of another processor, another config or other pictures are never taken over."""

import json

import pytest
from PIL import Image
from tiny_probe import tiny_loaded, write_probe

from lvlm_prune.eval.benchmarks import load_benchmark
from lvlm_prune.eval.configs import grid_configs
from lvlm_prune.eval.grid import Grid
from lvlm_prune.eval.grid_settings import GridSettings
from lvlm_prune.eval.row import Row
from lvlm_prune.eval.run_header import OtherRunError


def run(loaded, data, out):
    """One method on two images."""
    benchmark = load_benchmark("probe", data, "random", limit=2)
    return Grid(loaded, benchmark, grid_configs(["cls"], [9]), GridSettings(out=out)).run()


@pytest.fixture
def ran(tmp_path):
    data = write_probe(tmp_path / "probe")
    run(tiny_loaded(), data, tmp_path / "out")
    return data, tmp_path / "out"


def test_the_same_model_and_pictures_go_on(ran):
    assert all(one.errors == 0 for one in run(tiny_loaded(), *ran))


def test_another_image_processor_is_refused(ran):
    loaded = tiny_loaded()
    loaded.processor.image_processor.image_mean = [0.9, 0.1, 0.9]
    with pytest.raises(OtherRunError, match="image_processor"):
        run(loaded, *ran)


def test_another_config_is_refused(ran):
    loaded = tiny_loaded()
    loaded.model.config.vision_feature_layer = -1
    with pytest.raises(OtherRunError, match="config"):
        run(loaded, *ran)


def test_other_pictures_of_the_same_names_are_refused(ran):
    Image.new("RGB", (64, 48), "red").save(ran[0] / "images" / "scene_1.png")
    with pytest.raises(OtherRunError, match=r"another picture named scene_1\.png"):
        run(tiny_loaded(), *ran)


@pytest.mark.parametrize("change", [{"text": None}, {"error": "ValueError: both"}])
def test_a_row_has_either_a_text_or_an_error(ran, change):
    path = ran[1] / "cls-9" / "probe" / "answers-0.jsonl"
    header, first, *rest = path.read_text().splitlines()
    broken = json.dumps({**json.loads(first), **change})
    path.write_text("\n".join([header, broken, *rest]) + "\n")
    with pytest.raises(ValueError, match="either a text or an error"):
        run(tiny_loaded(), *ran)


def test_rows_come_back_as_they_were():
    row = Row("a/1", ("a/1",), "b.png", "?", "USER: ?", "yes", sinks=(1, 2), image_crc="00ff00ff")
    assert Row.from_dict(json.loads(row.to_json())) == row
