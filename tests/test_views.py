"""Views of tiles: what the encoder saw, where tokens lie in it, and pictures of several grids."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_chatters import tiny_internvl, tiny_next, tiny_qwen
from tiny_probe import tiny_loaded

from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.config import PruneConfig
from lvlm_prune.overlay import draw_kept_views, draw_score_views, draw_views
from lvlm_prune.show_figure import whole
from lvlm_prune.splice import ImageRows
from lvlm_prune.stage import Choice
from lvlm_prune.views import LONGEST, View, guessed_grid, seen_images, unpacked, views

# The tokens of each view for an image of 64 x 48 pixels.
LAYOUTS = [
    (tiny_loaded, [[(6, 6)]]),
    (tiny_next, [[(4, 4), (6, 8)]]),
    (tiny_qwen, [[(6, 8)]]),
    (tiny_internvl, [[(4, 4), (4, 4), (4, 4)], [(4, 4), (4, 4)]]),
]


def picture(width=64, height=48):
    """A bright spot in the lower right quarter of a dark image."""
    values = np.zeros((height, width, 3), np.uint8)
    values[3 * height // 4 :, 3 * width // 4 :] = 255
    return Image.fromarray(values)


@pytest.fixture(scope="module", params=LAYOUTS, ids=lambda layout: layout[0].__name__)
def shown(request):
    """Views and choice of one image, and the grids that are expected."""
    make, grids = request.param
    loaded = make()
    inputs = loaded.inputs([picture()], ["is there a cat"])
    stage = BoundaryStage(loaded.model, PruneConfig(method="cls", keep=0.25, sinks="keep"))
    with torch.no_grad():
        (choice,) = stage.select(stage.encode(inputs))
    processor = loaded.processor.image_processor
    return views(picture(), inputs, choice.tiles, processor), choice, grids


def test_grids_and_rows(shown):
    rows, choice, grids = shown
    assert [[view.grid for view in row] for row in rows] == grids
    tokens = torch.cat([view.rows for row in rows for view in row])
    assert len(tokens) == len(tokens.unique()) <= choice.rows.total
    for row in rows:
        for view in row:
            assert len(view.rows) == view.grid[0] * view.grid[1]


def test_every_kept_token_lies_in_one_view(shown):
    rows, choice, _ = shown
    kept, total = choice.rows.kept, choice.rows.total
    own = [view.rows[view.own(kept, total)] for row in rows for view in row]
    assert torch.equal(torch.cat(own).sort().values, kept)


def test_the_spot_is_where_it_was(shown):
    rows, _, _ = shown
    whole = [rows[0][-1]] if len(rows) > 1 else rows[0]
    for view in whole:
        grey = np.asarray(view.image.convert("L"))
        assert grey[-3:, -3:].min() > 200
        assert grey[: grey.shape[0] // 2].max() < 60
    if len(rows) > 1:
        corner = np.asarray(rows[-1][-1].image.convert("L"))
        assert corner[-3:, -3:].min() > 200, "the last tile in raster order"
        assert np.asarray(rows[0][0].image.convert("L")).max() < 60


def test_pictures_have_one_size(shown):
    rows, choice, _ = shown
    kept, total = choice.rows.kept, choice.rows.total
    plain = draw_views(rows, 224)
    marked = draw_kept_views(rows, kept, choice.sinks, total, 224)
    scored = draw_score_views(rows, choice.scores, kept, 224)
    assert plain.size == marked.size == scored.size
    assert 150 < max(plain.size) < 350
    assert len({picture.tobytes() for picture in (plain, marked, scored)}) == 3


def test_scores_of_all_views_share_one_scale():
    grey = Image.new("RGB", (40, 40), (128, 128, 128))
    low, high = (View(grey, torch.arange(4) + 4 * n, (2, 2)) for n in range(2))
    scores = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1])
    drawn = np.asarray(draw_score_views([[low, high]], scores, torch.empty(0).long(), 80))
    assert drawn[20, 20].astype(int).sum() < drawn[20, -20].astype(int).sum() - 100


@pytest.mark.parametrize("size", [(64, 48), (40, 72), (33, 57)])
def test_packed_patches_are_put_together(size):
    loaded = tiny_qwen()
    noise = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    inputs = loaded.inputs([Image.fromarray(noise)], ["is there a cat"])
    (image,) = seen_images(inputs, loaded.processor.image_processor)
    _, h, w = inputs["image_grid_thw"][0].tolist()
    assert image.size == (4 * w, 4 * h)
    wanted = Image.fromarray(noise).resize(image.size, Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(wanted)).mean() < 2


def test_unpacked_takes_the_first_frame():
    frames = torch.arange(2.0)[None, None, :, None].expand(16, 3, 2, 4).reshape(16, 24)
    assert unpacked(frames, (4, 4), 2, 2).shape == (3, 8, 8)
    assert unpacked(frames, (4, 4), 2, 2).max() == 0


def test_large_images_are_shrunk_together():
    loaded = tiny_next()
    large = picture(4000, 3000)
    tiles = [(torch.arange(4), (2, 2)), (torch.arange(4, 4 + 3072), (48, 64))]
    inputs = {"pixel_values": torch.zeros(1, 5, 3, 336, 336)}
    ((base, joined),) = views(large, inputs, tiles, loaded.processor.image_processor)
    assert base.image.width + joined.image.width <= LONGEST + 2
    assert joined.image.width / joined.image.height == pytest.approx(64 / 48, rel=0.02)


def test_a_single_tile_is_drawn_without_its_padding():
    tiles = [(torch.arange(16), (4, 4)), (torch.arange(16, 28), (3, 4))]
    inputs = {"pixel_values": torch.zeros(1, 2, 3, 32, 32)}
    ((_, joined),) = views(picture(), inputs, tiles, tiny_loaded().processor.image_processor)
    assert joined.image.size == (32, 24)


@pytest.mark.parametrize(
    ("grid", "size", "found"),
    [
        ((6, 8), (64, 48), (6, 8)),
        ((1, 64), (64, 48), (8, 8)),
        ((1, 48), (64, 48), (6, 8)),
        ((1, 47), (64, 48), None),
        ((1, 1), (64, 48), (1, 1)),
    ],
)
def test_grids_of_models_without_one(grid, size, found):
    assert guessed_grid(grid, picture(*size)) == found


def test_tokens_without_a_grid_have_no_views():
    tiles = [(torch.arange(47), (1, 47))]
    inputs = {"pixel_values": torch.zeros(1, 3, 8, 8)}
    assert views(picture(), inputs, tiles, tiny_loaded().processor.image_processor) == []


@pytest.mark.parametrize("shape", [(1, 1024, 48), (1, 16, 8, 8), (40, 24)])
def test_pixels_of_unknown_layout_have_no_views(shape):
    tiles = [(torch.arange(16), (4, 4))]
    inputs = {"pixel_values": torch.zeros(shape)}
    assert views(picture(), inputs, tiles, tiny_loaded().processor.image_processor) == []


def test_tiles_that_a_model_encodes_one_by_one():
    rows = [
        Choice(
            ImageRows(torch.tensor([0, 3]), torch.zeros(2, 1), 4),
            torch.arange(4.0),
            None,
            ((torch.arange(4), (1, 4)),),
        )
        for _ in range(3)
    ]
    drawn = whole(rows)
    assert drawn.kept.tolist() == [0, 3, 4, 7, 8, 11]
    assert drawn.total == len(drawn.scores) == 12
    assert drawn.sinks is None
    inputs = {"pixel_values": torch.zeros(1, 3, 3, 8, 8)}
    processor = tiny_loaded().processor.image_processor
    found = views(picture(), inputs, drawn.tiles, processor)
    assert sorted(int(view.rows[0]) for row in found for view in row) == [0, 4, 8]
    assert {view.grid for row in found for view in row} == {(2, 2)}
