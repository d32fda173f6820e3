"""`holov`: goldens of the official 1-D crops, 2-D crops, budgets that overflow a crop."""

import math

import pytest
import torch
from goldens import golden_files, load
from methods.signal_makers import (
    WITH_CLS,
    WITHOUT_CLS,
    check_every_budget,
    equal_signals,
    random_signals,
)

from lvlm_prune.methods.holov import METHOD, crop_budgets, crop_members, crop_scores
from lvlm_prune.signals import Signals, row_norms


def signals_of(golden: dict) -> Signals:
    features = golden["feats"][None]
    side = int(features.shape[1] ** 0.5)
    attention = golden["attn"][None, None, None]
    return Signals(features, features, (side, side), row_norms(features), cls=attention)


@pytest.mark.parametrize("path", golden_files("holov"))
def test_golden_but_for_order_and_zero_rows(path):
    golden = load(path)
    options = {"crops": "1d", "crop_count": golden["num_patches"], "alpha": golden["alpha"]}
    kept = METHOD.select(signals_of(golden), golden["T"], **options).kept[0].tolist()
    official = [row for row in golden["kept_in_output_order"].tolist() if row >= 0]
    added = sorted(set(kept) - set(official))
    assert kept == sorted(official + added), "an official token is missing, or the order is wrong"
    assert len(added) == golden["num_zero_rows"]
    # A token that takes a zero row's place is the best of its crop that was left.
    size = len(golden["attn"]) // golden["num_patches"]
    for row in added:
        crop = range(row // size * size, (row // size + 1) * size)
        left = [other for other in crop if other not in official]
        assert row == max(left, key=lambda other: float(golden["attn"][other]))


def test_crops_of_a_square_grid_are_squares():
    members = crop_members((24, 24), 16, "2d")
    assert members.shape == (16, 36)
    for crop in range(16):
        rows, columns = members[crop] // 24, members[crop] % 24
        assert sorted(set(rows.tolist())) == list(range(crop // 4 * 6, crop // 4 * 6 + 6))
        assert sorted(set(columns.tolist())) == list(range(crop % 4 * 6, crop % 4 * 6 + 6))


@pytest.mark.parametrize("crops", ["1d", "2d"])
@pytest.mark.parametrize("grid", [(1, 1), (1, 37), (3, 5), (9, 20)])
def test_crops_share_out_every_token(grid, crops):
    members = crop_members(grid, 16, crops)
    tokens = members[members >= 0]
    assert tokens.sort().values.tolist() == list(range(grid[0] * grid[1]))
    assert members.shape[0] == min(16, grid[0] * grid[1])


def test_runs_are_those_of_the_official_code():
    members = crop_members((2, 19), 16, "1d")
    assert members[:6].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11], [12, 13, 14]] + [
        [15, 16, 17]
    ]
    assert members[6].tolist() == [18, 19, -1]


def loop_score(features: torch.Tensor, attention: list[float], alpha: float) -> float:
    """Score of one crop by the definition, in float64."""
    n = len(attention)
    unit = features.double() / features.double().norm(dim=-1, keepdim=True)
    variances = []
    for a in range(n):
        row = [0.0 if a == b else float(unit[a] @ unit[b]) for b in range(n)]
        mean = sum(row) / max(1, n - 1)
        variances.append(sum((value - mean) ** 2 for value in row) / max(1, n - 1))
    scaled = [1e3 * value for value in attention]
    factor = (sum(scaled) / n) / (sum(variances) / n + 1e-6)
    return sum(a + alpha * v * factor for a, v in zip(scaled, variances, strict=True)) / n


def loop_kept(signals: Signals, image: int, members: list[list[int]], keep: int) -> list[int]:
    """Kept tokens of one image by the definition."""
    attention = signals.cls[image, 0].mean(dim=0).tolist()
    scores = [
        loop_score(signals.features[image, crop], [attention[row] for row in crop], 0.09)
        for crop in members
    ]
    given = [0] * len(members)
    while left := keep - sum(given):
        room = [crop for crop in range(len(members)) if len(members[crop]) > given[crop]]
        total = sum(scores[crop] for crop in room)
        share = [0] * len(members)
        for crop in room:
            share[crop] = math.floor(scores[crop] / total * left)
        for crop in sorted(room, key=lambda crop: -scores[crop])[: left - sum(share)]:
            share[crop] += 1
        given = [min(len(m), g + s) for m, g, s in zip(members, given, share, strict=True)]
    kept = []
    for crop, have in zip(members, given, strict=True):
        kept += sorted(crop, key=lambda row: (-attention[row], row))[:have]
    return sorted(kept)


@pytest.mark.parametrize("crops", ["1d", "2d"])
@pytest.mark.parametrize("keep", [1, 5, 17, 40, 62])
def test_kept_equal_a_loop_for_every_image(crops, keep):
    signals = random_signals((7, 9))
    padded = crop_members((7, 9), 5, crops).tolist()
    members = [[row for row in crop if row >= 0] for crop in padded]
    kept = METHOD.select(signals, keep, crops=crops, crop_count=5, alpha=0.09).kept
    for image in range(3):
        assert kept[image].tolist() == loop_kept(signals, image, members, keep)


def test_scores_equal_a_loop():
    signals = random_signals((4, 5))
    attention = signals.cls[:, 0].mean(dim=1)
    members = torch.tensor([[0, 3, 4, 11], [2, 7, -1, -1], [5, -1, -1, -1]])
    scores = crop_scores(signals.features, attention, members, alpha=0.5)
    for image in range(3):
        for crop, rows in enumerate(([0, 3, 4, 11], [2, 7], [5])):
            weights = attention[image, rows].tolist()
            expected = loop_score(signals.features[image, rows], weights, 0.5)
            assert float(scores[image, crop]) == pytest.approx(expected, rel=1e-5)


def test_excess_goes_to_crops_with_tokens_left():
    scores = torch.tensor([[90.0, 6.0, 4.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    given = crop_budgets(scores, torch.tensor([4, 4, 4]), 10)
    assert given.tolist() == [[4, 4, 2], [4, 3, 3], [4, 3, 3]]


@pytest.mark.parametrize("keep", [64, 128, 192])
def test_four_sinks_leave_no_budget_unused(keep):
    signals = random_signals((24, 24), images=2)
    attention = torch.rand(2, 1, 1, 576)
    attention[..., [40, 61, 400, 411]] = 0
    attention *= 0.4 / attention.sum(dim=-1, keepdim=True)
    attention[..., [40, 61, 400, 411]] = 0.15
    signals = Signals(**{**vars(signals), "cls": attention})
    for crops in ("1d", "2d"):
        choice = METHOD.select(signals, keep, crops=crops, crop_count=16, alpha=0.09)
        assert choice.kept.shape == (2, keep)
        assert all(len(set(kept)) == keep for kept in choice.kept.tolist())


@pytest.mark.parametrize("grid", [(1, 1), (1, 30), (3, 5), (7, 4)])
@pytest.mark.parametrize("crops", ["1d", "2d"])
def test_every_budget(grid, crops):
    check_every_budget(METHOD, random_signals(grid), crops=crops)


def test_equal_tokens():
    check_every_budget(METHOD, equal_signals((5, 6)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    half = random_signals((9, 9), dtype=dtype)
    full = Signals(**{**vars(half), "features": half.features.float()})
    kept = METHOD.select(half, 20, **METHOD.options).kept
    assert torch.equal(kept, METHOD.select(full, 20, **METHOD.options).kept)


def test_received_attention_stands_in_for_the_cls_row():
    assert METHOD.request(WITH_CLS, METHOD.options).cls_layers == (22,)
    request = METHOD.request(WITHOUT_CLS, METHOD.options)
    assert (request.cls_layers, request.received_layers) == ((), (3,))
    check_every_budget(METHOD, random_signals((5, 5), has_cls=False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crops": "3d"}, "crops must be one of 2d, 1d; got '3d'"),
        ({"crop_count": 0}, "crop_count must be a whole number of 1 or more, got 0"),
        ({"crop_count": 4.0}, "crop_count must be .* got 4.0"),
        ({"alpha": -1}, "alpha must be a finite number >= 0, got -1"),
        ({"alpha": float("inf")}, "alpha must be a finite number >= 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        METHOD.request(WITH_CLS, METHOD.complete(options))
