"""Every mistake is a named error that says the value, what is allowed and the next step."""

import numpy as np
import pytest
import torch
from tiny_models import prompts, tiny_llava
from transformers import LlamaConfig, LlamaForCausalLM

from lvlm_prune import attach
from lvlm_prune.errors import (
    PlaceholderMismatchError,
    UnknownMethodError,
    UnsupportedModelError,
)


@pytest.mark.parametrize(
    ("keep", "kind", "message"),
    [
        (0, ValueError, "at least one token, got 0"),
        (-3, ValueError, "at least one token, got -3"),
        (37, ValueError, "keep=37 is more than the 36 visual tokens"),
        (0.0, ValueError, r"in \(0, 1\], got 0.0"),
        (-0.5, ValueError, r"in \(0, 1\], got -0.5"),
        (1.5, ValueError, r"in \(0, 1\], got 1.5"),
        (float("nan"), ValueError, r"in \(0, 1\], got nan"),
        (float("inf"), ValueError, r"in \(0, 1\], got inf"),
        ("64", TypeError, "must be a number, got '64' of type str"),
        (True, TypeError, "must be a number, got True of type bool"),
        ([4], TypeError, r"must be a number, got \[4\]"),
    ],
)
def test_keep(llava_sdpa, keep, kind, message):
    with pytest.raises(kind, match=message):
        attach(llava_sdpa, method="cls", keep=keep)


@pytest.mark.parametrize("keep", [np.int64(9), np.float32(0.25)])
def test_numpy_numbers_are_numbers(llava_sdpa, keep):
    with attach(llava_sdpa, method="cls", keep=keep) as handle:
        llava_sdpa(**prompts("tit"))
        assert handle.report.tokens_after == 9


def test_unknown_method_names_the_nearest():
    with pytest.raises(UnknownMethodError, match=r"did you mean 'visionzip'\? known: cls, vtc_cls"):
        attach(tiny_llava(), method="vision_zip")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"options": {"layers": 3}}, r"no options \['layers'\]; allowed: layer"),
        ({"sinks": "delete"}, "sinks must be one of ignore, keep, drop, only"),
        ({"positions": "new"}, "positions must be one of original, compact"),
        ({"sink_threshold": -1.0, "sinks": "drop"}, "must be a positive norm"),
        ({"sink_threshold": "100", "sinks": "drop"}, "must be a positive norm"),
        ({"sink_threshold": 100.0}, "no effect with sinks='ignore'"),
        ({"method": "visionzip", "options": {"contextual_share": "a"}}, r"must be in \[0, 1\)"),
        ({"kept": 4}, r"unknown config keys \['kept'\]; known: \['method'"),
    ],
)
def test_settings(llava_sdpa, settings, message):
    with pytest.raises(ValueError, match=message):
        attach(llava_sdpa, **{"method": "cls", **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"options": [1]}, "options must be a dict"),
        ({"options": {"layer": "x"}}, "layer must be an int"),
        ({"options": {"layer": True}}, "layer must be an int"),
        ({"method": "vtc_cls", "options": {"start_layer": 1.5}}, "start_layer must be an int"),
        ({"method": "visionzip", "options": {"cls_token": "no"}}, "cls_token must be True or"),
        ({"seed": 1.5}, "seed must be an int"),
        ({"method": 3}, "method must be a name"),
    ],
)
def test_settings_of_another_type(llava_sdpa, settings, message):
    with pytest.raises(TypeError, match=message):
        attach(llava_sdpa, **{"method": "cls", **settings})


def text_model() -> LlamaForCausalLM:
    """A model without images."""
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            vocab_size=20,
        )
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (text_model(), r"accepts mm_encoder_outputs .*; LlamaForCausalLM is not one"),
        (torch.nn.Linear(2, 2), "Linear is not a transformers model"),
        (tiny_llava().model, "language-modelling head .* LlavaModel is not one, pass the whole"),
    ],
)
def test_unsupported_models(model, message):
    with pytest.raises(UnsupportedModelError, match=message):
        attach(model, method="cls", keep=4)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("vision_feature_select_strategy", "full", "'full' makes the CLS token a visual token"),
        (
            "vision_config.model_type",
            "siglip_vision_model",
            "cuts off the first patch of an encoder",
        ),
        ("vision_config.model_type", "pixtral", "'pixtral' encoder is not supported"),
    ],
)
def test_unsupported_variants(path, value, message):
    model = tiny_llava()
    target, *names = path.split(".")
    owner = model.config
    for name in names:
        owner, target = getattr(owner, target), name
    object.__setattr__(owner, target, value)
    with pytest.raises(UnsupportedModelError, match=message):
        attach(model, method="cls", keep=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("fewer placeholders", "29 placeholder tokens .* 36 visual tokens"),
        ("two images for one", r"36 placeholder tokens .* 2 image\(s\) have 72"),
        ("spans prompts", "image 0 spans prompts 0 and 1"),
    ],
)
def test_placeholders_that_do_not_match(llava_sdpa, change, message):
    inputs = prompts("tit")
    if change == "fewer placeholders":
        inputs["input_ids"][0, 4:11] = 5
    elif change == "two images for one":
        inputs["pixel_values"] = torch.cat([inputs["pixel_values"]] * 2)
    else:
        ids = torch.full((2, 20), 5)
        ids[:, 1:19] = 90
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": inputs["pixel_values"],
        }
    with attach(llava_sdpa, method="cls", keep=4):
        for call in (llava_sdpa, llava_sdpa.generate):
            with pytest.raises(PlaceholderMismatchError, match=message):
                call(**inputs)


def test_embeddings_in_place_of_ids(llava_sdpa):
    inputs = prompts("tit")
    embeds = llava_sdpa.get_input_embeddings()(inputs.pop("input_ids"))
    with (
        attach(llava_sdpa, method="cls", keep=4),
        pytest.raises(ValueError, match="pass input_ids with pixel_values"),
    ):
        llava_sdpa(inputs_embeds=embeds, **inputs)


def test_mask_that_does_not_cover_the_conversation(llava_sdpa):
    inputs = prompts("tit")
    inputs["attention_mask"] = inputs["attention_mask"][:, :-3]
    with (
        attach(llava_sdpa, method="cls", keep=4),
        pytest.raises(ValueError, match="attention_mask has shape"),
    ):
        llava_sdpa(**inputs)


@pytest.mark.parametrize(
    ("name", "value"), [("vision_feature_layer", -3), ("vision_feature_select_strategy", "full")]
)
def test_encoder_settings_of_a_call(llava_sdpa, name, value):
    with (
        attach(llava_sdpa, method="cls", keep=4),
        pytest.raises(ValueError, match=f"{name}={value!r} differs from the model's"),
    ):
        llava_sdpa(**prompts("tit"), **{name: value})


def test_logits_of_named_columns(llava_sdpa):
    with (
        attach(llava_sdpa, method="cls", keep=4),
        pytest.raises(ValueError, match="logits_to_keep as a tensor"),
    ):
        llava_sdpa(**prompts("tit"), logits_to_keep=torch.tensor([40]))


def test_generate_without_ids(llava_sdpa):
    inputs = prompts("tit")
    with (
        attach(llava_sdpa, method="cls", keep=4),
        pytest.raises(ValueError, match="pass input_ids with pixel_values"),
    ):
        llava_sdpa.generate(pixel_values=inputs["pixel_values"])
