"""Overlays: which pixels keep their colour, where marks are, and sizes."""

import numpy as np
import pytest
import torch
from PIL import Image

from lvlm_prune.eval.panels import Panel, panel_grid
from lvlm_prune.overlay import (
    draw_kept,
    draw_kept_views,
    draw_score_views,
    draw_scores,
    draw_sink_views,
    draw_views,
    enlarge,
)
from lvlm_prune.overlay_cells import OUTLINE
from lvlm_prune.overlay_groups import draw_group_views
from lvlm_prune.views import View, model_view

RED = Image.new("RGB", (112, 112), (250, 20, 20))
GRID = (14, 14)


@pytest.mark.parametrize(("size", "side"), [(112, 448), (42, 462), (336, 336), (700, 700)])
def test_enlarged_by_a_whole_factor(size, side):
    assert enlarge(Image.new("RGB", (size, size))).size == (side, side)


@pytest.mark.parametrize("kept", [[0, 1, 15], torch.tensor([195]), [], range(196)])
def test_kept_tokens_keep_their_colour(kept):
    picture = np.asarray(draw_kept(RED, GRID, kept, side=448)).astype(int)
    middles = picture[16::32, 16::32]
    stays = np.zeros(196, bool)
    stays[np.asarray(kept, dtype=int)] = True
    assert ((middles[..., 0] > 240) == stays.reshape(GRID)).all()
    # Dropped tokens are grey.
    assert (np.ptp(middles[~stays.reshape(GRID)], axis=-1) == 0).all()


def test_outline_is_inside_the_kept_token_only():
    picture = np.asarray(draw_kept(RED, GRID, [17]))
    amber = (picture == OUTLINE).all(axis=-1)
    rows, columns = np.nonzero(amber)
    assert (rows.min(), rows.max()) == (32, 63)
    assert (columns.min(), columns.max()) == (96, 127)
    assert not amber[40:56, 104:120].any()


def test_neighbours_share_no_outline():
    picture = np.asarray(draw_kept(RED, GRID, [17, 18]))
    assert not (picture[48, 124:132] == OUTLINE).all(axis=-1).any()


def test_sinks_are_crossed():
    sinks = torch.zeros(196, dtype=torch.bool)
    sinks[0] = True
    picture = np.asarray(draw_kept(RED, GRID, [0], sinks))
    assert (picture[16, 16] == 255).all()
    assert not (picture[16, 48] == 255).all()


def test_sizes_that_the_grid_does_not_divide():
    assert draw_kept(Image.new("RGB", (100, 70)), (7, 9), [0, 62]).size == (400, 280)


def test_high_scores_are_bright():
    scores = torch.arange(196.0)
    picture = np.asarray(draw_scores(RED, GRID, scores).convert("L"), dtype=float)
    assert picture[440, 440] > picture[224, 224] > picture[8, 8]


def test_equal_scores_are_drawn():
    draw_scores(RED, GRID, torch.zeros(196))


@pytest.mark.parametrize("kept", [[196], [-1], torch.tensor([500])])
def test_tokens_outside_the_grid(kept):
    with pytest.raises(ValueError, match="outside a grid of 14x14"):
        draw_kept(RED, GRID, kept)


def test_wrong_number_of_scores():
    with pytest.raises(ValueError, match="195 scores"):
        draw_scores(RED, GRID, torch.zeros(195))


def test_model_view_undoes_normalisation():
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    image = torch.rand(3, 8, 8)
    pixels = (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    view = np.asarray(model_view(pixels, mean, std)).transpose(2, 0, 1) / 255
    assert np.abs(view - image.numpy()).max() < 1 / 255


def test_panels_fit_on_the_canvas():
    panels = [Panel(RED, "a title that needs two lines", "note"), Panel(RED, "b")]
    one, two = panel_grid([panels], "heading"), panel_grid([panels, panels[:1]], "heading")
    assert one.width == two.width == 2 * 112 + 3 * 14
    assert two.height > one.height > 112
    assert np.asarray(one)[-1].min() == 255, "words touch the lower edge"


@pytest.mark.parametrize("size", [(28, 28), (100, 70), (896, 30)])
def test_native_size(size):
    image = Image.new("RGB", size, (250, 20, 20))
    view = View(image, torch.arange(14), (2, 7))
    kept, sinks = torch.tensor([0, 9]), torch.zeros(14, dtype=torch.bool)
    sinks[[0, 13]] = True
    pictures = [
        draw_kept(image, (2, 7), kept, sinks, None),
        draw_scores(image, (2, 7), torch.arange(14.0), kept, None),
        draw_views([[view]], None),
        draw_kept_views([[view]], kept, sinks, 14, None),
        draw_score_views([[view]], torch.arange(14.0), kept, None),
        draw_sink_views([[view]], sinks, None),
        draw_group_views([[view]], torch.zeros(14).long(), kept, None),
    ]
    assert {picture.size for picture in pictures} == {size}


@pytest.mark.parametrize("cell", [1, 2, 3])
def test_tokens_of_few_pixels(cell):
    image = Image.new("RGB", (4 * cell, 4 * cell), (250, 20, 20))
    picture = draw_kept(image, (4, 4), [0, 5], torch.ones(16, dtype=torch.bool), None)
    assert picture.size == (4 * cell, 4 * cell)


def test_small_tokens_keep_some_of_their_colour():
    image = Image.new("RGB", (80, 80), (250, 20, 20))
    picture = np.asarray(draw_kept(image, (20, 20), [21], None, None))[4:8, 4:8]
    assert (picture[1:3, 1:3] == (250, 20, 20)).all()
    assert (picture[0] == OUTLINE).all()


def test_sinks_alone_leave_the_image_in_colour():
    view = View(RED, torch.arange(196), GRID)
    sinks = torch.zeros(196, dtype=torch.bool)
    sinks[0] = True
    picture = np.asarray(draw_sink_views([[view]], sinks))
    assert (picture[16, 16] == 255).all()
    assert (picture[32:, 32:] == (250, 20, 20)).all()
