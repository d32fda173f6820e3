"""An open_clip encoder in LLaVA: open_clip's own numbers, and every signal of eager attention."""

import copy

import pytest
import torch
from clip_extra.tiny_open_clip import as_transformers, tiny_open_clip
from masked_oracle import masked_generate
from tiny_models import prompts, tiny_llava
from transformers import (
    CLIPVisionConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)

from lvlm_prune import attach
from lvlm_prune.adapters import adapter_for
from lvlm_prune.adapters.open_clip import OpenClipTower, use_open_clip
from lvlm_prune.attention import cls_row, received_attention
from lvlm_prune.errors import UnsupportedModelError
from lvlm_prune.signals import SignalRequest
from lvlm_prune.tap import install_tap, recording, remove_tap

pytestmark = pytest.mark.usefixtures("open_clip")

KERNELS = ["sdpa", "eager"]


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 42, 42, generator=torch.Generator().manual_seed(3))


def llava_with(visual, kernel: str = "sdpa"):
    """The tiny LLaVA with an open_clip encoder in place of its own."""
    model = tiny_llava(kernel)
    use_open_clip(model, visual)
    return model


def tiles(inputs: dict, image_token: int) -> dict:
    """The prompt with one 42 x 42 image in LLaVA-NeXT's layout: 36 + 36 + 6 placeholders."""
    ids = inputs["input_ids"]
    more = ids.new_full((1, 42), image_token)
    place = int((ids[0] == image_token).nonzero()[0])
    ids = torch.cat([ids[:, :place], more, ids[:, place:]], dim=1)
    pixels = inputs["pixel_values"]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.stack([pixels, pixels.flip(-1)], dim=1),
        "image_sizes": torch.tensor([[42, 42]]),
    }


@torch.no_grad()
def explicit_attention(block, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights `[I, H, T, T]` and keys `[I, H, T, d]` of a block, by explicit softmax."""
    attention, rows = block.attn, block.ln_1(hidden)
    split = []
    for weight, bias in zip(
        attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True
    ):
        part = rows @ weight.T + bias
        split.append(part.view(*rows.shape[:2], attention.num_heads, -1).transpose(1, 2))
    query, key, _ = split
    weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
    return weights, key


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("variant", [{}, {"quick_gelu": True}, {"ls_init_value": 0.5}])
@pytest.mark.parametrize("gradients", [True, False])
def test_equals_open_clips_own_forward(pixels, kernel, variant, gradients):
    visual = tiny_open_clip(**variant).visual
    tower = OpenClipTower(visual, kernel).eval()
    # Without gradients nn.MultiheadAttention takes another path.
    with torch.set_grad_enabled(gradients):
        own = visual.forward_intermediates(pixels, output_fmt="NLC", output_extra_tokens=True)
        out = tower(pixels, output_hidden_states=True)
        pooled = visual(pixels)
    assert len(out.hidden_states) == 5
    for number in range(4):
        rows = [own["image_intermediates_prefix"][number], own["image_intermediates"][number]]
        expected = torch.cat(rows, dim=1)
        assert (out.hidden_states[number + 1] - expected).abs().max() < 1e-6 * expected.abs().max()
    assert (out.hidden_states[0] - visual._embeds(pixels)).abs().max() < 1e-6
    assert torch.equal(out.last_hidden_state, out.hidden_states[-1])
    assert (out.pooler_output @ visual.proj - pooled).abs().max() < 1e-6


@pytest.mark.parametrize("size", [42, 28])
@torch.no_grad()
def test_answers_like_the_clip_encoder_of_transformers(size):
    clip = tiny_open_clip()
    tower = OpenClipTower(clip.visual).eval()
    images = torch.randn(2, 3, size, size)
    settings = {"output_hidden_states": True, "interpolate_pos_encoding": size != 42}
    expected = as_transformers(clip).vision_model(images, **settings)
    out = tower(images, return_dict=True, **settings)
    for state, other in zip(out.hidden_states, expected.hidden_states, strict=True):
        assert (state - other).abs().max() < 1e-5
    assert (out.pooler_output - expected.pooler_output).abs().max() < 1e-5


@pytest.mark.parametrize("wanted", [-2, 0, 4, [1, -1], [0, 2, -2], True, None, False])
@torch.no_grad()
def test_keeps_the_hidden_states_that_are_asked_for(pixels, wanted):
    tower = OpenClipTower(tiny_open_clip().visual).eval()
    every = tower(pixels, output_hidden_states=True).hidden_states
    states = tower(pixels, output_hidden_states=wanted).hidden_states
    if not isinstance(wanted, (int, list)) or wanted is False:
        assert states is None
        return
    indices = range(5) if wanted is True else [wanted] if isinstance(wanted, int) else wanted
    kept = {index % 5 for index in indices}
    for index, state in enumerate(states):
        assert (state is not None) == (index in kept)
        assert state is None or torch.equal(state, every[index])


def test_shares_parameters_under_open_clips_names_and_leaves_the_encoder_alone(pixels):
    visual = tiny_open_clip().visual
    before = copy.deepcopy(visual)
    tower = OpenClipTower(visual)
    own, shared = visual.state_dict(keep_vars=True), tower.state_dict(keep_vars=True)
    assert list(shared) == list(own)
    assert all(shared[name] is own[name] for name in own)
    assert [type(module) for module in visual.modules()] == [
        type(module) for module in before.modules()
    ]
    with torch.no_grad():
        assert torch.equal(visual(pixels), before(pixels))


@pytest.mark.parametrize("kernel", KERNELS)
@torch.no_grad()
def test_a_tap_shows_what_eager_attention_gives(pixels, kernel):
    visual = tiny_open_clip().visual
    tower = OpenClipTower(visual, kernel).eval()
    plain = tower(pixels, output_hidden_states=True).hidden_states
    for layer, block in enumerate(visual.transformer.resblocks):
        weights, keys = explicit_attention(block, plain[layer])
        module, shown = tower.encoder.layers[layer].self_attn, []
        install_tap(module)
        try:
            with recording({module: lambda *call, seen=shown: seen.append(call)}):
                states = tower(pixels, output_hidden_states=True).hidden_states
        finally:
            remove_tap(module)
        ((query, key, *_, scale),) = shown
        assert (key - keys).abs().max() < 1e-5
        assert (cls_row(query, key, scale) - weights[:, :, 0, 1:]).abs().max() < 1e-6
        received = received_attention(query, key, scale)
        assert (received - weights.mean(dim=(1, 2))).abs().max() < 1e-6
        assert all(torch.equal(state, other) for state, other in zip(states, plain, strict=True))
        assert module.config is tower.config


@pytest.mark.parametrize("kernel", KERNELS)
@torch.no_grad()
def test_the_adapter_reads_every_signal(pixels, kernel):
    visual = tiny_open_clip().visual
    model = llava_with(visual, kernel)
    plain = torch.stack(model.model.get_image_features(pixel_values=pixels).pooler_output)
    states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    request = SignalRequest(cls_layers=(1, 2), received_layers=(0, 2), keys_layer=2)
    adapter = adapter_for(model)
    with adapter.taps(request):
        (group,) = adapter.encode({"pixel_values": pixels}, request).groups
    signals = group.signals
    assert torch.equal(signals.features, plain)
    assert signals.grid == (6, 6)
    assert torch.equal(signals.hidden, states[-2][:, 1:])
    assert torch.equal(signals.cls_hidden, states[-2][:, 0])
    assert (signals.norms - states[-2][:, 1:].norm(dim=-1)).abs().max() < 1e-5
    weights = {}
    for layer in range(3):
        weights[layer], keys = explicit_attention(
            visual.transformer.resblocks[layer], states[layer]
        )
    for place, layer in enumerate(request.cls_layers):
        assert (signals.cls[:, place] - weights[layer][:, :, 0, 1:]).abs().max() < 1e-6
    for place, layer in enumerate(request.received_layers):
        received = weights[layer].mean(dim=(1, 2))[:, 1:]
        assert (signals.received[:, place] - received).abs().max() < 1e-6
    assert (signals.keys - keys[:, :, 1:]).abs().max() < 1e-5


@pytest.mark.parametrize("kernel", KERNELS)
def test_pruned_answers_equal_the_masked_model(kernel):
    model = llava_with(tiny_open_clip().visual, kernel)
    inputs = prompts("tit", "itit")
    settings = {"max_new_tokens": 5, "do_sample": False}
    with attach(model, method="cls", keep=9) as handle:
        answers = model.generate(**inputs, **settings)
        kept = handle.report.kept
    assert [len(rows) for rows in kept] == [9, 9, 9]
    assert torch.equal(answers, masked_generate(model, inputs, kept, **settings))


@pytest.mark.parametrize(
    "family", [LlavaForConditionalGeneration, LlavaNextForConditionalGeneration]
)
@torch.no_grad()
def test_the_same_weights_in_transformers_keep_the_same_tokens(family):
    clip = tiny_open_clip()
    inputs = prompts("tit")
    base = tiny_llava().config
    if family is LlavaForConditionalGeneration:
        config = base
    else:
        config = LlavaNextConfig(
            vision_config=base.vision_config,
            text_config=base.text_config,
            image_token_id=base.image_token_id,
            image_grid_pinpoints=[[42, 42], [42, 84]],
        )
        inputs = tiles(inputs, base.image_token_id)
    model = family(copy.deepcopy(config)).eval()
    model.generation_config.eos_token_id = None
    other = copy.deepcopy(model)
    model.model.vision_tower = as_transformers(clip).vision_model
    use_open_clip(other, clip.visual)
    kept, answers = [], []
    for each in (model, other):
        with attach(each, method="visionzip", keep=9) as handle:
            answers.append(each(**inputs).logits)
            kept.append(torch.cat(handle.report.kept))
    assert torch.equal(*kept)
    assert (answers[0] - answers[1]).abs().max() < 1e-4


@pytest.mark.parametrize("method", ["identity", "divprune", "visionzip"])
@torch.no_grad()
def test_keeping_everything_changes_no_logit(method):
    model = llava_with(tiny_open_clip().visual)
    inputs = prompts("tit", "itit")
    plain = model(**inputs).logits
    with attach(model, method=method, keep=36):
        assert torch.equal(model(**inputs).logits, plain)
    assert torch.equal(model(**inputs).logits, plain)


def test_the_downsampling_control_encodes_a_smaller_image():
    model = llava_with(tiny_open_clip().visual)
    inputs = prompts("tit")
    with attach(model, method="downsample", keep=9) as handle:
        model.generate(**inputs, max_new_tokens=2)
        assert len(handle.report.kept[0]) == 9


def test_follows_the_models_attention_implementation(pixels):
    model = llava_with(tiny_open_clip().visual)
    tower = model.model.vision_tower
    assert tower.config is model.config.vision_config
    model.set_attn_implementation("eager")
    assert tower.encoder.layers[0].self_attn.config._attn_implementation == "eager"


def test_a_saved_model_comes_back(tmp_path):
    model = llava_with(tiny_open_clip().visual)
    model.save_pretrained(tmp_path)
    other = LlavaForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert type(other.model.vision_tower) is not OpenClipTower
    use_open_clip(other, tiny_open_clip().visual)
    inputs = prompts("tit", "itit")
    with torch.no_grad():
        assert torch.equal(other(**inputs).logits, model(**inputs).logits)


def test_takes_the_models_dtype_and_mode(pixels):
    model = tiny_llava().to(torch.bfloat16).train()
    tower = use_open_clip(model, tiny_open_clip().visual)
    assert tower.training
    assert not use_open_clip(tiny_llava(), tiny_open_clip().visual).training
    assert {parameter.dtype for parameter in tower.parameters()} == {torch.bfloat16}
    features = model.model.get_image_features(pixel_values=pixels).pooler_output
    assert features[0].dtype == torch.bfloat16
    sum(rows.float().sum() for rows in features).backward()
    assert tower.encoder.layers[0].self_attn.in_proj_weight.grad.abs().sum() > 0


def test_patches_are_never_left_out_in_training(pixels):
    tower = OpenClipTower(tiny_open_clip(patch_dropout=0.5).visual).train()
    assert tower(pixels).last_hidden_state.shape == (2, 37, 32)


def test_an_image_of_another_size_is_named():
    tower = OpenClipTower(tiny_open_clip().visual)
    with pytest.raises(ValueError, match="28 x 28, the encoder takes 42 x 42"):
        tower(torch.randn(1, 3, 28, 28))


def test_other_encoders_are_refused():
    own = tiny_llava().model.vision_tower
    with pytest.raises(UnsupportedModelError, match="CLIPVisionModel is not open_clip's"):
        OpenClipTower(own)
    with pytest.raises(UnsupportedModelError, match="CustomResidualAttentionBlock"):
        OpenClipTower(tiny_open_clip(qk_norm=True).visual)
    with pytest.raises(UnsupportedModelError, match="attentional pooling"):
        OpenClipTower(tiny_open_clip(attentional_pool=True).visual)
    with pytest.raises(UnsupportedModelError, match="square images"):
        OpenClipTower(tiny_open_clip(image_size=(42, 28)).visual)


def test_other_models_are_refused():
    visual = tiny_open_clip().visual
    with pytest.raises(UnsupportedModelError, match="of type llava and llava_next, got Llama"):
        use_open_clip(LlamaForCausalLM(tiny_llava().config.text_config), visual)
    narrow = tiny_open_clip(width=16).visual
    with pytest.raises(ValueError, match="16 wide and the projector takes 32"):
        use_open_clip(tiny_llava(), narrow)


def test_a_model_that_was_refused_keeps_its_encoder():
    model = tiny_llava()
    tower, config = model.model.vision_tower, model.config.vision_config
    with pytest.raises(ValueError, match="hidden_size=16"):
        use_open_clip(model, tiny_open_clip(width=16).visual)
    assert model.model.vision_tower is tower
    assert model.config.vision_config is config
    assert isinstance(config, CLIPVisionConfig)
