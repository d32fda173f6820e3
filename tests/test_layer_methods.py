"""Every method inside the LLM on every family: the model with the dropped keys hidden."""

import pytest
import torch
from layer_oracle import dropped_columns, greedy_of, hidden_logits, visual_columns
from tiny_families import FAMILIES, QWEN3, QWEN25, of_qwen

from lvlm_prune.layers.registry import LAYER_METHODS
from lvlm_prune.layers.schedule import LayerSchedule
from lvlm_prune.layers.stage import LayerStage

SUPPORTED = [name for name, family in FAMILIES.items() if family.masks]
DEEP = {
    "deep qwen2_5_vl": of_qwen("Qwen2_5_VL", QWEN25, {"num_hidden_layers": 6}),
    "deep qwen3_vl": of_qwen("Qwen3VL", QWEN3, {"num_hidden_layers": 6}),
}
# Random weights are no trained model's: thresholds under which adaptive methods drop something.
OPTIONS = {
    "exit": {"tolerance": float("inf"), "patience": 1, "after": 0.2},
    "zipvl": {"share": 0.5},
    "visipruner": {"turned": 0.9999999, "contribution": 1.0, "steady": 0.5, "patience": 1},
}
LAYOUTS = ("tt", "titit", "ttit")
LOGITS = {"return_dict_in_generate": True, "output_logits": True, "max_new_tokens": 4}


@pytest.mark.parametrize("name", [*SUPPORTED, *DEEP])
@pytest.mark.parametrize("method", LAYER_METHODS)
def test_equals_the_model_with_hidden_keys(method, name):
    family = (FAMILIES | DEEP)[name]
    model, inputs = family.model(), family.prompts(*LAYOUTS)
    options = {"recycle": False} if method == "sparsevlm" else OPTIONS.get(method, {})
    with LayerStage(model, LayerSchedule(method, options=options)) as stage:
        out = model.generate(**inputs, **LOGITS)
        report, plan = stage.report, stage.plan
    visual = visual_columns(inputs)
    assert report.last < report.tokens_per_layer[0]
    tokens = out.sequences[:, inputs["input_ids"].shape[1] :]
    dropped = dropped_columns(visual, report.kept)
    expected = hidden_logits(model, inputs, tokens, dropped, blind=plan.blind, visual=visual)
    assert (torch.stack(out.logits, 1) - expected).abs().max() < 1e-5
    assert torch.equal(tokens, greedy_of(expected))


def entering(model, layer, call):
    """States that enter a layer, `[B, T, D]`."""
    seen = []
    hook = (
        model.get_decoder()
        .layers[layer]
        .register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
    )
    call()
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("name", SUPPORTED)
@torch.no_grad()
def test_merged_rows_stand_at_the_columns_of_their_centres(name):
    """Kept rows are the model's own but for a few, and the model with those few goes on alike."""
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts("ttit")
    with LayerStage(model, LayerSchedule("sparsevlm", {2: 8})) as stage:
        # The hook of the stage comes first, so this one sees what the layer gets.
        states = entering(model, 2, lambda: model(**inputs))[0]
        out = model.generate(**inputs, **LOGITS)
        kept = stage.report.kept
    visual = visual_columns(inputs)
    stays = (~visual[0]).index_fill(0, kept[2][0], True).nonzero()[:, 0]
    own = entering(model, 2, lambda: model(**inputs))[0, stays]
    changed = ((own - states).abs().amax(-1) > 1e-4).nonzero()[:, 0]
    assert 0 < len(changed) < 8
    places = torch.stack([torch.zeros_like(changed), stays[changed]], 1)
    assert bool(visual[0, stays[changed]].all())
    tokens = out.sequences[:, inputs["input_ids"].shape[1] :]
    merged = {2: (states[changed], places)}
    expected = hidden_logits(model, inputs, tokens, dropped_columns(visual, kept), merged=merged)
    assert (torch.stack(out.logits, 1) - expected).abs().max() < 1e-5
