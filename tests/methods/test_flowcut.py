"""`flowcut`: goldens step by step, and removal by hand inside tiny encoders."""

import math

import pytest
import torch
from goldens import golden_files, load
from tiny_families import FAMILIES

from lvlm_prune import attach
from lvlm_prune.adapters import adapter_for
from lvlm_prune.methods.contract import EncoderLayer, UnitState
from lvlm_prune.methods.flowcut import METHOD, drop_count, flow_scores, step
from lvlm_prune.progressive import EncoderBudget, TileSize


def as_sequence(attention: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Query, key and value of one image whose CLS row is a given attention.

    softmax(1 * log a) is a, so the CLS query is a unit vector and the keys hold the logarithms.
    """
    query = torch.zeros(*attention.shape, 2)
    query[:, 0, 0] = 1
    key = torch.stack([attention.clamp(min=1e-30).log(), torch.zeros_like(attention)], -1)
    return query[None], key[None], values[None]


@pytest.mark.parametrize("path", golden_files("flowcut"))
def test_golden(path):
    golden = load(path)
    n, keep = golden["cls_attn"].shape[2] - 1, torch.tensor([golden["T"]])
    state, unit_of = UnitState(None, torch.ones(1, n, dtype=torch.bool)), torch.arange(n)
    for number, remaining in enumerate(golden["rpl"].tolist()):
        sequence = as_sequence(golden["cls_attn"][number], golden["values"][number])
        alive = state.alive
        scores, r = flow_scores(*sequence, 1.0, alive, has_cls=True)
        assert (scores[alive] - golden[f"scores_step{number}"]).abs().max() < 1e-5
        if number == 1:
            assert drop_count(r, alive, keep, remaining).item() == golden["prune_num_step1"]
        layer = EncoderLayer(remaining, keep, True, unit_of)
        state = step(*sequence, 1.0, layer, state)
        assert (
            state.alive[0].nonzero()[:, 0].tolist() == golden[f"tokens_after_step{number}"].tolist()
        )
        cumulative = state.cumulative[state.alive]
        assert (cumulative - golden[f"cum_step{number}"]).abs().max() < 1e-5
    assert state.alive[0].nonzero()[:, 0].tolist() == golden["final_kept"].tolist()


def removed_by_hand(vision, pixels: torch.Tensor, keep: int) -> tuple[list[int], torch.Tensor]:
    """CLIP, layer by layer for one image: tokens that are dropped leave the sequence.

    Returns:
        The surviving patches and their rows before the last layer.
    """
    hidden = vision.pre_layrnorm(vision.embeddings(pixels[None]))
    names, total = list(range(hidden.shape[1] - 1)), None
    last = len(vision.encoder.layers) - 3
    for number, layer in enumerate(vision.encoder.layers[:-1]):
        attention = layer.self_attn
        x, heads = layer.layer_norm1(hidden)[0], attention.num_heads
        q, k, v = (
            projection(x).view(len(x), heads, -1).transpose(0, 1)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        logits = torch.einsum("hd,htd->ht", q[:, 0], k) * q.shape[-1] ** -0.5
        r = logits.softmax(-1).mean(0)[1:]
        s = torch.einsum("hd,htd->ht", v[:, 0], v).softmax(-1).mean(0)[1:]
        scores = (r / r.sum() + s / s.sum()) * v.mean(0).abs().sum(-1)[1:]
        total = scores if total is None else 0.5 * (total + scores)
        hidden = layer(hidden, attention_mask=None)
        remaining = last - number
        if remaining < 0 or remaining % 2:
            continue
        count = keep
        if remaining:
            p = (r / r.sum()).tolist()
            entropy = -sum(value * math.log(value) for value in p)
            focus = 1 - (entropy / math.log(len(p))) ** 2
            count = max(keep, len(p) - round((len(p) - keep) / remaining**0.5 * focus))
        order = sorted(range(len(names)), key=lambda place: -float(total[place]))[:count]
        stay = sorted(order)
        names, total = [names[place] for place in stay], total[stay]
        hidden = hidden[:, [0] + [place + 1 for place in stay]]
    return names, hidden[0, 1:]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("keep", [1, 5, 11])
@torch.no_grad()
def test_masking_equals_removal(attention, keep):
    family = FAMILIES["llava"]
    model, inputs = family.model(attention), family.prompts("tit", "titi")
    with attach(model, method="flowcut", keep=keep) as handle:
        model(**inputs)
        kept = handle.report.kept
        encoded = handle.stage.encode(inputs)
    hidden = encoded.groups[0].signals.hidden
    for image, pixels in enumerate(inputs["pixel_values"]):
        names, rows = removed_by_hand(model.model.vision_tower, pixels, keep)
        # The last prompt ends with its image, whose last token stays.
        assert kept[image].tolist() == names or image == 2
        assert (hidden[image, names] - rows).abs().max() < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_whole_visual_tokens_survive(name):
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts("tit")
    adapter = adapter_for(model)
    request = METHOD.request(adapter.shape, {})
    with adapter.taps(request):
        encoded = adapter.encode(inputs, request, budget=EncoderBudget(step, 0.5, "image"))
    progress = encoded.groups[0].signals.progress
    survivors = (progress > 1).sum(dim=1)
    whole = [sum(tile.tokens for tile in tiles) for tiles in adapter.tile_sizes(inputs, "image")]
    if name not in ("llava_next", "llava_onevision"):  # there, padding is cut off afterwards
        assert survivors.tolist() == [round(n / 2) for n in whole]
    assert (survivors < progress.shape[1]).all()


def test_budgets_of_tiles():
    tiles = [[TileSize(16, 16)] * 3, [TileSize(64, 16)]]
    assert EncoderBudget(step, 7, "image").units_to_keep(tiles) == [3, 3, 3, 28]
    assert EncoderBudget(step, 7, "tile").units_to_keep(tiles) == [7, 7, 7, 28]
    assert EncoderBudget(step, 0.25, "image").units_to_keep(tiles) == [4, 4, 4, 16]


def test_without_cls_the_mean_query_asks():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 6, 4)
    alive = torch.tensor([[True, True, False, True, True, True]])
    scores, r = flow_scores(q, k, v, 0.5, alive, has_cls=False)
    live = [0, 1, 3, 4, 5]
    asked = q[0][:, live].mean(1)
    weights = torch.stack([(k[0][h][live] @ asked[h] * 0.5).softmax(0) for h in range(2)]).mean(0)
    assert (r[0, live] - weights).abs().max() < 1e-6
    expected = weights * v[0].mean(0).abs().sum(-1)[live]
    assert (scores[0, live] - expected).abs().max() < 1e-6
    assert scores[0, 2] == 0
