"""Layer stages beside pruning before the LLM, on copies, after failures: exact, and no trace."""

import copy
from itertools import permutations

import pytest
import torch
from layer_oracle import dropped_columns, greedy_of, hidden_logits, visual_columns
from tiny_families import FAMILIES
from transformers import TextStreamer

from lvlm_prune import attach, prune_inputs
from lvlm_prune.decoder_passes import _running
from lvlm_prune.errors import AlreadyAttachedError
from lvlm_prune.layers.schedule import LayerSchedule
from lvlm_prune.layers.stage import LayerStage
from lvlm_prune.tap import _handlers

NEW = 4
SCHEDULE = LayerSchedule("fastv", {2: 3})
OBSERVING = LayerSchedule("transprune", {2: 3})
BEFORE = {"method": "visionzip", "keep": 5}
LOGITS = {"return_dict_in_generate": True, "output_logits": True, "max_new_tokens": NEW}


def traces(model) -> list:
    """Everything on a model that attaching may touch."""
    found = [sorted(name for name in model.__dict__ if name != "_modules")]
    for name, module in model.named_modules():
        hooks = (
            module._forward_pre_hooks,
            module._forward_hooks,
            module._forward_hooks_always_called,
        )
        found.append((name, [list(one) for one in hooks], id(module.__dict__.get("config"))))
    return found


@pytest.mark.parametrize("order", ["pruning first", "stages first", "together"])
@pytest.mark.parametrize("name", ["llava", "llava_onevision", "qwen2_5_vl", "qwen3_vl"])
def test_with_pruning_before_the_llm(name, order):
    """Both stages: the stock model on the short prompt, with the dropped keys hidden."""
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts("tt", "tit", "ttitit")
    given, plan = prune_inputs(model, inputs, **BEFORE)
    before, parts = traces(model), []  # transformers has put hooks of its own on the encoder by now
    if order == "together":
        parts.append(attach(model, layers=SCHEDULE, **BEFORE))
        stage = parts[0].layers
    else:
        makers = [lambda: attach(model, **BEFORE), lambda: LayerStage(model, SCHEDULE)]
        parts = [make() for make in (makers if order == "pruning first" else makers[::-1])]
        stage = next(part for part in parts if isinstance(part, LayerStage))
    out = model.generate(**inputs, **LOGITS)
    alone = model(**inputs).logits[:, -1]
    report = stage.report
    for part in parts:
        part.detach()
    assert traces(model) == before
    assert report.tokens == [[0] * 3, [5, 5, 3], [10, 10, 6]]
    tokens = out.sequences[:, plan.length :]
    dropped = dropped_columns(visual_columns(given), report.kept)
    expected = hidden_logits(model, given, tokens, dropped)
    assert torch.equal(out.sequences[:, : plan.length], inputs["input_ids"])
    assert (torch.stack(out.logits, 1) - expected).abs().max() < 1e-5
    assert (alone - expected[:, 0]).abs().max() < 1e-5
    assert torch.equal(tokens, greedy_of(expected))


@pytest.mark.parametrize("settings", [{"use_cache": False}, {"num_beams": 2}], ids=str)
@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_orders_agree(name, settings):
    model, inputs = FAMILIES[name].model(), FAMILIES[name].prompts("tt", "titit")
    answers = []
    for makers in permutations(
        [lambda: attach(model, **BEFORE), lambda: LayerStage(model, SCHEDULE)]
    ):
        parts = [make() for make in makers]
        answers.append(model.generate(**inputs, max_new_tokens=NEW, **settings))
        for part in parts:
            part.detach()
    assert torch.equal(*answers)


@pytest.mark.parametrize("schedule", [SCHEDULE, OBSERVING], ids=lambda one: one.method)
@pytest.mark.parametrize("leaving", list(permutations(range(2))), ids=str)
@pytest.mark.parametrize("coming", list(permutations(range(2))), ids=str)
def test_detaching_in_any_order_leaves_no_trace(coming, leaving, schedule):
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].prompts("tit")
    before, plain = traces(model), model.generate(**inputs, max_new_tokens=NEW)
    makers = [lambda: attach(model, **BEFORE), lambda: LayerStage(model, schedule)]
    parts = {number: makers[number]() for number in coming}
    for number in leaving:
        assert traces(model) != before
        model.generate(**inputs, max_new_tokens=NEW)
        parts[number].detach()
        parts[number].detach()
    assert traces(model) == before
    assert torch.equal(model.generate(**inputs, max_new_tokens=NEW), plain)


class Failing(TextStreamer):
    """Fails at the second token."""

    def __init__(self) -> None:
        self.count = 0

    def put(self, value):
        self.count += 1
        if self.count > 2:
            raise OSError("closed")


def fail(*args):
    raise OSError("broken layer")


@pytest.mark.parametrize("schedule", [SCHEDULE, OBSERVING], ids=lambda one: one.method)
@pytest.mark.parametrize("where", ["between steps", "in a layer", "in a pass without images"])
def test_a_failure_inside_generate_changes_nothing(where, schedule):
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].prompts("titit")
    before = traces(model)
    with LayerStage(model, schedule):
        expected = model.generate(**inputs, max_new_tokens=NEW)
        attached = traces(model)
        handle = None
        if where != "between steps":
            handle = model.get_decoder().layers[2].mlp.register_forward_pre_hook(fail)
        call = FAMILIES["llava"].prompts("tt") if "without" in where else inputs
        with pytest.raises(OSError, match="closed|broken layer"):
            model.generate(**call, max_new_tokens=NEW, streamer=Failing())
        if handle is not None:
            handle.remove()
        assert traces(model) == attached
        assert not _running.get()
        assert not _handlers.get({})
        assert torch.equal(model.generate(**inputs, max_new_tokens=NEW), expected)
    assert traces(model) == before
    with pytest.raises(OSError, match="closed"), LayerStage(model, schedule):
        model.generate(**inputs, max_new_tokens=NEW, streamer=Failing())
    assert traces(model) == before


def test_a_second_stage_is_refused():
    model = FAMILIES["llava"].model()
    with LayerStage(model, SCHEDULE) as stage:
        attached = traces(model)
        with pytest.raises(AlreadyAttachedError, match=r"fastv 2:3\).*detach\(\)"):
            LayerStage(model, "fastv")
        assert traces(model) == attached
    with pytest.raises(RuntimeError, match="layer stage is detached"), stage:
        pass
    LayerStage(model, "fastv").detach()


@pytest.mark.parametrize("schedule", [SCHEDULE, OBSERVING], ids=lambda one: one.method)
@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_a_copy_of_an_attached_model_is_on_its_own(name, schedule):
    model, inputs = FAMILIES[name].model(), FAMILIES[name].prompts("tit", "titti")
    plain = model.generate(**inputs, **LOGITS).logits
    stage = LayerStage(model, schedule)
    expected = model.generate(**inputs, **LOGITS).logits
    twin = copy.deepcopy(model)
    stage.detach()
    report = stage.report
    assert all(map(torch.equal, twin.generate(**inputs, **LOGITS).logits, expected))
    assert all(map(torch.equal, model.generate(**inputs, **LOGITS).logits, plain))
    assert stage.report is report
    own = twin._lvlm_prune_layers
    assert own is not stage
    assert own.model is twin
    assert own.report.tokens == report.tokens
    own.detach()
    assert all(map(torch.equal, twin.generate(**inputs, **LOGITS).logits, plain))
    assert [one[:2] for one in traces(twin)[1:]] == [one[:2] for one in traces(model)[1:]]
