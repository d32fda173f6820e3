"""Masks, rotary tables and FLOPs of layers with fewer columns, against plain loops."""

import pytest
import torch

from lvlm_prune.layers.columns import (
    blind_text,
    gather_mask,
    gather_positions,
    gather_rows,
    scatter_rows,
)
from lvlm_prune.layers.cost import LlmShape, decode_flops, prefill_flops

PAST, LENGTH = 3, 5
# Two prompts: new columns that are still there and keys, -1 for padding, the own ones last.
OWN = torch.tensor([[0, 2, 4], [-1, 1, 3]])
KEYS = torch.tensor([[0, 1, 2, 3, 5, 7], [-1, 2, 1, -1, 4, 6]])
FULL_OWN = torch.tensor([[0, 2, 4], [0, 1, 3]])
FULL_KEYS = torch.tensor([[0, 1, 2, 3, 5, 7], [0, 1, 2, 3, 4, 6]])
LEAST = torch.finfo(torch.float32).min


def seen_by_loops(own, keys, past, sees) -> torch.Tensor:
    """Which key each row sees; padding rows see themselves, padding keys nobody else."""
    batch, rows = own.shape
    found = torch.zeros(batch, rows, keys.shape[1], dtype=torch.bool)
    for b in range(batch):
        for row in range(rows):
            for key in range(keys.shape[1]):
                itself = key == keys.shape[1] - rows + row
                column, own_column = int(keys[b, key]), int(own[b, row])
                if column < 0 or own_column < 0:
                    found[b, row, key] = itself
                else:
                    found[b, row, key] = sees(b, own_column, column)
    return found


def random_mask(seed: int = 0) -> torch.Tensor:
    """A causal mask with holes, `[2, 1, L, S]`; every row sees itself."""
    generator = torch.Generator().manual_seed(seed)
    total = PAST + LENGTH
    mask = torch.rand(2, 1, LENGTH, total, generator=generator) < 0.7
    mask &= torch.arange(total) <= (torch.arange(LENGTH) + PAST)[:, None]
    return mask | torch.eye(total, dtype=torch.bool)[PAST:]


@pytest.mark.parametrize(("own", "keys"), [(OWN, KEYS), (FULL_OWN, FULL_KEYS)], ids=["pad", "full"])
@pytest.mark.parametrize("kind", ["bool", "float", "one for all prompts"])
def test_4d_masks(own, keys, kind):
    mask = random_mask()
    if kind == "one for all prompts":
        mask = mask[:1]
    given = mask if kind != "float" else torch.where(mask, 0.0, LEAST)
    short = gather_mask(given, own, keys, PAST, "eager" if kind == "float" else "sdpa")
    expected = seen_by_loops(own, keys, PAST, lambda b, q, k: mask[b % len(mask), 0, q, k])
    if kind == "float":
        assert torch.equal(short, torch.where(expected, 0.0, LEAST)[:, None])
    else:
        assert torch.equal(short, expected[:, None])


@pytest.mark.parametrize("implementation", ["sdpa", "eager", "flash_attention_2"])
def test_missing_masks_are_causal(implementation):
    assert gather_mask(None, FULL_OWN, FULL_KEYS, PAST, implementation) is None
    short = gather_mask(None, OWN, KEYS, PAST, implementation)
    expected = seen_by_loops(OWN, KEYS, PAST, lambda b, q, k: k <= q + PAST)
    if implementation == "sdpa":
        assert torch.equal(short, expected[:, None])
    elif implementation == "eager":
        assert torch.equal(short, torch.where(expected, 0.0, LEAST)[:, None])
    else:
        assert torch.equal(short, (KEYS >= 0).long())


@pytest.mark.parametrize("rows", [1, 2])
def test_2d_masks(rows):
    mask = torch.tensor([[1, 0, 1, 1, 0, 1, 1, 0], [0, 0, 1, 1, 1, 1, 1, 1]])[:rows]
    short = gather_mask(mask, OWN, KEYS, PAST, "flash_attention_2")
    for b in range(2):
        expected = [int(k >= 0 and mask[b % rows, k]) for k in KEYS[b].tolist()]
        assert short[b].tolist() == expected


@pytest.mark.parametrize("kind", ["none, sdpa", "none, eager", "bool", "float"])
def test_blind_text_rows(kind):
    """Text does not see visual keys; visual rows see what they saw."""
    rows = torch.tensor([[True, False, True], [False, True, True]])
    keys = torch.tensor([[False, True, False, True, True, False], [True] * 3 + [False] * 3])
    generator = torch.Generator().manual_seed(0)
    seen = torch.rand(2, 1, 3, 6, generator=generator) < 0.7
    causal = torch.tensor([[[[key <= row + 3 for key in range(6)] for row in range(3)]]])
    mask = {"bool": seen, "float": torch.where(seen, 0.0, LEAST)}.get(kind)
    blind = blind_text(mask, rows, keys, "sdpa" if "sdpa" in kind else "eager")
    before = (causal if mask is None else seen).expand(2, -1, -1, -1)
    expected = before.clone()
    for b, row, key in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(6)):
        if rows[b, row] and keys[b, key]:
            expected[b, 0, row, key] = False
    if kind in ("bool", "none, sdpa"):
        assert torch.equal(blind, expected)
    else:
        assert torch.equal(blind, torch.where(expected, 0.0, LEAST))


def test_blind_text_has_no_flash_mask():
    with pytest.raises(ValueError, match="'flash_attention_2' cannot hide keys.*use 'sdpa'"):
        blind_text(None, torch.ones(1, 2).bool(), torch.ones(1, 2).bool(), "flash_attention_2")


@pytest.mark.parametrize("leading", [(2,), (1,), (3, 2), (3, 1)], ids=str)
def test_rotary_tables_and_positions(leading):
    """One table for all prompts or one each, of one axis or of three."""
    generator = torch.Generator().manual_seed(0)
    table = torch.rand(*leading, LENGTH, 4, generator=generator)
    short, places = gather_rows(table, OWN), gather_positions(table[..., 0], OWN)
    assert short.shape == (*leading[:-1], 2, 3, 4)
    for b in range(2):
        for row in range(3):
            column = max(int(OWN[b, row]), 0)
            expected = table[..., b % leading[-1], column, :]
            assert torch.equal(short[..., b, row, :], expected)
            assert torch.equal(places[..., b, row], expected[..., 0])


def test_states_go_back_to_their_columns():
    full, hidden = torch.zeros(2, LENGTH, 4), torch.rand(2, 3, 4) + 1
    back = scatter_rows(full, OWN, hidden)
    for b in range(2):
        for column in range(LENGTH):
            rows = [row for row in range(3) if OWN[b, row] == column]
            expected = hidden[b, rows[0]] if rows else full[b, column]
            assert torch.equal(back[b, column], expected)


def flops_by_loops(shape: LlmShape, queries: int, past: int) -> int:
    """Two for every multiply-add of one layer, counted matrix by matrix."""
    count = 0
    for query in range(queries):
        count += 2 * shape.width * shape.query  # query
        count += 2 * 2 * shape.width * shape.key  # key and value
        count += 2 * shape.query * shape.width  # output
        count += 3 * 2 * shape.width * shape.ffn  # gate, up and down
        for _ in range(past + query + 1):
            count += 2 * shape.query + 2 * shape.query  # logit and weighted value
    return count


def test_flops():
    shape = LlmShape(depth=3, width=8, query=12, key=4, ffn=20)
    tokens = [7, 5, 2]
    assert prefill_flops(shape, tokens) == sum(flops_by_loops(shape, n, 0) for n in tokens)
    assert decode_flops(shape, tokens) == sum(flops_by_loops(shape, 1, n) for n in tokens)


def test_widths_are_those_of_the_weights():
    """Experts count as often as a token is sent to one."""
    from tiny_families import FAMILIES

    for name in ("llava", "qwen3_vl_moe"):
        model = FAMILIES[name].model()
        shape, layer = LlmShape.of(model.config.get_text_config()), model.get_decoder().layers[0]
        assert shape.query == layer.self_attn.q_proj.out_features
        assert shape.key == layer.self_attn.k_proj.out_features
        assert shape.width == layer.self_attn.q_proj.in_features
        assert shape.depth == len(model.get_decoder().layers)
        assert shape.ffn == (2 * 32 if "moe" in name else layer.mlp.gate_proj.out_features)
