"""Invariant 7: reading a signal changes nothing, and equals eager attention."""

import pytest
import torch
from tiny_models import tiny_llava

from lvlm_prune.adapters import adapter_for
from lvlm_prune.attention import received_attention
from lvlm_prune.signals import SignalRequest
from lvlm_prune.tap import install_tap, remove_tap

EVERYTHING = SignalRequest(
    cls_layers=(0, 1, 2, 3), received_layers=(2,), keys_layer=2, fingerprint=True
)


@pytest.fixture(scope="module")
def eager():
    """Eager attention weights of every layer for two images."""
    model = tiny_llava("eager")
    pixels = torch.randn(2, 3, 42, 42, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        out = model.model.vision_tower(pixels, output_attentions=True, output_hidden_states=True)
    return pixels, out


def encode(attention: str, pixels: torch.Tensor, request: SignalRequest):
    """Signals of a model with the same weights."""
    adapter = adapter_for(tiny_llava(attention))
    with torch.no_grad(), adapter.taps(request):
        (group,) = adapter.encode({"pixel_values": pixels}, request).groups
    return group.signals


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_signals_equal_eager_attention(eager, attention):
    pixels, out = eager
    signals = encode(attention, pixels, EVERYTHING)
    for place, layer in enumerate(EVERYTHING.cls_layers):
        expected = out.attentions[layer][:, :, 0, 1:]
        assert (signals.cls[:, place] - expected).abs().max() < 1e-6
    received = out.attentions[2].mean(dim=(1, 2))[:, 1:]
    assert (signals.received[:, 0] - received).abs().max() < 1e-6
    assert (signals.hidden - out.hidden_states[-2][:, 1:]).abs().max() < 1e-5
    assert (signals.cls_hidden - out.hidden_states[-2][:, 0]).abs().max() < 1e-5
    assert (signals.norms - signals.hidden.norm(dim=-1)).abs().max() < 1e-5


def test_keys_are_those_of_the_layer(eager):
    pixels, out = eager
    model = tiny_llava("sdpa")
    layer = model.model.vision_tower.encoder.layers[2]
    with torch.no_grad():
        keys = layer.self_attn.k_proj(layer.layer_norm1(out.hidden_states[2]))
    expected = keys.view(2, 37, 4, 8).transpose(1, 2)[:, :, 1:]
    assert (encode("sdpa", pixels, EVERYTHING).keys - expected).abs().max() < 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_reading_leaves_features_bit_identical(eager, attention):
    pixels, _ = eager
    model = tiny_llava(attention)
    plain = torch.stack(model.model.get_image_features(pixel_values=pixels).pooler_output)
    signals = encode(attention, pixels, EVERYTHING)
    assert torch.equal(signals.features, plain)


def test_received_attention_in_blocks_equals_a_loop(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 3, 11, 4, generator=generator)
    key = torch.randn(2, 3, 11, 4, generator=generator)
    expected = torch.zeros(2, 11)
    for image in range(2):
        for head in range(3):
            for row in range(11):
                logits = torch.stack([query[image, head, row] @ k for k in key[image, head]])
                expected[image] += (logits * 0.5).softmax(0)
    expected /= 33
    monkeypatch.setattr("lvlm_prune.attention.BLOCK_ELEMENTS", 2 * 3 * 11 * 4)
    assert (received_attention(query, key, 0.5) - expected).abs().max() < 1e-6


def test_sampled_rows_are_evenly_spaced_queries():
    query, key = torch.randn(1, 2, 12, 4), torch.randn(1, 2, 12, 4)
    sampled = received_attention(query, key, 0.5, rows=3)
    assert torch.allclose(sampled, received_attention(query[:, :, [0, 4, 8]], key, 0.5))
    assert torch.allclose(sampled.sum(-1), torch.ones(1))


def test_nested_taps_leave_the_module_as_it_was():
    module = tiny_llava().model.vision_tower.encoder.layers[1].self_attn
    config = module.config
    install_tap(module)
    install_tap(module)
    remove_tap(module)
    assert module.config is not config
    remove_tap(module)
    assert module.config is config


def test_fingerprint_depends_on_the_image_alone():
    pixels = torch.randn(3, 3, 42, 42)
    pixels[2] = pixels[0]
    together = encode("sdpa", pixels, SignalRequest(fingerprint=True)).fingerprint
    alone = encode("sdpa", pixels[1:2], SignalRequest(fingerprint=True)).fingerprint
    assert together[0] == together[2] != together[1] == alone[0]
