"""The page shows which visual tokens were merged into which, for methods that merge."""

import base64
import io
import re

import pytest
import torch
from PIL import Image
from tiny_probe import tiny_loaded

from lvlm_prune.demo import figures
from lvlm_prune.demo.engine import Engine
from lvlm_prune.demo.handlers import Handlers
from lvlm_prune.demo.pictures import merged_groups
from lvlm_prune.demo.results import Answered
from lvlm_prune.show_figure import Drawn
from lvlm_prune.views import View

QUESTION = "is there a cat ?"
COUNTS = re.compile(r"(\d+) tokens were merged into (\d+) of those kept(?:, (\d+) were dropped)?")


@pytest.fixture
def ask(tmp_path):
    engine = Engine(tiny_loaded(), max_new_tokens=4)
    photo = tmp_path / "photo.png"
    Image.linear_gradient("L").convert("RGB").save(photo)

    def ask(method: str, keep: int):
        *_, view = Handlers(engine).ask(str(photo), QUESTION, method, keep, "none", "ignore")
        return view

    yield ask
    engine.close()


@pytest.mark.parametrize("method", ["visionzip", "tome", "vflowopt"])
def test_every_visual_token_is_kept_merged_or_dropped(ask, method):
    view = ask(method, 9)
    merged, into, dropped = (int(n or 0) for n in COUNTS.search(view.scores).groups())
    numbers = view.numbers
    assert len(numbers["kept"]) + merged + dropped == numbers["full"]["visual_tokens"]
    assert 0 < into <= 9
    assert "merged into a kept one: grey" in view.note


@pytest.mark.parametrize("method", ["cls", "divprune", "random", "prumerge"])
def test_methods_without_groups_show_none(ask, method):
    view = ask(method, 9)
    assert "merged" not in view.scores + view.note
    assert "</i>not kept: grey" in view.note


@pytest.mark.parametrize(
    ("groups", "merged", "into", "gone"),
    [
        ([0, 0, 2, 2], 2, 2, "merged into a kept one"),
        ([0, 0, 2, 0], 2, 1, "merged into a kept one"),
        ([0, 0, 2, -1], 1, 1, "dropped, or merged into a kept one"),
        ([0, -1, 2, -1], 0, 0, "not kept"),
        # Tokens that a sink policy holds are in no group.
        ([-1, 2, 2, 2], 2, 1, "merged into a kept one"),
    ],
)
def test_counts_are_those_of_the_groups(groups, merged, into, gone):
    kept, cells = torch.tensor([0, 2]), torch.arange(4)
    choice = Drawn([(cells, (2, 2))], kept, None, None, 4, torch.tensor(groups))
    answered = Answered("yes", None, choice)
    assert f"</i>{gone}: grey" in figures.legend(None, answered)
    picture = merged_groups([[View(Image.new("RGB", (32, 32)), cells, (2, 2))]], answered)
    shown = figures.merged(picture, answered)
    if merged == 0:
        assert shown == ""
        return
    found = COUNTS.search(shown)
    assert (int(found[1]), int(found[2])) == (merged, into)
    drawn = Image.open(io.BytesIO(base64.b64decode(picture.split(",")[1])))
    assert drawn.size == (drawn.width, drawn.width)
