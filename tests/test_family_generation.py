"""Invariant 5 for every family: every way of generating gives what the masked model gives."""

import copy

import pytest
import torch
import transformers
from family_oracle import full_positions, masked_call, placeholders, reference_generate
from packaging import version
from tiny_families import FAMILIES, IMAGE, VIDEO
from torch.nn.functional import cross_entropy
from transformers import set_seed

from lvlm_prune import attach, prune_inputs

KEEP = 3
MODES = {
    "no cache": {"use_cache": False},
    "beams": {"num_beams": 3},
    "beams, several returned": {"num_beams": 4, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "temperature": 0.7, "top_k": 20},
    "several samples": {"do_sample": True, "num_return_sequences": 2},
    "static cache": {"cache_implementation": "static", "disable_compile": True},
    "chunked prefill": {"prefill_chunk_size": 5},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
}
LAYOUTS = {"single": ("titit",), "padded 0/1/2": ("tt", "tit", "ttitti")}
VIDEOS = {"videos": ("tvt", "tivttv")}
CASES = [
    pytest.param(name, layouts, mode, id=f"{name}-{label}-{mode}")
    for name, family in FAMILIES.items()
    for label, layouts in (LAYOUTS | (VIDEOS if family.video else {})).items()
    for mode in MODES
    # transformers speculates on single prompts only, and not with recurrent layers
    if mode != "prompt lookup" or (len(layouts) == 1 and family.masks)
]
CHUNKS_WITH_IMAGES = version.parse(transformers.__version__) >= version.parse("5.23")


@pytest.mark.parametrize(("name", "layouts", "mode"), CASES)
def test_mode_equals_masked_model(name, layouts, mode):
    if mode == "chunked prefill" and not CHUNKS_WITH_IMAGES:
        pytest.skip("transformers cuts encoded images into chunks from 5.23 on")
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts(*layouts)
    settings = {"max_new_tokens": 5, **MODES[mode]}
    with attach(model, method="cls", keep=KEEP) as handle:
        set_seed(0)
        ours = model.generate(**inputs, **settings)[:, -5:]
        kept = handle.report.kept
    given, plan = prune_inputs(model, inputs, method="cls", keep=KEEP)
    # The reference needs no chunks and no speculation: only ours are under test.
    plain = {
        name: value
        for name, value in settings.items()
        if name not in ("prefill_chunk_size", "prompt_lookup_num_tokens")
    }
    set_seed(0)
    assert torch.equal(ours, reference_generate(model, inputs, kept, plan.totals, given, **plain))


def training_labels(inputs: dict) -> torch.Tensor:
    """Labels of text that is predicted by text."""
    ids = inputs["input_ids"]
    visual = (ids == IMAGE) | (ids == VIDEO)
    labels = ids.masked_fill((inputs["attention_mask"] == 0) | visual, -100)
    # The token behind a visual one may be predicted by a dropped one.
    labels[:, 1:][visual[:, :-1]] = -100
    return labels


def short_loss(model, inputs: dict, drop: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of short sequences built by hand, for models whose layers recur."""
    embeds = model.get_input_embeddings()(inputs["input_ids"]).clone()
    features = model.base_model.get_image_features(
        inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True
    )
    embeds[inputs["input_ids"] == IMAGE] = torch.cat(list(features.pooler_output))
    places, losses = full_positions(model, inputs), []
    for row in range(len(drop)):
        stays = (inputs["attention_mask"][row] != 0) & ~drop[row]
        at = places[:, row : row + 1, stays]
        at = torch.cat([torch.arange(at.shape[-1]).view(1, 1, -1), at[1:]])
        hidden = model.base_model.language_model(
            inputs_embeds=embeds[row, stays][None], position_ids=at
        ).last_hidden_state
        logits, wanted = model.lm_head(hidden)[0, :-1], labels[row, stays][1:]
        losses.append(cross_entropy(logits, wanted, reduction="none")[wanted != -100])
    return torch.cat(losses).mean()


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradients_equal_the_masked_model(name, padding):
    family = FAMILIES[name]
    model = copy.deepcopy(family.model()).train()
    inputs = family.prompts("tit", "ttitt", padding=padding)
    labels = training_labels(inputs)
    # The first token of a padded row is predicted by padding, which is garbage in any model.
    labels[inputs["input_ids"] == 1] = -100
    with attach(model, method="cls", keep=KEEP) as handle:
        loss = model(**inputs, labels=labels).loss
        kept = handle.report.kept
        totals = prune_inputs(model, inputs, method="cls", keep=KEEP)[1].totals
    loss.backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    drop, _ = placeholders(inputs["input_ids"], kept, totals)
    if family.masks:
        masked = inputs["attention_mask"].masked_fill(drop, 0)
        call = {**inputs, "attention_mask": masked, "position_ids": full_positions(model, inputs)}
        reference = model(**call, labels=labels).loss
    else:
        reference = short_loss(model, inputs, drop, labels)
    reference.backward()
    assert abs(loss - reference) < family.tolerance
    encoder = [name for name in ours if "visual." in name or "vision_tower." in name]
    assert sum(float(ours[name].abs().max()) > 0 for name in encoder) > len(encoder) / 2
    for name, parameter in model.named_parameters():
        if name in ours and parameter.grad is not None:
            scale = max(1.0, float(parameter.grad.abs().max()))
            assert (ours[name] - parameter.grad).abs().max() < 10 * family.tolerance * scale, name


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_bfloat16(name):
    """Half precision: the same tokens of the same rows, and logits as near as its rounding."""
    family = FAMILIES[name]
    model = copy.deepcopy(family.model()).bfloat16()
    inputs = family.prompts("tit", "ttitti")
    inputs = {
        name: value.bfloat16() if value.is_floating_point() else value
        for name, value in inputs.items()
    }
    with attach(model, method="cls", keep=KEEP) as handle:
        out = model.generate(
            **inputs, max_new_tokens=2, return_dict_in_generate=True, output_logits=True
        )
        assert handle.report.tokens_after == 3 * KEEP
        kept = handle.report.kept
    assert out.logits[0].isfinite().all()
    given, plan = prune_inputs(model, inputs, method="cls", keep=KEEP)
    if family.masks:
        masked = model(**masked_call(model, inputs, kept, plan.totals, given)).logits[:, -1].float()
        assert (out.logits[0].float() - masked).abs().max() < 0.05 * masked.abs().max()
