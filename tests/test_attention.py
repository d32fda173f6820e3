"""Attention numbers that are never formed as a matrix, against plain softmax."""

import pytest
import torch

from lvlm_prune import attention
from lvlm_prune.attention import received_attention, received_sinks, sink_rows

SCALE = 0.5


def plain(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """The whole attention matrix in float64, `[I, H, T, T]`."""
    return (query.double() @ key.double().transpose(-1, -2) * SCALE).softmax(-1)


def inputs(images: int = 3, length: int = 13) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys of which one draws attention in the first and the last image, and none between."""
    torch.manual_seed(0)
    query, key = torch.randn(images, 4, length, 8) + 1, torch.randn(images, 4, length, 8)
    key[1:-1] *= 0.1
    key[0, :, 5] += 1.5
    key[-1, :, 2] += 1.5
    return query, key


@pytest.fixture(params=[1, 200, 10**6])
def block(request, monkeypatch):
    """Blocks of one query row, of a few, and of all."""
    monkeypatch.setattr(attention, "BLOCK_ELEMENTS", request.param)


@pytest.mark.usefixtures("block")
def test_sink_rows_are_the_mean_rows_of_the_sinks():
    query, key = inputs()
    sinks = torch.zeros(3, 13, dtype=torch.bool)
    sinks[0, [2, 5, 12]] = True
    sinks[2, 0] = True
    rows = sink_rows(query, key, SCALE, sinks)
    weights = plain(query, key)
    assert rows.dtype == torch.float32
    assert (rows[0] - weights[0][:, [2, 5, 12]].mean(1)).abs().max() < 1e-6
    assert (rows[2] - weights[2][:, 0]).abs().max() < 1e-6


@pytest.mark.usefixtures("block")
def test_without_sinks_all_tokens_are_queries():
    query, key = inputs()
    rows = sink_rows(query, key, SCALE, torch.zeros(3, 13, dtype=torch.bool))
    assert (rows - plain(query, key).mean(2)).abs().max() < 1e-6
    assert (rows.mean(1) - received_attention(query, key, SCALE)).abs().max() < 1e-6


def test_an_image_does_not_depend_on_the_sinks_of_its_neighbours():
    query, key = inputs()
    sinks = torch.zeros(3, 13, dtype=torch.bool)
    sinks[0, 5] = True
    rows = sink_rows(query, key, SCALE, sinks)
    for image in range(3):
        one = slice(image, image + 1)
        alone = sink_rows(query[one], key[one], SCALE, sinks[one])
        assert (rows[one] - alone).abs().max() < 1e-6


def test_received_sinks_receive_more_than_the_ratio_times_the_mean():
    query, key = inputs()
    received = plain(query, key).mean(dim=(1, 2))
    marked = received_sinks(query, key, SCALE, 2.0)
    assert marked.tolist() == (received > 2 * received.mean(-1, keepdim=True)).tolist()
    assert marked[0].nonzero().flatten().tolist() == [5]
    assert not marked[1].any()


def test_no_token_can_receive_more_than_all_attention():
    query, key = inputs()
    assert not received_sinks(query, key, SCALE, 13.0).any()
    assert not received_sinks(query[:, :, :1], key[:, :, :1], SCALE, 1.0).any()


def test_half_precision_is_computed_in_float32():
    query, key = inputs()
    query, key = query.bfloat16(), key.bfloat16()
    sinks = received_sinks(query, key, SCALE, 2.0)
    assert (
        sink_rows(query, key, SCALE, sinks) - sink_rows(query.float(), key.float(), SCALE, sinks)
    ).abs().max() == 0


@pytest.mark.usefixtures("block")
def test_received_attention_is_the_mean_over_heads_and_queries():
    query, key = inputs()
    exact = received_attention(query, key, SCALE)
    assert (exact - plain(query, key).mean(dim=(1, 2))).abs().max() < 1e-6
    sampled = received_attention(query, key, SCALE, rows=4)
    step = [0, 3, 6, 9]
    assert (sampled - plain(query, key)[:, :, step].mean(dim=(1, 2))).abs().max() < 1e-6
