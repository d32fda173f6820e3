"""`ilvad`: goldens of the official code, a loop reference, scores from prefill to decode."""

import math
import statistics
from dataclasses import replace

import pytest
import torch
from goldens import golden_files, load
from reweight.row_makers import last_row, padded, prompt_rows

from lvlm_prune.reweight.contract import AttentionRows
from lvlm_prune.reweight.ilvad import METHOD, evidence, grounding

OPTIONS = METHOD.options


def step_of(weights, visual, layer=0, depth=8, marks=None):
    """Attention weights `[H, S]` of one prompt as a decode step."""
    return AttentionRows(
        logits=weights[None, :, None].log(),
        value=torch.zeros(1, weights.shape[0], weights.shape[1], 2),
        visual=visual,
        layer=layer,
        depth=depth,
        decoding=True,
        edited=torch.ones(1, 1, dtype=torch.bool),
        marks=marks or {},
    )


@pytest.mark.parametrize("path", golden_files("ilvad"))
def test_golden_pre_run(path):
    golden = load(path)
    attention = golden["decode_img_attn"]
    steps, depth, _, count = attention.shape
    # One text key takes what the golden's rows give to text.
    visual = (torch.arange(count + 1) < count)[None]
    marks = {}
    for step in range(steps):
        for layer in range(depth):
            rest = 1 - attention[step, layer].sum(dim=-1, keepdim=True)
            weights = torch.cat([attention[step, layer], rest], dim=-1)
            marks.update(METHOD.observe(step_of(weights, visual, layer, depth, marks)))
    stacked = torch.stack([marks[f"attention/{layer}"] for layer in range(depth)]) / steps
    assert (stacked.mean(dim=0)[0, :count] - golden["avg_attn"]).abs().max() < 1e-5
    found = evidence(stacked, visual, golden["tau"])
    assert torch.equal(found[0, :count], golden["evidence"])
    marks = METHOD.finish(marks, visual, depth, **{**OPTIONS, "tau": golden["tau"]})
    assert set(marks) == {"evidence"}
    scale = (golden["alpha"] * marks["evidence"][0, :count]).exp()
    assert (scale - golden["enhanced_map"]).abs().max() < 1e-2


@pytest.mark.parametrize("path", golden_files("ilvad"))
def test_golden_decode_row(path):
    golden = load(path)
    start, count, keys = golden["image_start"], golden["image_len"], golden["seq_len"]
    visual = ((torch.arange(keys) >= start) & (torch.arange(keys) < start + count))[None]
    stretched = (golden["enhanced_map"].log() / golden["alpha"])[None]
    scored = len(golden["tv_score_index_in"])
    score, known = torch.zeros(2, 1, keys)
    score[0, start + count : start + count + scored] = golden["tv_score_index_in"]
    known[0, start + count : start + count + scored] = 1
    marks = {
        "evidence": torch.zeros(1, keys).masked_scatter(visual, stretched),
        "score": score,
        "scored": known,
    }
    options = {**OPTIONS, "alpha": golden["alpha"], "beta": golden["beta"]}
    edited = METHOD.edit(step_of(golden["attn_row_in"], visual, marks=marks), **options)
    assert (edited.weights[0, :, 0] - golden["attn_row_out"]).abs().max() < 1e-4
    # The new token's score of this layer stands at its own, the last, column.
    assert abs(edited.marks["score"][0, -1] - golden["tv_score_after"][0]) < 1e-4
    assert edited.marks["scored"][0, -1] == 1
    assert torch.equal(edited.marks["score"][0, :-1], score[0, :-1])


def upper_half(scores):
    """Heads with the highest scores, in plain Python."""
    return sorted(range(len(scores)), key=lambda h: -scores[h])[: max(1, len(scores) // 2)]


def clip(values):
    """Mean +- 3 standard deviations."""
    mean = statistics.mean(values)
    reach = 3 * statistics.stdev(values) if len(values) > 1 else 0
    return [min(max(x, mean - reach), mean + reach) for x in values]


def loop_evidence(steps, visual, tau):
    """e of one prompt; `steps[t][l][h][j]` are the weights of decode rows."""
    layers = range(len(steps[0]))
    looked = []
    for layer in layers:
        total = dict.fromkeys(visual, 0.0)
        for step in steps:
            row = step[layer]
            for h in upper_half([sum(head[j] for j in visual) for head in row]):
                for j in visual:
                    total[j] += row[h][j]
        looked.append(total)
    lit = [{j: a[j] > tau * statistics.mean(a.values()) for j in visual} for a in looked]
    overall = {j: statistics.mean(a[j] for a in looked) for j in visual}
    counts = []
    for j in visual:
        appears = sum(lit[n + 1][j] and not lit[n][j] for n in list(layers)[:-1])
        counts.append(float(appears) * (overall[j] > statistics.mean(overall.values())))
    counts = clip(counts)
    return [(x - min(counts)) / (max(counts) - min(counts)) for x in counts]


def test_pre_run_equals_a_loop():
    steps = [
        [replace(prompt_rows(10 * t + n, decoding=True), layer=n, marks={}) for n in range(5)]
        for t in range(3)
    ]
    marks = {}
    for rows in (rows for step in steps for rows in step):
        marks.update(METHOD.observe(replace(rows, marks=marks), **OPTIONS))
    found = METHOD.finish(marks, steps[0][0].visual, 5, **{**OPTIONS, "tau": 1.2})["evidence"]
    plain = [[rows.weights[0, :, 0].double().tolist() for rows in step] for step in steps]
    expected = loop_evidence(plain, list(range(3, 12)), 1.2)
    assert max(expected) == 1
    assert (found[0, 3:12].double() - torch.tensor(expected)).abs().max() < 1e-5
    assert (found[0, 12:] == 0).all()


def loop_row(row, visual, known, marks, alpha, beta):
    """One edited decode row `[H][S]` and the score of this layer."""
    heads = range(len(row))
    log_scale = {j: alpha * marks["evidence"][j] for j in visual}
    found = [sum(row[h][j] * log_scale[j] for j in visual) for h in heads]
    best = upper_half([found[h] / sum(row[h][j] for j in visual) for h in heads])
    scores = [marks["score"][j] for j in known]
    low, high = min(scores), max(scores)
    factor = [(x - low) / (high - low) + beta for x in clip(scores)]
    readers = upper_half([sum(row[h][j] for j in known) for h in heads])
    edited = []
    for h in heads:
        new = list(row[h])
        for j in visual:
            new[j] *= math.exp(log_scale[j]) if h in best else 1
        for j, x in zip(known, factor, strict=True):
            new[j] *= x if h in readers else 1
        edited.append([x / sum(new) for x in new])
    return edited, sum(found[h] for h in best) / len(best)


@pytest.mark.parametrize("seed", range(4))
def test_decode_row_equals_a_loop(seed):
    rows = prompt_rows(seed, text=20, decoding=True)
    marks = {name: values[0].double().tolist() for name, values in rows.marks.items()}
    # One far outlier is clipped, with minimum and maximum taken before.
    marks["score"][14] = 40.0
    rows.marks["score"][0, 14] = 40.0
    edited = METHOD.edit(rows, **{**OPTIONS, "alpha": 2.0, "beta": 0.3})
    expected, score = loop_row(
        rows.weights[0, :, 0].double().tolist(),
        list(range(3, 12)),
        list(range(12, 31)),
        marks,
        2.0,
        0.3,
    )
    assert (edited.weights[0, :, 0].double() - torch.tensor(expected)).abs().max() < 1e-5
    assert abs(float(edited.marks["score"][0, -1]) - score) < 1e-5


def test_prefill_scores_every_text_row_and_edits_the_last():
    rows = prompt_rows(5)
    fresh = replace(rows, marks={"evidence": rows.marks["evidence"]})
    edited = METHOD.edit(fresh, **OPTIONS)
    changed = (edited.weights != rows.weights).any(dim=-1).any(dim=1)
    assert changed.tolist() == [[False] * 5 + [True]]
    assert edited.marks["scored"][0].nonzero()[:, 0].tolist() == list(range(12, 18))
    # Layers add up, and each row is scored as if it were alone.
    again = METHOD.edit(replace(fresh, marks={**fresh.marks, **edited.marks}), **OPTIONS)
    assert torch.allclose(again.marks["score"], 2 * edited.marks["score"])
    alone = METHOD.edit(last_row(fresh, decoding=False), **OPTIONS)
    assert torch.allclose(alone.marks["score"][:, -1], edited.marks["score"][:, -1])


def test_rows_outside_of_the_edited_ones_get_no_score():
    rows = replace(prompt_rows(5), edited=torch.tensor([[False, True, True, True, False, False]]))
    fresh = replace(rows, marks={"evidence": rows.marks["evidence"]})
    edited = METHOD.edit(fresh, **OPTIONS)
    assert edited.marks["score"][0].nonzero()[:, 0].tolist() == [13, 14, 15]
    changed = (edited.weights != rows.weights).any(dim=-1).any(dim=1)
    assert changed[0].nonzero()[:, 0].tolist() == [3]


def test_a_new_token_does_not_weigh_itself():
    rows = prompt_rows(6, decoding=True)
    plain = METHOD.edit(rows, **OPTIONS).weights
    rows.marks["score"][0, -1], rows.marks["scored"][0, -1] = 100.0, 1.0
    assert torch.equal(METHOD.edit(rows, **OPTIONS).weights, plain)


def test_a_batch_is_observed_as_if_alone_and_ended_answers_are_not():
    prompts = [prompt_rows(7, decoding=True), prompt_rows(8, 2, 5, 9, decoding=True)]
    together = METHOD.observe(padded(prompts), **OPTIONS)["attention/3"]
    for i, rows in enumerate(prompts):
        alone = METHOD.observe(rows, **OPTIONS)["attention/3"]
        assert (together[i, -alone.shape[1] :] - alone[0]).abs().max() < 1e-6
    ended = replace(prompts[0], edited=torch.zeros(1, 1, dtype=torch.bool))
    assert not METHOD.observe(ended, **OPTIONS)["attention/3"].any()


def test_no_decode_step_gives_no_evidence():
    assert METHOD.observe(prompt_rows(9), **OPTIONS) == {}
    visual = prompt_rows(9).visual
    marks = METHOD.finish({}, visual, 8, **OPTIONS)
    assert torch.equal(marks["evidence"], torch.zeros(visual.shape))


def test_a_sink_that_is_lit_everywhere_is_no_evidence():
    attention = torch.full((6, 1, 20), 0.01)
    attention[:, 0, 4] = 1.0  # lit in every layer
    attention[3, 0, 7] = 1.0  # appears once
    found = evidence(attention, torch.ones(1, 20, dtype=torch.bool), 5.0)
    assert found[0].nonzero()[:, 0].tolist() == [7]


def test_equal_scores_say_nothing():
    known = torch.ones(1, 1, 4, dtype=torch.bool)
    stretched, told = grounding(torch.full((1, 4), 2.0), known)
    assert not told.any()
    assert not stretched.any()


def test_layers_and_presets_of_the_paper():
    assert list(METHOD.layers(OPTIONS, 32)) == list(range(31))
    captions = METHOD.complete(METHOD.presets["captions"])
    assert list(METHOD.layers(captions, 32)) == list(range(5, 26))
    assert captions["beta"] == 0.3
    assert METHOD.complete(METHOD.presets["llava_next"])["alpha"] == 3.0
    assert METHOD.pre_run(OPTIONS) == 10


def test_a_pre_run_needs_a_decode_step():
    with pytest.raises(ValueError, match="tokens=1 is not allowed; pass 2 or more"):
        METHOD.complete({"tokens": 1})
