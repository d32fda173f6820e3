"""`visipruner`: contributions against a loop, and the three stages on constructed prompts."""

from dataclasses import replace

import pytest
import torch
from layers.layer_makers import HEADS, choose, prompt, slow_weights, with_keys

from lvlm_prune.layers.contract import LayerSignals
from lvlm_prune.layers.rows import last_row
from lvlm_prune.layers.visipruner import METHOD, Progress, blind, contributions


@pytest.mark.parametrize("past", [0, 3])
def test_contributions_equal_a_loop(past):
    signals = prompt(past=past)
    parts = signals.previous
    found, out = contributions(parts, last_row(signals), signals.visual)
    weights = slow_weights(parts, len(signals.hidden) - 1)
    total = torch.zeros(HEADS, parts.value.shape[-1], dtype=torch.float64)
    for s in range(parts.key.shape[1]):
        part = torch.stack([weights[h, s] * parts.value[h // 2, s].double() for h in range(HEADS)])
        total += part
        if s - past in signals.visual:
            place = int((signals.visual == s - past).nonzero())
            assert (found[place] - part.flatten()).abs().max() < 1e-6
    assert (out - total.flatten()).abs().max() < 1e-5


def scaled(signals: LayerSignals, factors: dict[int, float]) -> LayerSignals:
    """Visual values times 0, but for some columns; the contribution scales with them."""
    value = signals.previous.value.clone()
    value[:, signals.visual] = 0
    for column, factor in factors.items():
        value[:, column] = factor * signals.previous.value[:, column]
    return with_keys(signals, previous=replace(signals.previous, value=value))


def test_shallow_layers_are_blind():
    assert list(blind(METHOD.options, 32)) == [0, 1, 2, 3, 4, 5]
    assert list(blind(METHOD.options, 4)) == [0]
    assert list(blind(METHOD.complete({"shallow": 0}), 32)) == []
    assert next(iter(METHOD.stages(32))) == 7
    for layer in range(1, 7):
        loud = scaled(prompt(layer=layer, depth=32), {3: 50.0})
        selection = choose(METHOD, loud)
        assert selection.kept.tolist() == loud.visual.tolist()
        assert selection.memory == Progress()


def test_nothing_is_filtered_while_no_token_turns_the_output():
    signals = scaled(prompt(layer=8, depth=32), {4: 1e-3})
    selection = choose(METHOD, signals)
    assert selection.kept.tolist() == signals.visual.tolist()
    assert selection.memory == Progress()


def test_the_filter_keeps_what_contributes():
    signals = scaled(prompt(layer=8, depth=32), {4: 60.0, 13: 40.0, 5: 1e-3})
    length = choose(METHOD, signals).scores
    assert (length > 0.2).nonzero()[:, 0].tolist() == [1, 8]
    selection = choose(METHOD, signals)
    assert selection.kept.tolist() == [4, 13]
    assert selection.memory == Progress(filtered=True)


def test_the_filter_leaves_at_least_one():
    signals = scaled(prompt(layer=8, depth=32), {4: 60.0, 13: 40.0})
    selection = choose(METHOD, signals, contribution=1e4)
    assert selection.kept.tolist() == [signals.visual.tolist()[selection.scores.argmax()]]


def test_the_exit_needs_the_filter_and_two_steady_layers_in_a_row():
    start = prompt(layer=8, depth=32)
    steady, loud = scaled(start, {}), scaled(start, {4: 60.0})
    memory, kept = None, []
    for signals in (steady, steady, steady, loud, steady, loud, steady, steady):
        selection = choose(METHOD, replace(signals, memory=memory))
        memory = selection.memory
        kept.append(len(selection.kept))
    # Before the filter nothing leaves; afterwards the engine would hand on what was kept.
    assert kept == [12, 12, 12, 1, 12, 12, 12, 0]


def test_between_the_two_cosines_the_count_starts_again():
    start = prompt(layer=8, depth=32)
    parts, out = contributions(start.previous, last_row(start), start.visual)
    place = int(parts.norm(dim=-1).argmax())
    for factor in torch.logspace(-3, 2, 200).tolist():
        signals = scaled(start, {int(start.visual[place]): factor})
        found, out = contributions(signals.previous, last_row(start), start.visual)
        cosine = float(torch.cosine_similarity(out - found, out[None], dim=-1).min())
        if 0.996 < cosine < 0.998:
            break
    selection = choose(METHOD, replace(signals, memory=Progress(True, 1)))
    assert selection.memory == Progress(True, 0)
    assert len(selection.kept) == 12
    assert choose(METHOD, signals).memory == Progress()
