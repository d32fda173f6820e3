"""`cdpruner`: goldens, a float64 loop, the kernel's rank, relevances and equal rows."""

import pytest
import torch
from goldens import golden_files, load

from lvlm_prune.methods import METHODS
from lvlm_prune.methods.cdpruner import greedy_map_order, mean_cosine, relevance_of, scaled
from lvlm_prune.methods.similarity import cosine_similarity
from lvlm_prune.signals import SignalRequest, Signals, row_norms

METHOD = METHODS["cdpruner"]


def signals_of(features: torch.Tensor, **more) -> Signals:
    """Signals of a batch of features; the method reads no grid."""
    return Signals(
        features=features,
        hidden=features,
        grid=(1, features.shape[1]),
        norms=row_norms(features),
        **more,
    )


def kept_of(signals: Signals, keep: int, relevance: str) -> list[list[int]]:
    return METHOD.select(signals, keep, relevance=relevance).kept.tolist()


@pytest.mark.parametrize("path", golden_files("cdpruner"))
def test_golden(path):
    golden = load(path)
    signals = signals_of(
        golden["feats"][None],
        clip_image=golden["image_embeds"][None],
        clip_text=[golden["text_embeds"]],
    )
    quality = relevance_of(signals, "clip")
    assert (quality[0] - golden["relevance"]).abs().max() < 1e-5
    order = greedy_map_order(cosine_similarity(signals.features), quality, golden["T"])
    assert order[0].tolist() == golden["order_float64"].tolist()
    assert kept_of(signals, golden["T"], "clip") == [golden["kept"].tolist()]


def loop_order(features: torch.Tensor, quality: torch.Tensor, k: int) -> list[int]:
    """The row that makes the determinant of the picked kernel largest, by determinants."""
    unit = features.double() / features.double().norm(dim=-1, keepdim=True)
    kernel = unit @ unit.T * quality.double() * quality.double()[:, None]
    picked: list[int] = []
    while len(picked) < k:
        rest = [a for a in range(len(kernel)) if a not in picked]
        picked.append(max(rest, key=lambda a: kernel[picked + [a]][:, picked + [a]].logdet()))
    return picked


def test_order_equals_a_loop_for_every_image_of_a_batch():
    torch.manual_seed(0)
    features, quality = torch.randn(3, 15, 12), torch.rand(3, 15) + 0.2
    order = greedy_map_order(cosine_similarity(features), quality, 9)
    for image in range(3):
        assert order[image].tolist() == loop_order(features[image], quality[image], 9)


@pytest.mark.parametrize("keep", [1, 2, 5, 6, 7, 23, 40])
def test_exactly_k_also_past_the_rank_of_the_kernel(keep):
    torch.manual_seed(0)
    features, quality = torch.randn(2, 40, 6), torch.rand(2, 40) + 0.2
    order = greedy_map_order(cosine_similarity(features), quality, keep)
    for image in range(2):
        picked = order[image].tolist()
        assert len(set(picked)) == keep
        assert picked[:6] == loop_order(features[image], quality[image], min(keep, 6))
        rest = [a for a in quality[image].argsort(descending=True).tolist() if a not in picked[:6]]
        assert picked[6:] == rest[: max(0, keep - 6)]


def test_equal_rows_and_relevances_go_to_the_earlier_row():
    assert kept_of(signals_of(torch.ones(2, 7, 4)), 3, "none") == [[0, 1, 2], [0, 1, 2]]
    assert kept_of(signals_of(torch.zeros(1, 7, 4)), 3, "none") == [[0, 1, 2]]
    assert kept_of(signals_of(torch.randn(1, 1, 4)), 1, "none") == [[0]]


def test_relevance_is_the_mean_cosine_with_the_text():
    torch.manual_seed(0)
    rows, texts = torch.randn(2, 5, 8), [torch.randn(3, 8), torch.randn(1, 8)]
    found = mean_cosine(rows, texts)
    for image in range(2):
        for token in range(5):
            cosines = [
                torch.nn.functional.cosine_similarity(rows[image, token], piece, dim=0)
                for piece in texts[image]
            ]
            assert abs(found[image, token] - sum(cosines) / len(cosines)) < 1e-6
    assert not mean_cosine(rows, [torch.empty(0, 8)] * 2).any()


def test_relevance_is_scaled_in_each_image():
    relevance = torch.tensor([[0.1, 0.3, 0.2], [5.0, 7.0, 6.0], [0.4, 0.4, 0.4]])
    expected = torch.tensor([[0, 1, 0.5], [0, 1, 0.5], [1, 1, 1]])
    assert (scaled(relevance) - expected).abs().max() < 1e-4
    assert scaled(relevance).min() > 0


def test_the_question_decides_what_is_kept():
    torch.manual_seed(0)
    features = torch.eye(8)[None].repeat(2, 1, 1)
    text = [torch.eye(8)[[2, 5]], torch.eye(8)[[7, 1]]]
    signals = signals_of(features, text=text, clip_image=features, clip_text=text)
    assert kept_of(signals, 2, "llm") == [[2, 5], [1, 7]]
    assert kept_of(signals, 6, "clip") == [[0, 1, 3, 4, 6, 7], [0, 2, 3, 4, 5, 6]]


def test_an_image_does_not_depend_on_its_neighbours():
    torch.manual_seed(0)
    features, text = torch.randn(3, 30, 16), [torch.randn(n, 16) for n in (2, 5, 3)]
    signals = signals_of(features, text=text)
    together = kept_of(signals, 11, "llm")
    assert together == [kept_of(signals.images([image]), 11, "llm")[0] for image in range(3)]


def test_half_precision_is_computed_in_float32():
    torch.manual_seed(0)
    features, text = torch.randn(2, 30, 16).bfloat16(), [torch.randn(4, 16).bfloat16()] * 2
    wide = signals_of(features.float(), text=[piece.float() for piece in text])
    assert kept_of(signals_of(features, text=text), 11, "llm") == kept_of(wide, 11, "llm")


def test_only_the_embeddings_that_are_read_are_requested():
    assert METHOD.request(None, METHOD.complete({})) == SignalRequest(text=True)
    assert METHOD.request(None, {"relevance": "clip"}) == SignalRequest(clip=True)
    assert METHOD.request(None, {"relevance": "none"}) == SignalRequest()
    with pytest.raises(ValueError, match="relevance must be one of llm, clip, none; got 'bert'"):
        METHOD.request(None, {"relevance": "bert"})
