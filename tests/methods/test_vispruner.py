"""`vispruner`: goldens, a loop reference, odd numbers of candidates and odd inputs."""

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

from lvlm_prune.methods.vispruner import METHOD
from lvlm_prune.signals import Signals, row_norms


@pytest.mark.parametrize("path", golden_files("vispruner"))
def test_golden(path):
    golden = load(path)
    rows = golden["feats"][None]
    side = int(rows.shape[1] ** 0.5)
    signals = Signals(rows, rows, (side, side), row_norms(rows), cls=golden["cls_attn"][None, None])
    choice = METHOD.select(signals, golden["T"], important_ratio=golden["important_ratio"])
    assert choice.kept[0].tolist() == golden["kept"].tolist()


def loop_kept(attention: torch.Tensor, hidden: torch.Tensor, keep: int, ratio: float) -> list[int]:
    """The kept patches by the definition, one similarity at a time."""
    unit = hidden.double() / hidden.double().norm(dim=-1, keepdim=True)
    order = sorted(range(len(hidden)), key=lambda row: (-float(attention[row]), row))
    important, rest = order[: int(keep * ratio)], order[int(keep * ratio) :]
    while len(rest) > keep - len(important):
        even, odd = rest[::2], rest[1::2]
        drop = min(8, len(rest) - keep + len(important), len(even))
        even.sort(key=lambda row: -max(float(unit[row] @ unit[other]) for other in odd))
        rest = even[drop:] + odd
    return sorted(important + rest)


@pytest.mark.parametrize(("keep", "ratio"), [(1, 0.5), (6, 0.5), (7, 0.5), (12, 0.25), (33, 0.75)])
def test_kept_equal_a_loop_for_every_image(keep, ratio):
    signals = random_signals((5, 7))
    kept = METHOD.select(signals, keep, important_ratio=ratio).kept
    attention = signals.cls[:, 0].mean(dim=1)
    for image in range(3):
        expected = loop_kept(attention[image], signals.hidden[image], keep, ratio)
        assert kept[image].tolist() == expected


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (3, 5), (4, 6)])
@pytest.mark.parametrize("ratio", [0, 0.5, 1])
def test_every_budget(grid, ratio):
    check_every_budget(METHOD, random_signals(grid), important_ratio=ratio)


def test_odd_number_of_candidates_where_the_official_code_fails():
    signals = random_signals((24, 24), images=1)
    assert METHOD.select(signals, 58, important_ratio=0.5).kept.shape == (1, 58)


def test_duplicates_are_dropped_before_distinct_patches():
    hidden = torch.ones(1, 20, 12)
    hidden[0, 10:] = torch.eye(12)[:10]
    attention = torch.linspace(0.9, 0.1, 20).expand(1, 1, 1, 20)
    signals = Signals(hidden, hidden, (4, 5), row_norms(hidden), cls=attention)
    kept = METHOD.select(signals, 12, important_ratio=0).kept[0].tolist()
    assert sum(row < 10 for row in kept) == 5
    assert sum(row >= 10 for row in kept) == 7


def test_equal_patches():
    check_every_budget(METHOD, equal_signals((3, 4)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    half = random_signals((5, 7), dtype=dtype)
    full = Signals(**{**vars(half), "hidden": half.hidden.float()})
    kept = METHOD.select(half, 9, important_ratio=0.5).kept
    assert torch.equal(kept, METHOD.select(full, 9, important_ratio=0.5).kept)


def test_received_attention_stands_in_for_the_cls_row():
    assert METHOD.request(WITH_CLS, METHOD.options).cls_layers == (22,)
    request = METHOD.request(WITHOUT_CLS, METHOD.options)
    assert (request.cls_layers, request.received_layers) == ((), (3,))
    signals = random_signals((5, 7), has_cls=False)
    kept = METHOD.select(signals, 9, important_ratio=0.5).kept
    for image in range(3):
        expected = loop_kept(signals.received[image, 0], signals.hidden[image], 9, 0.5)
        assert kept[image].tolist() == expected


@pytest.mark.parametrize("ratio", [-0.1, 1.5, True, "half", float("nan")])
def test_wrong_ratio_is_named(ratio):
    with pytest.raises(ValueError, match=r"important_ratio must be in \[0, 1\], got"):
        METHOD.request(WITH_CLS, {"important_ratio": ratio})
