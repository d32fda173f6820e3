"""Shares of selection and of signals: what is timed and divided, not how fast anything is."""

import json
from dataclasses import replace
from statistics import median

import pytest
import torch

from lvlm_prune.attention import cls_row, received_attention
from lvlm_prune.eval.speed import measure_speed
from lvlm_prune.eval.speed_models import build_model
from lvlm_prune.eval.speed_presets import PRESETS, SIGNAL_PRESETS
from lvlm_prune.eval.speed_selection import measure_selection, time_rounds
from lvlm_prune.eval.speed_signals import EncoderCosts, measure_signals, readings
from lvlm_prune.methods import METHODS

TINY = PRESETS["tiny"]
METHODS_TIMED = ["cls", "dart", "downsample", "flowcut"]
NEXT = replace(TINY, name="next", kind="llava_next", tiles=(2, 2), measures="selection")


@pytest.fixture(scope="module")
def selection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("selection")
    results = measure_selection(NEXT, METHODS_TIMED, 16, 3, 1, folder, "cpu")
    return results, folder


def test_selection_is_a_share_of_the_scaled_prefill(selection):
    results, _ = selection
    assert len(results["rounds"]) == 3
    for name in ("cls", "dart", "flowcut"):
        ratios = []
        for times in results["rounds"]:
            assert times[name]["cpu"] > 0
            # 3 LLM layers stand for 32.
            ratios.append(times[name]["cpu"] / (times["prefill"]["cpu"] * 32 / 3))
        assert results["share_of_prefill"][name]["median"] == pytest.approx(median(ratios))
    assert results["kept"] == {"cls": 16, "dart": 16, "flowcut": 16}


def test_selection_page_says_what_was_scaled_and_left_out(selection):
    results, folder = selection
    assert json.loads((folder / "speed.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(results)
    )
    page = (folder / "speed.md").read_text(encoding="utf-8")
    assert "lvlm-prune speed --preset next --method cls,dart,downsample,flowcut --keep 16" in page
    assert "scaled to 32 layers" in page
    assert list(results["refused"]) == ["downsample"]
    assert "Not possible with this model: downsample." in page
    assert "Works inside the encoder, which is not in these times: flowcut." in page
    assert len([line for line in page.splitlines() if line.startswith("|")]) == 2 + 3


def test_encoders_run_before_anything_is_timed(monkeypatch, tmp_path):
    """The vision tower runs once for each method, however many rounds there are."""
    calls = []

    def counted(preset, device):
        model = build_model(preset, device)
        model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
        return model

    monkeypatch.setattr("lvlm_prune.eval.speed_selection.build_model", counted)
    measure_selection(TINY, ["cls", "divprune"], 16, 4, 1, tmp_path, "cpu")
    assert len(calls) == 2


def test_7b_width_presets_time_every_method_that_drops():
    for name, tokens, keep in (("selection-576", 576, 64), ("selection-2880", 2880, 320)):
        preset = PRESETS[name]
        assert (preset.visual_tokens, preset.keep) == (tokens, keep)
        assert preset.method_names() == [key for key, one in METHODS.items() if one.drops]
        layers = build_model(preset, "meta").model.language_model.layers
        assert layers[0].mlp.gate_proj.weight.shape == (11008, 4096)
        assert preset.llm_depth == 32


def test_rounds_are_shuffled_and_the_first_one_does_not_count():
    seen = []
    tasks = {name: lambda name=name: seen.append(name) for name in "abcd"}
    rounds = time_rounds(tasks, torch.device("cpu"), repeats=3)
    orders = [tuple(seen[start : start + 4]) for start in range(0, 16, 4)]
    assert len(rounds) == 3
    assert len(orders) == 4
    assert all(sorted(order) == list("abcd") for order in orders)
    assert len(set(orders)) > 1


@pytest.fixture(scope="module")
def signals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals")
    siglip = replace(TINY, name="b", encoder="siglip", vision_depth=8)
    qwen = replace(TINY, name="c", kind="qwen2_5_vl", grid=(4, 4), full_layers=(1, 3))
    presets = (replace(TINY, name="a"), siglip, qwen)
    return measure_signals(2, 1, folder, "cpu", presets), folder


def test_signals_are_shares_of_the_encoder(signals):
    results, folder = signals
    with_cls, without = set(readings(True)), set(readings(False))
    assert set(results["share_of_encoder"]["a"]) == with_cls
    assert (
        set(results["share_of_encoder"]["b"])
        == without
        == with_cls
        - {
            "CLS row",
            "CLS row over heads",
        }
    )
    for encoder, scale in (("a", 1), ("b", 2), ("c", 1)):
        rounds = results["rounds"][encoder]
        for name, share in results["share_of_encoder"][encoder].items():
            ratios = [one[name]["cpu"] / (one["encoder"]["cpu"] * scale) for one in rounds]
            assert share["median"] == pytest.approx(median(ratios))
    page = (folder / "speed.md").read_text(encoding="utf-8")
    assert "`lvlm-prune speed --preset signals --repeats 2 --threads 1 --device cpu`" in page
    assert "b (4 layers, time scaled to 8, 64 patches)" in page


def test_signals_are_those_that_methods_read():
    named = readings(True)
    query, key = torch.randn(2, 2, 4, 10, 8)
    assert torch.equal(named["CLS row"](query, key, 0.3), cls_row(query, key, 0.3))
    exact = named["received attention, all rows"](query, key, 0.3)
    assert torch.equal(exact, received_attention(query, key, 0.3))
    sampled = named["received attention, 64 rows"](*torch.randn(2, 2, 4, 100, 8), 0.3)
    assert sampled.shape == (2, 100)


def test_encoder_shapes_of_the_signals():
    patches = {"CLIP-L/14-336": (24, 1024), "SigLIP-so400m/14-384": (27, 1152)}
    for preset in SIGNAL_PRESETS[:2]:
        model = build_model(preset, "meta")
        layers = model.model.vision_tower.encoder.layers
        assert (len(layers), layers[0].self_attn.q_proj.in_features) == patches[preset.name]
    assert EncoderCosts(1, [], 4.0).scale == SIGNAL_PRESETS[2].vision_depth / 8


def test_presets_bring_their_own_methods_and_budget(tmp_path):
    results = measure_speed("tiny", None, None, 1, 2, 1, tmp_path, "cpu")
    assert results["settings"]["method"] == "cls,vtc_cls,visionzip,divprune"
    assert results["settings"]["keep"] == 16
