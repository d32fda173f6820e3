"""Exempt tokens: which they are, and that a quantised cache gives them back exactly."""

import itertools

import pytest
import torch
from planted_llm import KINDS, SINK_TOKEN, Planted, plant_sink, tiny_llm
from tiny_families import FAMILIES, IMAGE
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, QuantizedLayer

from lvlm_prune import prune_inputs
from lvlm_prune.calibration import calibrate
from lvlm_prune.errors import UnsupportedModelError
from lvlm_prune.exempt import exempt_cache, exempt_mask


class UniformLayer(QuantizedLayer):
    """Rounds each channel of each row to 2 ** nbits even steps over its tokens."""

    def _quantize(self, tensor, axis):
        low, high = tensor.amin(2, keepdim=True), tensor.amax(2, keepdim=True)
        step = ((high - low) / (2**self.nbits - 1)).clamp(min=1e-9)
        return ((tensor - low) / step).round().to(torch.uint8), low, step

    def _dequantize(self, q_tensor):
        levels, low, step = q_tensor
        return levels * step + low


def random_masks(batch: int = 3, length: int = 17, seed: int = 0) -> list[torch.Tensor]:
    """real (padded on the left), visual, sinks, ViT sinks."""
    generator = torch.Generator().manual_seed(seed)
    real = torch.arange(length) >= torch.tensor([0, 3, 9])[:batch, None]
    visual = torch.rand(batch, length, generator=generator) < 0.5
    sinks = torch.rand(batch, length, generator=generator) < 0.2
    vit = visual & (torch.rand(batch, length, generator=generator) < 0.3)
    return [real, visual, sinks, vit]


def slow_mask(real, visual, sinks, vit, first) -> list[list[bool]]:
    rows = []
    for row in zip(real, visual, sinks, vit, strict=True):
        texts, out = 0, []
        for is_real, is_visual, is_sink, is_vit in zip(*(one.tolist() for one in row), strict=True):
            texts += is_real and not is_visual
            early = not is_visual and texts <= first
            out.append(is_real and (early or is_sink or is_vit))
        rows.append(out)
    return rows


@pytest.mark.parametrize(("seed", "first"), list(itertools.product(range(3), [0, 1, 4, 99])))
def test_the_mask_is_its_definition(seed, first):
    masks = random_masks(seed=seed)
    assert exempt_mask(*masks, first=first).tolist() == slow_mask(*masks, first)


def test_without_sinks_only_the_first_text_tokens_are_exempt():
    real, visual, *_ = random_masks()
    exempt = exempt_mask(real, visual)
    assert exempt.sum(-1).tolist() == (real & ~visual).sum(-1).clamp(max=4).tolist()
    assert not exempt[visual | ~real].any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sinks": torch.zeros(3, 17)}, TypeError, "sinks is of torch.float32"),
        ({"visual": torch.zeros(3, 16, dtype=torch.bool)}, ValueError, r"visual is \(3, 16\)"),
        ({"first": -1}, ValueError, "first is -1"),
    ],
)
def test_wrong_masks_are_refused(change, error, message):
    real, visual, sinks, _ = random_masks()
    with pytest.raises(error, match=message):
        exempt_mask(**{"real": real, "visual": visual, "sinks": sinks, **change})


def layer_of(exempt: torch.Tensor, layer_class=UniformLayer, **settings):
    """One layer of an exempting cache."""
    return exempt_cache(tiny_llm().config, layer_class, exempt, **settings).layers[0]


def states(batch: int, length: int, seed: int) -> torch.Tensor:
    return torch.randn(batch, 2, length, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("nbits", [2, 4])
def test_exempt_tokens_come_back_exact_and_others_about_right(nbits):
    """Through three quantisations of the prompt: at prefill and twice with new tokens."""
    exempt = exempt_mask(*random_masks(), first=2)
    layer = layer_of(exempt, nbits=nbits, residual_length=2)
    keys, values = states(3, 17, 0), states(3, 17, 1)
    for first, second in zip(layer.update(keys, values), (keys, values), strict=True):
        assert torch.equal(first, second), "the prompt's own pass reads full precision"
    for step in range(5):
        new = states(3, 1, 10 + step)
        out = layer.update(new, new)
        for given, stored in zip(out, (keys, values), strict=True):
            own = given[:, :, :17].transpose(1, 2)
            assert torch.equal(own[exempt], stored.transpose(1, 2)[exempt])
            wrong = (own - stored.transpose(1, 2))[~exempt].abs()
            assert 0 < float(wrong.max()) < 6 / (2**nbits - 1)
            assert torch.equal(given[:, :, -1:], new)
    assert layer.get_seq_length() == 22


def test_outliers_that_are_exempt_do_not_spoil_the_others():
    keys = states(1, 32, 0)
    keys[:, :, 3] *= 100
    exempt = torch.zeros(1, 32, dtype=torch.bool)
    errors = []
    for outlier in (True, False):
        exempt[0, 3] = outlier
        layer = layer_of(exempt.clone(), residual_length=99)
        layer.update(keys, keys)
        found, _ = layer.update(keys[:, :, :1], keys[:, :, :1])
        errors.append(float((found[:, :, 4:32] - keys[:, :, 4:]).abs().mean()))
    assert errors[0] < errors[1] / 5


def test_every_token_exempt_is_the_plain_cache():
    layer = layer_of(torch.ones(1, 6, dtype=torch.bool), nbits=2, residual_length=9)
    keys = states(1, 6, 0)
    layer.update(keys, keys)
    assert torch.equal(layer.update(keys[:, :, :1], keys[:, :, :1])[0][:, :, :6], keys)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_generate_with_planted_sinks(kind):
    """Exempting the sink brings logits closer to those of an exact cache; all exempt equals it."""
    model = plant_sink(tiny_llm(kind), Planted())
    ids = torch.tensor([[SINK_TOKEN, *range(20, 60)], [0, 0, 0, SINK_TOKEN, *range(80, 117)]])
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    real, text = ids != 0, torch.zeros_like(ids, dtype=torch.bool)
    rule = calibrate(model).rule()
    hidden = model(**inputs, output_hidden_states=True).hidden_states[rule.first_layer]
    sinks = rule.marks(hidden, text, real, rule.first_layer)
    assert torch.equal(sinks, ids == SINK_TOKEN)
    settings = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": [0, 1, 2]}
    settings |= {"output_logits": True, "return_dict_in_generate": True}
    exact = model.generate(**inputs, **settings)

    def distance(exempt: torch.Tensor) -> float:
        cache = exempt_cache(model.config, UniformLayer, exempt, nbits=2, residual_length=4)
        out = model.generate(**inputs, **settings, past_key_values=cache)
        assert cache.get_seq_length() == ids.shape[1] + 5
        # The first step after prefill: later ones may follow other tokens.
        return float((out.logits[1] - exact.logits[1]).abs().mean())

    exempted = distance(exempt_mask(real, text, sinks))
    assert 0 < exempted < distance(exempt_mask(real, text, first=0))
    assert distance(real) < 1e-5


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl"])
@torch.no_grad()
def test_generate_after_pruning(name):
    """The mask of the whole prompt is brought to the columns that are left."""
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts("tit", "ttit")
    real, visual = inputs["attention_mask"].bool(), inputs["input_ids"] == IMAGE
    pruned, plan = prune_inputs(model, inputs, method="norm", keep=4)
    exempt = plan.gather(exempt_mask(real, visual, sinks=visual), fill=False)
    assert exempt.shape == pruned["input_ids"].shape
    assert exempt.sum(-1).tolist() == [4 + 4, 4 + 4]
    settings = {"max_new_tokens": 5, "do_sample": False}
    plain = model.generate(**pruned, **settings)
    cache = exempt_cache(model.config, UniformLayer, exempt, nbits=8, residual_length=3)
    out = model.generate(**pruned, **settings, past_key_values=cache)
    assert out.shape == plain.shape
    layer = cache.layers[0]
    stored = layer._dequantize(layer._quantized_keys).transpose(1, 2)[:, : exempt.shape[1]]
    reference = DynamicCache(config=model.config.get_text_config())
    model(**pruned, past_key_values=reference)
    expected = reference.layers[0].keys.transpose(1, 2)[exempt]
    torch.testing.assert_close(stored[exempt], expected, rtol=0, atol=0)


def test_beams_share_the_mask_of_their_prompt():
    exempt = torch.ones(2, 11, dtype=torch.bool)
    exempt[1, 3:] = False
    layer = layer_of(exempt)
    keys = states(6, 11, 0)
    layer.update(keys, keys)
    found, _ = layer.update(keys[:, :, :1], keys[:, :, :1])
    assert torch.equal(found[:3, :, :11], keys[:3])
    assert torch.equal(found[3:, :, :3], keys[3:, :, :3])
    assert not torch.equal(found[3:, :, 3:11], keys[3:, :, 3:])


@pytest.mark.skipif(
    "reorder_cache" not in vars(QuantizedLayer),
    reason="this transformers cannot search beams with quantised caches",
)
@torch.no_grad()
def test_beam_search_with_every_token_exempt_is_the_plain_one():
    model = tiny_llm()
    ids = torch.tensor([[SINK_TOKEN, *range(20, 30)], [SINK_TOKEN, *range(60, 70)]])
    exempt = torch.ones_like(ids, dtype=torch.bool)
    cache = exempt_cache(model.config, UniformLayer, exempt, residual_length=99)
    settings = {"num_beams": 3, "max_new_tokens": 4, "do_sample": False}
    expected = model.generate(input_ids=ids, **settings)
    assert torch.equal(model.generate(input_ids=ids, **settings, past_key_values=cache), expected)


def test_caches_that_cannot_be_made_are_refused():
    config = tiny_llm().config
    exempt = torch.ones(2, 5, dtype=torch.bool)
    with pytest.raises(TypeError, match="DynamicLayer is no QuantizedLayer"):
        exempt_cache(config, DynamicLayer, exempt)
    with pytest.raises(TypeError, match="pass bool"):
        exempt_cache(config, UniformLayer, exempt.float())
    with pytest.raises(UnsupportedModelError, match="without attention"):
        exempt_cache(FAMILIES["qwen3_5"].model().config, UniformLayer, exempt)
    with pytest.raises(ValueError, match="3 rows and the exempt mask 2"):
        layer_of(exempt).update(states(3, 5, 0), states(3, 5, 0))


@torch.no_grad()
def test_with_optimum_quanto():
    pytest.importorskip("optimum.quanto", reason="optimum-quanto is not installed")
    from transformers.cache_utils import QuantoQuantizedLayer

    exempt = exempt_mask(*random_masks(), first=2)
    settings = {"nbits": 4, "q_group_size": 16, "residual_length": 4}
    layer = layer_of(exempt, QuantoQuantizedLayer, **settings)
    keys = states(3, 17, 0)
    layer.update(keys, keys)
    found = layer.update(keys[:, :, :1], keys[:, :, :1])[0][:, :, :17].transpose(1, 2)
    assert torch.equal(found[exempt], keys.transpose(1, 2)[exempt])
    assert 0 < float((found - keys.transpose(1, 2)).abs().max()) < 1
    model = tiny_llm()
    ids = torch.tensor([[SINK_TOKEN, *range(20, 36)]])
    cache = exempt_cache(model.config, QuantoQuantizedLayer, ids == SINK_TOKEN, **settings)
    assert model.generate(input_ids=ids, max_new_tokens=6, past_key_values=cache).shape[1] > 17
