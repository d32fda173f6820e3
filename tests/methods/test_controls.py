"""The controls: random, grid, pool and down-sampling keep exactly what they promise."""

import pytest
import torch

from lvlm_prune.methods import METHODS
from lvlm_prune.methods.controls import random_rows
from lvlm_prune.methods.downsample import encoder_grid
from lvlm_prune.methods.lattice import lattice_cells, lattice_centres, rectangle_of
from lvlm_prune.signals import Signals

GRIDS = [(14, 14), (24, 24), (6, 6), (3, 10), (1, 7), (10, 3), (12, 1)]


@pytest.mark.parametrize("grid", GRIDS)
def test_lattice_tiles_the_grid_for_every_budget(grid):
    n = grid[0] * grid[1]
    for k in range(1, n + 1):
        centres, cell = lattice_cells(grid, k)
        assert centres.tolist() == sorted(set(centres.tolist()))
        assert len(centres) == k
        assert sorted(set(cell.tolist())) == list(range(k))
        assert torch.equal(cell[centres], torch.arange(k)), "a centre lies outside its cell"


def test_pool_equals_a_loop():
    torch.manual_seed(0)
    features = torch.randn(2, 36, 5)
    signals = Signals(features, features, (6, 6), norms=features.norm(dim=-1))
    choice = METHODS["pool"].select(signals, 7)
    centres, cell = lattice_cells((6, 6), 7)
    assert torch.equal(choice.kept[1], centres)
    for k in range(7):
        members = features[:, (cell == k).nonzero()[:, 0]]
        assert (choice.features[:, k] - members.mean(1)).abs().max() < 1e-6


def test_random_depends_on_image_and_seed_only():
    prints = torch.tensor([5, 9, 5])
    rows = random_rows(prints, 100, 10, seed=0)
    assert torch.equal(rows[0], rows[2])
    assert not torch.equal(rows[0], rows[1])
    assert torch.equal(random_rows(prints[1:], 100, 10, seed=0)[0], rows[1])
    assert not torch.equal(random_rows(prints, 100, 10, seed=1)[0], rows[0])


def test_random_reaches_every_token_equally():
    rows = random_rows(torch.arange(4000), 20, 5, seed=3)
    counts = torch.bincount(rows.flatten(), minlength=20).float() / 4000
    assert (counts - 0.25).abs().max() < 0.03


@pytest.mark.parametrize(
    ("grid", "keep", "cells"),
    [
        ((14, 14), 49, (7, 7)),
        ((14, 14), 24, (4, 6)),
        ((14, 14), 12, (3, 4)),
        ((24, 24), 64, (8, 8)),
    ],
)
def test_downsample_makes_the_nearest_rectangle(grid, keep, cells):
    assert encoder_grid(grid, keep) == cells
    centres = lattice_centres(grid, cells)
    assert centres.tolist() == sorted(set(centres.tolist()))
    assert len(centres) == keep


def test_downsample_names_the_nearest_budgets():
    assert rectangle_of((14, 14), 23) is None
    with pytest.raises(ValueError, match=r"cannot make 23 tokens.*keep=\d+ and keep=\d+"):
        encoder_grid((14, 14), 23)


def test_identity_ignores_the_budget():
    features = torch.randn(1, 36, 5)
    choice = METHODS["identity"].select(Signals(features, features, (6, 6), features[..., 0]), 4)
    assert choice.kept.tolist() == [list(range(36))]
