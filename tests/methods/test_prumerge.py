"""`prumerge` and `prumerge_plus`: goldens, a loop reference, strides and the dropped ones' row."""

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

from lvlm_prune.methods.prumerge import METHOD, PLUS, dropped_row, outlier_count, spatial_samples
from lvlm_prune.signals import Signals, row_norms

GOLDENS = [
    pytest.param(method, *file.values, id=f"{method.name}-{file.id}", marks=file.marks)
    for method in (METHOD, PLUS)
    for file in golden_files(method.name)
]


@pytest.mark.parametrize(("method", "path"), GOLDENS)
def test_golden_but_for_places(method, path):
    golden = load(path)
    hidden = golden["feats"][None]
    n, keep = hidden.shape[1], len(golden["out_tokens"])
    signals = Signals(
        features=hidden,
        hidden=hidden,
        grid=(1, n),
        norms=row_norms(hidden),
        joint=golden["cls_attn"][None],
        keys=golden["keys"][None, None, 1:],
    )
    choice = method.select(signals, keep, neighbours=32)
    official = golden["kept_in_output_order"].tolist()
    free = min(set(range(n)) - set(official))
    assert choice.kept[0].tolist() == sorted([*official, free])
    # The official rows stand in order of attention, the row of the dropped ones last.
    for row, merged in zip(choice.kept[0].tolist(), choice.hidden[0], strict=True):
        place = keep - 1 if row == free else official.index(row)
        assert (merged - golden["out_tokens"][place]).abs().max() < 1e-5
    assert choice.replaced.all()


@pytest.mark.parametrize(("method", "path"), GOLDENS)
def test_golden_outlier_count(method, path):
    golden = load(path)
    attention = golden["cls_attn"]
    assert int(outlier_count(attention[None])) == round(golden["ratio"] * len(attention))
    # Another image in the batch has other quartiles.
    both = outlier_count(torch.stack([torch.linspace(0, 1, len(attention)), attention]))
    assert both.tolist() == [0, round(golden["ratio"] * len(attention))]


def loop_merge(signals: Signals, image: int, kept: list[int], neighbours: int) -> dict:
    """Merged row of each kept patch and of the dropped ones (key None), in float64."""
    keys = signals.keys[image].transpose(0, 1).flatten(1).double()
    unit = keys / keys.norm(dim=-1, keepdim=True)
    hidden, attention = signals.hidden[image].double(), signals.joint[image].tolist()
    n = len(attention)
    rows = {}
    for row in kept:
        others = [other for other in range(n) if other != row]
        others.sort(key=lambda other: -float(unit[row] @ unit[other]))
        rows[row] = hidden[row] + sum(attention[j] * hidden[j] for j in others[:neighbours])
    dropped = [attention[j] * hidden[j] for j in range(n) if j not in kept]
    rows[None] = sum(dropped) if dropped else None
    return rows


@pytest.mark.parametrize("method", [METHOD, PLUS], ids=lambda method: method.name)
@pytest.mark.parametrize(("keep", "neighbours"), [(2, 3), (9, 3), (20, 32), (34, 5)])
def test_rows_equal_a_loop_for_every_image(method, keep, neighbours):
    signals = random_signals((5, 7))
    choice = method.select(signals, keep, neighbours=neighbours)
    for image in range(3):
        attention = signals.joint[image].tolist()
        kept = spatial_samples(35, keep - 1).tolist() if method is PLUS else []
        order = sorted(range(35), key=lambda row: (-attention[row], row))
        kept += [row for row in order if row not in kept][: keep - 1 - len(kept)]
        free = min(set(range(35)) - set(kept))
        assert choice.kept[image].tolist() == sorted([*kept, free])
        rows = loop_merge(signals, image, kept, neighbours)
        for row, merged in zip(choice.kept[image].tolist(), choice.hidden[image], strict=True):
            assert (merged - rows[None if row == free else row]).abs().max() < 1e-4


@pytest.mark.parametrize(("keep", "stride"), [(322, 2), (236, 3), (63, 12), (127, 6), (400, 2)])
def test_stride_is_the_official_one_or_wider(keep, stride):
    samples = spatial_samples(576, keep)
    assert samples.tolist() == list(range(0, 576, stride))
    assert len(samples) <= 0.9 * keep


def test_samples_always_leave_rows_for_attention():
    for n in (1, 2, 7, 36, 100):
        for count in range(1, n + 1):
            assert len(spatial_samples(n, count)) <= 0.9 * count


@pytest.mark.parametrize("method", [METHOD, PLUS], ids=lambda method: method.name)
@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (1, 3), (4, 6), (5, 7)])
def test_every_budget(method, grid):
    check_every_budget(method, random_signals(grid))


@pytest.mark.parametrize("method", [METHOD, PLUS], ids=lambda method: method.name)
def test_equal_patches(method):
    check_every_budget(method, equal_signals((4, 6)))


def test_no_row_of_the_dropped_ones_at_the_ends():
    signals = random_signals((3, 4))
    best = signals.joint.argmax(dim=1, keepdim=True)
    assert torch.equal(METHOD.select(signals, 1, neighbours=0).kept, best)
    choice = METHOD.select(signals, 12, neighbours=0)
    assert torch.equal(choice.hidden, signals.hidden)
    assert not choice.replaced.any()
    assert METHOD.select(signals, 11, neighbours=0).replaced.sum(dim=1).tolist() == [1, 1, 1]


def test_dropped_patches_without_attention_leave_their_mean():
    hidden = torch.arange(12.0).view(1, 4, 3)
    attention = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    row = dropped_row(hidden, attention, torch.tensor([[0]]))
    assert (row - hidden[:, 1:].mean(dim=1, keepdim=True)).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype):
    half = random_signals((5, 7), dtype=dtype)
    single = {"hidden": half.hidden.float(), "keys": half.keys.float()}
    full = METHOD.select(Signals(**{**vars(half), **single}), 9, neighbours=32)
    choice = METHOD.select(half, 9, neighbours=32)
    assert choice.hidden.dtype == dtype
    assert torch.equal(choice.kept, full.kept)
    assert torch.equal(choice.hidden, full.hidden.to(dtype))


def test_received_attention_stands_in_for_the_cls_row():
    request = METHOD.request(WITH_CLS, METHOD.options)
    assert (request.joint_layer, request.keys_layer, request.layers) == (23, 23, (23,))
    request = PLUS.request(WITHOUT_CLS, PLUS.options)
    assert (request.joint_layer, request.received_layers, request.keys_layer) == (None, (3,), 3)
    signals = random_signals((5, 7), has_cls=False)
    scores = METHOD.select(signals, 9, neighbours=32).scores
    assert torch.equal(scores, signals.received[:, 0])
    check_every_budget(PLUS, signals)


@pytest.mark.parametrize("value", [-1, 2.5, True, None])
def test_wrong_neighbours_are_named(value):
    with pytest.raises(ValueError, match=f"neighbours must be .*{value}"):
        METHOD.request(WITH_CLS, {"neighbours": value})
