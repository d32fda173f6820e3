"""Cosine similarity in blocks against the plain product."""

import pytest
import torch

from lvlm_prune.methods import similarity
from lvlm_prune.methods.similarity import cosine_similarity


@pytest.mark.parametrize("block", [1, 4, 9, 256])
@pytest.mark.parametrize("n", [1, 8, 9, 19])
def test_blocks_make_the_plain_product(monkeypatch, block, n):
    monkeypatch.setattr(similarity, "BLOCK_ROWS", block)
    torch.manual_seed(0)
    rows = torch.randn(3, n, 6)
    unit = rows.double() / rows.double().norm(dim=-1, keepdim=True)
    found = cosine_similarity(rows)
    assert (found - unit @ unit.transpose(1, 2)).abs().max() < 1e-6
    assert found.dtype == torch.float32


def test_half_precision_is_computed_in_float32():
    rows = torch.randn(2, 9, 6).bfloat16()
    assert torch.equal(cosine_similarity(rows), cosine_similarity(rows.float()))


def test_a_row_of_zeros_is_similar_to_nothing():
    rows = torch.randn(1, 5, 6)
    rows[0, 2] = 0
    assert not cosine_similarity(rows)[0, 2].any()
