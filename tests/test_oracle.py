"""Invariants 1-4: keep-all is the model, pruning is exactly masking, rows are independent."""

import pytest
import torch
from masked_oracle import masked_greedy, masked_inputs, overwrite_features
from tiny_models import IMAGE_TOKEN, TOKENS, prompts

from lvlm_prune import attach, prune_inputs
from lvlm_prune.methods import METHODS

BATCHES = {
    "single": ("tit",),
    "two images": ("titit",),
    "padded": ("tit", "ttit"),
    "0, 1 and 2 images": ("ttt", "tit", "titti"),
    "image last": ("ttt", "tti"),
}
KEEP = 9
PRUNING = [name for name, method in METHODS.items() if method.drops]
BANNED = [IMAGE_TOKEN, 1, 2]


@pytest.mark.parametrize("layouts", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_keep_all_is_bit_identical(llava, layouts, method):
    inputs = prompts(*layouts)
    logits = llava(**inputs).logits
    tokens = llava.generate(**inputs, max_new_tokens=4)
    with attach(llava, method=method, keep=1.0):
        assert torch.equal(llava(**inputs).logits, logits)
        assert torch.equal(llava.generate(**inputs, max_new_tokens=4), tokens)


@pytest.mark.parametrize("layouts", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("method", PRUNING)
@torch.no_grad()
def test_pruned_model_equals_masked_model(llava, layouts, method):
    inputs = prompts(*layouts)
    with attach(llava, method=method, keep=KEEP) as handle:
        out = llava.generate(
            **inputs, max_new_tokens=4, return_dict_in_generate=True, output_logits=True
        )
        kept = handle.report.kept
    pruned, _ = prune_inputs(llava, inputs, method=method, keep=KEEP)
    features = torch.cat(pruned["mm_encoder_outputs"]["image"].pooler_output).split(KEEP)
    masked = masked_inputs(inputs, kept, IMAGE_TOKEN)
    masked = overwrite_features(llava, masked, kept, features)
    tokens, logits = masked_greedy(llava, masked, 4, BANNED)
    length = inputs["input_ids"].shape[1]
    assert torch.equal(out.sequences[:, :length], inputs["input_ids"])
    assert torch.equal(out.sequences[:, length:], tokens)
    assert (torch.stack(out.logits, 1) - logits).abs().max() < 1e-5


@pytest.mark.parametrize("method", PRUNING)
@torch.no_grad()
def test_row_of_a_batch_equals_the_prompt_alone(llava_sdpa, method):
    layouts = ("ttt", "tit", "titti")
    batch = prompts(*layouts)
    image = 0
    with attach(llava_sdpa, method=method, keep=KEEP) as handle:
        out = llava_sdpa(**batch).logits[:, -1]
        kept = handle.report.kept
        for row, layout in enumerate(layouts):
            real = batch["attention_mask"][row].bool()
            alone = {"input_ids": batch["input_ids"][row, real][None]}
            count = layout.count("i")
            if count:
                alone["pixel_values"] = batch["pixel_values"][image : image + count]
            logits = llava_sdpa(**alone).logits[:, -1]
            assert (logits[0] - out[row]).abs().max() < 1e-5
            if count:
                for ours, theirs in zip(handle.report.kept, kept[image:], strict=False):
                    assert torch.equal(ours, theirs)
            image += count


@pytest.mark.parametrize("padding", ["left", "right"])
@torch.no_grad()
def test_padding_does_not_matter(llava_sdpa, padding):
    """The last real token's logits are the same for any side and amount of padding."""
    inputs = prompts("tit", "ttttit", padding=padding)
    with attach(llava_sdpa, method="cls", keep=KEEP) as handle:
        logits = llava_sdpa(**inputs).logits
        ends = [-1, -1] if padding == "left" else [1 + 6 + KEEP - 1, 1 + 15 + KEEP - 1]
        for row, end in enumerate(ends):
            real = inputs["attention_mask"][row].bool()
            alone = {"input_ids": inputs["input_ids"][row, real][None]}
            alone["pixel_values"] = inputs["pixel_values"][row : row + 1]
            assert (llava_sdpa(**alone).logits[0, -1] - logits[row, end]).abs().max() < 1e-5
        assert handle.report.tokens_after == KEEP


@pytest.mark.parametrize("method", PRUNING)
@pytest.mark.parametrize("keep", [1, 9, 0.25, 0.5])
@torch.no_grad()
def test_promised_number_of_tokens_reaches_the_llm(llava_sdpa, method, keep):
    inputs = prompts("tit")
    expected = keep if isinstance(keep, int) else int(keep * TOKENS)
    with attach(llava_sdpa, method=method, keep=keep) as handle:
        out = llava_sdpa.generate(**inputs, max_new_tokens=3, return_dict_in_generate=True)
    text = inputs["input_ids"].shape[1] - TOKENS
    cached = [layer.keys.shape[2] for layer in out.past_key_values.layers]
    assert cached == [text + expected + 2] * 3
    (kept,) = handle.report.kept
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert kept[0] >= 0
    assert kept[-1] < TOKENS
    pruned, plan = prune_inputs(llava_sdpa, inputs, method=method, keep=keep)
    (rows,) = pruned["mm_encoder_outputs"]["image"].pooler_output
    assert (rows.abs().sum(-1) > 0).all()
    real = inputs["input_ids"] != IMAGE_TOKEN
    assert bool(plan.mask()[real].all()), "a text token was dropped"


@torch.no_grad()
def test_last_real_token_is_never_dropped(llava_sdpa):
    inputs = prompts("tti")
    for seed in range(8):
        with attach(llava_sdpa, method="random", keep=3, seed=seed) as handle:
            llava_sdpa(**inputs)
            (kept,) = handle.report.kept
        assert kept[-1] == TOKENS - 1
        assert len(kept) == 3


@torch.no_grad()
def test_last_token_takes_the_place_of_the_least_worth(llava_sdpa):
    """The lowest-scored kept row makes way, and a sink that must stay does not."""
    inputs = prompts("tti", "tit")
    inputs["pixel_values"][1] = inputs["pixel_values"][0]
    with attach(llava_sdpa, method="cls", keep=4) as handle:
        llava_sdpa(**inputs)
        at_end, inside = (rows.tolist() for rows in handle.report.kept)
        scores = handle.report.scores[0]
    least = min(inside, key=lambda row: float(scores[row]))
    assert at_end == sorted({*inside, TOKENS - 1} - {least} if TOKENS - 1 not in inside else inside)
    hidden = llava_sdpa.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
    norms = hidden.hidden_states[-2][0, 1:].norm(dim=-1)
    threshold = float(norms.sort().values[-2])
    with attach(llava_sdpa, method="cls", keep=2, sinks="keep", sink_threshold=threshold) as handle:
        llava_sdpa(**inputs)
        assert set(handle.report.kept[0].tolist()) == {int(norms.argmax()), TOKENS - 1}


@torch.no_grad()
def test_text_only_prompts_are_untouched(llava_sdpa):
    inputs = prompts("ttt", "t")
    logits, tokens = llava_sdpa(**inputs).logits, llava_sdpa.generate(**inputs, max_new_tokens=3)
    with attach(llava_sdpa, method="cls", keep=4):
        assert torch.equal(llava_sdpa(**inputs).logits, logits)
        assert torch.equal(llava_sdpa.generate(**inputs, max_new_tokens=3), tokens)
