"""Tiles: names, newline tokens and their bars at known pixels."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_chatters import tiny_internvl, tiny_next, tiny_qwen

from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.config import PruneConfig
from lvlm_prune.overlay import draw_kept_views
from lvlm_prune.overlay_cells import OUTLINE
from lvlm_prune.overlay_tiles import BAR, DARK, LETTERS, SPACE, draw_tiles, label, newline_tokens
from lvlm_prune.views import View, views

SIZE = 96
# Tokens 0..3 are a base tile; 4, 5 | 7, 8 a picture with newline tokens 6 and 9.
BASE = View(Image.new("RGB", (SIZE, SIZE), "red"), torch.arange(4), (2, 2), "whole image")
JOINED = View(Image.new("RGB", (SIZE, SIZE), "red"), torch.tensor([4, 5, 7, 8]), (2, 2), "tiles")
ROWS, TOTAL = [[BASE, JOINED]], 10


def test_newline_tokens_follow_rows_of_tokens():
    assert newline_tokens(ROWS, TOTAL) == [[[], [6, 9]]]
    assert newline_tokens(ROWS, 9) == [[[], []]], "the last row has none"
    assert newline_tokens([[BASE]], 4) == [[[]]]


@pytest.mark.parametrize(
    ("make", "counts"),
    [(tiny_next, [[0, 6]]), (tiny_qwen, [[0]]), (tiny_internvl, [[0] * 3, [0] * 2])],
)
def test_newline_tokens_of_families(make, counts):
    loaded = make()
    photo = Image.new("RGB", (64, 48), "red")
    inputs = loaded.inputs([photo], ["is there a cat"])
    stage = BoundaryStage(loaded.model, PruneConfig(method="cls", keep=0.25))
    with torch.no_grad():
        (choice,) = stage.select(stage.encode(inputs))
    rows = views(photo, inputs, choice.tiles, loaded.processor.image_processor)
    total = choice.rows.total
    found = newline_tokens(rows, total)
    assert [[len(tokens) for tokens in row] for row in found] == counts
    shown = {int(token) for row in rows for one in row for token in one.rows}
    ends = {token for row in found for tokens in row for token in tokens}
    assert shown | ends == set(range(total)), "every placeholder is drawn"
    assert not shown & ends


def bar(kept):
    """The middle of the bar's two cells, right of the second view."""
    picture = np.asarray(draw_tiles(ROWS, torch.tensor(kept), None, TOTAL, None))
    return picture[-SIZE:, -BAR:]


def test_kept_newline_tokens_are_amber():
    cells = bar([0, 6])
    assert (cells[5, 3] == OUTLINE).all()
    assert (cells[SIZE - 5, -3] == DARK).all()
    # Dropped ones are struck out, so that colour is not all that tells.
    assert (cells[SIZE // 2 :] == 255).all(axis=-1).any()
    assert not (cells[: SIZE // 2 - 2] == 255).all(axis=-1).any()


def test_sizes():
    picture = draw_tiles(ROWS, torch.tensor([0]), None, TOTAL, None)
    above = picture.height - SIZE
    assert 8 < above <= round(1.4 * LETTERS)
    assert picture.width == 2 * SIZE + 6 + SPACE + BAR


def test_views_are_drawn_as_elsewhere():
    kept, sinks = torch.tensor([0, 3, 5]), torch.zeros(TOTAL, dtype=torch.bool)
    picture = draw_tiles([[BASE]], kept, sinks, TOTAL, 2 * SIZE)
    plain = draw_kept_views([[BASE]], kept, sinks, TOTAL, 2 * SIZE)
    assert np.array_equal(np.asarray(picture)[-2 * SIZE :], np.asarray(plain))


def test_labels_count_the_tokens_of_their_view():
    kept = torch.tensor([0, 3, 5, 6])
    assert label(BASE, kept, TOTAL) == "whole image: 2 of 4"
    assert label(JOINED, kept, TOTAL) == "tiles: 1 of 4"
    assert label(View(BASE.image, BASE.rows, BASE.grid), kept, TOTAL) == "2 of 4 tokens"


def test_letters_shrink_to_fit():
    narrow = View(Image.new("RGB", (40, 40)), torch.arange(4), (2, 2), "whole image")
    wide = draw_tiles([[BASE]], torch.tensor([0]), None, 4, None)
    assert draw_tiles([[narrow]], torch.tensor([0]), None, 4, None).height - 40 < (
        wide.height - SIZE
    )
