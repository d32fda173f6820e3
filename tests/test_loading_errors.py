"""Folders that are no usable model are refused in one sentence that says what to do."""

import shutil

import pytest

from lvlm_prune.assets import model_path
from lvlm_prune.loading import load


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(model_path(), tmp_path / "model")


def cut_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def drop_template(folder):
    for file in folder.glob("chat_template*"):
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "error", "sentence"),
    [
        (cut_weights, OSError, "weights are damaged or incomplete .* download or save them again"),
        (drop_template, ValueError, "has no chat template, .* save one as chat_template.jinja"),
        (lambda folder: (folder / "config.json").unlink(), OSError, "holds no config.json"),
    ],
    ids=["weights", "template", "config"],
)
def test_a_damaged_folder_is_a_sentence(folder, damage, error, sentence):
    damage(folder)
    with pytest.raises(error, match=sentence) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_an_undamaged_copy_loads(folder):
    assert load(folder).label == "model"
