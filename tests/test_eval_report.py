"""The report: true numbers, every run in it, one file that needs nothing else, labels apart."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations, product

import numpy as np
import pytest
from made_up_results import RUNS, results_of
from made_up_runs import benchmark
from PIL import Image

from lvlm_prune.eval import report_numbers as numbers
from lvlm_prune.eval.bootstrap import Number
from lvlm_prune.eval.mcnemar import holm
from lvlm_prune.eval.report_flips import flips_figure
from lvlm_prune.eval.report_plot_words import Point
from lvlm_prune.eval.report_plots import cost_figure, pareto_front
from lvlm_prune.eval.report_sections import sections_of
from lvlm_prune.eval.report_tables import main_table, parser_table, split_table
from lvlm_prune.eval.report_words import verdict
from lvlm_prune.eval.report_write import write_report

VOID = {"meta", "img", "br", "path", "use", "rect"}


@pytest.fixture(scope="module")
def results():
    """As read from a file."""
    return json.loads(json.dumps(results_of(benchmark(images=40), failed=(7,))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, results):
    folder = tmp_path_factory.mktemp("report")
    Image.new("RGB", (60, 40), "#336699").save(folder / "overlays.png")
    write_report(folder, results)
    return folder


@pytest.fixture(scope="module")
def spots(results):
    return sections_of(results)[0]


class Page(HTMLParser):
    """What a page holds; tags must nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.sources, self.ids, self.cells = [], set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data"):
                self.sources.append(value)
            if name == "id":
                self.ids.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.9214, "0.921"), (1.0, "1.000"), (0.9996, "0.9996"), (0.0004, "0.0004"), (0.0, "0.000"),
     (-1e-17, "0.000"), (0.99999999, "0.99999999"), (0.12345, "0.123")],
)  # fmt: skip
def test_a_number_is_not_rounded_onto_another_meaning(value, text):
    assert numbers.shown(value) == text


def test_differences_keep_their_sign_and_their_side_of_zero():
    assert numbers.signed(0.0, 1) == "0.000"
    assert numbers.signed(-0.0, 1) == "0.000"
    assert numbers.signed(0.00004, 1) == "+0.00004"
    assert numbers.difference(Number(-0.01, -0.02, -0.0003), 1) == "-0.010 [-0.020, -0.0003]"
    assert numbers.difference(Number(12.0, 1.0, 30.0), 200) == "+12.0 [+1.0, +30.0]"
    assert numbers.difference(None, 1) == "-"


@pytest.mark.parametrize(
    ("p", "text"),
    [(1.0, "1"), (0.04996, "0.04996"), (0.0504, "0.0504"), (0.05, "0.05"), (0.2, "0.2"),
     (3.21e-9, "3.2e-09"), (0.0, "< 1e-300"), (0.9999, "0.9999"), (None, "-")],
)  # fmt: skip
def test_p_values_stay_on_their_side(p, text):
    assert numbers.p_value(p) == text


def test_rounding_never_moves_a_number_across_a_mark():
    rng = np.random.default_rng(0)
    for value in 1e-8 + rng.random(2000) ** 6 / 2:
        for each in (value, 1 - value, -value):
            said = float(numbers.shown(each))
            assert np.sign(said) == np.sign(each)
            assert (said < 1) == (each < 1)
            assert abs(said - each) <= 0.0005


def test_percent_and_tokens():
    assert numbers.percent(0.996) == "99.6\N{NO-BREAK SPACE}%"
    assert numbers.percent(1) == "100\N{NO-BREAK SPACE}%"
    assert (numbers.tokens(49.0), numbers.tokens(48.66)) == ("49", "48.7")


@pytest.mark.parametrize("lower", [False, True])
def test_the_front_is_what_nothing_beats(lower):
    rng = np.random.default_rng(3)
    points = [(float(x), float(y)) for x, y in rng.integers(0, 6, (25, 2))]
    slow = []
    for i, (x, y) in enumerate(points):
        beaten = False
        for a, b in points:
            better, equal = (b < y, b == y) if lower else (b > y, b == y)
            beaten |= (a < x and (better or equal)) or (a == x and better)
        if not beaten:
            slow.append(i)
    assert sorted(pareto_front(points, lower)) == slow
    costs = [points[i][0] for i in pareto_front(points, lower)]
    assert costs == sorted(costs)


def test_sections_hold_what_was_written(results, spots):
    assert [section.name for section in sections_of(results)] == ["haunted / spots",
                                                                  "haunted / ghosts"]  # fmt: skip
    assert len(spots.entries) == len(RUNS) + 1
    assert spots.baseline.run == "unpruned"
    assert len(spots.compared) == len(RUNS)
    assert [entry.control for entry in spots.entries][-2:] == [True, True]
    raw = [entry.answers["mcnemar_p"] for entry in spots.compared]
    assert [entry.holm for entry in spots.compared] == pytest.approx(holm(raw))
    assert spots.entries[1].ms == pytest.approx(30 + 1 + 0.5 + 40)


def test_every_run_stands_in_every_table(spots):
    for table in (main_table(spots), parser_table(spots), split_table(spots)):
        assert len(table.rows) == len(spots.entries)
        assert all(len(row) == len(table.heads) for row in table.rows)
    table = main_table(spots)
    row = dict(zip(table.heads, table.rows[1], strict=True))
    answers = spots.entries[1].answers
    assert row["lines yes→no / no→yes"] == f"{answers['yes_to_no']} / {answers['no_to_yes']}"
    turned = answers["prompts_right_to_wrong"], answers["prompts_wrong_to_right"]
    assert row["prompts right→wrong / wrong→right"] == "{} / {}".format(*turned)
    assert row["unparsed / empty / error"] == "0 / 0 / 1"
    assert row["Holm p"] == numbers.p_value(spots.entries[1].holm)
    assert parser_table(spots).heads == ("run", "kept", "official", "strict")


def test_captions_show_recall_and_no_flips(results):
    heads = main_table(sections_of(results)[1]).heads
    assert "recall minus baseline [95 %]" in heads
    assert not any("McNemar" in head or "→" in head for head in heads)


def test_the_verdict_follows_the_intervals(spots):
    text = " ".join(verdict(spots))
    for entry in spots.compared:
        gain = spots.gain(entry)
        kind = "level" if gain.low <= 0 <= gain.high else "better" if gain.low > 0 else "worse"
        assert spots.verdict(entry) == kind
        if kind == "worse":
            assert f"{entry.label} ({numbers.difference(gain, 1)})" in text
    assert "random at 12" in text
    assert "lose" in text
    assert "Failed calls: 1 line in 1 run." in text


def with_gain(section, gains, lower=False):
    """The section with other differences, in the order of its compared runs."""
    given = iter(gains)
    entries = tuple(
        entry if entry.baseline else replace(entry, differences={"f1": Number(*next(given))})
        for entry in section.entries
    )
    return replace(section, entries=entries, lower_is_better=lower)


def test_a_run_without_visible_loss_is_named_with_what_is_not_excluded(spots):
    lost = (-0.3, -0.4, -0.2)
    fine = (-0.01, -0.03, 0.02)
    text = " ".join(verdict(with_gain(spots, [fine, lost, lost, fine, lost, lost])))
    assert "The fewest tokens without a visible loss: cls at 12" in text
    assert "still allows a change of -0.030" in text
    assert "Every run with fewer tokens loses." in " ".join(verdict(with_gain(spots, [lost] * 6)))


def test_lower_is_better_turns_the_verdict_round(spots):
    up = (0.1, 0.05, 0.2)
    assert {spots.verdict(e) for e in with_gain(spots, [up] * 6).compared} == {"better"}
    turned = with_gain(spots, [up] * 6, lower=True)
    assert {turned.verdict(entry) for entry in turned.compared} == {"worse"}


def test_no_interval_is_no_verdict(spots):
    bare = with_gain(spots, [(-0.1, None, None)] * 6)
    assert {bare.verdict(entry) for entry in bare.compared} == {"unknown"}
    assert "lose" not in " ".join(verdict(bare))
    assert "fewest" not in " ".join(verdict(bare))


def test_many_runs_are_counted_instead_of_listed(spots):
    one = next(iter(spots.compared))
    many = replace(spots, entries=(spots.entries[0], *(replace(one, run=str(i)) for i in range(9))))
    assert "9 runs, from" in " ".join(verdict(many))


def test_html_is_one_well_formed_file(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert all(source.startswith(("#", "data:image/png;base64,")) for source in page.sources)
    assert not re.search(r"url\((?!#)", text)
    assert len(page.ids) == len(set(page.ids)), "drawings share no names"
    assert {source[1:] for source in page.sources if source[0] == "#"} <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert "llava-&lt;made|up&gt;" in text
    assert "<made|up>" not in text


def test_drawings_follow_the_colours_of_the_page(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        assert "var(--ink)" in drawing
        assert set(re.findall(r"#[0-9a-f]{6}\b", drawing)) <= {"#000000"}
        assert "aria-label" in drawing


def test_markdown_tables_are_whole_and_pictures_exist(folder):
    text = (folder / "report.md").read_text(encoding="utf-8")
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert len(pictures) == 6, "tokens and time for both rules, flips for one, and the overlays"
    for name in pictures:
        Image.open(folder / name).verify()
    assert "&lt;made|up>" in text
    assert "6 runs (haunted / spots)" in text
    assert "f1 by parser\n\nThe same answers as other harnesses read them" in text


def test_parsers_that_agree_are_a_sentence(tmp_path, results):
    same = json.loads(json.dumps(results))
    for run in same["runs"]:
        parsers = run["benchmarks"]["haunted"]["spots"]["parsers"]
        parsers["strict"] = parsers["official"]
    write_report(tmp_path, same)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "The same for every run by `official` and `strict`." in text


def test_captions_that_name_less_are_no_cheap_win(results):
    section = sections_of(results)[1]
    level = Number(0.0, -0.04, 0.04)
    for recall, named in ((Number(-0.2, -0.3, -0.1), False), (level, True)):
        entries = tuple(
            entry
            if entry.baseline
            else replace(entry, differences={"ghosts_i": level, "recall": recall})
            for entry in section.entries
        )
        text = " ".join(verdict(replace(section, entries=entries)))
        assert ("The fewest tokens without a visible loss" in text) == named
    assert "recall 0.000 [-0.040, +0.040]" in text


def test_both_forms_hold_the_same_cells(folder):
    cells = [c for c in Page((folder / "report.html").read_text(encoding="utf-8")).cells if c]
    text = (folder / "report.md").read_text(encoding="utf-8")
    numbers_shown = [cell for cell in cells if "[" in cell and cell[0] in "-+0123456789"]
    assert len(numbers_shown) > 30
    assert all(cell in text for cell in numbers_shown)


def test_a_report_of_one_run_without_times(tmp_path, results):
    alone = {**results, "runs": [{**results["runs"][0], "prefill": None}]}
    write_report(tmp_path, alone)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "prefill: LLM / all" not in text
    assert "minus baseline" not in text
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.html"}


def test_a_run_that_answered_nothing_is_shown_without_numbers(tmp_path, results):
    empty = json.loads(json.dumps(results))
    for block in empty["runs"][2]["benchmarks"]["haunted"].values():
        block.update(answered=0, parsers={"official": {}, "strict": {}}, official={})
    for pair in empty["runs"][2]["against_baseline"]["haunted"].values():
        pair.update(lines=0, differences={})
    write_report(tmp_path, empty)
    assert "visionzip" in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("series", "logarithmic", "notes", "narrow"),
    [(3, True, False, False), (30, False, True, False), (3, True, False, True),
     (30, False, True, True)],
)  # fmt: skip
def test_words_of_a_plot_do_not_lie_on_each_other(series, logarithmic, notes, narrow):
    rng = np.random.default_rng(series)
    points = [Point("unpruned", "196", 196.0, 0.9, 0.88, 0.92, baseline=True)]
    for number, kept in product(range(series), (12, 25, 49)):
        y = 0.8 + 0.02 * rng.random()
        cost = kept if logarithmic else kept + 9 * rng.random()
        points.append(Point(f"method {number} with a name", str(kept), cost, y, y - 0.02, y + 0.02))
    figure = cost_figure(points, "title", ("x", "y"), False, logarithmic, notes, narrow)
    figure.canvas.draw()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    boxes += [t.get_window_extent() for t in axes.get_xticklabels() if t.get_text()]
    names = {text.get_text() for text in axes.texts}
    assert {point.series for point in points} <= names
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    width, height = figure.canvas.get_width_height()
    assert all(box.x0 >= 0 and box.y0 >= 0 for box in boxes)
    assert all(box.x1 <= width and box.y1 <= height for box in boxes)


def test_plots_of_awkward_numbers():
    same = [Point("a", "1", 5.0, 0.5, baseline=True), Point("b", "1", 5.0, 0.5)]
    cost_figure(same, "same place", ("x", "y"), True, True, True)
    cost_figure(same, "same place", ("x", "y"), True, False, True)
    figure = flips_figure([("nothing flipped", 0, 0)], "none")
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", "0"]
