"""Every method in a running LLM: tokens really leave, and a batch's rows are the prompts alone."""

import pytest
import torch
from family_oracle import full_positions
from test_families import alone
from tiny_families import FAMILIES

from lvlm_prune.layers.registry import LAYER_METHODS
from lvlm_prune.layers.stage import LayerStage

LAYOUTS = ("tit", "titti")
# Random models have no quiet layers; of their contributions the longest goes on.
OPTIONS = {
    "exit": {"tolerance": float("inf"), "patience": 1},
    "visipruner": {"turned": 1.0, "contribution": 1e3, "steady": -1.0, "patience": 1},
    "zipvl": {"share": 0.5},
}


def last_logits(model, inputs):
    """Logits at each prompt's last real token."""
    columns = torch.arange(inputs["input_ids"].shape[1])
    last = (inputs["attention_mask"] * columns).argmax(1)
    logits = model(**inputs, position_ids=full_positions(model, inputs)).logits
    return logits[torch.arange(len(logits)), last]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("name", LAYER_METHODS)
@torch.no_grad()
def test_a_row_of_a_batch_equals_the_prompt_alone(family, name):
    family = FAMILIES[family]
    model = family.model()
    with LayerStage(model, {"method": name, "options": OPTIONS.get(name, {})}) as stage:
        batch = last_logits(model, family.prompts(*LAYOUTS))
        tokens = stage.report.tokens
        for row, inputs in enumerate(alone(family, LAYOUTS)):
            single = last_logits(model, inputs)[0]
            assert (batch[row] - single).abs().max() < 1e-5
            assert stage.report.tokens[0] == tokens[row]
            assert tokens[row] == sorted(tokens[row], reverse=True)
            assert tokens[row][-1] < tokens[row][0]
