"""Invariant 5 for every family: every way of generating gives what the masked model gives."""

import copy

import pytest
import torch
import transformers
from family_oracle import full_positions, masked_call, placeholders, reference_generate
from packaging import version
from tiny_families import FAMILIES, IMAGE, SPECIAL, VIDEO
from torch.nn.functional import cross_entropy
from transformers import StaticCache, set_seed

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


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_pruned_inputs_drive_the_stock_model(name):
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts("tit", "ttivi" if family.video else "ttii")
    pruned, plan = prune_inputs(model, inputs, method="cls", keep=KEEP)
    ours = model.generate(**pruned, max_new_tokens=4)[:, plan.index.shape[1] :]
    with attach(model, method="cls", keep=KEEP):
        assert torch.equal(model.generate(**inputs, max_new_tokens=4)[:, plan.length :], ours)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.masks])
def test_assisted_decoding_equals_greedy(name):
    model, inputs = FAMILIES[name].model(), FAMILIES[name].prompts("tit")
    assistant = copy.deepcopy(model)
    with attach(model, method="cls", keep=KEEP):
        greedy = model.generate(**inputs, max_new_tokens=6)
        assisted = model.generate(**inputs, max_new_tokens=6, assistant_model=assistant)
    assert torch.equal(assisted, greedy)


@pytest.mark.parametrize("rows", [3, 4])
@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.mrope])
@torch.no_grad()
def test_rotary_positions_that_the_caller_computed(name, rows):
    """Time, height and width of every token, with or without the plain count before them."""
    model, inputs = FAMILIES[name].model(), FAMILIES[name].prompts("tit", "ttitti")
    positions = full_positions(model, inputs)[-rows:]
    with attach(model, method="cls", keep=KEEP):
        expected = model(**inputs).logits[:, -1]
        ours = model(**inputs, position_ids=positions).logits[:, -1]
    assert (ours - expected).abs().max() < FAMILIES[name].tolerance


@torch.no_grad()
def test_seconds_of_video_frames_are_in_the_positions():
    family = FAMILIES["qwen2_5_vl"]
    model, inputs = family.model(), family.prompts("tvt", "tv")
    inputs["second_per_grid_ts"] = torch.tensor([1.5, 4.0])
    settings = {"method": "cls", "keep": KEEP}
    with attach(model, **settings) as handle:
        ours = model.generate(**inputs, max_new_tokens=4)[:, -4:]
        kept = handle.report.kept
    given, plan = prune_inputs(model, inputs, **settings)
    plain = {name: value for name, value in inputs.items() if name != "second_per_grid_ts"}
    plain, _ = prune_inputs(model, plain, **settings)
    assert not torch.equal(given["position_ids"], plain["position_ids"])
    expected = reference_generate(model, inputs, kept, plan.totals, given, max_new_tokens=4)
    assert torch.equal(ours, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava_next", "qwen2_5_vl", "qwen3_vl", "internvl"])
def test_compiled_decode_over_a_static_cache(name):
    """The forward hook must not break the compiled decode step."""
    family = FAMILIES[name]
    model, inputs = copy.deepcopy(family.model()), family.prompts("tit")
    with attach(model, method="cls", keep=KEEP):
        greedy = model.generate(**inputs, max_new_tokens=4)[:, -4:]
        compiled = torch.compile(model.__call__, fullgraph=True, backend="eager")
        pruned, _ = prune_inputs(model, inputs, method="cls", keep=KEEP)
        cache = StaticCache(config=model.config.get_text_config(), max_cache_len=64)
        with torch.no_grad():
            logits = model(**pruned, past_key_values=cache).logits[:, -1]
            places, tokens = pruned.get("position_ids"), []
            for _ in range(4):
                logits[:, SPECIAL] = -torch.inf
                tokens.append(logits.argmax(-1, keepdim=True))
                places = places[..., -1:] + 1
                step = compiled(input_ids=tokens[-1], position_ids=places, past_key_values=cache)
                logits = step.logits[:, -1]
    assert torch.equal(torch.cat(tokens, 1), greedy)
