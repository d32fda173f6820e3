"""`orthorank`: a loop, the sign and length of hidden states, what is most orthogonal."""

import math
from dataclasses import replace

import pytest
import torch
from layers.layer_makers import best, choose, prompt

from lvlm_prune.layers.orthorank import METHOD


def test_selection_equals_a_loop():
    signals = prompt(images=(8, 6))
    rows = signals.hidden.double()
    sink = rows[int(signals.text[0])]
    score = torch.tensor(
        [-abs(float(x @ sink)) / math.sqrt(float(x @ x) * float(sink @ sink)) for x in rows]
    )
    selection = choose(METHOD, signals, (3, 4))
    assert (selection.scores - score[signals.visual]).abs().max() < 1e-6
    first, second = signals.images
    assert selection.kept.tolist() == best(score[first], first, 3) + best(score[second], second, 4)


@pytest.mark.parametrize("factor", [-1.0, 8.0])
def test_sign_and_length_do_not_matter(factor):
    signals = prompt()
    scaled = replace(signals, hidden=signals.hidden * factor)
    assert torch.equal(choose(METHOD, signals, (3, 3)).kept, choose(METHOD, scaled, (3, 3)).kept)


def test_the_orthogonal_token_stays_and_the_sink_like_one_goes():
    signals = prompt(images=(5,), text=(2, 2))
    hidden = signals.hidden.clone()
    hidden[0] = torch.eye(10)[0]
    hidden[signals.visual] = 1.0
    hidden[4] = 50 * torch.eye(10)[1]
    hidden[3] = -0.1 * torch.eye(10)[0]
    signals = replace(signals, hidden=hidden)
    assert choose(METHOD, signals, (1,)).kept.tolist() == [4]
    assert 3 not in choose(METHOD, signals, (4,)).kept.tolist()
