"""`pai`, `paint`, `headguide`: goldens of the official code, loop references, PAINT's two sets."""

import math

import numpy as np
import pytest
import torch
from goldens import golden_files
from reweight.boost_goldens import boost_rows, check_boost
from reweight.row_makers import prompt_rows

from lvlm_prune.reweight import headguide, pai, paint


@pytest.mark.parametrize("path", golden_files("pai"))
def test_pai_golden(path):
    golden, rows = boost_rows(path)
    check_boost(golden, rows, pai.METHOD.edit(rows, alpha=golden["alpha"]).weights)


@pytest.mark.parametrize("path", golden_files("headguide"))
def test_headguide_golden(path):
    golden, rows = boost_rows(path)
    options = headguide.METHOD.complete({"alpha": golden["alpha"]})
    check_boost(golden, rows, headguide.METHOD.edit(rows, **options).weights)


@pytest.mark.parametrize("path", golden_files("paint"))
def test_paint_golden(path):
    golden, rows = boost_rows(path)
    masks = paint.local_and_summary(golden["cls_attn_layer0"], golden["cls_attn_penultimate"])
    for mask, name in zip(masks, ("local", "summary"), strict=True):
        assert mask.nonzero()[:, 0].tolist() == golden[f"{name}_tokens"].tolist()
        rows.marks[name] = torch.zeros(rows.visual.shape).masked_scatter(rows.visual, mask.float())
    weights = paint.METHOD.edit(rows, alpha=golden["alpha"], beta=golden["beta"]).weights
    check_boost(golden, rows, weights)


def softmax(logits):
    top = max(logits)
    powers = [math.exp(s - top) for s in logits]
    return torch.tensor([p / sum(powers) for p in powers], dtype=torch.float64)


def strength_of(method, rows, key, options):
    """How much one visual key is raised, as a share of |s|."""
    if method is paint:
        local, summary = rows.marks["local"][0, key].item(), rows.marks["summary"][0, key].item()
        return options["alpha"] * local + options["beta"] * summary
    return options["alpha"]


@pytest.mark.parametrize("method", [pai, paint, headguide])
def test_boosts_equal_a_loop(method):
    rows = prompt_rows(0)
    options = method.METHOD.complete({"alpha": 0.8})
    edited = method.METHOD.edit(rows, **options).weights
    logits, keys = rows.logits.double()[0], range(rows.logits.shape[-1])
    for row in range(logits.shape[1]):
        for head in range(4):
            raised = logits[head, row].tolist()
            for j in keys:
                size = [abs(float(logits[h, row, j])) for h in range(4)]
                size = sum(size) / 4 if method is headguide else size[head]
                if rows.visual[0, j]:
                    raised[j] += strength_of(method, rows, j, options) * size
            assert (edited[0, head, row].double() - softmax(raised)).abs().max() < 1e-6


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [1, 7, 144])
def test_two_sets_equal_numpy(seed, n):
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(4, n, generator=generator)
    last = torch.randn(4, n, generator=generator).mul(1.5).exp()
    local, summary = paint.local_and_summary(first, last)
    total = last.sum(0).numpy()
    low, high = np.percentile(total, [25, 75])
    count = int((total > high + 1.5 * (high - low)).sum())
    outliers = set(np.argsort(-total)[:count].tolist())
    top = set(np.argsort(-first.sum(0).numpy())[: n // 4].tolist())
    assert set(summary.nonzero()[:, 0].tolist()) == outliers
    assert set(local.nonzero()[:, 0].tolist()) == top - outliers
    assert not (local & summary).any()


def test_equal_attention_has_no_outliers():
    local, summary = paint.local_and_summary(torch.ones(2, 16), torch.ones(2, 16))
    assert local.nonzero()[:, 0].tolist() == [0, 1, 2, 3]
    assert not summary.any()


def test_layers_of_the_papers():
    assert list(pai.METHOD.layers({}, 32)) == list(range(2, 32))
    assert list(paint.METHOD.layers({}, 32)) == list(range(2, 32))
    assert list(headguide.METHOD.layers({"first": 5, "last": 18}, 32)) == list(range(5, 19))


def test_layers_out_of_order_are_errors():
    with pytest.raises(ValueError, match="first=20, last=18 are not layers"):
        headguide.METHOD.complete({"first": 20})
