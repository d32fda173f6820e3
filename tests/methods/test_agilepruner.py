"""`agilepruner`: the effective rank, a loop reference, exactly K and equal rows."""

import math

import pytest
import torch

from lvlm_prune.methods import METHODS, EncoderShape
from lvlm_prune.methods.agilepruner import effective_rank
from lvlm_prune.methods.cls import METHOD as CLS
from lvlm_prune.signals import Signals, row_norms

METHOD = METHODS["agilepruner"]


def signals_of(hidden: torch.Tensor, **attention) -> Signals:
    return Signals(hidden, hidden, (1, hidden.shape[1]), row_norms(hidden), **attention)


def random_signals(images: int = 3, n: int = 40) -> Signals:
    """Images of clusters, so that thresholds remove some rows and not others."""
    torch.manual_seed(0)
    hidden = torch.randn(images, 6, 8)[:, torch.randint(6, (n,))]
    hidden = hidden + 0.2 * torch.randn(images, n, 8)
    return signals_of(hidden, cls=torch.rand(images, 1, 4, n))


def kept_of(signals: Signals, keep: int, **options) -> list[list[int]]:
    options = {"erank_average": 5.0, "tau_max": 0.3, **options}
    return METHOD.select(signals, keep, **METHOD.complete(options)).kept.tolist()


def test_effective_rank_of_known_matrices():
    flat = torch.eye(12)[:, :5].repeat(3, 1, 1)
    flat[1] *= torch.tensor([1.0, 1.0, 0, 0, 0])
    flat[2, :, 1:] = 0
    assert (effective_rank(flat) - torch.tensor([5.0, 2.0, 1.0])).abs().max() < 1e-5
    assert effective_rank(torch.ones(1, 50, 70)).item() == pytest.approx(1, abs=1e-6)
    assert effective_rank(torch.zeros(1, 5, 7)).item() == 1


def test_rounding_does_not_pass_for_rank():
    torch.manual_seed(0)
    rows = torch.randn(2, 200, 1) @ torch.randn(2, 1, 150)
    assert (effective_rank(rows) - 1).abs().max() < 1e-2


@pytest.mark.parametrize("shape", [(9, 20), (20, 9)])
def test_effective_rank_is_the_entropy_of_singular_values(shape):
    torch.manual_seed(0)
    rows = torch.randn(2, *shape)
    for image in range(2):
        values = torch.linalg.svdvals(rows[image].double())
        share = values / values.sum()
        expected = math.exp(-sum(float(p) * math.log(float(p)) for p in share))
        assert effective_rank(rows)[image].item() == pytest.approx(expected, rel=1e-6)


def loop_kept(signals: Signals, image: int, keep: int, tau_max: float) -> list[int]:
    """Take, remove, and fill up by attention."""
    rows = signals.hidden[image].double()
    rows = rows / rows.norm(dim=-1, keepdim=True)
    scores = signals.cls[image, 0].double().mean(0).tolist()
    ratio = float(effective_rank(signals.hidden[image][None])) / 5
    by_attention = sorted(range(len(rows)), key=lambda row: -scores[row])
    candidates, picked = list(by_attention), []
    while candidates and len(picked) < keep:
        row = candidates.pop(0)
        picked.append(row)
        tau = min(len(picked) * ratio * 0.01, tau_max)
        candidates = [other for other in candidates if 1 - rows[row] @ rows[other] >= tau]
    left = [row for row in by_attention if row not in picked]
    return sorted(picked + left[: keep - len(picked)])


@pytest.mark.parametrize("tau_max", [0.02, 0.3, 2.5])
@pytest.mark.parametrize("keep", [1, 2, 7, 20, 39, 40])
def test_exactly_k_as_in_a_loop(keep, tau_max):
    signals = random_signals()
    expected = [loop_kept(signals, image, keep, tau_max) for image in range(3)]
    assert kept_of(signals, keep, tau_max=tau_max) == expected
    assert all(kept == sorted(set(kept)) and len(kept) == keep for kept in expected)


def test_without_a_threshold_it_is_top_attention():
    signals = random_signals()
    top = CLS.select(signals, 12).kept.tolist()
    assert kept_of(signals, 12, tau_max=1e-9) == top
    assert kept_of(signals, 12) != top


def test_a_diverse_image_gets_a_higher_threshold():
    signals = random_signals()
    strict, lenient = kept_of(signals, 12, erank_average=1), kept_of(signals, 12, erank_average=1e6)
    assert lenient == CLS.select(signals, 12).kept.tolist()
    assert strict != kept_of(signals, 12, erank_average=20)


def test_equal_rows_and_scores_go_to_the_earlier_row():
    signals = signals_of(torch.ones(2, 7, 4), cls=torch.ones(2, 1, 1, 7))
    assert kept_of(signals, 3) == [[0, 1, 2]] * 2
    assert kept_of(signals_of(torch.ones(1, 1, 4), cls=torch.ones(1, 1, 1, 1)), 1) == [[0]]


def test_an_image_does_not_depend_on_its_neighbours():
    signals = random_signals()
    alone = [kept_of(signals.images([image]), 15)[0] for image in range(3)]
    assert kept_of(signals, 15) == alone


def test_half_precision_is_computed_in_full():
    wide = random_signals()
    half = wide.hidden.bfloat16()
    same = signals_of(half.float(), cls=wide.cls)
    assert kept_of(signals_of(half, cls=wide.cls), 15) == kept_of(same, 15)


def test_received_attention_takes_the_place_of_a_cls_token():
    signals = random_signals()
    bare = signals_of(signals.hidden, received=signals.cls.mean(2))
    assert kept_of(bare, 15) == kept_of(signals, 15)
    shape = EncoderShape(depth=8, feature_layer=7, has_cls=False, windowed=(7,))
    assert METHOD.request(shape, METHOD.options).received_layers == (6,)


@pytest.mark.parametrize("name", ["erank_average", "tau_max", "step"])
def test_wrong_options_are_named(name):
    with pytest.raises(ValueError, match=f"{name} must be more than 0, got 0"):
        METHOD.request(None, METHOD.complete({name: 0}))
    with pytest.raises(TypeError, match=f"{name} must be a number, got None"):
        METHOD.request(None, METHOD.complete({name: None}))
