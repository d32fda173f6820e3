"""Explicit rows follow any mask, as they follow the oracle's; layers that forget are refused."""

import copy

import pytest
import torch
import transformers
from reweight_oracle import Oracle
from test_layer_bad_input import qwen2_with
from test_reweighting import ACTIVE, RATIO, RULE, ZERO, far, plain
from tiny_families import FAMILIES as CAUSAL
from tiny_families import IMAGE, PAD, SPECIAL, TEXT, built
from tiny_generic import GENERIC
from tiny_generic_configs import gemma3, paligemma

from lvlm_prune.errors import UnsupportedModelError
from lvlm_prune.reweight.engine import Reweighting
from lvlm_prune.reweight.registry import REWEIGHTERS
from lvlm_prune.reweight.rows import explicit_logits, kernel_rows
from lvlm_prune.tap import AttentionCall, install_tap, remove_tap

# Those that need nothing from an encoder or a first answer.
METHODS = [name for name in ACTIVE if name not in ("paint", "restore", "ilvad")]
LAYOUTS = [("tit",), ("tit", "titt"), ("ti", "ti"), ("tt", "ttitt", "ti")]
CONFIGS = {"gemma3": gemma3, "paligemma": paligemma}


def made(name: str, attention: str = "sdpa"):
    """A model that keeps all keys, and reads images or whole prompts in both directions."""
    config = CONFIGS[name]()
    if name == "gemma3":
        config.text_config.layer_types = ["full_attention"] * config.text_config.num_hidden_layers
    return built(GENERIC[name].name, config, attention)


def prompts(name: str, *layouts: str) -> dict:
    """A batch; PaliGemma's processor gives the whole prompt type 0."""
    inputs = GENERIC[name].prompts(*layouts)
    if name == "paligemma":
        inputs["token_type_ids"] = torch.zeros_like(inputs["token_type_ids"])
    return inputs


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CONFIGS)
def test_prompts_read_in_both_directions_equal_the_oracle(name, method):
    model, eager = made(name), made(name, "eager")
    reweighter, effects = REWEIGHTERS[method], []
    for layouts in LAYOUTS:
        inputs = prompts(name, *layouts)
        with Reweighting(model, {"method": method, "options": ACTIVE[method]}, RULE):
            tokens, logits = plain(model, inputs)
        oracle = Oracle(eager, reweighter, reweighter.complete(ACTIVE[method]), RATIO)
        theirs = oracle.logits(inputs, tokens[:, :-1])
        assert far(logits, theirs) < 1e-4
        effects.append(far(theirs, plain(model, inputs)[1]))
    assert max(effects) > 1e-3


@pytest.mark.parametrize("method", [name for name in ZERO if name not in ("paint", "restore")])
@pytest.mark.parametrize("name", CONFIGS)
def test_strength_zero_is_the_identity(name, method):
    model = made(name)
    for settings in ({}, {"use_cache": False}):
        if method == "ilvad" and settings:
            continue
        inputs = prompts(name, "ti", "titt", "tit")
        tokens, stock = plain(model, inputs, **settings)
        with Reweighting(model, {"method": method, "options": ZERO[method]}, RULE):
            ours, logits = plain(model, inputs, **settings)
        assert torch.equal(ours, tokens)
        assert far(logits, stock) < 1e-4


@torch.no_grad()
def test_text_without_images_is_read_in_both_directions_too():
    """PAI's second branch: the question of type 0, then tokens that see what came before."""
    model, inputs = made("paligemma"), prompts("paligemma", "tit", "titt")
    options = {"alpha": 0.0, "gamma": 1.6, "beta": 1e-6}
    with Reweighting(model, {"method": "pai", "options": options}):
        out = model.generate(
            **inputs,
            max_new_tokens=3,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
        )
    scores, image = torch.stack(out.scores, 1), torch.stack(out.logits, 1)
    image[..., SPECIAL] = -torch.inf
    image = image.log_softmax(-1)
    for row, ids in enumerate(inputs["input_ids"].tolist()):
        text = [one for one in ids if one not in (IMAGE, PAD)]
        whole = torch.tensor([text + out.sequences[row, -3:-1].tolist()])
        types = (torch.arange(whole.shape[1]) >= len(text)).long()[None]
        found = model(input_ids=whole, token_type_ids=types, use_cache=False).logits
        other = found[0, len(text) - 1 :].log_softmax(-1)
        seen = scores[row].isfinite()
        assert seen.sum() > 3
        assert far(scores[row][seen], (1.6 * (image[row] - other) + other)[seen]) < 1e-4


def windowed():
    """LLMs some of whose layers forget."""
    llava = copy.deepcopy(CAUSAL["llava"].model().config)
    llava.text_config = transformers.MistralConfig(**TEXT, sliding_window=12)
    yield "all", built("LlavaForConditionalGeneration", llava, "sdpa")
    yield "some", qwen2_with(use_sliding_window=True, sliding_window=8, max_window_layers=1).model()
    yield "all", GENERIC["gemma3"].model()


def test_layers_that_forget_are_refused():
    for which, model in windowed():
        layers = r"\[0, 1, 2\]" if which == "all" else r"\[1, 2\]"
        with pytest.raises(UnsupportedModelError, match=f"layers {layers} .*reweighting is not"):
            Reweighting(model, "pai")
        assert "generate" not in model.__dict__


def test_layers_that_forget_do_not_matter_to_logits():
    for _, model in windowed():
        with Reweighting(model, "vcd") as reweighting:
            assert not reweighting.edited | reweighting.observed


def called(dtype: torch.dtype, mask, size: float = 1.0) -> tuple[AttentionCall, torch.nn.Module]:
    """Attention of 6 rows over 8 keys by a tapped module."""
    module = CAUSAL["llava"].model().get_decoder().layers[0].self_attn
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, n, 8) for heads, n in ((4, 6), (2, 8), (2, 8)))
    parts = [one.to(dtype) for one in (query * size, key * size, value)]
    return AttentionCall(module, *parts, mask, {"scaling": 8**-0.5}), module


@pytest.mark.parametrize("start", [1, 3, 6])
def test_kernel_rows_see_what_a_mask_lets_them(start):
    torch.manual_seed(1)
    mask = torch.rand(1, 1, 6, 8) > 0.4
    mask[..., 0] = True
    call, module = called(torch.float32, mask)
    install_tap(module)
    try:
        assert far(kernel_rows(call, start, 2), call.run()[0][:, :start]) < 1e-6
    finally:
        remove_tap(module)


@pytest.mark.parametrize("rows", [(0, 6), (2, 5), (5, 6)])
def test_explicit_rows_see_what_a_mask_lets_them(rows):
    torch.manual_seed(1)
    mask = torch.rand(1, 1, 6, 8) > 0.4
    mask[..., 0] = True
    found = explicit_logits(called(torch.float32, mask)[0], *rows, 2)
    assert torch.equal(found.isfinite(), mask[:, :, slice(*rows)].expand(-1, 4, -1, -1))


def test_half_precision_does_not_overflow():
    """Products beyond 65504 that SDPA still follows, in float32 as in its kernels."""
    call, _ = called(torch.float16, torch.ones(1, 1, 6, 8, dtype=torch.bool), size=250.0)
    found = explicit_logits(call, 0, 6, 2)
    query, key = call.query.double(), call.key.double().repeat_interleave(2, 1)
    theirs = query @ key.transpose(-1, -2) * 8**-0.5
    assert theirs.abs().max() > 65504
    assert float(((found - theirs).abs() / theirs.abs().max()).max()) < 1e-3


def test_a_scale_is_exact_in_float32():
    call, _ = called(torch.float32, torch.ones(1, 1, 6, 8, dtype=torch.bool))
    key = call.key.repeat_interleave(2, 1).transpose(-1, -2)
    assert far(explicit_logits(call, 0, 6, 2), (call.query @ key) * 8**-0.5) < 1e-6
