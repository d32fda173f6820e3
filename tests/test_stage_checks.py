"""What the stage refuses between a method and the LLM: nothing may go wrong without a word."""

from dataclasses import replace

import pytest
import torch
from tiny_families import FAMILIES, IMAGE
from tiny_generic import GENERIC

from lvlm_prune import attach
from lvlm_prune.errors import BrokenSelectionError, NonFiniteFeaturesError
from lvlm_prune.methods import METHODS, Selection


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["cls", "holov", "divprune", "agilepruner"])
@torch.no_grad()
def test_features_that_are_no_numbers(method, value):
    family = FAMILIES["llava"]
    model, inputs = family.model(), family.prompts("tit", "tit")
    inputs["pixel_values"][1, 0, 0, 0] = value
    with (
        attach(model, method=method, keep=4),
        pytest.raises(NonFiniteFeaturesError, match="features of image 1 hold NaN"),
    ):
        model(**inputs)
    model(**family.prompts("tit"))


@pytest.mark.parametrize(
    "kept", [[[0, 1]], [[0, 1, 1]], [[2, 1, 0]]], ids=["too few", "twice", "out of order"]
)
@torch.no_grad()
def test_methods_are_held_to_their_promise(monkeypatch, kept):
    family = FAMILIES["llava"]

    def select(signals, keep, **options):
        return Selection(kept=torch.tensor(kept))

    monkeypatch.setitem(METHODS, "cls", replace(METHODS["cls"], select=select))
    with (
        attach(family.model(), method="cls", keep=3),
        pytest.raises(BrokenSelectionError, match="was to keep 3 different tokens"),
    ):
        family.model()(**family.prompts("tit"))


@torch.no_grad()
def test_token_types_that_route_experts_are_shortened_too():
    family = GENERIC["ernie4_5_vl_moe"]
    model, inputs = family.model(), family.prompts("tit", "ttit")
    inputs["moe_mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).long()
    plain = model(**inputs).logits
    with attach(model, method="divprune", keep=2) as handle:
        logits = model(**inputs).logits
        assert logits.shape[1] == plain.shape[1] - (
            handle.report.prompt_before - handle.report.prompt_after
        )
        out = model.generate(
            **inputs, max_new_tokens=1, return_dict_in_generate=True, output_logits=True
        )
    assert (out.logits[0] - logits[:, -1]).abs().max() < 1e-5


def test_unknown_columns_are_refused():
    family = FAMILIES["llava"]
    inputs = family.prompts("tit")
    with (
        attach(family.model(), method="cls", keep=2),
        pytest.raises(ValueError, match="word_ids has one column a token"),
    ):
        family.model()(**inputs, word_ids=inputs["input_ids"])


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_embeddings_beside_pixels_are_refused(name):
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts("tit")
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
    with (
        attach(model, method="cls", keep=2),
        pytest.raises(ValueError, match="not inputs_embeds"),
    ):
        model(**inputs, inputs_embeds=embeds)


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
@torch.no_grad()
def test_a_placeholder_id_without_pixels_is_a_token_in_later_turns(name):
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts("tit")
    with attach(model, method="cls", keep=2):
        cache = model(**inputs, use_cache=True).past_key_values
        length = inputs["input_ids"].shape[1]
        step = model(
            input_ids=torch.tensor([[IMAGE]]),
            attention_mask=torch.ones(1, length + 1, dtype=torch.long),
            past_key_values=cache,
        )
    assert step.logits.shape[:2] == (1, 1)


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
@torch.no_grad()
def test_sizes_may_come_as_a_list(name):
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts("tit")
    with attach(model, method="cls", keep=5):
        expected = model(**inputs).logits
        inputs["image_sizes"] = inputs["image_sizes"].tolist()
        assert torch.equal(model(**inputs).logits, expected)
