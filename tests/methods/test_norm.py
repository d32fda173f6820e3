"""`norm`: the longest or the shortest rows, ties to the earlier one."""

import pytest
import torch
from methods.signal_makers import check_every_budget, equal_signals, random_signals

from lvlm_prune.methods.contract import EncoderShape
from lvlm_prune.methods.norm import METHOD


@pytest.mark.parametrize("order", ["high", "low"])
def test_rows_equal_a_loop(order):
    signals = random_signals((4, 5))
    kept = METHOD.select(signals, 6, order=order).kept
    for image in range(3):
        length = [float(row.norm()) for row in signals.hidden[image]]
        ranked = sorted(range(20), key=lambda row: length[row], reverse=order == "high")
        assert kept[image].tolist() == sorted(ranked[:6])


def test_every_budget():
    check_every_budget(METHOD, random_signals((3, 3)), order="high")


def test_equal_rows_go_to_the_earlier_ones():
    assert METHOD.select(equal_signals((2, 3)), 2, order="low").kept.tolist() == [[0, 1], [0, 1]]


def test_unknown_order_is_refused():
    shape = EncoderShape(depth=2, feature_layer=1, has_cls=True)
    with pytest.raises(ValueError, match="order must be one of high, low; got 'up'"):
        METHOD.request(shape, {"order": "up"})


def test_half_precision_ranks_the_norms_of_float32():
    signals = random_signals((4, 4), dtype=torch.bfloat16)
    assert METHOD.select(signals, 3, order="high").scores.dtype == torch.float32
