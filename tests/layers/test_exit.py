"""`exit`: the closed form against attention without the keys, and when the tokens leave."""

from dataclasses import replace

import pytest
import torch
from layers.layer_makers import HEADS, WIDTH, choose, prompt, slow_weights, with_keys

from lvlm_prune.layers.contract import LayerSignals, Projected
from lvlm_prune.layers.exit import METHOD, change_without


def slow_change(parts: Projected, row: int, columns: list[int]) -> float:
    """Attention once with all keys and once without some, in float64."""
    outputs = []
    for removed in ([], [column + parts.past for column in columns]):
        stays = [s for s in range(parts.past + row + 1) if s not in removed]
        heads = []
        for head in range(HEADS):
            group = head * parts.key.shape[0] // HEADS
            keys, values = parts.key[group, stays].double(), parts.value[group, stays].double()
            logits = keys @ parts.query[head, row].double() * parts.scale
            heads.append(logits.softmax(dim=0) @ values)
        outputs.append(torch.cat(heads))
    return float((outputs[1] - outputs[0]).norm() / outputs[0].norm())


@pytest.mark.parametrize("past", [0, 3])
def test_change_equals_attention_without_the_keys(past):
    signals = prompt(past=past)
    rows = torch.tensor([len(signals.hidden) - 2, len(signals.hidden) - 1])
    found = change_without(signals.previous, rows, signals.visual)
    for row, change in zip(rows.tolist(), found.tolist(), strict=True):
        expected = slow_change(signals.previous, row, signals.visual.tolist())
        assert change == pytest.approx(expected, rel=1e-4)


def test_a_row_that_sees_nothing_else_needs_its_keys():
    signals = prompt()
    everything = torch.arange(len(signals.hidden))
    assert change_without(signals.previous, everything[-1:], everything).tolist() == [torch.inf]


def needless(signals: LayerSignals) -> LayerSignals:
    """Visual values equal to what the last row gets from all other keys, in every head."""
    parts = signals.previous
    key, value = (t.repeat_interleave(HEADS // t.shape[0], 0) for t in (parts.key, parts.value))
    weights = slow_weights(parts, len(signals.hidden) - 1)
    weights[:, signals.visual + parts.past] = 0
    average = (weights[:, None] @ value.double()) / weights.sum(dim=-1)[:, None, None]
    value[:, signals.visual + parts.past] = average.float()
    return with_keys(signals, previous=Projected(parts.query, key, value, parts.scale))


@pytest.mark.parametrize("past", [0, 2])
def test_values_like_the_average_of_the_text_leave(past):
    signals = needless(prompt(past=past, layer=5))
    first = choose(METHOD, signals)
    assert first.kept.tolist() == signals.visual.tolist()
    second = choose(METHOD, replace(signals, layer=6, memory=first.memory))
    assert second.kept.tolist() == []


def test_values_unlike_the_text_stay():
    signals = prompt(layer=5)
    value = signals.previous.value.clone()
    value[:, signals.visual] += 10
    previous = replace(signals.previous, value=value)
    signals = with_keys(signals, previous=previous)
    for _ in range(4):
        selection = choose(METHOD, signals)
        assert selection.kept.tolist() == signals.visual.tolist()
        signals = replace(signals, layer=signals.layer + 1, memory=selection.memory)


def test_quiet_layers_must_follow_each_other():
    loud = prompt(layer=5)
    quiet = needless(loud)
    memory, kept = None, []
    for layer, signals in enumerate((quiet, loud, quiet, quiet), start=4):
        selection = choose(METHOD, replace(signals, layer=layer, memory=memory))
        memory = selection.memory
        kept.append(len(selection.kept))
    assert kept == [12, 12, 12, 0]


@pytest.mark.parametrize(("after", "exits"), [(0.0, 2), (0.5, 4), (0.75, 6), (0.7, 6)])
def test_never_before_a_share_of_the_depth(after, exits):
    signals, memory = needless(prompt(depth=8)), None
    for layer in METHOD.stages(8):
        selection = choose(METHOD, replace(signals, layer=layer, memory=memory), after=after)
        memory = selection.memory
        if not len(selection.kept):
            break
    assert layer == exits


def test_infinite_tolerance_is_an_exit_at_a_fixed_layer():
    options = {"tolerance": float("inf"), "patience": 1, "after": 0.5}
    assert len(choose(METHOD, prompt(layer=3, depth=8), **options).kept) == 12
    assert len(choose(METHOD, prompt(layer=4, depth=8), **options).kept) == 0


def test_all_of_the_last_rows_must_be_quiet():
    signals = needless(prompt(layer=5))
    options = {"patience": 1}
    assert len(choose(METHOD, signals, rows=1, **options).kept) == 0
    # The values were made for the last row alone.
    assert len(choose(METHOD, signals, rows=3, **options).kept) == 12


def test_text_between_images_does_not_judge():
    signals = needless(prompt(text=(3, 2, 1), layer=5))
    assert len(choose(METHOD, signals, rows=3, patience=1).kept) == 0


def test_no_output_at_all_is_no_reason_to_leave():
    signals = prompt(layer=5)
    parts = signals.previous
    silent = replace(parts, value=torch.zeros_like(parts.value))
    assert parts.value.shape[-1] == WIDTH
    selection = choose(METHOD, with_keys(signals, previous=silent), patience=1)
    assert len(selection.kept) == 12
