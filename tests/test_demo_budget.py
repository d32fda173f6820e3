"""A number of visual tokens, as people type it: every other one is a sentence."""

import pytest
from PIL import Image
from tiny_probe import tiny_loaded

from lvlm_prune.demo.engine import Engine
from lvlm_prune.demo.handlers import Handlers, budget_line

TOTAL = 36
ODD = [None, "", "9", True, 0, -3, 2.5, float("nan"), float("inf"), TOTAL + 1, 10**400, [9]]


@pytest.fixture(scope="module")
def handlers():
    engine = Engine(tiny_loaded(), max_new_tokens=2)
    yield Handlers(engine)
    engine.close()


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.linear_gradient("L").convert("RGB").save(path)
    return str(path)


@pytest.mark.parametrize("keep", ODD, ids=lambda keep: repr(keep)[:9])
def test_the_line_below_the_slider_says_what_can_be_typed(keep):
    assert budget_line(keep, TOTAL) == f"Choose a whole number from 1 to {TOTAL}."


@pytest.mark.parametrize("keep", [1, 9, 9.0, TOTAL])
def test_the_line_below_the_slider_tells_tokens_and_percent(keep):
    assert budget_line(keep, TOTAL).startswith(f"{keep:.0f} of {TOTAL} visual tokens = ")


@pytest.mark.parametrize("name", ["ask", "compare_methods", "compare_budgets"])
@pytest.mark.parametrize("keep", ODD, ids=lambda keep: repr(keep)[:9])
def test_a_number_that_cannot_be_kept_is_one_sentence(handlers, photo, name, keep):
    *_, view = getattr(handlers, name)(photo, "is it ?", "cls", keep, "none", "ignore")
    words = view.message if name == "ask" else view.progress
    assert "Please note" in words
    assert "must be a whole number" in words or f"more than the {TOTAL} visual tokens" in words
    assert len(handlers.jobs) == 0


@pytest.mark.parametrize("keep", [None, "", -3, 2.5])
def test_a_new_image_mends_a_slider_without_a_number(handlers, photo, keep):
    found = handlers.budget(photo, keep, 2 * TOTAL)
    assert (found.total, found.keep) == (TOTAL, TOTAL // 4)
