"""`gift`: goldens of the official code, a loop reference, which rows are the question."""

import math
import statistics
from dataclasses import replace

import pytest
import torch
from goldens import golden_files, load
from reweight.row_makers import padded, prompt_rows

from lvlm_prune.reweight.gift import METHOD, enhanced, gaze_shift, query_rows
from lvlm_prune.reweight.saliency import spread


@pytest.mark.parametrize("path", golden_files("gift"))
def test_golden(path):
    golden = load(path)
    start, count = golden["image_start"], golden["image_len"]
    # The saliency map: rows query_start - 1 .. query_end of each layer, content words alone.
    rows = golden["query_rows_img_attn"]
    content = torch.zeros(1, rows.shape[2], dtype=torch.bool)
    content[0, golden["content_token_idx"] + 1] = True
    every = torch.ones(1, count, dtype=torch.bool)
    shift = sum(gaze_shift(layer[None], every, content) for layer in rows)
    saliency = spread(shift, every)
    alpha = golden["alpha"]
    assert ((alpha * saliency[0]).exp() - golden["saliency_map"]).abs().max() < 1e-2
    # One decode row.
    weights = golden["attn_row_in"][None, :, None]
    visual = torch.zeros(1, weights.shape[-1], dtype=torch.bool)
    visual[:, start : start + count] = True
    query = torch.zeros_like(visual)
    query[:, golden["query_start"] : golden["query_end"] + 1] = True
    placed = torch.zeros(visual.shape).masked_scatter(visual, saliency)
    edited = enhanced(weights, visual, query, placed, alpha)
    assert (edited[0, :, 0] - golden["attn_row_out"]).abs().max() < 1e-4


def upper_half(scores):
    """Heads with the highest scores, in plain Python."""
    return sorted(range(len(scores)), key=lambda h: -scores[h])[: max(1, len(scores) // 2)]


def loop_saliency(weights, visual, query):
    """h of one prompt: `[H][R][S]` weights, visual columns, query rows."""
    heads = range(len(weights))

    def shift(h, t, j):
        return max(0.0, weights[h][t][j] - weights[h][t - 1][j])

    best = upper_half([sum(shift(h, t, j) for t in query for j in visual) for h in heads])
    h = [sum(shift(i, t, j) for i in best for t in query) for j in visual]
    mean, reach = statistics.mean(h), 3 * statistics.stdev(h)
    h = [min(max(x, mean - reach), mean + reach) for x in h]
    return [(x - min(h)) / (max(h) - min(h)) for x in h]


def loop_row(row, visual, query, saliency, alpha):
    """One edited row, `[H][S]`."""
    heads = range(len(row))
    scale = [math.exp(alpha * x) for x in saliency]
    best = upper_half([sum(row[h][j] for j in visual) for h in heads])
    before = sum(row[h][j] for h in best for j in visual)
    after = sum(row[h][j] * s for h in best for j, s in zip(visual, scale, strict=True))
    readers = upper_half([sum(row[h][j] for j in query) for h in heads])
    edited = []
    for h in heads:
        new = list(row[h])
        for j, s in zip(visual, scale, strict=True):
            new[j] *= s if h in best else 1
        for j in query:
            new[j] *= after / before if h in readers else 1
        edited.append([x / sum(new) for x in new])
    return edited


@pytest.mark.parametrize("suffix", [0, 2])
def test_observing_and_editing_equal_a_loop(suffix):
    options = METHOD.complete({"suffix": suffix, "alpha": 2.0})
    rows = replace(prompt_rows(0, before=3, visual=9, text=6), marks={})
    marks = METHOD.observe(rows, **options)
    weights = rows.weights[0].double().tolist()
    visual, query = list(range(3, 12)), list(range(1, 6 - suffix))
    expected = loop_saliency(weights, visual, query)
    assert (marks["saliency"][0, 3:12].double() - torch.tensor(expected)).abs().max() < 1e-5
    assert marks["query"][0].nonzero()[:, 0].tolist() == [12 + t for t in query]
    step = replace(prompt_rows(1, text=6, decoding=True), marks=marks)
    edited = METHOD.edit(step, **options).weights[0, :, 0]
    row = step.weights[0, :, 0].double().tolist()
    expected = loop_row(row, visual, [12 + t for t in query], expected, 2.0)
    assert (edited.double() - torch.tensor(expected)).abs().max() < 1e-5


def test_a_prompt_in_a_batch_is_observed_as_if_alone():
    prompts = [prompt_rows(2), prompt_rows(3, 5, 4, 9), prompt_rows(4, 1, 12, 2)]
    for rows in prompts:
        rows.marks.update({name: torch.zeros(rows.visual.shape) for name in ("shift", "query")})
    options = METHOD.complete({"suffix": 1})
    together = METHOD.observe(padded(prompts), **options)
    for i, rows in enumerate(prompts):
        alone = METHOD.observe(rows, **options)
        for name, values in alone.items():
            mark = together[name][i]
            assert (mark[-values.shape[1] :] - values[0]).abs().max() < 1e-5
            assert (mark[: -values.shape[1]] == 0).all()


def test_query_rows():
    edited = torch.tensor([[False, False, True, True, True, True], [True] * 6, [False] * 6])
    assert query_rows(edited, 0).int().tolist() == [
        [0, 0, 0, 1, 1, 1],
        [0, 1, 1, 1, 1, 1],
        [0] * 6,
    ]
    assert query_rows(edited, 2).int().tolist() == [
        [0, 0, 0, 1, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0] * 6,
    ]


def test_decode_steps_are_not_observed():
    assert METHOD.observe(prompt_rows(5, decoding=True), **METHOD.options) == {}


def test_one_text_row_is_no_question():
    rows = replace(prompt_rows(6, text=1), marks={})
    marks = METHOD.observe(rows, **METHOD.options)
    assert not marks["query"].any()
    assert not marks["saliency"].any()


@pytest.mark.parametrize("depth", [2, 3, 4, 8, 24, 32])
def test_the_map_is_seen_before_it_is_used(depth):
    (layer,) = METHOD.observed(METHOD.options, depth)
    assert layer < METHOD.layers(METHOD.options, depth)[0]


def test_layers_of_the_paper():
    assert list(METHOD.observed(METHOD.options, 32)) == [11]
    assert list(METHOD.layers(METHOD.options, 32)) == list(range(12, 23))
    options = METHOD.complete(METHOD.presets["llava_13b"])
    assert list(METHOD.observed(options, 40)) == [10]
    assert list(METHOD.layers(options, 40)) == list(range(14, 21))


def test_saliency_layer_must_exist():
    with pytest.raises(ValueError, match="saliency=32 is no layer of an LLM of 32"):
        METHOD.complete({"saliency": 32})
