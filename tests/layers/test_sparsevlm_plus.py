"""`sparsevlm_plus`: the bias of distance, the choice of heads, a loop for the whole score."""

from dataclasses import replace

import pytest
import torch
from layers.layer_makers import HEADS, WIDTH, best, choose, prompt, text_behind

from lvlm_prune.layers.sparsevlm import raters
from lvlm_prune.layers.sparsevlm_plus import LEAST_BIAS, METHOD, best_heads, rotary_bias

THETA = 0.3 ** torch.arange(WIDTH // 2, dtype=torch.float64)


def rotate(vector: torch.Tensor, position: float) -> torch.Tensor:
    """Rotary embedding of one vector, pair by pair."""
    turned = vector.clone()
    half = len(vector) // 2
    for k in range(half):
        angle = position * THETA[k]
        x, y = vector[k], vector[k + half]
        turned[k] = x * angle.cos() - y * angle.sin()
        turned[k + half] = y * angle.cos() + x * angle.sin()
    return turned


@pytest.mark.parametrize("scaling", [1.0, 1.7])
def test_bias_is_the_logit_of_all_ones(scaling):
    signals = prompt(images=(5,), text=(2, 3))
    cosine, sine = (scaling * table for table in signals.rotary)
    rows = torch.tensor([7, 9])
    bias = rotary_bias(cosine, sine, rows, WIDTH)
    ones = torch.ones(WIDTH, dtype=torch.float64)
    for number, row in enumerate(rows.tolist()):
        for column in range(10):
            expected = float(rotate(ones, row) @ rotate(ones, column)) / WIDTH
            assert float(bias[number, column]) == pytest.approx(max(expected, LEAST_BIAS), abs=1e-5)
        assert float(bias[number, row]) == pytest.approx(1.0)


def test_the_part_of_a_head_that_is_not_rotated_has_no_distance():
    signals = prompt(images=(5,), text=(2, 3))
    rows = torch.tensor([8])
    part = rotary_bias(*signals.rotary, rows, WIDTH)
    whole = rotary_bias(*signals.rotary, rows, 2 * WIDTH)
    above = part > LEAST_BIAS
    assert (whole - (part + 1) / 2)[above].abs().max() < 1e-6


def test_heads_with_the_most_visual_attention():
    weights = torch.zeros(4, 2, 3)
    weights[:, :, 0] = torch.tensor([[0.1, 0.1], [0.4, 0.5], [0.2, 0.0], [0.3, 0.9]])
    assert sorted(best_heads(weights, 0.5).tolist()) == [1, 3]
    assert best_heads(weights, 0.0).tolist() == [3]
    assert len(best_heads(torch.rand(32, 2, 3), 14 / 32)) == 14


@pytest.mark.parametrize("past", [0, 3])
@pytest.mark.parametrize("debias", [True, False])
def test_scores_equal_a_loop(past, debias):
    signals = prompt(images=(6, 5), past=past, seed=2)
    parts = signals.previous
    bias = rotary_bias(*signals.rotary, torch.arange(len(signals.hidden)), WIDTH).double()
    selection = choose(METHOD, signals, (3, 2), debias=debias)
    kept = []
    for image, (columns, found) in enumerate(
        zip(signals.images, selection.scores.split([6, 5]), strict=True)
    ):
        behind = text_behind(signals, image)
        chosen = raters(signals.entered[columns], signals.entered[behind]).tolist()
        rows = [row for row, rates in zip(behind, chosen, strict=True) if rates]
        weights = torch.zeros(HEADS, len(rows), len(columns), dtype=torch.float64)
        for head in range(HEADS):
            for number, row in enumerate(rows):
                keys = parts.key[head // 2, : past + row + 1].double()
                logits = keys @ parts.query[head, row].double() * parts.scale
                if debias:
                    logits[past:] /= bias[row, : row + 1]
                weights[head, number] = logits.softmax(dim=0)[past:][columns]
        mass = weights.sum(dim=(1, 2)).tolist()
        heads = sorted(range(HEADS), key=lambda head: -mass[head])[: round(14 / 32 * HEADS)]
        score = weights[heads].mean(dim=(0, 1))
        assert (found - score).abs().max() < 1e-6
        kept += best(score, columns, (3, 2)[image])
    assert selection.kept.tolist() == kept


def test_an_llm_without_rotary_embedding_is_told_what_to_pass():
    signals = replace(prompt(), rotary=None)
    with pytest.raises(ValueError, match="debias=False"):
        choose(METHOD, signals, (2, 2))
    assert len(choose(METHOD, signals, (2, 2), debias=False).kept) == 4
