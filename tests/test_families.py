"""Invariants 1-4 for every family: keep-all is the model, pruning is exactly masking."""

import pytest
import torch
from family_oracle import direct_greedy, masked_call, masked_greedy
from tiny_families import FAMILIES, IMAGE, VIDEO

from lvlm_prune import attach, prune_inputs

KEEP = 4
LAYOUTS = {"single": ("titit",), "padded 0/1/2": ("ttt", "tit", "titti"), "image last": ("tti",)}
VIDEOS = {"video": ("tvt",), "image and video, padded": ("tit", "tivtvit", "t")}
CASES = [
    pytest.param(name, layouts, id=f"{name}-{label}")
    for name, family in FAMILIES.items()
    for label, layouts in (LAYOUTS | (VIDEOS if family.video else {})).items()
]
METHODS_IN_MATRIX = ("cls", "visionzip", "divprune", "random")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("name", "layouts"), CASES)
@torch.no_grad()
def test_keep_all_is_bit_identical(name, layouts, attention):
    family = FAMILIES[name]
    model, inputs = family.model(attention), family.prompts(*layouts)
    logits = model(**inputs).logits
    tokens = model.generate(**inputs, max_new_tokens=4)
    with attach(model, method="cls", keep=1.0):
        assert torch.equal(model(**inputs).logits, logits)
        assert torch.equal(model.generate(**inputs, max_new_tokens=4), tokens)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("method", ["cls", "visionzip"])
@pytest.mark.parametrize(("name", "layouts"), CASES)
@torch.no_grad()
def test_pruned_model_equals_masked_model(name, layouts, method, attention):
    family = FAMILIES[name]
    model, inputs = family.model(attention), family.prompts(*layouts)
    with attach(model, method=method, keep=KEEP) as handle:
        out = model.generate(
            **inputs, max_new_tokens=4, return_dict_in_generate=True, output_logits=True
        )
        report = handle.report
    length = inputs["input_ids"].shape[1]
    assert torch.equal(out.sequences[:, :length], inputs["input_ids"])
    assert all(len(kept) == KEEP for kept in report.kept)
    given, plan = prune_inputs(model, inputs, method=method, keep=KEEP)
    if not family.masks:
        if method != "cls":
            pytest.skip("the hand-built sequence holds no merged rows")
        tokens, logits = direct_greedy(model, inputs, report.kept, plan.totals, 4)
    else:
        call = masked_call(model, inputs, report.kept, plan.totals, given)
        tokens, logits = masked_greedy(model, call, 4)
    error = (torch.stack(out.logits, 1) - logits).abs().max()
    assert error < family.tolerance
    assert torch.equal(out.sequences[:, length:], tokens)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_row_of_a_batch_equals_the_prompt_alone(name):
    family = FAMILIES[name]
    model = family.model()
    layouts = ("ttt", "titt", "ti" + ("v" if family.video else "i") + "t")
    batch = family.prompts(*layouts)
    singles = alone(family, layouts)
    with attach(model, method="cls", keep=KEEP) as handle:
        logits = model(**batch).logits[:, -1]
        tokens = model.generate(**batch, max_new_tokens=3)[:, -3:]
        together = sorted(tuple(rows.tolist()) for rows in handle.report.kept)
        apart = []
        for row, inputs in enumerate(singles):
            assert (model(**inputs).logits[:, -1] - logits[row]).abs().max() < family.tolerance
            assert torch.equal(model.generate(**inputs, max_new_tokens=3)[0, -3:], tokens[row])
            if row:
                apart += [tuple(rows.tolist()) for rows in handle.report.kept]
    assert sorted(apart) == together


def alone(family, layouts: tuple[str, ...]) -> list[dict]:
    """The prompts of a batch one by one, cut out of the batch."""
    batch = family.prompts(*layouts)
    inputs, images, videos = [], 0, 0
    for row, layout in enumerate(layouts):
        real = batch["attention_mask"][row].bool()
        names = ("input_ids", "attention_mask", "mm_token_type_ids")
        one = {name: batch[name][row, real][None] for name in names if name in batch}
        i, v = layout.count("i"), layout.count("v")
        if i:
            one |= visual(batch, "image", images, images + i)
        if v:
            one |= visual(batch, "video", videos, videos + v)
        images, videos = images + i, videos + v
        inputs.append(one)
    return inputs


def visual(batch: dict, modality: str, start: int, stop: int) -> dict:
    """Pixels and sizes of some images or videos of a batch."""
    pixels = "pixel_values" if modality == "image" else "pixel_values_videos"
    grids = batch.get(f"{modality}_grid_thw")
    if grids is not None:
        sizes = grids.prod(-1).tolist()
        rows = slice(sum(sizes[:start]), sum(sizes[:stop]))
        return {pixels: batch[pixels][rows], f"{modality}_grid_thw": grids[start:stop]}
    if modality == "image" and "image_sizes" in batch:
        return {name: batch[name][start:stop] for name in (pixels, "image_sizes")}
    if batch[pixels].shape[-1] == 56:  # InternVL: images have one and three tiles in turn
        tiles = [(1, 3)[place % 2] for place in range(stop)]
        return {pixels: batch[pixels][sum(tiles[:start]) : sum(tiles)]}
    return {pixels: batch[pixels][start:stop]}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("padding", ["left", "right"])
@torch.no_grad()
def test_padding_does_not_matter(name, padding):
    family = FAMILIES[name]
    model = family.model()
    layouts = ("tit", "ttttit")
    inputs = family.prompts(*layouts, padding=padding)
    with attach(model, method="cls", keep=KEEP):
        logits = model(**inputs).logits
        for row, one in enumerate(alone(family, layouts)):
            expected = model(**one).logits
            end = -1 if padding == "left" else expected.shape[1] - 1
            assert (expected[0, -1] - logits[row, end]).abs().max() < family.tolerance


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", METHODS_IN_MATRIX)
@pytest.mark.parametrize("keep", [1, 3, 0.5])
@torch.no_grad()
def test_promised_number_of_tokens_reaches_the_llm(name, method, keep):
    family = FAMILIES[name]
    model = family.model()
    inputs = family.prompts("titt", "tvttit" if family.video else "tit")
    with attach(model, method=method, keep=keep) as handle:
        out = model.generate(**inputs, max_new_tokens=3, return_dict_in_generate=True)
        report = handle.report
    ids = inputs["input_ids"]
    text = ((ids != IMAGE) & (ids != VIDEO) & (inputs["attention_mask"] == 1)).sum(1)
    counts = [len(kept) for kept in report.kept]
    if isinstance(keep, int):
        assert counts == [keep] * len(counts)
    assert sum(counts) == report.tokens_after < report.tokens_before
    for kept in report.kept:
        assert kept.tolist() == sorted(set(kept.tolist()))
    # Images come first, then videos: row 0 has one image, row 1 the rest.
    expected = max(int(text[0]) + counts[0], int(text[1]) + sum(counts[1:]))
    attending = [layer for layer in out.past_key_values.layers if hasattr(layer, "keys")]
    assert attending
    assert {layer.keys.shape[2] for layer in attending} == {expected + 2}


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_text_only_prompts_are_untouched(name):
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts("ttt", "t")
    logits, tokens = model(**inputs).logits, model.generate(**inputs, max_new_tokens=3)
    with attach(model, method="divprune", keep=KEEP):
        assert torch.equal(model(**inputs).logits, logits)
        assert torch.equal(model.generate(**inputs, max_new_tokens=3), tokens)
