"""`transprune`: goldens, loops for both parts of the score, padding and several images."""

import math
from dataclasses import replace

import pytest
import torch
from goldens import golden_files, load
from layers.layer_makers import choose, golden_prompt, prompt, slow_attention, text_behind

from lvlm_prune.layers.contract import Projected
from lvlm_prune.layers.transprune import METHOD, observe, observed, share_of_image, transition

PARTS = ("attn_in", "attn_out", "ffn_in", "ffn_out")


@pytest.mark.parametrize("path", golden_files("transprune"))
def test_golden(path):
    golden = load(path)
    real = torch.ones(2, golden["seq_len"], dtype=torch.bool)
    weight = observe(*(golden[name] for name in PARTS), real)
    assert (weight - golden["transf_weight"]).abs().max() < 1e-5
    keys, rows = golden["keys"], golden["q_text"]
    query = torch.zeros_like(keys)
    query[:, -rows.shape[1] :] = rows
    signals = golden_prompt(
        golden,
        projected={"following": Projected(query, keys, keys, keys.shape[-1] ** -0.5)},
        observed={6: weight[0], 7: weight[1]},
    )
    selection = choose(METHOD, signals, [golden["T"]])
    assert (selection.kept - golden["image_start"]).tolist() == golden["kept"].tolist()
    assert (selection.scores - golden["score"]).abs().max() < 1e-6
    ttv = share_of_image(weight.sum(dim=0)[signals.visual], signals.images)
    assert (ttv - golden["ttv"]).abs().max() < 1e-6


def slow_transition(before: torch.Tensor, after: torch.Tensor) -> list[float]:
    """By the definition, token by token."""
    ratios, turned = [], []
    for x, y in zip(before.double(), after.double(), strict=True):
        norms = math.sqrt(float(x @ x)), math.sqrt(float(y @ y))
        ratios.append(norms[1] / norms[0])
        turned.append(math.exp(1 - float(x @ y) / (norms[0] * norms[1])))
    return [ratio * e / sum(turned) for ratio, e in zip(ratios, turned, strict=True)]


def test_transition_equals_a_loop():
    generator = torch.Generator().manual_seed(1)
    before, after = torch.randn(2, 1, 7, 5, generator=generator)
    found = transition(before, after, torch.ones(1, 7, dtype=torch.bool))
    assert found[0].tolist() == pytest.approx(slow_transition(before[0], after[0]), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_padding_does_not_count(dtype):
    generator = torch.Generator().manual_seed(2)
    parts = torch.randn(4, 1, 6, 5, generator=generator).to(dtype)
    alone = observe(*parts, torch.ones(1, 6, dtype=torch.bool))
    padded = torch.cat([torch.full((4, 1, 3, 5), 7.0, dtype=dtype), parts], dim=2)
    real = torch.tensor([[False] * 3 + [True] * 6])
    assert (observe(*padded, real)[:, 3:] - alone).abs().max() < 1e-6


def test_a_module_that_does_nothing_gives_no_transition():
    before = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0))
    real = torch.ones(1, 4, dtype=torch.bool)
    assert transition(before, torch.zeros_like(before), real).tolist() == [[0.0] * 4]
    assert transition(torch.zeros_like(before), before, real).isfinite().all()


def test_layers_that_are_noted():
    assert list(observed([7, 9, 12], 32)) == [6, 7, 8, 9, 10, 11]
    assert list(observed(list(METHOD.stages(4)), 4)) == [0, 1]


@pytest.mark.parametrize("past", [0, 2])
def test_scores_of_several_images_equal_a_loop(past):
    signals = prompt(images=(5, 8), text=(3, 2, 3), past=past)
    noted = {
        2: torch.rand(len(signals.hidden), generator=torch.Generator().manual_seed(3)),
        **signals.observed,
    }
    signals = replace(signals, layer=4, observed=noted)
    total = sum(values.double() for values in noted.values())
    expected = []
    for image, columns in enumerate(signals.images):
        rows = text_behind(signals, image)
        attention = slow_attention(signals, signals.following, image, rows)
        expected.append(total[columns] / total[columns].sum() + attention / attention.sum())
    scores = choose(METHOD, signals, (2, 2)).scores
    assert (scores - torch.cat(expected)).abs().max() < 1e-6


def test_published_average():
    stages, left, counts = METHOD.stages(32), 1.0, []
    for layer in range(32):
        left = stages.get(layer, left)
        counts.append(576 * left)
    assert sum(counts) / 32 == pytest.approx(236.25)
