"""Models of no family: pruned by features, exactly the masked model; attention is refused."""

import pytest
import torch
import transformers
from tiny_families import FAMILIES
from tiny_generic import GENERIC, IMAGE

from lvlm_prune import attach
from lvlm_prune.adapters import GenericAdapter, adapter_for
from lvlm_prune.adapters.generic import other_fields
from lvlm_prune.errors import MissingSignalError, UnsupportedModelError

KEEP = 2
LAYOUTS = {"single": ("tit",), "padded 0/1/2": ("ttt", "tit", "titit"), "image last": ("tti",)}


def masked_call(model, inputs: dict, kept: list, tokens: int) -> dict:
    """The same call with dropped placeholders masked and every position as it was."""
    mask = inputs["attention_mask"].clone()
    columns = (inputs["input_ids"] == IMAGE).nonzero().split(tokens)
    for place, rows in zip(columns, kept, strict=True):
        mask[place[:, 0], place[:, 1]] = 0
        mask[place[rows][:, 0], place[rows][:, 1]] = 1
    places = model._prepare_position_ids_for_generation(inputs["input_ids"], dict(inputs))
    return {**inputs, "attention_mask": mask, "position_ids": places}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layouts", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", GENERIC)
@torch.no_grad()
def test_pruned_model_equals_masked_model(name, layouts, attention):
    generic = GENERIC[name]
    model, inputs = generic.model(attention), generic.prompts(*layouts)
    settings = {"max_new_tokens": 3, "return_dict_in_generate": True, "output_logits": True}
    with attach(model, method="divprune", keep=KEEP) as handle:
        out = model.generate(**inputs, **settings)
        direct = model(**inputs).logits[:, -1]
        report = handle.report
    images = "".join(layouts).count("i")
    assert [len(rows) for rows in report.kept] == [KEEP] * images
    assert report.tokens_before == images * generic.tokens
    masked = masked_call(model, inputs, report.kept, generic.tokens)
    expected = model.generate(**masked, **settings)
    assert torch.equal(out.sequences, expected.sequences)
    for ours, theirs in zip(out.logits, expected.logits, strict=True):
        assert (ours - theirs).abs().max() < 2e-5
    assert (direct - expected.logits[0]).abs().max() < 2e-5


@pytest.mark.parametrize("name", GENERIC)
@torch.no_grad()
def test_keep_all_is_bit_identical(name):
    generic = GENERIC[name]
    model, inputs = generic.model(), generic.prompts("ttt", "tit", "titit")
    logits = model(**inputs).logits
    tokens = model.generate(**inputs, max_new_tokens=3)
    with attach(model, method="random", keep=1.0):
        assert torch.equal(model(**inputs).logits, logits)
        assert torch.equal(model.generate(**inputs, max_new_tokens=3), tokens)


@pytest.mark.parametrize("name", GENERIC)
@torch.no_grad()
def test_row_of_a_batch_equals_the_prompt_alone(name):
    generic = GENERIC[name]
    model = generic.model()
    batch = generic.prompts("ttt", "tit")
    alone = generic.prompts("tit")
    # Text differs by row, so the row of the batch is given to the single prompt.
    alone["input_ids"] = batch["input_ids"][1:]
    alone["attention_mask"] = batch["attention_mask"][1:]
    if generic.types:
        alone[generic.types] = batch[generic.types][1:]
    with attach(model, method="random", keep=KEEP) as handle:
        logits = model(**batch).logits[1, -1]
        kept = handle.report.kept
        assert (model(**alone).logits[0, -1] - logits).abs().max() < 1e-5
        assert torch.equal(handle.report.kept[0], kept[0])


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl"])
@torch.no_grad()
def test_families_taken_as_models_of_no_family_give_the_same(name, monkeypatch):
    """Of features alone, their own adapters know no more: M-RoPE, window order, DeepStack."""
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts("ttt", "tit", "titti")
    with attach(model, method="divprune", keep=KEEP) as handle:
        own, kept = model.generate(**inputs, max_new_tokens=3), handle.report.kept
        logits = model(**inputs).logits
    monkeypatch.setattr("lvlm_prune.adapters.FAMILIES", ())
    with attach(model, method="divprune", keep=KEEP) as handle:
        assert isinstance(handle.stage.adapter, GenericAdapter)
        assert torch.equal(model.generate(**inputs, max_new_tokens=3), own)
        assert torch.equal(model(**inputs).logits, logits)
        assert [rows.tolist() for rows in handle.report.kept] == [rows.tolist() for rows in kept]


@pytest.mark.parametrize("name", GENERIC)
def test_attention_methods_are_refused_with_the_ones_that_work(name):
    model = GENERIC[name].model()
    assert isinstance(adapter_for(model), GenericAdapter)
    for method in ("cls", "visionzip"):
        with pytest.raises(MissingSignalError, match="features alone: .*divprune.*random"):
            attach(model, method=method, keep=KEEP)
    assert "generate" not in model.__dict__


def test_model_without_its_head_is_refused():
    body = GENERIC["gemma3"].model().model
    with pytest.raises(UnsupportedModelError, match="Gemma3Model is not one, pass the whole model"):
        attach(body, method="random", keep=KEEP)


def test_encoder_outputs_that_are_read_otherwise_are_refused():
    config = transformers.FuyuConfig()
    config.text_config.num_hidden_layers = 1
    with torch.device("meta"):
        model = transformers.FuyuForCausalLM(config)
    with pytest.raises(UnsupportedModelError, match="reads last_hidden_state of its encoder's"):
        attach(model, method="random", keep=KEEP)
    assert other_fields("a = mm_encoder_outputs['image'].pooler_output") == []


def test_positions_in_other_than_three_parts_are_refused():
    model = GENERIC["glm4v"].model()
    rope = model.config.get_text_config().rope_parameters
    section = rope["mrope_section"]
    try:
        rope["mrope_section"] = [1, 1, 1, 1]
        with pytest.raises(UnsupportedModelError, match="rotary positions in 4 parts"):
            attach(model, method="random", keep=KEEP)
    finally:
        rope["mrope_section"] = section
    with pytest.raises(ValueError, match="positions='compact' is not possible"):
        attach(model, method="random", keep=KEEP, positions="compact")
