"""`zipvl`: the smallest set against all subsets, dominant and equal tokens, sinks, rows."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from layers.layer_makers import attending, choose, prompt, slow_attention, text_behind

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
    assert smallest_set(torch.zeros(0), 0.9).tolist() == []


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
    start = prompt(images=(12,), text=(2, 1))
    signals = looking({**dict.fromkeys(start.visual.tolist(), 1e-4), 6: 0.5}, start)
    assert choose(METHOD, signals, rows="last").kept.tolist() == [6]


@pytest.mark.parametrize(("share", "count"), [(0.5, 6), (0.7, 9), (0.95, 12)])
def test_spread_attention_keeps_the_share(share, count):
    start = prompt(images=(12,), text=(2, 1))
    signals = looking(dict.fromkeys(start.visual.tolist(), 0.05), start)
    assert len(choose(METHOD, signals, share=share, rows="last").kept) == count


def test_sinks_neither_count_nor_go_on():
    start = prompt(images=(12,), text=(2, 1))
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
    selection = choose(METHOD, signals, rows=rows)
    parts = selection.scores.split([len(columns) for columns in signals.images])
    for image, columns in enumerate(signals.images):
        behind = text_behind(signals, image)
        judges = behind if rows == "text" else behind[-1:]
        score = slow_attention(signals, signals.previous, image, judges)
        assert (parts[image] - score).abs().max() < 1e-6
        order = score.sort(descending=True).values
        count = next(n for n in range(1, 13) if order[:n].sum() >= 0.95 * order.sum())
        assert int(torch.isin(columns, selection.kept).sum()) == count


@pytest.mark.parametrize("rows", ["text", "last"])
def test_an_image_that_gets_less_attention_is_not_dropped_for_it(rows):
    start = prompt(images=(7, 5), text=(2, 3, 1))
    first, second = (columns.tolist() for columns in start.images)
    signals = looking({**dict.fromkeys(first, 0.1), **dict.fromkeys(second, 1e-4)}, start)
    kept = choose(METHOD, signals, rows=rows).kept
    assert kept.tolist() == start.visual.tolist()


def test_text_between_images_does_not_count_against_the_second():
    """An image's tokens are those that it keeps as the only image of the same columns."""
    signals = prompt(images=(7, 6), text=(2, 9, 2), seed=3)
    second = signals.images[1]
    rest = torch.cat([signals.images[0], signals.text]).sort().values
    alone = replace(signals, images=[second], totals=[6], text=rest)
    expected = choose(METHOD, alone, share=0.6).kept.tolist()
    kept = choose(METHOD, signals, share=0.6).kept
    assert kept[torch.isin(kept, second)].tolist() == expected
