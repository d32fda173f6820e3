"""Invariant 7 for every family: reading changes nothing, and equals explicit attention."""

import copy
from functools import cache

import pytest
import torch
from encoder_reference import EncoderPass, encoder_pass, features_of, token_weights
from family_oracle import MODALITIES, full_positions
from tiny_families import FAMILIES
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lvlm_prune.adapters import adapter_for
from lvlm_prune.methods import METHODS
from lvlm_prune.methods.contract import attention_request
from lvlm_prune.signals import SignalRequest

LAYOUTS = {"image": ("tit", "titi"), "video": ("tvt", "tv")}
CASES = [
    pytest.param(name, modality, id=f"{name}-{modality}")
    for name, family in FAMILIES.items()
    for modality in LAYOUTS
    if modality == "image" or family.video
]


def layers_of(adapter) -> list[int]:
    """Layers that attend globally."""
    return [n for n in range(adapter.shape.depth) if n not in adapter.shape.windowed]


def everything(adapter, **settings) -> SignalRequest:
    """All signals that an encoder has."""
    layers = layers_of(adapter)
    last = layers[-1]
    of_cls = {"cls_layers": tuple(layers), "joint_layer": last} if adapter.shape.has_cls else {}
    return SignalRequest(
        received_layers=tuple(layers), keys_layer=layers[0], sinks_layer=last, **of_cls, **settings
    )


def encoded(adapter, inputs: dict, modality: str, request: SignalRequest, threshold=None):
    """What the adapter reads."""
    with torch.no_grad(), adapter.taps(request):
        return adapter.encode(inputs, request, modality, sink_threshold=threshold)


@cache
def reference(name: str, modality: str) -> tuple[dict, EncoderPass, torch.Tensor]:
    """Inputs, an observed pass and the shares of patches in tokens."""
    family = FAMILIES[name]
    model, inputs = family.model("eager"), family.prompts(*LAYOUTS[modality])
    return inputs, encoder_pass(model, inputs, modality), token_weights(model, inputs, modality)


def by_image(found, weights: torch.Tensor):
    """Each image's signals, group, place in it, and the shares of patches in its candidates."""
    shares = weights.split(found.totals)
    for group in found.groups:
        for place, image in enumerate(group.images):
            own = shares[image]
            candidates = own.abs().sum(-1) > 0
            assert group.placeholders.tolist() == candidates.nonzero()[:, 0].tolist()
            yield group.signals.images([place]), group, place, own[candidates]


def differ(ours: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference."""
    assert ours.shape == expected.shape
    return float((ours.double() - expected.double()).abs().max())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("name", "modality"), CASES)
def test_signals_equal_explicit_attention(name, modality, attention):
    inputs, seen, weights = reference(name, modality)
    adapter = adapter_for(FAMILIES[name].model(attention))
    request = everything(adapter)
    found = encoded(adapter, inputs, modality, request)
    layers = [seen.layers[n] for n in request.received_layers]
    received = torch.stack([layer.received() for layer in layers])
    norms = seen.rows.double().norm(dim=-1)
    keys = torch.cat([key[:, layers[0].first :] for key in layers[0].keys], 1).double()
    for signals, _, _, shares in by_image(found, weights):
        assert differ(signals.received[0], received @ shares.T) < 1e-6
        assert differ(signals.norms[0], shares @ norms) < 1e-4
        assert differ(signals.keys[0], torch.einsum("np,hpd->hnd", shares, keys)) < 1e-5
        if adapter.shape.has_cls:
            cls = torch.stack([layer.cls() for layer in layers])
            assert differ(signals.cls[0], cls @ shares.T) < 1e-6
            assert differ(signals.joint[0], shares @ layers[-1].joint()) < 1e-6


@pytest.mark.parametrize(("name", "modality"), CASES)
def test_rows_and_features(name, modality):
    """Encoder rows project to the features, except where features are mixed after it."""
    inputs, seen, weights = reference(name, modality)
    adapter = adapter_for(FAMILIES[name].model("sdpa"))
    found = encoded(adapter, inputs, modality, SignalRequest())
    flat = torch.cat([rows.flatten(0, -2) for rows in seen.features]).split(found.totals)
    for signals, group, place, shares in by_image(found, weights):
        image = group.images[place]
        assert differ(group.all_features[place], flat[image]) < 1e-5
        assert torch.equal(group.all_features[place][group.placeholders], signals.features[0])
        if adapter.shape.per_token:
            assert differ(signals.hidden[0], shares @ seen.rows.double()) < 1e-5
        else:
            means = signals.hidden[0].unflatten(-1, (4, -1)).mean(1)
            assert differ(means, shares @ seen.rows.double()) < 1e-5
        if adapter.shape.per_token and (shares.max(-1).values < 1 - 1e-6).any():
            continue
        with torch.no_grad():
            assert differ(adapter.project(signals.hidden[0]), signals.features[0]) < 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("name", "modality"), CASES)
def test_reading_leaves_features_bit_identical(name, modality, attention):
    inputs, _, _ = reference(name, modality)
    model = FAMILIES[name].model(attention)
    adapter = adapter_for(model)
    plain = features_of(model, inputs, modality)
    found = encoded(adapter, inputs, modality, everything(adapter, fingerprint=True))
    rows = torch.cat([rows.flatten(0, -2) for rows in plain.pooler_output]).split(found.totals)
    for group in found.groups:
        for place, image in enumerate(group.images):
            assert torch.equal(group.all_features[place], rows[image])
            stock = getattr(plain, "deepstack_features", None) or []
            for ours, theirs in zip(group.deepstack, stock, strict=True):
                assert torch.equal(ours[place], theirs[image])


@pytest.mark.parametrize("rule", ["norm", "no sink", "received"])
@pytest.mark.parametrize(("name", "modality"), CASES)
def test_attention_that_sinks_give(name, modality, rule):
    inputs, seen, weights = reference(name, modality)
    adapter = adapter_for(FAMILIES[name].model("sdpa"))
    layer = seen.layers[layers_of(adapter)[-1]]
    norms = seen.rows.norm(dim=-1)
    highest = norms.sort().values.tolist()
    norms = norms.split([q.shape[1] - layer.first for q in layer.queries])
    # One sink by norm in all; a sequence without one gives what all its tokens give.
    threshold = {
        "norm": (highest[-2] + highest[-1]) / 2,
        "no sink": highest[-1] + 1,
        "received": None,
    }[rule]
    ratio = 1.2 if rule == "received" else None
    marked = []
    for own, received in zip(norms, layer.attention(), strict=True):
        column = received.mean((0, 1))
        sinks = own > threshold if ratio is None else column[layer.first :] > ratio * column.mean()
        marked.append(torch.cat([sinks.new_zeros(layer.first), sinks]))
    expected = layer.given(marked)
    found = encoded(
        adapter, inputs, modality, everything(adapter, sinks_ratio=ratio), threshold=threshold
    )
    for signals, _, _, shares in by_image(found, weights):
        assert differ(signals.sinks_given[0], expected @ shares.T) < 1e-6


@pytest.mark.parametrize(("name", "modality"), CASES)
def test_parts_are_the_encoders_tiles_and_frames(name, modality):
    """Tokens of a tile come from one sequence of the encoder, in raster order."""
    inputs, seen, weights = reference(name, modality)
    adapter = adapter_for(FAMILIES[name].model("sdpa"))
    lengths = [
        q.shape[1] - seen.layers[-1].first for q in seen.layers[layers_of(adapter)[-1]].queries
    ]
    sequence = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).double()
    found = encoded(adapter, inputs, modality, SignalRequest())
    for _, group, place, shares in by_image(found, weights):
        for parts in (group.parts, group.tiles or group.parts):
            rows = torch.cat([part.rows for part in parts])
            assert rows.sort().values.tolist() == list(range(len(shares)))
            assert all(part.grid[0] * part.grid[1] == len(part.rows) for part in parts)
        for part in group.tiles or group.parts:
            # A shrunk picture mixes tiles at their borders: its tokens belong to the nearest.
            tile = (shares[part.rows] @ sequence).median().round()
            nearest = shares[part.rows] @ (sequence == tile).double()
            assert (nearest >= 0.25 - 1e-6).all()
            if name != "llava_onevision":
                assert (nearest > 1 - 1e-6).all()
            if part.cls_hidden is not None and adapter.shape.per_token:
                assert differ(part.cls_hidden[place], seen.cls_rows[int(tile)]) < 1e-5


@pytest.mark.parametrize(("name", "modality"), CASES)
def test_grids_are_rows_and_columns_of_the_picture(name, modality):
    """Seen from outside: rotary positions (M-RoPE), or where a tile's patches are."""
    inputs, _, weights = reference(name, modality)
    model = FAMILIES[name].model("sdpa")
    found = encoded(adapter_for(model), inputs, modality, SignalRequest())
    token = MODALITIES[modality][1]
    side = {"internvl": 8}.get(name, 4)
    patch = torch.arange(weights.shape[1]) % side**2
    places = torch.stack([patch // side, patch % side]).double()
    if FAMILIES[name].mrope:
        rotary = full_positions(model, inputs)[2:]
        columns = rotary[:, inputs["input_ids"] == token].double().split(found.totals, 1)
    for _, group, place, shares in by_image(found, weights):
        own = columns[group.images[place]] if FAMILIES[name].mrope else places @ shares.T
        for part in group.tiles or group.parts:
            if not FAMILIES[name].mrope and shares[part.rows].max(-1).values.unique().numel() > 1:
                continue  # a shrunk picture
            height, width = own[:, part.rows].unflatten(1, part.grid)
            assert torch.equal(height, height[:, :1].expand(part.grid))
            assert torch.equal(width, width[:1].expand(part.grid))
            assert (height[1:] > height[:-1]).all()
            assert (width[:, 1:] > width[:, :-1]).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_an_image_alone_has_the_signals_it_has_in_a_batch(name):
    family = FAMILIES[name]
    adapter = adapter_for(family.model("sdpa"))
    request = everything(adapter, fingerprint=True)
    together = encoded(adapter, family.prompts("titit"), "image", request)
    (first,) = encoded(adapter, family.prompts("tit"), "image", request).groups
    group = next(group for group in together.groups if 0 in group.images)
    ours = group.signals.images([group.images.index(0)])
    assert ours.fingerprint.tolist() == first.signals.fingerprint.tolist()
    for signal in ("received", "norms", "keys", "hidden", "cls", "sinks_given"):
        value = getattr(first.signals, signal)
        if value is not None:
            assert differ(getattr(ours, signal), value) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_no_method_reads_what_an_encoder_does_not_have(name):
    """Window layers rank nothing globally, and an encoder without CLS has no CLS rows."""
    shape = adapter_for(FAMILIES[name].model("sdpa")).shape
    requests = [method.request(shape, method.complete({})) for method in METHODS.values()]
    requests.append(attention_request(shape, range(shape.depth)))
    for request in requests:
        assert not {*request.received_layers, request.sinks_layer} & {*shape.windowed}
        if not shape.has_cls:
            assert not request.cls_layers
            assert request.joint_layer is None


def packed_attention(module, query, key, value, attention_mask, scaling, **kwargs):
    """Stands in for a flash kernel: many sequences in one call, its name read off the module."""
    assert module.config._attn_implementation == "flash_stand_in"
    lengths = kwargs["cu_seq_lens_q"].diff().tolist()
    out = [
        (q @ k.mT * scaling).softmax(-1) @ v
        for q, k, v in zip(*(rows.split(lengths, 2) for rows in (query, key, value)), strict=True)
    ]
    return torch.cat(out, 2).transpose(1, 2), None


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@torch.no_grad()
def test_sequences_that_a_flash_kernel_packs(name, monkeypatch):
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "flash_stand_in", packed_attention)
    inputs, seen, weights = reference(name, "image")
    model = copy.deepcopy(FAMILIES[name].model("sdpa"))
    model.config.vision_config._attn_implementation_internal = "flash_stand_in"
    adapter = adapter_for(model)
    plain = features_of(model, inputs).pooler_output
    found = encoded(adapter, inputs, "image", everything(adapter))
    received = torch.stack([seen.layers[n].received() for n in layers_of(adapter)])
    for signals, group, place, shares in by_image(found, weights):
        assert torch.equal(signals.features[0], plain[group.images[place]])
        assert differ(signals.received[0], received @ shares.T) < 1e-6
