"""Mistakes and oddities of every family: a named error with a sentence, or the right result."""

import pytest
import torch
from encoder_reference import features_of
from family_oracle import masked_call
from tiny_families import (
    END,
    FAMILIES,
    IMAGE,
    START,
    VIDEO,
    padded,
)
from transformers import DynamicCache

from lvlm_prune import attach, prune_inputs
from lvlm_prune.errors import MissingSignalError, PlaceholderMismatchError

QWEN = [name for name, family in FAMILIES.items() if family.mrope]
MERGED = [*QWEN, "internvl"]


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (0, "at least one token, got 0"),
        (-2, "at least one token, got -2"),
        (float("nan"), r"in \(0, 1\], got nan"),
        (1.5, r"in \(0, 1\], got 1.5"),
        (1000, "keep=1000 is more than the .* visual tokens"),
    ],
)
@pytest.mark.parametrize("name", FAMILIES)
def test_keep(name, keep, message):
    """At attach, or at the first call where images have sizes of their own."""
    family = FAMILIES[name]
    with pytest.raises(ValueError, match=message), attach(family.model(), method="cls", keep=keep):
        family.model()(**family.prompts("tit"))


@pytest.mark.parametrize("name", FAMILIES)
def test_positions_and_order_that_a_family_cannot_have(name):
    family, model = FAMILIES[name], FAMILIES[name].model()
    inputs = family.prompts("tit", "titi")
    settings = {"method": "cls", "keep": 3}
    if family.mrope:
        with pytest.raises(ValueError, match=r"rows and columns \(M-RoPE\); use positions='orig"):
            attach(model, **settings, positions="compact")
    else:
        with attach(model, **settings, positions="compact") as handle:
            model.generate(**inputs, max_new_tokens=2)
            assert handle.report.tokens_after == 9
    if name in MERGED:
        with pytest.raises(MissingSignalError, match="is made of several; use order='raster'"):
            attach(model, **settings, order="sinks_first")
    else:
        with attach(model, **settings, order="sinks_first") as handle:
            model.generate(**inputs, max_new_tokens=2)
            assert handle.report.tokens_after == 9


def fewer_placeholders(inputs: dict) -> None:
    """Two placeholders became text."""
    row, column = (inputs["input_ids"] == IMAGE).nonzero()[0].tolist()
    inputs["input_ids"][row, column : column + 2] = 7


def no_second_image(inputs: dict) -> None:
    """The prompt names two images and brings one."""
    patches = 96 if "image_grid_thw" in inputs else 1
    inputs["pixel_values"] = inputs["pixel_values"][:patches]
    for name in ("image_sizes", "image_grid_thw"):
        if name in inputs:
            inputs[name] = inputs[name][:1]


@pytest.mark.parametrize("generate", [False, True])
@pytest.mark.parametrize("change", [fewer_placeholders, no_second_image])
@pytest.mark.parametrize("name", FAMILIES)
def test_placeholders_that_do_not_match(name, change, generate):
    model, inputs = FAMILIES[name].model(), FAMILIES[name].prompts("tit", "titt")
    change(inputs)
    with (
        attach(model, method="cls", keep=3),
        pytest.raises(PlaceholderMismatchError, match="with the model's own processor"),
    ):
        (model.generate if generate else model)(**inputs)


def test_runs_that_are_no_whole_tiles():
    model, inputs = FAMILIES["internvl"].model(), FAMILIES["internvl"].prompts("titt", "tit")
    # As many placeholders as there are features, but eight of them in the wrong prompt.
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    columns = (ids[1] == IMAGE).nonzero()[:8, 0]
    ids[1, columns] = 7
    ids[0, (mask[0] == 1).nonzero()[-8:, 0]] = IMAGE
    with (
        attach(model, method="cls", keep=3),
        pytest.raises(PlaceholderMismatchError, match="runs of .* placeholder tokens but 4 tiles"),
    ):
        model(**inputs)


@pytest.mark.parametrize("generate", [False, True])
@pytest.mark.parametrize(
    ("grids", "message"),
    [
        (None, "image_grid_thw is missing beside pixel_values"),
        ([[1, 8, 12], [1, 8, 12]], "counts 192 patches but pixel_values has 120"),
        ([[1, 8, 12]], "counts 96 patches but pixel_values has 120"),
        ([[1, 9, 12], [1, 6, 2]], r"of image 0 is \[1, 9, 12\]; .* multiples of 2"),
        ([[1, 8, 12], [1, 1, 24]], r"of image 1 is \[1, 1, 24\]; .* multiples of 2"),
        ([[0, 8, 12], [5, 6, 4]], r"of image 0 is \[0, 8, 12\]"),
    ],
)
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_5"])
def test_grids_that_do_not_match(name, grids, message, generate):
    model, inputs = FAMILIES[name].model(), FAMILIES[name].prompts("tit", "titt")
    inputs["image_grid_thw"] = None if grids is None else torch.tensor(grids)
    with attach(model, method="cls", keep=3), pytest.raises(ValueError, match=message):
        (model.generate if generate else model)(**inputs)


@pytest.mark.parametrize("name", QWEN)
def test_token_types_of_another_prompt(name):
    model, inputs = FAMILIES[name].model(), FAMILIES[name].prompts("tit", "titt")
    inputs["mm_token_type_ids"] = inputs["mm_token_type_ids"].roll(1, 1)
    with (
        attach(model, method="cls", keep=3),
        pytest.raises(ValueError, match="mm_token_type_ids marks placeholder tokens as text"),
    ):
        model(**inputs)


@pytest.mark.parametrize("generate", [False, True])
@pytest.mark.parametrize("too", [False, True], ids=["alone", "beside images"])
@pytest.mark.parametrize("name", ["llava", "llava_next", "internvl"])
def test_pixels_of_videos_for_a_family_of_images(name, too, generate):
    """They would go by unpruned, or without a word."""
    model, inputs = FAMILIES[name].model(), FAMILIES[name].prompts("tit")
    pixels = inputs["pixel_values"] if too else inputs.pop("pixel_values")
    inputs["pixel_values_videos"] = pixels
    with (
        attach(model, method="cls", keep=3),
        pytest.raises(ValueError, match="pixel_values_videos of .* only pixel_values; detach"),
    ):
        (model.generate if generate else model)(**inputs)


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_image_sizes_are_needed(name):
    model, inputs = FAMILIES[name].model(), FAMILIES[name].prompts("tit")
    del inputs["image_sizes"]
    with (
        attach(model, method="cls", keep=3),
        pytest.raises(ValueError, match="image_sizes is missing beside pixel_values"),
    ):
        model(**inputs)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("llava_next", "vision_feature_layer", -1),
        ("llava_next", "vision_feature_select_strategy", "full"),
        ("llava_onevision", "vision_aspect_ratio", "anyres_max_9"),
        ("internvl", "vision_feature_layer", -2),
        ("internvl", "vision_feature_select_strategy", "full"),
    ],
)
def test_encoder_settings_of_a_call(name, setting, value):
    model, inputs = FAMILIES[name].model(), FAMILIES[name].prompts("tit")
    with (
        attach(model, method="cls", keep=3),
        pytest.raises(ValueError, match=f"{setting}={value!r} differs from the model's"),
    ):
        model(**inputs, **{setting: value})


@torch.no_grad()
def equals_masked(family, model, inputs: dict, **settings) -> list[int]:
    """Check a call against the masked model; how many tokens each image kept."""
    with attach(model, **settings) as handle:
        logits = model(**inputs).logits[:, -1]
        kept = handle.report.kept
    given, plan = prune_inputs(model, inputs, **settings)
    masked = masked_call(model, inputs, kept, plan.totals, given)
    assert (model(**masked).logits[:, -1] - logits).abs().max() < family.tolerance
    return [len(rows) for rows in kept]


@pytest.mark.parametrize("method", ["cls", "visionzip", "divprune", "grid", "pool"])
@pytest.mark.parametrize("grid", [(2, 2), (2, 24), (24, 2)], ids=str)
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_an_image_of_a_single_cell_or_row(name, grid, method):
    family, n = FAMILIES[name], grid[0] * grid[1] // 4
    ids = [1, 5, START, *[IMAGE] * n, END, 7, START, *[IMAGE] * 24, END, 9]
    inputs = padded([ids], "left")
    inputs["pixel_values"] = torch.randn(
        4 * n + 96, 294, generator=torch.Generator().manual_seed(0)
    )
    inputs["image_grid_thw"] = torch.tensor([[1, *grid], [1, 8, 12]])
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int()
    model = family.model()
    assert equals_masked(family, model, inputs, method=method, keep=1) == [1, 1]
    assert equals_masked(family, model, inputs, method=method, keep=0.25) == [max(1, n // 4), 6]


@pytest.mark.parametrize("size", [(1, 200), (200, 1), (40, 3), (1, 1), (56, 57), (4000, 4000)])
@pytest.mark.parametrize("settings", [{}, {"per": "tile"}, {"method": "grid"}], ids=str)
@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_images_of_extreme_shapes(name, size, settings):
    """A picture may be all padding; then its base tile is all there is."""
    family, model = FAMILIES[name], FAMILIES[name].model()
    tensors = {
        "pixel_values": torch.randn(1, 10, 3, 28, 28, generator=torch.Generator().manual_seed(0)),
        "image_sizes": torch.tensor([size]),
    }
    (features,) = features_of(model, tensors).pooler_output
    inputs = padded([[1, 5, *[IMAGE] * len(features), 6, 7]], "left") | tensors
    settings = {"method": "cls", "keep": 2, **settings}
    (kept,) = equals_masked(family, model, inputs, **settings)
    assert kept == 2 or settings.get("per") == "tile"


@torch.no_grad()
def test_a_video_of_one_frame():
    family = FAMILIES["llava_onevision"]
    generator = torch.Generator().manual_seed(0)
    inputs = padded([[1, 5, *[VIDEO] * 5, 6]], "left")
    inputs["pixel_values_videos"] = torch.randn(1, 1, 3, 28, 28, generator=generator)
    for keep in (1, 3, 0.5):
        assert equals_masked(family, family.model(), inputs, method="cls", keep=keep)
    for name in QWEN:
        family = FAMILIES[name]
        inputs = family.prompts("vvt")
        assert inputs["video_grid_thw"][1, 0] == 1
        inputs = family.prompts("vtvt")
        if family.masks:
            assert equals_masked(family, family.model(), inputs, method="cls", keep=2) == [2, 2]


@pytest.mark.parametrize("several", [[2, 1], [1, 2], [3]], ids=str)
def test_onevision_cuts_only_an_image_that_is_alone(several):
    family, model = FAMILIES["llava_onevision"], FAMILIES["llava_onevision"].model()
    tensors = {
        "pixel_values": torch.randn(3, 10, 3, 28, 28, generator=torch.Generator().manual_seed(0)),
        "image_sizes": torch.tensor([[40, 56], [84, 80], [20, 28]]),
        "batch_num_images": torch.tensor(several),
    }
    lengths = iter([len(rows) for rows in features_of(model, tensors).pooler_output])
    rows = [
        [1, *(token for _ in range(count) for token in (5, *[IMAGE] * next(lengths))), 6]
        for count in several
    ]
    inputs = padded(rows, "left") | tensors
    assert equals_masked(family, model, inputs, method="cls", keep=3) == [3, 3, 3]


def test_positions_that_are_remembered_of_other_prompts():
    """A cache of one conversation that began before attaching, when the model moved on since."""
    family = FAMILIES["qwen2_vl"]
    model, cache = family.model(), DynamicCache()
    first, other = family.prompts("tit", "tit", "t"), family.prompts("tit", "tt")
    model.generate(**first, past_key_values=cache, max_new_tokens=2)
    model.generate(**other, max_new_tokens=2)
    second = family.prompts("ti", "t", "t")
    second["attention_mask"] = torch.ones(
        3, first["input_ids"].shape[1] + 1 + second["input_ids"].shape[1]
    ).long()
    with (
        attach(model, method="cls", keep=3),
        pytest.raises(
            ValueError, match="3 conversation.* remembered of 2, because .* without the cache"
        ),
    ):
        model(**second, past_key_values=cache)
