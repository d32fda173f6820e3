"""Reweighting beside stages inside the LLM; it leaves no trace; wrong use is named."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from reweight_oracle import Oracle
from test_reweighting import ACTIVE, FAMILIES, RATIO, RULE, far, generated, marks_of, plain
from transformers.generation import StoppingCriteria

from lvlm_prune.decoder_call import coming_marks
from lvlm_prune.decoder_passes import _running
from lvlm_prune.errors import AlreadyAttachedError, UnknownMethodError, UnsupportedModelError
from lvlm_prune.layers.schedule import LayerSchedule
from lvlm_prune.layers.stage import LayerStage
from lvlm_prune.llm_sinks import SinkRule
from lvlm_prune.reweight.config import ReweightConfig
from lvlm_prune.reweight.engine import Reweighting
from lvlm_prune.reweight.registry import REWEIGHTERS
from lvlm_prune.tap import _handlers


def trace(model) -> dict:
    """Everything that attaching may change."""
    hooks = sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )
    configs = [id(getattr(module, "config", None)) for module in model.modules()]
    return {"names": sorted(model.__dict__), "hooks": hooks, "configs": configs}


@pytest.mark.parametrize("first", ["stage", "reweighting"])
@pytest.mark.parametrize("method", [name for name in ACTIVE if name != "ilvad"])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_keys_that_a_stage_dropped_are_gone(name, method, first):
    """Images, sinks and marks are brought to the keys that each layer has."""
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts("tt", "ttitt", "titi")
    schedule, config = (
        LayerSchedule("fastv", {1: 0.4}),
        {"method": method, "options": ACTIVE[method]},
    )
    plain(model, inputs, max_new_tokens=1)  # transformers installs hooks of its own
    before, made = trace(model), {}
    made_by = {
        "stage": lambda: LayerStage(model, schedule),
        "reweighting": lambda: Reweighting(model, config, RULE),
    }
    for part in sorted(made_by, key=lambda part: part != first):
        made[part] = made_by[part]()
    coming_marks.set(marks_of(method, inputs) or None)
    tokens, logits = plain(model, inputs, max_new_tokens=3)
    kept = made["stage"].report.kept[1]
    for part in made.values():
        part.detach()
    assert trace(model) == before
    drop = torch.zeros(inputs["input_ids"].shape, dtype=torch.bool)
    for row, columns in enumerate(kept):
        visual = inputs["input_ids"][row] == 90
        drop[row] = visual
        drop[row, columns] = False
    assert drop.any()
    reweighter = REWEIGHTERS[method]
    options = reweighter.complete(ACTIVE[method])
    depth = len(model.get_decoder().layers)
    hidden = {layer: drop for layer in range(1, depth)}
    oracle = Oracle(family.model("eager"), reweighter, options, RATIO, hidden=hidden)
    theirs = oracle.logits(inputs, tokens[:, :-1], marks_of(method, inputs))
    assert far(logits, theirs) < 1e-5


@pytest.mark.parametrize("method", ["var", "pai", "ilvad", "vcd"])
def test_detaching_leaves_no_trace(method):
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].prompts("tit")
    expected, before = plain(model, inputs), trace(model)
    with Reweighting(model, method) as handle:
        model.generate(**inputs, max_new_tokens=2)
        handle.detach()
        handle.detach()
        with pytest.raises(RuntimeError, match="detached; attach it again"):
            handle.__enter__()
    assert trace(model) == before
    found = plain(model, inputs)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


class Failing(StoppingCriteria):
    """Fails at the second token of the real answer."""

    def __call__(self, input_ids, scores, **kwargs):
        raise RuntimeError("stop here")


@pytest.mark.parametrize("method", ["var", "ilvad", "vcd"])
def test_an_error_inside_leaves_nothing_behind(method):
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].prompts("titt")
    options = ACTIVE.get(method, {})
    expected = generated("llava", method, inputs, options)
    before = trace(model)
    with Reweighting(model, {"method": method, "options": options}, RULE):
        with pytest.raises(RuntimeError, match="stop here"):
            model.generate(**inputs, max_new_tokens=3, stopping_criteria=[Failing()])
        found = plain(model, inputs)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
    assert trace(model) == before


def interrupt(*args):
    raise KeyboardInterrupt


@pytest.mark.parametrize("way", ["generate", "forward"])
@pytest.mark.parametrize("where", ["vision encoder", "layer 1"])
@torch.no_grad()
def test_an_interrupt_leaves_nothing_behind(way, where):
    """What Ctrl-C breaks off is not met by the LLM alone, by the next call, or after detaching."""
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].prompts("titt")
    text = torch.tensor([[5, 6, 7, 8]])
    alone = model.get_decoder()(input_ids=text).last_hidden_state
    broken = model.model.vision_tower if where == "vision encoder" else model.model.language_model
    broken = broken if where == "vision encoder" else broken.layers[1].mlp
    with Reweighting(model, {"method": "pai", "options": ACTIVE["pai"]}):
        expected = plain(model, inputs)[1]
        for after in ("the LLM alone", "a call", "detaching"):
            handle = broken.register_forward_pre_hook(interrupt)
            with pytest.raises(KeyboardInterrupt):
                model.generate(**inputs, max_new_tokens=2) if way == "generate" else model(**inputs)
            handle.remove()
            assert way == "forward" or not _running.get()
            if after == "the LLM alone":
                found = model.get_decoder()(input_ids=text).last_hidden_state
                assert torch.equal(found, alone)
            elif after == "a call":
                assert torch.equal(plain(model, inputs)[1], expected)
    assert not _running.get()
    assert not _handlers.get({})


def test_second_reweighting_is_refused():
    model = FAMILIES["llava"].model()
    named = pytest.raises(AlreadyAttachedError, match="already reweighted by 'pai:code'")
    with Reweighting(model, "pai:code"), named:
        Reweighting(model, "var")
    assert "generate" not in model.__dict__


@pytest.mark.parametrize("method", ["pai", "ilvad"])
def test_a_copy_is_reweighted_by_itself(method):
    family, inputs = FAMILIES["llava"], FAMILIES["llava"].prompts("titt")
    model = copy.deepcopy(family.model())
    config = {"method": method, "options": ACTIVE[method]}
    with Reweighting(model, config, RULE):
        twin = copy.deepcopy(model)
        expected = plain(model, inputs)
    assert torch.equal(plain(twin, inputs)[1], expected[1])
    assert torch.equal(plain(model, inputs)[1], plain(family.model(), inputs)[1])


def test_threads_do_not_mix():
    family = FAMILIES["llava"]
    calls = [family.prompts("titt", seed=seed) for seed in range(4)]
    with Reweighting(family.model(), {"method": "ilvad", "options": ACTIVE["ilvad"]}, RULE):
        expected = [plain(family.model(), inputs) for inputs in calls]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda inputs: plain(family.model(), inputs), calls))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert far(ours[1], theirs[1]) < 1e-5


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ("vaar", UnknownMethodError, "unknown reweighter 'vaar'; did you mean 'var'"),
        ("var:fast", ValueError, "no preset 'fast'; known: general"),
        ({"method": "var", "options": {"rhoo": 1}}, ValueError, r"no options \['rhoo'\]; allowed"),
        ({"method": "pai", "options": {"beta": 0}}, ValueError, "beta=0 is not allowed"),
        ({"method": "pai", "options": {"gamma": -1}}, ValueError, "gamma=-1 is not allowed"),
        ({"method": "vcd", "options": {"step": 1000}}, ValueError, "step=1000 .* pass 0 to 999"),
        ({"name": "var"}, ValueError, r"unknown reweight keys \['name'\]; known: method"),
        (3, TypeError, "must be a ReweightConfig, its dict or the name of a method, got 3"),
        ({"method": "var", "options": [1]}, TypeError, "options must be a dict"),
    ],
)
def test_wrong_settings_are_named(config, error, message):
    model = FAMILIES["llava"].model()
    with pytest.raises(error, match=message):
        Reweighting(model, config)
    assert "generate" not in model.__dict__


def test_a_config_survives_its_dict():
    config = ReweightConfig.of("pai:code")
    assert ReweightConfig.of(config.to_dict()) == config
    assert config.complete()["gamma"] == 1.1
    assert hash(ReweightConfig.of(config.to_dict())) == hash(config)


def test_models_that_cannot_be_reweighted_are_named(monkeypatch):
    model = copy.deepcopy(FAMILIES["llava"].model())
    before = trace(model)
    text = model.config.get_text_config()
    with pytest.raises(ValueError, match=r"sink dimensions \[32\] are not in 0..31"):
        Reweighting(model, "var", SinkRule(dims=(32,), tau=2.0))
    monkeypatch.setattr(text, "attn_logit_softcapping", 30.0, raising=False)
    with pytest.raises(UnsupportedModelError, match="caps its attention logits"):
        Reweighting(model, "var")
    monkeypatch.undo()
    monkeypatch.setattr(text, "_attn_implementation_internal", "flex_attention")
    with pytest.raises(UnsupportedModelError, match="not of 'flex_attention'; load the model with"):
        Reweighting(model, "var")
    monkeypatch.undo()
    assert trace(model) == before


def test_wrong_calls_are_named():
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].prompts("tit")
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    with Reweighting(model, "pai"), pytest.raises(ValueError, match="pass input_ids, not inputs_"):
        model.generate(inputs_embeds=embeds, max_new_tokens=1)
    with Reweighting(model, "paint"), pytest.raises(ValueError, match="local, summary .* attach"):
        model.generate(**inputs, max_new_tokens=1)
