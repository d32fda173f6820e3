"""Rows see what their layer's mask shows them: prefixes read both ways, windows, padding."""

from dataclasses import replace

import pytest
import tiny_generic_configs as configs
import torch
from layers.layer_makers import projected, slow_weights
from tiny_families import FAMILIES
from tiny_generic import GENERIC

from lvlm_prune.layers.contract import LayerRequest, LayerSelection, LayerSignals
from lvlm_prune.layers.prompts import BatchProjection
from lvlm_prune.layers.stage import LayerStage


@pytest.mark.parametrize("past", [0, 3])
def test_weights_under_a_mask_equal_a_loop(past):
    parts = projected(9, past, torch.Generator().manual_seed(1), torch.float32)
    seen = torch.rand(9, past + 9, generator=torch.Generator().manual_seed(2)) < 0.5
    seen |= torch.eye(9, past + 9, dtype=torch.bool).roll(past, 1)
    masked = replace(parts, seen=seen)
    rows = torch.tensor([0, 4, 8])
    for row, weights in zip(rows.tolist(), masked.weights(rows).transpose(0, 1), strict=True):
        assert (weights - slow_weights(masked, row)).abs().max() < 1e-6
        assert bool((weights[:, ~seen[row]] == 0).all())
    causal = torch.ones(9, past + 9, dtype=torch.bool).tril(past)
    same = replace(parts, seen=causal).weights(rows)
    assert torch.equal(same, parts.weights(rows))


@pytest.mark.parametrize("kind", ["bool", "float", "inf"])
def test_a_prompts_part_of_the_mask(kind):
    """Two prompts of one batch, the second with two columns of padding and one cached one."""
    seen = torch.rand(2, 5, 8, generator=torch.Generator().manual_seed(3)) < 0.5
    least = -torch.inf if kind == "inf" else torch.finfo(torch.float32).min
    mask = seen if kind == "bool" else torch.zeros(2, 5, 8).masked_fill(~seen, least)
    query, key = torch.randn(2, 2, 5, 4), torch.randn(2, 2, 8, 4)
    keys = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7], [-1, -1, 2, -1, -1, 3, 4, 5]])
    real = torch.ones(2, 8, dtype=torch.bool)
    batch = BatchProjection(query, key, key, 0.5, keys, real, mask[:, None])
    assert torch.equal(batch.of(0, torch.arange(5)).seen, seen[0])
    places = torch.tensor([2, 3, 4])
    part = batch.of(1, places)
    assert torch.equal(part.seen, seen[1][places][:, [2, 5, 6, 7]])
    assert part.key.shape[1] == 4
    for other in (None, torch.ones(2, 8)):
        assert replace(batch, mask=other).of(1, places).seen is None


def signals_before_layer_2(model, inputs) -> list[LayerSignals]:
    """What a method that keeps everything sees of each prompt."""
    seen = []

    def select(signals, keep):
        seen.append(signals)
        return LayerSelection(signals.visual)

    with LayerStage(model, {"method": "zipvl", "stages": {2: None}}) as stage:
        request = LayerRequest(previous=True, following=True)
        probe = replace(stage.plan.method, select=select, request=request)
        stage.plan = replace(stage.plan, method=probe, options={})
        model(**inputs)
    return seen


def full_gemma3():
    """Gemma 3 without windows, which stages refuse."""
    config = configs.gemma3()
    text = config.text_config
    text.layer_types = ["full_attention"] * text.num_hidden_layers
    return config


ALL = {**FAMILIES, **GENERIC, "gemma3": replace(GENERIC["gemma3"], config=full_gemma3)}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["paligemma", "gemma3", "llava"])
@torch.no_grad()
def test_rows_attend_as_in_the_model(name, attention):
    """PaliGemma's text reads what follows it; Gemma 3's does not, though its images do."""
    family = ALL[name]
    inputs = family.prompts("tittt", "tit")
    stock = family.model("eager")(**inputs, output_attentions=True).attentions
    found = signals_before_layer_2(family.model(attention), inputs)
    for row, signals in enumerate(found):
        real = inputs["attention_mask"][row].nonzero()[:, 0]
        for part, layer in (("previous", 1), ("following", 2)):
            expected = stock[layer][row][:, real][..., real]
            ahead = expected[:, signals.text][..., signals.text].triu(1)
            assert bool((ahead > 0).any()) == (name == "paligemma")
            weights = signals.projected[part].weights(torch.arange(len(real)))
            assert (weights - expected).abs().max() < 1e-5
