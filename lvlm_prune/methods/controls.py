"""The controls every method has to beat: identity, random, grid and average pooling.

In: features `[I, N, D]` and the grid. They look at no content (random, grid) or at all of it
(pool), so they show what a budget is worth without a ranking.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.methods.contract import EncoderShape, Method, Selection
from lvlm_prune.methods.lattice import lattice_cells
from lvlm_prune.signals import SignalRequest, Signals


def keep_all(signals: Signals, keep: int, **options: Any) -> Selection:
    """Keep every row, whatever the budget says."""
    images, n, _ = signals.features.shape
    return Selection(kept=torch.arange(n, device=signals.features.device).expand(images, n))


def random_rows(fingerprints: Tensor, n: int, keep: int, seed: int) -> Tensor:
    """Draw rows for each image from a generator of its own.

    Args:
        fingerprints: one int an image, `[I]`, so that neighbours in a batch change nothing.
        n: rows of an image.
        keep: rows to draw.
        seed: another seed, another draw.

    Returns:
        `[I, keep]` int64, ascending, on the CPU.
    """
    rows = []
    for fingerprint in fingerprints.tolist():
        generator = torch.Generator().manual_seed((seed * 1_000_003 + fingerprint) % 2**63)
        rows.append(torch.randperm(n, generator=generator)[:keep].sort().values)
    return torch.stack(rows)


def select_random(signals: Signals, keep: int, **options: Any) -> Selection:
    """Keep random rows."""
    assert signals.fingerprint is not None
    n = signals.features.shape[1]
    rows = random_rows(signals.fingerprint, n, keep, options["seed"])
    return Selection(kept=rows.to(signals.features.device))


def request_fingerprint(shape: EncoderShape, options: Mapping[str, Any]) -> SignalRequest:
    """Ask for a number that depends on the image alone."""
    return SignalRequest(fingerprint=True)


def select_grid(signals: Signals, keep: int, **options: Any) -> Selection:
    """Keep the centres of `keep` cells that tile the grid evenly."""
    centres, _ = lattice_cells(signals.grid, keep)
    kept = centres.to(signals.features.device)
    return Selection(kept=kept.expand(signals.features.shape[0], -1))


def select_pool(signals: Signals, keep: int, **options: Any) -> Selection:
    """Put the mean of each of `keep` cells at the cell's centre."""
    centres, cell = lattice_cells(signals.grid, keep)
    device, dtype = signals.features.device, signals.features.dtype
    member = torch.nn.functional.one_hot(cell, keep).to(device, dtype)
    means = (member / member.sum(dim=0)).T @ signals.features
    kept = centres.to(device).expand(means.shape[0], -1)
    return Selection(kept=kept, features=means, groups=kept[:, cell.to(device)])


IDENTITY = Method(
    name="identity",
    summary="control: keeps every token, ignores the budget",
    source="the unpruned model through the same path",
    select=keep_all,
    ranks=False,
    drops=False,
)
RANDOM = Method(
    name="random",
    summary="control: random tokens, seeded by config and image",
    source="UniPruneBench's strongest simple baseline",
    select=select_random,
    request=request_fingerprint,
    seeded=True,
)
GRID = Method(
    name="grid",
    summary="control: evenly spaced tokens",
    source="uniform sampling",
    select=select_grid,
    ranks=False,
    layout=True,
)
POOL = Method(
    name="pool",
    summary="control: averages of evenly spaced cells",
    source="average pooling after the projector",
    select=select_pool,
    ranks=False,
    layout=True,
)
