"""Goldens of the boosts before the softmax: query, keys and values of one last row."""

from pathlib import Path

import torch
from goldens import load

from lvlm_prune.reweight.contract import AttentionRows


def boost_rows(path: Path) -> tuple[dict, AttentionRows]:
    """The arrays, and the row that they describe."""
    golden = load(path)
    query, keys = golden["q_last"], golden["keys"]
    logits = torch.einsum("hd,hsd->hs", query, keys) * query.shape[-1] ** -0.5
    visual = torch.zeros(1, golden["seq_len"], dtype=torch.bool)
    visual[:, golden["image_start"] : golden["image_start"] + golden["image_len"]] = True
    rows = AttentionRows(
        logits=logits[None, :, None],
        value=golden["values"][None],
        visual=visual,
        layer=2,
        depth=32,
        decoding=False,
        edited=torch.ones(1, 1, dtype=torch.bool),
    )
    return golden, rows


def check_boost(golden: dict, rows: AttentionRows, weights: torch.Tensor) -> None:
    """The plain row, the edited row and the heads' outputs equal the golden."""
    output = (weights @ rows.value)[0, :, 0]
    assert (rows.weights[0, :, 0] - golden["attn_last_row_unmodified"]).abs().max() < 1e-5
    assert (weights[0, :, 0] - golden["attn_last_row"]).abs().max() < 1e-5
    assert (output - golden["out_last_row"]).abs().max() < 1e-4
