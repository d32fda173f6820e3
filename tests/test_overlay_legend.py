"""Legends: below the picture, wrapped, marks of different shape."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lvlm_prune.overlay_cells import OUTLINE
from lvlm_prune.overlay_legend import (
    DROPPED,
    KEPT,
    MARKS,
    MERGED,
    NEWLINE,
    SCORES,
    SINK,
    Key,
    with_legend,
)

ALL = [KEPT, DROPPED, SINK, SCORES, MERGED, NEWLINE]


def plain(width=400):
    return Image.new("RGB", (width, 50), (10, 200, 30))


def test_the_picture_stays_as_it_was():
    picture = with_legend(plain(), ALL)
    assert np.array_equal(np.asarray(picture)[:50], np.asarray(plain()))
    assert picture.width == 400
    assert picture.height > 50


@pytest.mark.parametrize("width", [120, 400, 900])
@pytest.mark.parametrize("margin", [0, 10])
def test_nothing_is_cut_off(width, margin):
    short = [Key(mark, mark) for mark in MARKS]
    picture = np.asarray(with_legend(plain(width), short, 16, margin))[50:]
    assert (picture[:, width - 1] == 255).all()
    assert (picture[-1] == 255).all()
    if margin:
        assert (picture[:, :margin] == 255).all()


def test_narrow_pictures_get_more_lines():
    heights = [with_legend(plain(width), ALL, 16).height for width in (320, 600, 1800)]
    assert heights[0] > heights[1] > heights[2]


def test_words_are_written():
    one = with_legend(plain(), [Key("kept", "kept")], 16)
    other = with_legend(plain(), [Key("kept", "left")], 16)
    assert one.size == other.size
    assert np.array_equal(np.asarray(one)[:, :20], np.asarray(other)[:, :20])
    assert not np.array_equal(np.asarray(one), np.asarray(other))


def mark(name: str, size: int = 24) -> np.ndarray:
    width = 4 * size if name == "scores" else size
    image = Image.new("RGB", (width, size), "white")
    MARKS[name](ImageDraw.Draw(image), (0, 0, width - 1, size - 1))
    return np.asarray(image)


def test_marks_look_like_what_they_stand_for():
    assert (mark("kept")[0, 12] == OUTLINE).all()
    assert np.ptp(mark("dropped").reshape(-1, 3), axis=-1).max() == 0
    assert (mark("sink")[12, 12] == 255).all()
    assert not (mark("dropped")[12, 12] == 255).any()
    brightness = mark("scores")[12].astype(int).sum(axis=-1)
    assert brightness[-1] > brightness[48] > brightness[0]


def test_marks_differ_in_grey():
    """Whoever sees no colour tells them apart."""
    squares = [name for name in MARKS if name != "scores"]
    grey = {name: np.asarray(Image.fromarray(mark(name)).convert("L"), int) for name in squares}
    for one in squares:
        for two in squares:
            assert one == two or (np.abs(grey[one] - grey[two]) > 40).sum() > 20


def test_unknown_marks_are_named():
    with pytest.raises(ValueError, match=r"\['star'\] are not known; allowed: kept, dropped"):
        with_legend(plain(), [Key("star", "a star")])
