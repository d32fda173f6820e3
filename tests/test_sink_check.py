"""The check of sinks against attention: its numbers are eager attention's, and it can refuse."""

import copy

import pytest
import torch
from planted_llm import KINDS, SINK_TOKEN, Planted, plant_sink, tiny_llm
from tiny_families import FAMILIES

from lvlm_prune.calibration import calibrate
from lvlm_prune.calibration_prompts import calibration_prompts
from lvlm_prune.errors import UnreliableSinksError, UnsupportedModelError
from lvlm_prune.llm_sinks import SinkRule
from lvlm_prune.residual_stream import residual_stream
from lvlm_prune.sink_check import check_sinks


@torch.no_grad()
def slow_counts(model, rule, prompts) -> tuple[int, int, int]:
    """Marked, attended and both, from eager attention, token by token."""
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    marked = attended = both = 0
    for ids in prompts:
        maps = eager(input_ids=ids, output_attentions=True).attentions
        stream, text = residual_stream(model, ids), torch.zeros_like(ids, dtype=torch.bool)
        for layer in range(rule.first_layer, rule.last_layer + 1):
            sinks = rule.marks(stream[layer][None], text, ~text, layer)[0].tolist()
            received = maps[layer][0].double().mean(0)[-8:].mean(0).tolist()
            high = [value > 5 / len(received) for value in received]
            marked += sum(sinks)
            attended += sum(high)
            both += sum(a and b for a, b in zip(sinks, high, strict=True))
    return marked, attended, both


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", [1.2, 3.0])
def test_counts_are_those_of_eager_attention(kind, ratio):
    """Without the planted attention few tokens agree; every count must still be right."""
    for model in (plant_sink(tiny_llm(kind), Planted()), tiny_llm(kind)):
        prompts = [*calibration_prompts(model), torch.tensor([[5, SINK_TOKEN, 9, 60, 11]])]
        rule = SinkRule(ratio=ratio, first_layer=1, last_layer=5)
        check = check_sinks(model, rule, prompts)
        assert (check.marked, check.attended, check.both) == slow_counts(model, rule, prompts)


def test_planted_sinks_that_attract_attention_pass():
    model = plant_sink(tiny_llm(), Planted())
    check = check_sinks(model, calibrate(model).rule(), calibration_prompts(model))
    assert (check.precision, check.recall) == (1, 1)
    check.refuse_unreliable()


def test_large_tokens_that_attract_none_are_refused():
    model = plant_sink(tiny_llm(), Planted(), pull=0)
    found = calibrate(model)
    assert found.separable
    check = check_sinks(model, found.rule(), calibration_prompts(model))
    with pytest.raises(UnreliableSinksError, match=r"precision 0.000, recall 0.000 \(12 marked"):
        check.refuse_unreliable()


@torch.no_grad()
def test_the_check_leaves_no_trace():
    model = plant_sink(tiny_llm(), Planted())
    configs = [layer.self_attn.config for layer in model.model.layers]
    ids = calibration_prompts(model)[0]
    before = model(ids).logits
    check_sinks(model, SinkRule(), [ids])
    assert all(
        layer.self_attn.config is config
        for layer, config in zip(model.model.layers, configs, strict=True)
    )
    assert torch.equal(model(ids).logits, before)


def test_recurrent_layers_are_left_out_or_refused():
    """Only the last of this LLM's four layers attends."""
    model = FAMILIES["qwen3_5"].model()
    prompts = calibration_prompts(model)[:1]
    assert check_sinks(model, SinkRule(ratio=1.01), prompts).marked > 0
    with pytest.raises(UnsupportedModelError, match="no self_attn in layers 1..2"):
        check_sinks(model, SinkRule(first_layer=1, last_layer=2), prompts)
