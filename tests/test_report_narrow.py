"""A report on a phone: drawings of their own width, tables that show that they go on."""

import json
import re

import pytest
from made_up_results import results_of
from made_up_runs import benchmark
from PIL import Image

from lvlm_prune.eval.report_flips import flips_figure
from lvlm_prune.eval.report_plot_words import LETTER, Point
from lvlm_prune.eval.report_plots import cost_figure
from lvlm_prune.eval.report_style import STYLE
from lvlm_prune.eval.report_write import write_report

PHONE = 390 - 2 * 15  # CSS pixels between the margins
POINT = 72  # of an inch; a drawing's own unit
LEGIBLE = 9.5  # CSS pixels of the letters


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, json.loads(json.dumps(results_of(benchmark(images=12)))))
    return (folder / "report.html").read_text(encoding="utf-8")


def pixels(figure, letters):
    """How large letters are where the drawing is as wide as a phone."""
    return letters * min(PHONE / (POINT * figure.get_figwidth()), 96 / POINT)


@pytest.mark.parametrize("series", [2, 20])
@pytest.mark.parametrize("name", ["cls", "one/probe: visionzip (sinks ignored), order raster"])
def test_letters_of_a_narrow_drawing_are_legible_at_any_length_of_names(series, name):
    points = [Point("unpruned", "196", 196.0, 0.9, baseline=True)]
    points += [Point(f"{name} {n}", "49", 49.0, 0.8 + 0.005 * n) for n in range(series)]
    plot = cost_figure(points, "title", ("x", "y"), False, True, False, narrow=True)
    assert pixels(plot, LETTER) > LEGIBLE
    rows = [(f"{name} {n} at 49", 3 * n, n) for n in range(series)]
    assert pixels(flips_figure(rows, "title", narrow=True), 8.5) > LEGIBLE


def test_long_names_of_a_narrow_drawing_keep_their_ends():
    rows = [("one/probe: visionzip (sinks ignored), order raster at 49", 2, 1)]
    (label,) = flips_figure(rows, "title", narrow=True).axes[0].get_yticklabels()
    assert label.get_text().startswith("one/probe")
    assert label.get_text().endswith(" at 49")


def test_each_drawing_has_a_wide_and_a_narrow_form_that_scale(page):
    wide, narrow = (
        re.findall(rf'<div class="{form}"><svg.*?</svg>\s*</div>', page, re.DOTALL)
        for form in ("wide", "narrow")
    )
    assert len(wide) == len(narrow) > 3
    assert all("viewBox" in drawing for drawing in (*wide, *narrow))
    (drawn,) = re.findall(r"\.drawing svg \{(.*?)\}", STYLE.split("@media print")[0])
    assert "max-width: 100%" in drawn
    assert "min-width" not in drawn


def test_one_form_is_shown_at_a_time():
    everywhere, _, rest = STYLE.partition("@media (max-width: 40rem)")
    phone, _, paper = rest.partition("@media print")
    assert ".narrow { display: none; }" in everywhere
    assert ".wide { display: none; }" in phone
    assert ".narrow { display: block; }" in phone
    assert ".narrow { display: none; }" in paper
    assert ".wide { display: block; }" in paper


def test_tables_scroll_in_their_own_box_with_a_bar_and_a_shadow(page):
    assert page.count("<table>") == page.count('<div class="scroll table" tabindex="0"')
    assert "::-webkit-scrollbar-thumb" in STYLE
    assert "linear-gradient(to left, var(--shade), transparent)" in STYLE
    assert "position: sticky" in STYLE


def test_long_words_break_and_pictures_scroll(tmp_path):
    Image.new("RGB", (60, 40), "#336699").save(tmp_path / "overlays.png")
    write_report(tmp_path, json.loads(json.dumps(results_of(benchmark(images=12)))))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count('<div class="scroll drawing" tabindex="0"') == 1
    assert "p, li, figcaption { overflow-wrap: anywhere; }" in STYLE
    phone = STYLE.partition("@media (max-width: 40rem)")[2].partition("@media print")[0]
    assert ".drawing img { max-width: none; width: 44rem; }" in phone


def test_verdicts_stand_side_by_side_in_one_box(page):
    (box,) = re.findall(r'<div class="verdicts">(.*?)</div>', page, re.DOTALL)
    assert box.count('<ul class="verdict">') == 2
