"""Merged groups: tints, regions, borders and lines at known pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from lvlm_prune.overlay import draw_views
from lvlm_prune.overlay_groups import (
    NUMBERED,
    OPACITY,
    TINTS,
    draw_group_views,
    group_tints,
    regions,
    token_centres,
)
from lvlm_prune.views import View

GREY = 100
CELL = 16


def view(h: int, w: int, first: int = 0, cell: int = CELL) -> View:
    """A grey picture whose tokens are placeholders from `first` on."""
    image = Image.new("RGB", (w * cell, h * cell), (GREY,) * 3)
    return View(image, torch.arange(first, first + h * w), (h, w))


def drawn(h, w, groups, kept):
    rows = [[view(h, w)]]
    return np.asarray(draw_group_views(rows, torch.tensor(groups), torch.tensor(kept), None))


def middle(picture, number, w):
    """The pixel beside the middle of a token, beyond its number, line and border."""
    row, column = divmod(number, w)
    return picture[row * CELL + 3, column * CELL + 3].astype(int)


def test_members_have_the_tint_of_their_group():
    # 0 0 2 2: two groups of two; below, a token kept alone and three that went nowhere.
    groups, kept = [0, 0, 2, 2, 4, -1, -1, -1], [0, 2, 4]
    picture = drawn(2, 4, groups, kept)
    tints = group_tints([[view(2, 4)]], torch.tensor(groups))
    assert set(tints) == {0, 2}
    for member, target in ((1, 0), (3, 2)):
        wanted = OPACITY * np.array(TINTS[tints[target]]) + (1 - OPACITY) * GREY
        assert np.abs(middle(picture, member, 4) - wanted).max() <= 1
    for number in (0, 2, 4):
        assert (middle(picture, number, 4) == GREY).all(), "kept tokens keep their colour"
    dark = [middle(picture, number, 4) for number in (5, 6, 7)]
    assert (np.array(dark) == int(GREY * 0.5 + 28)).all()


def test_touching_groups_have_different_tints():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        # Vertical stripes of groups: each touches two others.
        widths = torch.randint(2, 4, (6,), generator=generator)
        stripes = torch.repeat_interleave(torch.cumsum(widths, 0) - widths, widths)
        groups = torch.cat([stripes, stripes, stripes])
        rows = [[view(3, len(stripes))]]
        tints = group_tints(rows, groups)
        targets = groups[: len(stripes)].tolist()
        for one, two in zip(targets, targets[1:], strict=False):
            assert one == two or tints[one] != tints[two]


def test_more_touching_groups_than_tints_still_draw():
    # A comb: 19 joins all columns along row 0; nine other groups hang below it.
    w = 10
    groups = torch.tensor([0] * w + [w + column for column in range(w)] * 2)
    tints = group_tints([[view(3, w)]], groups)
    assert len(tints) == w + 1
    assert set(tints.values()) == set(range(len(TINTS)))


def test_regions_are_connected_by_edges_alone():
    # Group 0 lies in two corners that touch at a point; group 1 in the two others.
    rows = [[view(2, 2)]]
    assert sorted(regions(rows, torch.tensor([0, 1, 1, 0]))) == [
        (0, [0]),
        (0, [3]),
        (1, [1]),
        (1, [2]),
    ]
    assert regions(rows, torch.tensor([0, 0, 0, 0])) == [(0, [0, 1, 2, 3])]
    assert regions(rows, torch.tensor([0, 1, 2, -1])) == []


def test_a_line_from_a_region_apart_only():
    together = drawn(1, 5, [0, 0, 0, -1, -1], [0])
    apart = drawn(1, 5, [0, -1, -1, -1, 0], [0])
    between = np.s_[CELL // 2, 2 * CELL + 4 : 3 * CELL - 4]
    assert (apart[between] == 255).all()
    assert not (together[between] == 255).all(axis=-1).any()
    # A dark border above and below the line.
    assert (apart[CELL // 2 - 1, 2 * CELL + 4 : 3 * CELL - 4] == 0).all()


def test_dark_borders_between_groups_alone():
    picture = drawn(1, 4, [0, 0, 3, 3], [0, 3])
    assert (picture[2, 2 * CELL] == 0).all()
    assert not (picture[2, 2 * CELL - 5 : 2 * CELL] == 0).all(axis=-1).any()


@pytest.mark.parametrize("cell", [NUMBERED - 1, NUMBERED])
def test_numbers_where_they_fit(cell):
    rows = [[view(2, 2, cell=cell)]]
    picture = np.asarray(
        draw_group_views(rows, torch.tensor([0, 0, 0, 0]), torch.tensor([0]), None)
    )
    written = (picture[3 : cell - 3, 3 : cell - 3] > 200).all(axis=-1).any()
    assert written == (cell >= NUMBERED)


def test_groups_reach_from_one_view_to_another():
    rows = [[view(1, 2), view(1, 2, first=2)], [view(1, 2, first=4)]]
    groups = torch.tensor([0, -1, -1, -1, -1, 0])
    picture = draw_group_views(rows, groups, torch.tensor([0]), None)
    assert picture.size == draw_views(rows, None).size
    centres = token_centres(rows, 1)
    assert centres[0] == (8, 8)
    assert centres[2] == (32 + 6 + 8, 8)
    assert centres[5] == (24, 16 + 6 + 8)
    x, y = centres[5]
    assert (np.asarray(picture)[y, x] == 255).all(), "the dot of the line"


def test_tokens_outside_every_view_are_left_out():
    groups = torch.tensor([0, 0, 4, -1, 4])  # placeholders 3 and 4 lie in no view
    picture = draw_group_views([[view(1, 3)]], groups, torch.tensor([0, 4]), None)
    assert picture.size == (3 * CELL, CELL)
