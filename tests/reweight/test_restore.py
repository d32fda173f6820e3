"""`restore`: sizes as if merged tokens were still there, the distance term, unknown positions."""

import math
from dataclasses import replace

import pytest
import torch
from reweight.row_makers import prompt_rows

from lvlm_prune.reweight.restore import METHOD, distance_term, row_positions, size_term

OPTIONS = METHOD.options


def loop(logits, visual, size, terms, strength):
    """One row in plain Python, with the distance terms given."""
    raised = [
        s + strength * (math.log(max(1, size[j])) + terms[j]) if visual[j] else s
        for j, s in enumerate(logits)
    ]
    top = max(raised)
    power = [math.exp(s - top) for s in raised]
    return torch.tensor([p / sum(power) for p in power], dtype=torch.float64)


def decay(distance, theta, width):
    """log(2 - mean cos) for one distance."""
    pairs = [math.cos(distance * theta ** (-2 * k / width)) for k in range(width // 2)]
    return math.log(2 - sum(pairs) / len(pairs))


@pytest.mark.parametrize("distance", [False, True])
@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize("layer", [0, 3])
def test_equals_a_loop(distance, strength, layer):
    rows = prompt_rows(0, width=6, layer=layer)
    options = {**OPTIONS, "distance": distance, "strength": strength}
    edited = METHOD.edit(rows, **options).weights[0]
    visual = rows.visual[0].tolist()
    size = [max(1.0, x) for x in rows.marks["size"][0].tolist()]
    if layer == 0:
        mean = sum(x for x, v in zip(size, visual, strict=True) if v) / sum(visual)
        size = [mean] * len(size)
    for head in range(4):
        for row in range(rows.logits.shape[2]):
            position = len(visual) - rows.logits.shape[2] + row
            terms = [
                decay(abs(position - j), 10000.0, 6) if distance else 0.0
                for j in range(len(visual))
            ]
            logits = rows.logits[0, head, row].double().tolist()
            expected = loop(logits, visual, size, terms, strength)
            assert (edited[head, row].double() - expected).abs().max() < 1e-5


def test_a_merged_token_weighs_as_many_equal_ones():
    logits = torch.tensor([0.3, 1.2, 1.2, 1.2, -0.5])
    spread = logits.softmax(0)
    visual = torch.tensor([[False, True, False]])
    term = size_term(torch.tensor([[0.0, 3.0, 0.0]]), visual, uniform=False)[0]
    merged = (logits[[0, 1, 4]] + term).softmax(0)
    assert torch.allclose(merged, torch.stack([spread[0], spread[1:4].sum(), spread[4]]))


def test_the_first_layer_shares_the_mean_size_in_each_prompt():
    visual = torch.tensor([[True, True, False], [False, True, True]])
    term = size_term(torch.tensor([[4.0, 0.0, 9.0], [9.0, 2.0, 4.0]]), visual, uniform=True)
    expected = torch.tensor([[2.5, 2.5, 1.0], [1.0, 3.0, 3.0]]).log()
    assert torch.allclose(term, expected)


def test_tokens_that_stand_for_themselves_are_plain():
    rows = prompt_rows(1)
    for size in (torch.zeros(rows.visual.shape), torch.ones(rows.visual.shape)):
        edited = METHOD.edit(replace(rows, marks={"size": size}), **OPTIONS)
        assert torch.equal(edited.weights, rows.weights)


def test_distance_term_is_zero_at_zero_and_never_negative():
    term = distance_term(torch.arange(200.0), 10000.0, 64)
    assert term[0] == 0
    assert (term[1:] > 0).all()
    assert (term <= math.log(3)).all()


def test_new_tokens_stand_behind_the_last_known_position():
    position = torch.tensor([[0.0, 0.0, 1.0, 2.0, 9.0, 0.0]])
    assert row_positions(torch.tensor([[3, 5]]), position).tolist() == [[2, 10]]
    rows = prompt_rows(2, decoding=True)
    known = rows.marks["position"].clone()
    marks = {**rows.marks, "position": known.index_fill(1, torch.tensor([known.shape[1] - 1]), 0)}
    options = {**OPTIONS, "distance": True, "decode": True}
    edited = METHOD.edit(replace(rows, marks=marks), **options)
    assert torch.equal(edited.marks["position"], known)
    assert torch.equal(edited.weights, METHOD.edit(rows, **options).weights)


def test_decode_rows_are_left_alone_unless_asked():
    rows = prompt_rows(3, decoding=True)
    assert torch.equal(METHOD.edit(rows, **OPTIONS).weights, rows.weights)
    assert not torch.equal(METHOD.edit(rows, **{**OPTIONS, "decode": True}).weights, rows.weights)


def test_distance_needs_positions():
    rows = prompt_rows(4)
    rows = replace(rows, marks={"size": rows.marks["size"]})
    with pytest.raises(ValueError, match=r"needs marks 'position', got \['size'\]"):
        METHOD.edit(rows, **{**OPTIONS, "distance": True})


def test_switches_are_bools():
    with pytest.raises(TypeError, match="distance must be a bool, got 1; pass True or False"):
        METHOD.complete({"distance": 1})
