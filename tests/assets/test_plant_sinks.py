"""Planted sinks are few, large, off the objects, and cost no accuracy."""

import json

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from lvlm_prune.assets import model_path, probe_path
from lvlm_prune.assets.plant_sinks import calibration_images, plant_sinks


def load():
    return LlavaForConditionalGeneration.from_pretrained(
        model_path(), dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.fixture(scope="module")
def planted():
    return plant_sinks(load())


@pytest.fixture(scope="module")
def held_back():
    """Scenes that were not used to plant: pixel values and patch classes."""
    pixels, labels = calibration_images(128)
    return pixels[64:], labels[64:]


@torch.no_grad()
def encoder(model, pixels):
    out = model.model.vision_tower(pixels, output_hidden_states=True, output_attentions=True)
    return out.hidden_states[-2][:, 1:].norm(dim=-1), out.attentions[-2].mean(1)[:, 0, 1:]


def test_the_model_as_trained_has_no_sinks(held_back):
    norms, _ = encoder(load(), held_back[0])
    assert (norms < 3 * norms.median(1, keepdim=True).values).all()


def test_a_few_border_background_patches_become_sinks(planted, held_back):
    pixels, labels = held_back
    norms, cls = encoder(planted, pixels)
    sinks = norms > 3 * norms.median(1, keepdim=True).values
    assert 2 <= sinks.sum(1).float().mean() <= 7
    assert (sinks.sum(1) > 0).float().mean() >= 0.85
    assert norms[sinks].mean() > 3.5 * norms[~sinks].median()
    assert (labels[sinks] >= 0).float().mean() <= 0.02
    mass = (cls * sinks).sum(1) / cls.sum(1)
    assert 0.15 <= mass[sinks.any(1)].mean() <= 0.8


def test_planting_is_deterministic(planted):
    again = plant_sinks(load())
    assert again.planted_sinks == planted.planted_sinks
    for a, b in zip(planted.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_accuracy_is_kept(planted):
    processor = AutoProcessor.from_pretrained(model_path())
    lines = (probe_path() / "pope_random.jsonl").read_text().splitlines()[1000::16]
    rows = [json.loads(line) for line in lines]
    images = [Image.open(probe_path() / "images" / row["image"]) for row in rows]
    text = [f"USER: <image>\n{row['text']} ASSISTANT:" for row in rows]
    inputs = processor(images=images, text=text, padding=True, return_tensors="pt")
    with torch.no_grad():
        said = [m(**inputs).logits[:, -1].argmax(-1) for m in (load(), planted)]
    assert (said[0] == said[1]).float().mean() >= 0.94


def test_wrong_use_is_refused(planted):
    with pytest.raises(ValueError, match="already"):
        plant_sinks(planted)
    with pytest.raises(ValueError, match="float32"):
        plant_sinks(load().to(torch.bfloat16))
    with pytest.raises(ValueError, match="both"):
        plant_sinks(load(), torch.zeros(1, 3, 112, 112))
