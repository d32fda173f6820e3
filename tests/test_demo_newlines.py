"""A model with newline tokens on the page: what can be set is what can be kept."""

import pytest
from PIL import Image
from tiny_chatters import tiny_next

from lvlm_prune.demo.engine import Engine
from lvlm_prune.demo.handlers import Handlers

QUESTION = "is there a cat ?"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    photo = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.linear_gradient("L").convert("RGB").resize((60, 40)).save(photo)
    engine = Engine(tiny_next(), max_new_tokens=2)
    handlers = Handlers(engine)
    yield handlers, str(photo), handlers.budget(str(photo), 10, 100).total
    engine.close()


def ask(page, method: str, keep: int):
    handlers, photo, _ = page
    *_, view = handlers.ask(photo, QUESTION, method, keep, "none", "ignore")
    return view


@pytest.mark.parametrize("method", ["cls", "divprune", "random", "visionzip"])
def test_the_slider_ends_at_the_most_that_a_method_can_keep(page, method):
    total = page[2]
    view = ask(page, method, total)
    assert view.numbers["pruned"]["visual_tokens"] == total
    assert view.numbers["full"]["visual_tokens"] > total
    assert f"at most {total}" in ask(page, method, total + 1).message


def test_the_control_that_keeps_everything_keeps_newline_tokens_too(page):
    view = ask(page, "identity", page[2])
    assert view.numbers["pruned"] == {
        **view.numbers["pruned"],
        "answer": view.numbers["full"]["answer"],
        "visual_tokens": view.numbers["full"]["visual_tokens"],
    }
    assert "nothing is saved" in view.answers


def test_both_comparisons_answer_at_the_end_of_the_slider(page):
    handlers, photo, total = page
    for compare in (handlers.compare_methods, handlers.compare_budgets):
        *_, view = compare(photo, QUESTION, "cls", total, "none", "ignore")
        assert sum("refused" not in row for row in view.numbers) > 4
