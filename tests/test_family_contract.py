"""Every model type an adapter claims: its declaration holds, and attaching leaves no trace."""

import copy
import sys
import threading

import pytest
import torch
import transformers
from family_oracle import direct_greedy
from test_attach import Explode, traces
from tiny_families import FAMILIES, LINEAR, QWEN3, of_qwen
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, SiglipVisionConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lvlm_prune import attach, prune_inputs
from lvlm_prune.adapters import FAMILIES as ADAPTERS
from lvlm_prune.adapters import adapter_for
from lvlm_prune.errors import AlreadyAttachedError, UnsupportedModelError
from lvlm_prune.methods.contract import EncoderShape

WINDOWED = tuple(layer for layer in range(32) if layer not in (7, 15, 23, 31))
# What the default configurations are: those of the first released checkpoints.
SHAPES = {
    "llava": EncoderShape(24, 22, has_cls=True),
    "llava_next": EncoderShape(24, 22, has_cls=True),
    "llava_onevision": EncoderShape(26, 25, has_cls=False),
    "qwen2_vl": EncoderShape(32, 31, has_cls=False, per_token=False),
    "qwen2_5_vl": EncoderShape(32, 31, has_cls=False, windowed=WINDOWED, per_token=False),
    "qwen3_vl": EncoderShape(27, 26, has_cls=False, per_token=False),
    "qwen3_vl_moe": EncoderShape(27, 26, has_cls=False, per_token=False),
    "qwen3_5": EncoderShape(27, 26, has_cls=False, per_token=False),
    "qwen3_5_moe": EncoderShape(27, 26, has_cls=False, per_token=False),
    "internvl": EncoderShape(24, 23, has_cls=True, per_token=False),
}
MODEL_TYPES = [(family, name) for family in ADAPTERS for name in family.model_types]


def on_meta(config):
    """A model of full size without weights."""
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


@pytest.mark.parametrize(("family", "name"), MODEL_TYPES, ids=[name for _, name in MODEL_TYPES])
def test_declaration_of_a_default_model(family, name):
    model = on_meta(CONFIG_MAPPING[name]())
    adapter = adapter_for(model)
    assert type(adapter) is family
    assert adapter.shape == SHAPES[name]
    layers = model.get_submodule(family.vision_layers)
    assert len(layers) == adapter.shape.depth
    for layer in layers:
        attention = layer.get_submodule(family.attention)
        assert attention.config._attn_implementation in ALL_ATTENTION_FUNCTIONS
        module = sys.modules[type(attention).__module__]
        assert callable(module.eager_attention_forward)
        # The encoder's own mask is made from another object than the one that a tap replaces.
        assert "config" in attention.__dict__
    assert list(model.get_submodule(family.projector).parameters())
    ids = [adapter.token_id(modality) for modality in adapter.pixels]
    assert len(set(ids)) == len(ids)
    assert all(0 <= number < model.config.get_text_config().vocab_size + 64 for number in ids)
    for modality, pixels in adapter.pixels.items():
        assert adapter.modalities({pixels: torch.zeros(1)}) == [modality]


@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_an_encoder_of_another_kind(name):
    """LLaVA with SigLIP has no CLS token, and takes every row."""
    vision = SiglipVisionConfig(vision_use_head=False)
    config = CONFIG_MAPPING[name](vision_config=vision, vision_feature_select_strategy="full")
    config.vision_feature_layer = -1
    shape = adapter_for(on_meta(config)).shape
    assert shape == EncoderShape(12, 11, has_cls=False)
    config.vision_feature_select_strategy = "default"
    with pytest.raises(UnsupportedModelError, match="cuts off the first patch"):
        adapter_for(on_meta(config))


def test_layers_that_are_concatenated():
    config = transformers.LlavaConfig(vision_feature_layer=[-2, -5, 7])
    assert adapter_for(on_meta(config)).shape == EncoderShape(24, 22, has_cls=True)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("internvl", {"vision_feature_layer": [-1, -2]}, "pass one index"),
        ("internvl", {"vision_feature_select_strategy": "full"}, "the CLS token a visual token"),
        ("qwen2_5_vl", {"vision_config": {"fullatt_block_indexes": []}}, "no layer with full"),
        ("llava_next", {"vision_feature_select_strategy": "full"}, "'full' makes the CLS"),
    ],
)
def test_variants_that_cannot_be_pruned(name, changes, message):
    model = on_meta(CONFIG_MAPPING[name]())
    for key, value in changes.items():
        owner = model.config
        if isinstance(value, dict):
            owner, ((key, value),) = getattr(owner, key), value.items()
        setattr(owner, key, value)
    with pytest.raises(UnsupportedModelError, match=message):
        attach(model, method="divprune", keep=4)


def warm(name: str):
    """A copy of a model that has run once, and a prompt."""
    model = copy.deepcopy(FAMILIES[name].model())
    inputs = FAMILIES[name].prompts("tit", "titt")
    with torch.no_grad():
        model(**inputs)
    return model, inputs


@pytest.mark.parametrize("name", FAMILIES)
def test_detach_leaves_no_trace(name):
    model, inputs = warm(name)
    before, logits = traces(model), model(**inputs).logits
    with attach(model, method="cls", keep=3) as handle:
        assert traces(model) != before
        with pytest.raises(AlreadyAttachedError, match="call detach"):
            attach(model, method="divprune", keep=3)
        model.generate(**inputs, max_new_tokens=2)
        assert handle.report.tokens_after == 6
    assert traces(model) == before
    prune_inputs(model, inputs, method="vtc_cls", keep=3)
    assert traces(model) == before
    assert torch.equal(model(**inputs).logits, logits)


@pytest.mark.parametrize("name", FAMILIES)
def test_exceptions_leave_no_trace(name):
    model, inputs = warm(name)
    before = traces(model)
    broken = {**inputs, "pixel_values": inputs["pixel_values"][..., :-1]}
    with attach(model, method="cls", keep=3):
        expected = model.generate(**inputs, max_new_tokens=3)
        for call in (model, model.generate):
            with pytest.raises((RuntimeError, ValueError)):
                call(**broken)
        with pytest.raises(KeyboardInterrupt):
            model.generate(**inputs, max_new_tokens=3, stopping_criteria=[Explode()])
        assert torch.equal(model.generate(**inputs, max_new_tokens=3), expected)
    assert traces(model) == before
    with pytest.raises((RuntimeError, ValueError)):
        prune_inputs(model, broken, method="cls", keep=3)
    assert traces(model) == before


@pytest.mark.parametrize("name", FAMILIES)
def test_a_copy_of_an_attached_model_is_attached_alone(name):
    model, inputs = warm(name)
    with attach(model, method="cls", keep=3):
        expected = model.generate(**inputs, max_new_tokens=3)
        twin = copy.deepcopy(model)
        for parameter in model.parameters():
            parameter.data.zero_()
        assert torch.equal(twin.generate(**inputs, max_new_tokens=3), expected)
    assert torch.equal(twin.generate(**inputs, max_new_tokens=3), expected)
    twin.__dict__["_lvlm_prune"].detach()
    assert "generate" not in twin.__dict__


@pytest.mark.parametrize("name", ["llava_next", "qwen2_5_vl", "qwen3_5", "internvl"])
def test_threads_share_a_model(name):
    """Prompts of several sizes at a time; the model's own memory of positions is shared."""
    family = FAMILIES[name]
    model = family.model()
    calls = [family.prompts(*rows) for rows in (("tit",), ("ti", "titi"), ("tt", "t", "ti"))]
    results = {}
    with attach(model, method="cls", keep=3):
        expected = [model.generate(**call, max_new_tokens=4) for call in calls]

        def work(number):
            results[number] = [model.generate(**calls[number], max_new_tokens=4) for _ in range(3)]

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, tokens in results.items():
        assert all(torch.equal(one, expected[number]) for one in tokens)
    assert len(results) == 3


@torch.no_grad()
def test_experts_between_recurrent_layers():
    """Qwen3.5-MoE, the one type that the other tests have no model of."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 32}
    family = of_qwen(
        "Qwen3_5Moe", QWEN3, {**LINEAR, **experts, "moe_intermediate_size": 32}, masks=False
    )
    model, inputs = family.model(), family.prompts("tt", "tit", "ttitvi")
    settings = {"return_dict_in_generate": True, "output_logits": True}
    with attach(model, method="cls", keep=3) as handle:
        out = model.generate(**inputs, max_new_tokens=3, **settings)
        kept = handle.report.kept
    totals = prune_inputs(model, inputs, method="cls", keep=3)[1].totals
    tokens, logits = direct_greedy(model, inputs, kept, totals, 3)
    assert torch.equal(out.sequences[:, -3:], tokens)
    assert (torch.stack(out.logits, 1) - logits).abs().max() < family.tolerance
