"""What layer stages refuse, at attach if it is known by then: value, limits and the next step."""

import copy

import numpy
import pytest
import torch
from test_layer_attach import traces
from tiny_families import FAMILIES, of_qwen

from lvlm_prune.errors import (
    BrokenSelectionError,
    NothingDroppedError,
    UnknownMethodError,
    UnsupportedModelError,
)
from lvlm_prune.layers.contract import LayerMethod, LayerSelection
from lvlm_prune.layers.registry import LAYER_METHODS
from lvlm_prune.layers.schedule import LayerSchedule, parse_layers, tokens_that_go_on
from lvlm_prune.layers.stage import LayerStage

SCHEDULES = {
    "unknown method": (
        {"method": "fastw"},
        UnknownMethodError,
        r"'fastw'; did you mean 'fastv'\? known: fastv, pyramiddrop",
    ),
    "unknown option": (
        {"options": {"head": 1}},
        ValueError,
        r"'fastv' has no options \['head'\]; allowed: none",
    ),
    "value of an option": (
        {"method": "zipvl", "options": {"share": 2.0}},
        ValueError,
        "share.*2.0",
    ),
    "unknown key": ({"layer": 2}, ValueError, r"\['layer'\]; known: method, stages"),
    "layer 2x": ({"stages": {"2x": 0.5}}, ValueError, r"number from 0, got '2x'"),
    "negative layer": ({"stages": {-1: 0.5}}, ValueError, "number from 0, got -1"),
    "true layer": ({"stages": {True: 0.5}}, ValueError, "number from 0, got True"),
    "layer twice": ({"stages": {2: 0.5, "2": 3}}, ValueError, "layer 2 is named twice"),
    "layer 0": ({"stages": {0: 0.5}}, ValueError, r"layer 0 .* layers 1\.\.2 .* method=\.\.\."),
    "layer 3 of 3": ({"stages": {3: 0.5}}, ValueError, r"layer 3 is out of range: .* 1\.\.2"),
    "no stages": ({"stages": {}}, ValueError, r"such as \{2: 0.5\}; got \{\}"),
    "a list": ({"stages": [2]}, ValueError, r"such as \{2: 0.5\}; got \[2\]"),
    "share 0": ({"stages": {2: 0.0}}, ValueError, r"stage 2: 0.0 is neither .*\(0, 1\]"),
    "share 1.5": ({"stages": {2: 1.5}}, ValueError, "stage 2: 1.5 is neither"),
    "not a number": ({"stages": {2: float("nan")}}, ValueError, "stage 2: nan is neither"),
    "text": ({"stages": {2: "64"}}, ValueError, "stage 2: '64' is neither"),
    "true share": ({"stages": {2: True}}, ValueError, "stage 2: True is neither"),
    "negative number": ({"stages": {2: -3}}, ValueError, "stage 2: -3 is neither"),
    "no number": ({"stages": {2: None}}, ValueError, r"'fastv' needs .* layer 2, got None"),
    "a number for exit": (
        {"method": "exit", "stages": {2: 8}},
        ValueError,
        r"'exit' decides itself .* got 8 at layer 2; write \{2: None\}",
    ),
    "sink policy": ({"sinks": "drop"}, ValueError, "one of exclude, rank; got 'drop'"),
    "method number": ({"method": 3}, TypeError, "method must be a name, got 3"),
    "options list": ({"options": ["a"]}, TypeError, r"dict of the method's settings, got \['a'\]"),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_schedules(case):
    schedule, error, message = SCHEDULES[case]
    model = FAMILIES["llava"].model()
    before = traces(model)
    with pytest.raises(error, match=message):
        LayerStage(model, schedule)
    assert traces(model) == before


@pytest.mark.parametrize("value", [3, None, ["fastv"]])
def test_what_is_no_schedule(value):
    with pytest.raises(TypeError, match="a LayerSchedule, its dict or the name of a method"):
        LayerSchedule.of(value)


@pytest.mark.parametrize("layer", [0, 1])
def test_layers_below_deepstack(layer):
    match = "out of range" if layer == 0 else r"below the DeepStack.* first 2 layers; use .*2\.\.2"
    with pytest.raises(ValueError, match=match):
        LayerStage(FAMILIES["qwen3_vl"].model(), {"stages": {layer: 0.5}})


def qwen2_with(**text):
    """Qwen2-VL with other decoder layers."""
    return of_qwen("Qwen2VL", {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}, text)


def test_models_with_other_layers_than_full_attention():
    for family, kind in (
        (FAMILIES["qwen3_5"], "linear_attention"),
        (
            qwen2_with(use_sliding_window=True, sliding_window=8, max_window_layers=1),
            "sliding_attention",
        ),
    ):
        model = family.model()
        before = traces(model)
        with pytest.raises(UnsupportedModelError, match=rf"{kind}.*prune before the LLM instead"):
            LayerStage(model, "fastv")
        assert traces(model) == before


def test_flex_attention():
    model = copy.deepcopy(FAMILIES["llava"].model())
    model.config.get_text_config()._attn_implementation = "flex_attention"
    with pytest.raises(UnsupportedModelError, match="'flex_attention'; .*attn_implementation='sd"):
        LayerStage(model, "fastv")


def test_what_is_no_model():
    with pytest.raises((TypeError, AttributeError)):
        LayerStage(torch.nn.Linear(2, 2), "fastv")


def test_a_static_cache():
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].prompts("tit")
    settings = {"cache_implementation": "static", "disable_compile": True}
    with LayerStage(model, {"stages": {2: 3}}):
        with pytest.raises(ValueError, match="StaticLayer.*use the default dynamic cache"):
            model.generate(**inputs, max_new_tokens=2, **settings)
        model.generate(**inputs, max_new_tokens=2)


def test_embeddings_instead_of_ids():
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].prompts("tit")
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    with LayerStage(model, {"stages": {2: 3}}), pytest.raises(ValueError, match="pass input_ids"):
        model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"])


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "enable", ["gradient_checkpointing_enable", "activation_checkpointing_enable"]
)
def test_gradient_checkpointing(enable):
    model, inputs = copy.deepcopy(FAMILIES["llava"].model()), FAMILIES["llava"].prompts("tit")
    if not hasattr(model, enable):
        pytest.skip("transformers has the new name from 5.23 on")
    model.train()
    getattr(model, enable)()
    with LayerStage(model, {"stages": {2: 3}}):
        with pytest.raises(ValueError, match=r"gradient_checkpointing_disable\(\) or detach\(\)"):
            model(**inputs)
        model.gradient_checkpointing_disable()
        assert model(**inputs).logits.isfinite().all()


def test_a_cache_of_another_batch():
    family = FAMILIES["llava"]
    model, inputs = family.model(), family.prompts("tit", "it")
    with LayerStage(model, {"stages": {2: 3}}), torch.no_grad():
        cache = model(**inputs).past_key_values
        with pytest.raises(ValueError, match=r"filled with 2 prompt\(s\) and now serves 3"):
            model(input_ids=torch.ones(3, 1).long(), past_key_values=cache)


BROKEN = {
    "too few": lambda signals: signals.visual[:2],
    "twice the same": lambda signals: signals.visual[[0, 0, 1]],
    "not ascending": lambda signals: signals.visual[[2, 1, 0]],
    "text": lambda signals: signals.text[:3],
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_method_that_breaks_its_promise(case, monkeypatch):
    method = LayerMethod(
        name="broken",
        summary="",
        source="",
        select=lambda signals, keep: LayerSelection(BROKEN[case](signals)),
        stages=lambda depth: {2: 0.5},
    )
    monkeypatch.setitem(LAYER_METHODS, "broken", method)
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].prompts("tit")
    with (
        LayerStage(model, {"method": "broken", "stages": {2: 3}}),
        pytest.raises((NothingDroppedError, BrokenSelectionError), match="'broken'.*layer 2"),
    ):
        model(**inputs)


GOOD_TEXTS = {
    "fastv": ("fastv", None),
    " fastv ": ("fastv", None),
    "fastv@2:0.5": ("fastv", {2: 0.5}),
    "pyramiddrop@8:0.5,16:64": ("pyramiddrop", {8: 0.5, 16: 64}),
    "pyramiddrop@16:64, 8:1.0": ("pyramiddrop", {8: 1.0, 16: 64}),
    "exit@3,4": ("exit", {3: None, 4: None}),
    "zipvl@3:auto": ("zipvl", {3: None}),
}


@pytest.mark.parametrize("text", GOOD_TEXTS)
def test_texts(text):
    schedule = parse_layers(text)
    method, stages = GOOD_TEXTS[text]
    assert (schedule.method, schedule.stages) == (method, stages)
    assert LayerSchedule.of(schedule.to_dict()) == schedule
    assert hash(LayerSchedule.of(schedule.to_dict())) == hash(schedule)


@pytest.mark.parametrize(
    "text", ["fastv@", "fastv@2:", "fastv@two:0.5", "fastv@2:half", "@2:0.5", "", "fastv@2:0.5,"]
)
def test_texts_that_are_no_schedule(text):
    with pytest.raises(ValueError, match="is no schedule; write METHOD"):
        parse_layers(text)


@pytest.mark.parametrize("text", ["fastv@2:0.5,2:3", "fastv@-1:0.5", "fastv@2:1.5", "fastv@2:-4"])
def test_texts_with_wrong_numbers(text):
    with pytest.raises(ValueError, match="named twice|number from 0|is neither"):
        parse_layers(text)


@pytest.mark.parametrize("stages", [{1: 0.5, 2: 0.5}, {1: 2, 2: 4}, {1: 0.2, 2: 0.3}])
def test_stages_that_cannot_drop_anything(stages):
    with pytest.raises(ValueError, match="stages must fall"):
        LayerSchedule("fastv", stages)


def test_budgets():
    assert [tokens_that_go_on(*one) for one in ((0.5, 9, 9), (0.01, 9, 9), (4, 9, 9))] == [5, 1, 4]
    assert [tokens_that_go_on(*one) for one in ((0.5, 9, 2), (4, 4, 3), (0, 9, 9))] == [2, 3, 0]
    with pytest.raises(ValueError, match="of which 3 entered the LLM; pass 0..3"):
        tokens_that_go_on(4, 3, 3)
    assert parse_layers("fastv@2:50%").stages == {2: 0.5}
    numbers = LayerSchedule("fastv", {numpy.int64(2): numpy.int64(1), 3: numpy.float32(0.5)})
    assert numbers.stages == {2: 1, 3: 0.5}
    assert [type(value) for value in numbers.stages.values()] == [int, float]
