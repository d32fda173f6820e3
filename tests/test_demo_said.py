"""What the page says of an answer is true: of times, of savings, of sinks and of controls."""

from dataclasses import replace
from math import inf
from statistics import median

import pytest
import torch
from PIL import Image
from tiny_probe import tiny_loaded

from lvlm_prune.demo import cards, figures
from lvlm_prune.demo.cancelling import Job
from lvlm_prune.demo.compare import Compared, Progress
from lvlm_prune.demo.engine import Engine
from lvlm_prune.demo.handlers import Handlers
from lvlm_prune.demo.measure import spread
from lvlm_prune.demo.results import UNSTEADY, Answered, Asked, Measured, Prefilled
from lvlm_prune.demo.settings import Asking, Settings
from lvlm_prune.demo.uploads import digest
from lvlm_prune.demo.words import NO_SINKS
from lvlm_prune.show_figure import Drawn

PICTURE = Image.linear_gradient("L").convert("RGB")
ASKING = Asking(PICTURE, digest(PICTURE), "is there a cat ?")
COST = Prefilled(20.0, 0.0, prefill=10.0, first_token=30.0, kv_bytes=2**20, prompt=20)


def answered(text: str, kept: int, total: int = 16) -> Answered:
    return Answered(text, None, Drawn([], torch.arange(kept), None, None, total))


def said(pruned: Answered, cost: Prefilled, spread: float = 0.0, reweight: str = "none") -> str:
    asked = Asked(answered("yes", 16), pruned, Measured(COST, cost, 5, spread))
    return cards.answers(ASKING, Settings("cls", 4, reweight), asked)


@pytest.mark.parametrize(
    ("wait", "words"), [(25.0, "−17"), (30.0, "as before"), (33.0, "+10"), (75.0, "+150")]
)
def test_the_verdict_names_the_whole_wait(wait, words):
    text = said(answered("yes", 4), replace(COST, prefill=5.0, first_token=wait))
    assert f"the whole wait for the first token {words}" in text


def test_nothing_is_saved_where_nothing_was_pruned():
    text = said(answered("yes", 16), replace(COST, prefill=7.0))
    assert "All 16 visual tokens are kept, so nothing is saved" in text
    assert "wait for the first token" not in text


def test_reweighting_alone_is_named_with_what_it_costs():
    text = said(answered("no", 16), replace(COST, prefill=15.0), reweight="gift")
    assert "attention is reweighted" in text
    assert "prefill +50" in text
    assert "nothing is saved" not in text


@pytest.mark.parametrize(("differ", "busy"), [(UNSTEADY, False), (UNSTEADY + 0.01, True)])
def test_rounds_that_differ_are_called_so(differ, busy):
    assert ("this machine is busy" in said(answered("yes", 4), COST, differ)) == busy


@pytest.mark.parametrize(
    "values", [[2.0], [3.0, 1.0], [1.0, 2.0, 3.0, 4.0, 5.0], [0.4, 0.9, 0.5, 0.45, 0.41]]
)
def test_spread_is_the_middle_half_over_the_median(values):
    ordered, last = sorted(values), len(values) - 1

    def at(share: float) -> float:
        below = int(share * last)
        above = min(below + 1, last)
        return ordered[below] + (share * last - below) * (ordered[above] - ordered[below])

    wanted = (at(0.75) - at(0.25)) / median(values)
    assert spread(values) == pytest.approx(wanted)


@pytest.mark.parametrize(("unsteady", "again"), [(inf, False), (-1.0, True)])
def test_unsteady_times_are_measured_anew_and_answers_are_not(unsteady, again):
    engine = Engine(tiny_loaded(), max_new_tokens=4, unsteady=unsteady)
    settings = Settings("cls", 5)
    first = engine.ask(ASKING, settings)
    second = engine.ask(ASKING, settings)
    engine.close()
    assert second.full is first.full
    assert second.pruned is first.pruned
    assert (second.measured is not first.measured) == again


def test_an_image_without_sinks_is_a_sentence_of_the_page(tmp_path):
    engine = Engine(tiny_loaded(), max_new_tokens=2)
    photo = tmp_path / "photo.png"
    PICTURE.save(photo)
    values = (str(photo), ASKING.question, "cls", 4, "none", "only")
    *_, asked = Handlers(engine).ask(*values)
    *_, compared = Handlers(engine).compare_budgets(*values)
    has_sinks = bool(engine.full(ASKING, Job()).sinks.any())
    engine.close()
    assert not has_sinks
    assert NO_SINKS in asked.message
    assert NO_SINKS in compared.grid


def test_keeping_everything_is_no_ranking_and_a_control_ranks_nothing():
    assert "nothing was ranked" in figures.scores(None, "visionzip", answered("yes", 16))
    assert "random ranks no tokens" in figures.scores(None, "random", answered("yes", 4))


@pytest.mark.parametrize(
    ("controls", "easy"), [(["yes", "yes"], True), (["yes", "no"], False), ([], False)]
)
def test_a_comparison_says_when_controls_do_as_well(controls, easy):
    rows = [Compared("full model", answered("yes", 16)), Compared("cls", answered("yes", 4))]
    rows += [Compared("random", answered(text, 4), control=True) for text in controls]
    words = cards.progress(Progress(tuple(rows), len(rows), "", "title"))
    assert ("Even the controls keep it" in words) == easy
    html = figures.grid("cls & others", rows, [""] * len(rows))
    assert html.count(">control</i>") == len(controls)
    assert "cls &amp; others" in html
