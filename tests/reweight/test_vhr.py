"""`vhr`: the divergence against an image-free softmax, a loop over heads, which heads count."""

import math
import statistics

import torch
from reweight.row_makers import prompt_rows

from lvlm_prune.reweight.vhr import METHOD, head_divergence, reinforced


def output(logits, value, keys):
    """One head's output over some of the keys, in plain Python."""
    seen = [j for j in keys if logits[j] > -math.inf]
    top = max(logits[j] for j in seen)
    power = {j: math.exp(logits[j] - top) for j in seen}
    total = sum(power.values())
    return [sum(power[j] * value[j][d] for j in seen) / total for d in range(len(value[0]))]


def test_divergence_is_the_distance_to_the_output_without_the_image():
    rows = prompt_rows(0)
    divergence = head_divergence(rows.weights, rows.value, rows.visual)[0]
    keys, visual = range(rows.logits.shape[-1]), rows.visual[0].tolist()
    for head in range(4):
        value = rows.value[0, head].double().tolist()
        for row in range(rows.logits.shape[2]):
            logits = rows.logits[0, head, row].double().tolist()
            every = output(logits, value, keys)
            text = output(logits, value, [j for j in keys if not visual[j]])
            assert abs(float(divergence[head, row]) - math.dist(every, text)) < 1e-5


def test_divergence_is_the_partition_identity():
    rows = prompt_rows(1)
    weights, value = rows.weights.double(), rows.value.double()
    image = weights * rows.visual[:, None, None]
    mass = image.sum(-1, keepdim=True)
    expected = (mass / (1 - mass) * (image @ value / mass - weights @ value)).norm(dim=-1)
    got = head_divergence(rows.weights, rows.value, rows.visual)
    assert (got.double() - expected).abs().max() < 1e-5


def test_chosen_heads_equal_a_loop():
    divergence = torch.rand(2, 9, 3, generator=torch.Generator().manual_seed(2)).pow(3)
    chosen = reinforced(divergence)
    for batch in range(2):
        for row in range(3):
            heads = divergence[batch, :, row].double().tolist()
            middle = statistics.median(heads)
            surge = statistics.mean(heads) + statistics.pstdev(heads)
            expected = [middle < x <= surge for x in heads]
            assert chosen[batch, :, row].tolist() == expected
    assert chosen.any()


def test_surges_and_lower_heads_are_left_alone():
    divergence = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 100.0])[None, :, None]
    assert reinforced(divergence)[0, :, 0].tolist() == [False, False, False, True, True, False]


def test_surges_are_told_by_the_population_deviation():
    # mean 2, population deviation 1.38, sample deviation 1.54
    assert not reinforced(torch.tensor([0.0, 1.0, 2.0, 3.5, 3.5])[None, :, None]).any()


def test_equal_heads_are_left_alone():
    assert not reinforced(torch.full((1, 8, 1), 0.3)).any()


def test_chosen_heads_are_scaled_and_weights_are_not():
    rows = prompt_rows(3, heads=8, decoding=True)
    edited = METHOD.edit(rows, strength=0.5)
    chosen = reinforced(head_divergence(rows.weights, rows.value, rows.visual))
    assert chosen.any()
    assert torch.equal(edited.heads, 1 + 0.5 * chosen)
    assert torch.equal(edited.weights, rows.weights)
    assert METHOD.values
    assert not METHOD.prefill


def test_a_row_that_sees_nothing_but_the_image_diverges_by_zero():
    rows = prompt_rows(4)
    everything = torch.ones_like(rows.visual)
    assert (head_divergence(rows.weights, rows.value, everything) == 0).all()
