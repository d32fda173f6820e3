"""`mmtok`: goldens, the plain greedy algorithm, texts of any length and equal rows."""

import pytest
import torch
from goldens import golden_files, load

from lvlm_prune.methods import METHODS, mmtok
from lvlm_prune.methods.mmtok import image_cover, max_coverage_order, text_cover
from lvlm_prune.signals import SignalRequest, Signals, row_norms

METHOD = METHODS["mmtok"]


def signals_of(features: torch.Tensor, hidden: torch.Tensor, text: list[torch.Tensor]) -> Signals:
    """Signals of a batch; the method reads no grid."""
    grid = (1, features.shape[1])
    return Signals(features, hidden, grid, row_norms(hidden), text=text)


def random_signals(images: int = 3, n: int = 30) -> Signals:
    """Random rows with texts of unequal length."""
    torch.manual_seed(0)
    text = [torch.randn(1 + 3 * image, 8) for image in range(images)]
    return signals_of(torch.randn(images, n, 8), torch.randn(images, n, 12), text)


def kept_of(signals: Signals, keep: int, **options) -> list[list[int]]:
    return METHOD.select(signals, keep, **METHOD.complete(options)).kept.tolist()


@pytest.mark.parametrize("path", golden_files("mmtok"))
def test_golden(path):
    golden = load(path)
    options = {name: golden[name] for name in ("tv_temp", "vv_temp", "alpha")}
    assert options == METHOD.options
    signals = signals_of(golden["proj_feats"][None], golden["clip_feats"][None], [golden["text"]])
    choice = METHOD.select(signals, golden["T"], **options)
    assert choice.kept[0].tolist() == golden["kept"].tolist()
    order = choice.scores[0].argsort(descending=True)[: golden["T"]]
    assert order.tolist() == golden["order_float64"].tolist()


def test_text_tokens_share_the_weight_of_the_text():
    signals = random_signals()
    cover = text_cover(signals.features, signals.text, 0.02)
    assert cover.shape == (3, 30, 7)
    for image, pieces in enumerate(signals.text):
        expected = torch.zeros(7)
        expected[: len(pieces)] = 1 / len(pieces)
        assert (cover[image].sum(0) - expected).abs().max() < 1e-6
    assert (image_cover(signals.hidden, 0.2).sum(1) - 1 / 30).abs().max() < 1e-6


def softmax(values: list[float]) -> list[float]:
    powers = torch.tensor(values, dtype=torch.float64).exp()
    return (powers / powers.sum()).tolist()


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a.double() @ b.double() / a.double().norm() / b.double().norm())


def loop_kept(signals: Signals, image: int, keep: int) -> list[int]:
    """Greedy coverage by the definition, every gain of every step."""
    features, hidden = signals.features[image], signals.hidden[image]
    text, n = signals.text[image], features.shape[0]
    covers = [
        [p / len(text) for p in softmax([cosine(t, row) / 0.02 for row in features])] for t in text
    ]
    covers += [
        [0.5 * q / n for q in softmax([cosine(a, row) / 0.2 for row in hidden])] for a in hidden
    ]
    picked: list[int] = []

    def coverage(rows: list[int]) -> float:
        return sum(max(cover[row] for row in rows) for cover in covers)

    while len(picked) < keep:
        rest = [row for row in range(n) if row not in picked]
        picked.append(max(rest, key=lambda row: coverage([*picked, row])))
    return sorted(picked)


@pytest.mark.parametrize("keep", [1, 6, 13])
def test_kept_rows_equal_a_loop_for_every_image_of_a_batch(keep):
    signals = random_signals()
    assert kept_of(signals, keep) == [loop_kept(signals, image, keep) for image in range(3)]


def plain_order(cover: torch.Tensor, k: int) -> list[int]:
    """Greedy coverage with the gains of all rows at each step."""
    covered, order = torch.zeros_like(cover[0]), []
    for _ in range(k):
        gain = (cover - covered).clamp(min=0).sum(-1)
        gain[order] = -1
        order.append(int(gain.argmax()))
        covered = torch.maximum(covered, cover[order[-1]])
    return order


@pytest.mark.parametrize("first", [1, 2, 16, 400])
def test_bounds_skip_no_row_that_wins(monkeypatch, first):
    monkeypatch.setattr(mmtok, "FIRST_ROWS", first)
    torch.manual_seed(0)
    centres = torch.randn(2, 12, 16)[:, torch.randint(12, (150,))]
    hidden = centres + 0.3 * torch.randn(2, 150, 16)
    hidden[:, 70:80] = hidden[:, 20:30]
    text = [torch.randn(4, 16)] * 2
    cover = torch.cat([text_cover(hidden, text, 0.02), image_cover(hidden, 0.2)], dim=2)
    order = max_coverage_order(cover, 150)
    for image in range(2):
        assert order[image].tolist() == plain_order(cover[image], 150)


@pytest.mark.parametrize("keep", [1, 2, 16, 17, 18, 29, 30])
def test_exactly_k_ascending_and_unique(keep):
    for kept in kept_of(random_signals(), keep):
        assert len(kept) == keep
        assert kept == sorted(set(kept))


def test_equal_rows_go_to_the_earlier_row():
    rows = torch.ones(2, 40, 4)
    assert kept_of(signals_of(rows, rows, [torch.ones(2, 4)] * 2), 3) == [[0, 1, 2]] * 2
    one = torch.ones(1, 1, 4)
    assert kept_of(signals_of(one, one, [torch.ones(2, 4)]), 1) == [[0]]


def test_an_image_without_text_is_covered_for_itself():
    signals = random_signals()
    silent = signals_of(signals.features, signals.hidden, [torch.empty(0, 8)] * 3)
    other = signals_of(torch.randn(3, 30, 8), signals.hidden, [torch.empty(0, 8)] * 3)
    assert kept_of(silent, 7) == kept_of(other, 7)
    assert kept_of(silent, 30) == [list(range(30))] * 3


def test_without_weight_the_image_does_not_matter():
    signals = random_signals()
    other = signals_of(signals.features, torch.randn(3, 30, 12), signals.text)
    assert kept_of(signals, 4, alpha=0) == kept_of(other, 4, alpha=0)
    assert kept_of(signals, 4) != kept_of(other, 4)


def test_an_image_does_not_depend_on_its_neighbours():
    signals = random_signals()
    alone = [kept_of(signals.images([image]), 11)[0] for image in range(3)]
    assert kept_of(signals, 11) == alone


def test_half_precision_is_computed_in_float32():
    wide = random_signals()
    half = signals_of(
        wide.features.bfloat16(), wide.hidden.bfloat16(), [text.bfloat16() for text in wide.text]
    )
    same = signals_of(
        half.features.float(), half.hidden.float(), [text.float() for text in half.text]
    )
    assert kept_of(half, 11) == kept_of(same, 11)


def test_options():
    assert METHOD.request(None, METHOD.complete({})) == SignalRequest(text=True)
    with pytest.raises(ValueError, match="tv_temp must be more than 0 and finite, got 0"):
        METHOD.request(None, METHOD.complete({"tv_temp": 0}))
    with pytest.raises(ValueError, match="alpha must be 0 or more and finite, got -1"):
        METHOD.request(None, METHOD.complete({"alpha": -1}))
    with pytest.raises(ValueError, match="vv_temp must be more than 0 and finite, got nan"):
        METHOD.request(None, METHOD.complete({"vv_temp": float("nan")}))
    with pytest.raises(TypeError, match="vv_temp must be a number, got 'hot'"):
        METHOD.request(None, METHOD.complete({"vv_temp": "hot"}))
