"""`vscan`: goldens, a loop reference, exactly K on any grid, and layers."""

import pytest
import torch
from goldens import golden_files, load

from lvlm_prune.methods import METHODS, EncoderShape
from lvlm_prune.methods.lattice import grid_blocks
from lvlm_prune.methods.vscan import merged_features, window_rows
from lvlm_prune.signals import Signals, row_norms

METHOD = METHODS["vscan"]
SHAPE = EncoderShape(depth=24, feature_layer=22, has_cls=True)


def signals_of(features: torch.Tensor, grid: tuple[int, int], **attention) -> Signals:
    return Signals(features, features, grid, row_norms(features), **attention)


def random_signals(grid: tuple[int, int] = (9, 7), images: int = 3) -> Signals:
    torch.manual_seed(0)
    n = grid[0] * grid[1]
    return signals_of(torch.randn(images, n, 6), grid, cls=torch.rand(images, 2, 4, n))


def choose(signals: Signals, keep: int, **options):
    return METHOD.select(signals, keep, **METHOD.complete(options))


@pytest.mark.parametrize("path", golden_files("vscan"))
def test_golden(path):
    golden = load(path)
    layers = (golden["local_layer"], golden["global_layer"] % 24)
    assert METHOD.request(SHAPE, METHOD.options).cls_layers == layers
    cls = torch.stack([golden["cls_attn_local_layer5"], golden["cls_attn_global_layer22"]])[None]
    choice = choose(signals_of(golden["feats"][None], (24, 24), cls=cls), golden["T"])
    assert choice.kept[0].tolist() == golden["kept"].tolist()
    assert (choice.features[0] - golden["merged_tokens"]).abs().max() < 1e-5


def loop_kept(signals: Signals, image: int, keep: int) -> list[int]:
    """The windows of a grid one by one, then the whole image."""
    h, w = signals.grid
    local = signals.cls[image, 0].double().mean(0).tolist()
    scores = signals.cls[image, 1].double().mean(0).tolist()
    windows: dict[tuple[int, int], list[int]] = {}
    for y in range(h):
        for x in range(w):
            windows.setdefault((y * min(4, h) // h, x * min(4, w) // w), []).append(y * w + x)
    picked = []
    for members in windows.values():
        members.sort(key=lambda token: -local[token])
        picked += members[: keep // 2 // len(windows)]
    rest = sorted((t for t in range(h * w) if t not in picked), key=lambda token: -scores[token])
    return sorted(picked + rest[: keep - len(picked)])


@pytest.mark.parametrize("grid", [(9, 7), (3, 20), (1, 63), (2, 2), (1, 1)])
@pytest.mark.parametrize("keep", [1, 2, 3, 31, 32, 33, 62, 63])
def test_exactly_k_as_in_a_loop_on_any_grid(grid, keep):
    signals = random_signals(grid)
    keep = min(keep, grid[0] * grid[1])
    choice = choose(signals, keep)
    assert choice.features.shape == (3, keep, 6)
    for image in range(3):
        assert choice.kept[image].tolist() == loop_kept(signals, image, keep)


def test_what_windows_cannot_share_goes_to_the_whole_image():
    signals = random_signals((24, 24), images=1)
    assert choose(signals, 100).kept.shape == (1, 100)
    window = grid_blocks((24, 24), (4, 4))
    counts = window[window_rows(signals.cls[:, 0].mean(1), window, 3)[0]].bincount()
    assert counts.tolist() == [3] * 16


def test_small_windows_give_all_they_have():
    window = torch.tensor([0, 1, 1, 1, 0, 2])
    scores = torch.tensor([[1.0, 5.0, 7.0, 6.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    marked = window_rows(scores, window, 2)
    assert marked[0].tolist() == [True, False, True, True, True, True]
    assert marked[1].tolist() == [True, True, True, False, True, True]


def test_dropped_tokens_are_averaged_into_the_nearest_kept_one():
    torch.manual_seed(0)
    features, kept = torch.randn(2, 12, 5), torch.tensor([[1, 4, 9], [0, 2, 11]])
    merged, sizes, into = merged_features(features, kept)
    for image in range(2):
        groups = {row: [features[image, row].double()] for row in kept[image].tolist()}
        for token in range(12):
            nearest = token
            if token not in groups:
                nearest = max(groups, key=lambda row: cosine(features[image], token, row))
                groups[nearest].append(features[image, token].double())
            assert into[image, token] == nearest
        for row, group in zip(merged[image], groups.values(), strict=True):
            assert (row - torch.stack(group).mean(0)).abs().max() < 1e-5
        assert sizes[image].tolist() == [len(group) for group in groups.values()]


def cosine(rows: torch.Tensor, a: int, b: int) -> float:
    return float(rows[a] @ rows[b] / rows[a].norm() / rows[b].norm())


def test_all_tokens_kept_are_left_as_they_are():
    signals = random_signals()
    assert torch.equal(choose(signals, 63).features, signals.features)
    assert choose(signals, 20, merge=False).features is None


def test_an_image_does_not_depend_on_its_neighbours():
    signals = random_signals()
    together = choose(signals, 35)
    for image in range(3):
        alone = choose(signals.images([image]), 35)
        assert torch.equal(together.kept[image], alone.kept[0])
        assert (together.features[image] - alone.features[0]).abs().max() < 1e-6


def test_equal_scores_go_to_the_earlier_row():
    signals = signals_of(torch.ones(1, 16, 4), (4, 4), cls=torch.ones(1, 2, 1, 16))
    assert choose(signals, 3).kept.tolist() == [[0, 1, 2]]


def test_half_precision_is_merged_in_float32():
    signals = random_signals()
    half = signals.features.half()
    merged, *_ = merged_features(half, torch.tensor([[5, 8]] * 3))
    assert merged.dtype == torch.float16
    exact, *_ = merged_features(half.float(), torch.tensor([[5, 8]] * 3))
    assert torch.equal(merged, exact.half())


def test_received_attention_takes_the_place_of_a_cls_token():
    signals = random_signals()
    bare = signals_of(signals.features, signals.grid, received=signals.cls.mean(2))
    assert torch.equal(choose(bare, 35).kept, choose(signals, 35).kept)
    shape = EncoderShape(depth=32, feature_layer=31, has_cls=False, windowed=(5, 6, 8))
    assert METHOD.request(shape, METHOD.options).received_layers == (7, 31)


def test_one_layer_serves_for_both_in_a_shallow_encoder():
    shape = EncoderShape(depth=2, feature_layer=0, has_cls=True)
    assert METHOD.request(shape, METHOD.options).cls_layers == (0,)
    signals = random_signals()
    one = signals_of(signals.features, signals.grid, cls=signals.cls[:, 1:])
    two = signals_of(signals.features, signals.grid, cls=signals.cls[:, [1, 1]])
    assert torch.equal(choose(one, 35).kept, choose(two, 35).kept)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"local_layer": 23}, "local_layer=23 is above the projected layer 22"),
        ({"local_layer": -1}, "local_layer=-1 is above the projected layer 22"),
        ({"local_layer": -25}, "outside the encoder's 24 layers"),
        ({"windows": 0}, "windows must be 1 or more"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        METHOD.request(SHAPE, METHOD.complete(options))
