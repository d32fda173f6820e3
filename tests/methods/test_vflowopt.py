"""`vflowopt`: goldens, a loop reference for the recycling, and exactly K."""

import pytest
import torch
from goldens import golden_files, load

from lvlm_prune.attention import received_sinks, sink_rows
from lvlm_prune.methods import METHODS, EncoderShape
from lvlm_prune.methods.lattice import grid_blocks
from lvlm_prune.methods.vflowopt import importance, recycled_rows, recycling_sides
from lvlm_prune.select import top_rows
from lvlm_prune.signals import SignalRequest, Signals, row_norms

METHOD = METHODS["vflowopt"]


def random_signals(grid: tuple[int, int] = (9, 7), images: int = 3) -> Signals:
    torch.manual_seed(0)
    n = grid[0] * grid[1]
    hidden = torch.randn(images, n, 6)
    given = torch.rand(images, 4, n)
    return Signals(hidden, hidden, grid, row_norms(hidden), sinks_given=given)


def choose(signals: Signals, keep: int, **options):
    return METHOD.select(signals, keep, **METHOD.complete(options))


@pytest.mark.parametrize("path", golden_files("vflowopt"))
def test_golden(path):
    golden = load(path)
    # Keys of unit vectors make the logarithm of the golden's attention the logits.
    query = golden["attn"].log()[None]
    key = torch.eye(query.shape[-1]).expand_as(query)
    sinks = received_sinks(query, key, 1.0, golden["t"])
    assert sinks[0].nonzero().flatten().tolist() == golden["global_token_idx"].tolist()
    given = sink_rows(query, key, 1.0, sinks)
    scores = importance(given, golden["entropy"][None], golden["alpha_v"])
    assert (scores[0] - golden["importance"]).abs().max() < 1e-6
    for keep in (1, 14, 29):
        expected = golden["importance"].argsort(descending=True)[:keep].sort().values
        assert top_rows(scores, keep)[0].tolist() == expected.tolist()


def test_entropy_is_weighted_by_its_softmax():
    given, entropy = torch.rand(2, 3, 5), torch.rand(2, 5) * 4
    powers = entropy.double().exp()
    expected = given.double().mean(1) + 0.5 * powers / powers.sum(-1, keepdim=True)
    assert (importance(given, entropy, 0.5) - expected).abs().max() < 1e-6
    assert torch.equal(importance(given), given.mean(1))


def loop_rows(
    hidden: torch.Tensor, scores: torch.Tensor, block: list[int], keep: int
) -> dict[int, tuple[torch.Tensor, bool]]:
    """Kept token -> its row and whether it stands for its block."""
    count = max(block) + 1
    ranked = sorted(range(len(block)), key=lambda token: -float(scores[token]))
    plain = ranked[: keep - count]
    targets = {}
    for token in ranked[keep - count :]:
        targets.setdefault(block[token], token)
    others = [t for t in ranked if t not in plain and t not in targets.values()]
    plain += others[: keep - len(plain) - len(targets)]
    rows = {token: (hidden[token].double(), False) for token in plain}
    for number, target in targets.items():
        group = [t for t in ranked if block[t] == number and t not in plain]
        weights = [float(scores[token]) for token in group]
        total = sum(w * hidden[t].double() for w, t in zip(weights, group, strict=True))
        rows[target] = (total / sum(weights), True)
    return rows


def expect_loop(choice, signals: Signals, image: int, keep: int, sides: tuple[int, int]) -> None:
    block = grid_blocks(signals.grid, sides).tolist()
    expected = loop_rows(signals.hidden[image], choice.scores[image], block, keep)
    assert choice.kept[image].tolist() == sorted(expected)
    for place, token in enumerate(choice.kept[image].tolist()):
        row, stands = expected[token]
        assert bool(choice.replaced[image, place]) == stands
        assert (choice.hidden[image, place] - row).abs().max() < 1e-5


@pytest.mark.parametrize("grid", [(9, 7), (3, 21), (1, 63)])
@pytest.mark.parametrize("keep", [2, 7, 8, 31, 40, 62, 63])
def test_exactly_k_as_in_a_loop_on_any_grid(grid, keep):
    signals = random_signals(grid)
    choice = choose(signals, keep)
    sides = recycling_sides(grid, keep, 4)
    for image in range(3):
        expect_loop(choice, signals, image, keep, sides)


def test_a_block_without_dropped_tokens_leaves_its_place():
    signals = random_signals((4, 4), images=1)
    given = torch.full((1, 1, 16), 0.1) + torch.arange(16) * 1e-3
    given[..., grid_blocks((4, 4), (2, 2)) == 3] = 5.0
    signals = Signals(signals.features, signals.hidden, (4, 4), signals.norms, sinks_given=given)
    choice = choose(signals, 8, recycle=2)
    assert choice.replaced.sum() == 3
    expect_loop(choice, signals, 0, 8, (2, 2))


def test_recycled_rows_take_at_most_half_of_the_budget():
    assert recycling_sides((24, 24), 64, 4) == (4, 4)
    assert recycling_sides((24, 24), 31, 4) == (3, 3)
    assert recycling_sides((1, 24), 8, 4) == (1, 4)
    assert recycling_sides((24, 24), 1, 4) is None
    assert recycling_sides((24, 24), 64, 0) is None


@pytest.mark.parametrize(("keep", "recycle"), [(1, 4), (10, 0)])
def test_nothing_is_recycled_in_the_smallest_budget_or_on_demand(keep, recycle):
    signals = random_signals()
    choice = choose(signals, keep, recycle=recycle)
    assert choice.hidden is None
    assert torch.equal(choice.kept, top_rows(importance(signals.sinks_given), keep))


def test_one_token_image():
    choice = choose(random_signals((1, 1)), 1)
    assert choice.kept.tolist() == [[0]] * 3


def test_an_image_does_not_depend_on_its_neighbours():
    signals = random_signals()
    together = choose(signals, 20)
    for image in range(3):
        alone = choose(signals.images([image]), 20)
        assert torch.equal(together.kept[image], alone.kept[0])
        assert (together.hidden[image] - alone.hidden[0]).abs().max() < 1e-6


def test_equal_and_vanished_attention_leaves_no_zero_row():
    hidden = torch.ones(1, 16, 4)
    for value in (1.0, 0.0):
        given = torch.full((1, 2, 16), value)
        choice = choose(Signals(hidden, hidden, (4, 4), row_norms(hidden), sinks_given=given), 8)
        assert choice.kept.shape == (1, 8)
        assert choice.kept[0].unique().numel() == 8
        assert (choice.hidden - 1).abs().max() < 1e-5


def test_half_precision_is_averaged_in_float32():
    signals = random_signals()
    half = signals.hidden.half()
    scores = importance(signals.sinks_given)
    block = grid_blocks((9, 7), (2, 2))
    kept, rows, *_ = recycled_rows(half, scores, block, 10)
    assert rows.dtype == torch.float16
    assert torch.equal(rows, recycled_rows(half.float(), scores, block, 10)[1].half())
    assert kept.shape == (3, 10)


def test_sinks_are_asked_at_the_nearest_global_layer():
    shape = EncoderShape(depth=8, feature_layer=7, has_cls=False, windowed=(7,))
    default = SignalRequest(sinks_layer=6, sinks_ratio=39.26)
    assert METHOD.request(shape, METHOD.options) == default
    by_norm = METHOD.request(shape, METHOD.complete({"sinks_ratio": None}))
    assert by_norm == SignalRequest(sinks_layer=6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"sinks_ratio": 0},
            ValueError,
            "sinks_ratio must be more than 0 and finite, or None; got 0",
        ),
        ({"sinks_ratio": float("inf")}, ValueError, "and finite, or None; got inf"),
        ({"sinks_ratio": "many"}, TypeError, "sinks_ratio must be a number or None"),
        ({"recycle": -1}, ValueError, "recycle must be 0 .* got -1"),
        ({"recycle": 1.5}, TypeError, "recycle must be an int"),
    ],
)
def test_wrong_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        METHOD.request(None, METHOD.complete(options))
