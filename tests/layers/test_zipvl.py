"""`zipvl`: the smallest set against all subsets, dominant and equal tokens, sinks, rows."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from layers.layer_makers import attending, choose, prompt, slow_weights

from lvlm_prune.layers.contract import LayerSignals
from lvlm_prune.layers.zipvl import METHOD, smallest_set


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 0.95, 1.0])
def test_smallest_set_among_all_subsets(share):
    scores = torch.rand(8, generator=torch.Generator().manual_seed(int(share * 100)))
    values = scores.double().tolist()
    found = smallest_set(scores, share).tolist()
    enough = [
        chosen
        for count in range(1, 9)
        for chosen in combinations(range(8), count)
        if sum(values[i] for i in chosen) >= share * sum(values) - 1e-12
    ]
    least = min(map(len, enough))
    assert len(found) == least
    richest = max((c for c in enough if len(c) == least), key=lambda c: sum(values[i] for i in c))
    assert found == list(richest)


def test_equal_scores_and_scores_of_nothing():
    assert smallest_set(torch.full((8,), 0.125), 0.5).tolist() == [0, 1, 2, 3]
    assert smallest_set(torch.tensor([0.0, 0.5, 0.0, 1e-30]), 1.0).tolist() == [1, 3]
    assert smallest_set(torch.zeros(3), 0.9).tolist() == [0]


def looking(row: dict[int, float], signals: LayerSignals) -> LayerSignals:
    """The last row gives these visual tokens this attention, the rest to itself."""
    length = len(signals.hidden)
    weights = torch.zeros(1, 1, length)
    for column, weight in row.items():
        weights[0, 0, column] = weight
    weights[0, 0, -1] = 1 - weights.sum()
    return replace(
        signals, projected={"previous": attending(weights, torch.tensor([length - 1]), length)}
    )


def test_a_dominant_token_stays_alone():
    start = prompt(images=(7, 5), text=(2, 1, 1))
    signals = looking({**dict.fromkeys(start.visual.tolist(), 1e-4), 6: 0.5}, start)
    assert choose(METHOD, signals, rows="last").kept.tolist() == [6]


@pytest.mark.parametrize(("share", "count"), [(0.5, 6), (0.7, 9), (0.95, 12)])
def test_spread_attention_keeps_the_share(share, count):
    start = prompt(images=(7, 5), text=(2, 1, 1))
    signals = looking(dict.fromkeys(start.visual.tolist(), 0.05), start)
    assert len(choose(METHOD, signals, share=share, rows="last").kept) == count


def test_sinks_neither_count_nor_go_on():
    start = prompt(images=(7, 5), text=(2, 1, 1))
    signals = looking({**dict.fromkeys(start.visual.tolist(), 0.01), 6: 0.8}, start)
    sinks = torch.zeros(len(start.hidden), dtype=torch.bool)
    sinks[6] = True
    kept = choose(METHOD, replace(signals, sinks=sinks), rows="last", share=0.9).kept
    assert len(kept) == 10
    assert 6 not in kept.tolist()


@pytest.mark.parametrize("past", [0, 3])
@pytest.mark.parametrize("rows", ["text", "last"])
def test_scores_equal_a_loop(past, rows):
    signals = prompt(past=past)
    behind = [row for row in signals.text.tolist() if row > int(signals.images[0][0])]
    judges = behind if rows == "text" else behind[-1:]
    parts = [slow_weights(signals.previous, row).mean(dim=0)[past:] for row in judges]
    score = (sum(parts) / len(parts))[signals.visual]
    selection = choose(METHOD, signals, rows=rows)
    assert (selection.scores - score).abs().max() < 1e-6
    order = score.sort(descending=True).values
    count = next(n for n in range(1, 13) if order[:n].sum() >= 0.95 * order.sum())
    assert len(selection.kept) == count
