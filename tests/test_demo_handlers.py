"""What the page's buttons do: every mistake is a sentence, and users never meet."""

import base64
import io
import re
import struct
import zlib
from html import escape
from html.parser import HTMLParser
from math import inf
from pathlib import Path

import pytest
from PIL import Image
from tiny_models import TOKENS
from tiny_probe import tiny_loaded

from lvlm_prune.demo.engine import Engine
from lvlm_prune.demo.handlers import Handlers
from lvlm_prune.demo.mistakes import BROKEN
from lvlm_prune.loading import load

QUESTION = "is there a cat ?"
VALUES = ("cls", 9, "none", "ignore")


@pytest.fixture
def handlers():
    engine = Engine(tiny_loaded(), max_new_tokens=4, unsteady=inf)
    yield Handlers(engine)
    engine.close()


@pytest.fixture
def photo(tmp_path) -> str:
    path = tmp_path / "photo.png"
    Image.linear_gradient("L").convert("RGB").save(path)
    return str(path)


class Words(HTMLParser):
    """The text of HTML, and its tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags = "", set()
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def pictures(html: str) -> list[Image.Image]:
    """The pictures inside HTML."""
    found = re.findall(r'src="data:image/webp;base64,([^"]+)" alt="[^"]+"', html)
    assert len(found) == html.count("<img")
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in found]


def last(views):
    *_, end = views
    return end


def test_both_answers_are_shown(handlers, photo):
    *before, view = handlers.ask(photo, QUESTION, *VALUES)
    assert ["with all visual tokens" in one.message for one in before] == [True, False, False]
    assert all(one.answers is None for one in before)
    full, pruned = view.numbers["full"], view.numbers["pruned"]
    text = Words(view.answers).text
    assert QUESTION in text
    assert full["answer"] in text
    assert pruned["answer"] in text
    assert f"{pruned['kv_mib']:.2f} MiB" in text
    whole, kept, scores = pictures(view.kept + view.scores)
    assert whole.size == kept.size == scores.size
    assert len(view.numbers["kept"]) == pruned["visual_tokens"] == 9


def test_a_method_that_ranks_nothing_has_no_score_map(handlers, photo):
    view = last(handlers.ask(photo, QUESTION, "random", 9, "none", "ignore"))
    assert not pictures(view.scores)
    assert "random ranks no tokens" in view.scores


def test_numbers_of_a_comparison_are_those_of_its_answers(handlers, photo):
    view = last(handlers.compare_methods(photo, QUESTION, *VALUES))
    for row in view.numbers[1:]:
        method = row["label"]
        alone = last(handlers.ask(photo, QUESTION, method, 9, "none", "ignore"))
        if "refused" not in row:
            assert row["answer"] == alone.numbers["pruned"]["answer"]
            assert row["answer"] in Words(view.grid).text
        else:
            assert alone.answers is None


def test_progress_counts_up_to_the_end(handlers, photo):
    views = list(handlers.compare_budgets(photo, QUESTION, "cls", 7, "none", "ignore"))
    assert len(views) == 8
    for number, view in enumerate(views[:-1]):
        assert f'value="{number}" max="7"' in view.progress
        assert view.grid.count("<figure") == number
    assert "Done: 6 ways" in views[-1].progress
    assert views[-1].grid.count("<figure") == views[-1].grid.count("<img") == 7


def bomb() -> bytes:
    """A PNG of 200 bytes that says it has 60000x60000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def png(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "PNG")
    return stream.getvalue()


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (bomb(), "has more than 64 million pixels"),
        (png(300, 300)[:150], "is damaged or incomplete"),
        (SVG, "is not an image that can be read"),
        (b"%PDF-1.7", "is not an image that can be read"),
        (b"", "is empty"),
        (png(15, 40), "This image is too small: it has 15x40 pixels"),
        (png(10001, 400), "This image is too large: it has 10001x400 pixels"),
        (png(2000, 20), "This image is too narrow: it has 2000x20 pixels"),
        (None, "does not exist"),
    ],
    ids=["bomb", "truncated", "svg", "pdf", "empty", "small", "large", "narrow", "gone"],
)
def test_hostile_uploads_are_sentences(handlers, tmp_path, content, sentence):
    path = tmp_path / "secret_name.png"
    if content is not None:
        path.write_bytes(content)
    for function in (handlers.ask, handlers.compare_methods, handlers.compare_budgets):
        (view,) = function(str(path), QUESTION, *VALUES)
        html = view.message if function == handlers.ask else view.progress
        assert sentence in html
        assert 'role="alert"' in html
        assert html.count(".</div>") == 1
        assert str(tmp_path) not in html
        assert "secret_name" not in html
    assert not len(handlers.jobs)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"path": None}, "Choose an image first"),
        ({"question": " \n"}, "Type a question about the image first."),
        ({"question": "is " * 200}, "The question has 600 characters, the limit is 500"),
        ({"question": "what is <image> ?"}, "The question holds &lt;image&gt;"),
        ({"method": "cl"}, "cls"),
        ({"keep": 0}, "at least one token"),
        ({"keep": TOKENS + 1}, "more than the 36 visual tokens"),
        ({"keep": float("nan")}, "must be a whole number"),
        ({"keep": float("inf")}, "must be a whole number"),
        ({"keep": 2.5}, "must be a whole number"),
        ({"keep": None}, "must be a whole number"),
        ({"keep": "many"}, "must be a whole number"),
        ({"reweight": "nothing"}, "nothing"),
        ({"sinks": "some"}, "ignore, keep, drop, only, query"),
        ({"sinks": "only"}, "sink"),
    ],
)
def test_mistakes_are_sentences(handlers, photo, changed, sentence):
    given = {
        "path": photo,
        "question": QUESTION,
        "method": "cls",
        "keep": 9,
        "reweight": "none",
        "sinks": "ignore",
    }
    view = last(handlers.ask(**{**given, **changed}))
    assert sentence in view.message
    assert 'role="alert"' in view.message
    assert view.answers is None
    assert "Traceback" not in view.message
    good = last(handlers.ask(**given))
    assert good.answers is not None


def test_a_method_that_the_model_cannot_run_is_a_sentence(photo):
    engine = Engine(load("internvl-pictogram"), max_new_tokens=2)
    handlers = Handlers(engine)
    assert "downsample" in handlers.refused
    view = last(handlers.ask(photo, "Is there a cat?", "downsample", 25, "none", "ignore"))
    assert "downsample" in view.message
    assert 'role="alert"' in view.message
    grid = last(handlers.compare_methods(photo, "Is there a cat?", "cls", 25, "none", "ignore"))
    refused = [row["label"] for row in grid.numbers if "refused" in row]
    assert refused == [name for name in refused if name in handlers.refused] != []
    engine.close()


def test_what_fails_inside_is_a_sentence_too(handlers, photo, caplog):
    def fail(*_):
        raise RuntimeError("CUDA error at /secret/place")

    hook = handlers.engine.model.get_decoder().register_forward_pre_hook(fail)
    view = last(handlers.ask(photo, QUESTION, *VALUES))
    assert escape(BROKEN) in view.message
    assert "secret" not in view.message
    assert "/secret/place" in caplog.text
    hook.remove()
    assert last(handlers.ask(photo, QUESTION, *VALUES)).answers is not None


def test_words_of_users_never_become_html(handlers, photo):
    question = '<img src=x onerror="alert(1)"> <script>'
    view = last(handlers.ask(photo, question, *VALUES))
    assert "<script" not in view.answers
    assert not {"img", "script"} & Words(view.answers).tags
    assert question in Words(view.answers).text


def test_steps_of_two_users_do_not_mix(handlers, photo, tmp_path):
    other = str(tmp_path / "other.png")
    Image.radial_gradient("L").convert("RGB").save(other)
    first, second = (
        (photo, QUESTION, *VALUES),
        (other, "is there a dog ?", "random", 5, "pai", "keep"),
    )
    alone = [last(handlers.ask(*values)).numbers for values in (first, second)]
    fresh = Handlers(Engine(tiny_loaded(), max_new_tokens=4))
    runs = [fresh.ask(*first, session="a"), fresh.ask(*second, session="b")]
    views = [[], []]
    for _ in range(4):
        for number, run in enumerate(runs):
            views[number].append(next(run))
    for got, wanted in zip(views, alone, strict=True):
        numbers = got[-1].numbers
        assert numbers["question"] == wanted["question"]
        assert numbers["kept"] == wanted["kept"]
        for side in ("full", "pruned"):
            assert numbers[side]["answer"] == wanted[side]["answer"]
    fresh.engine.close()


def test_cancelling_ends_only_ones_own(handlers, photo):
    mine = handlers.compare_methods(photo, QUESTION, *VALUES, session="mine")
    other = handlers.compare_methods(photo, QUESTION, *VALUES, session="other")
    for run in (mine, other):
        next(run)
        next(run)
    assert len(handlers.jobs) == 2
    assert "Cancelled" in handlers.cancel("mine")
    assert "Nothing is running" in handlers.cancel("a third")
    (end,) = mine
    assert "Cancelled" in end.progress
    assert end.grid is None
    assert "Done" in last(other).progress
    assert not len(handlers.jobs)


def test_a_user_who_goes_away_leaves_no_job(handlers, photo):
    run = handlers.ask(photo, QUESTION, *VALUES, session="gone")
    next(run)
    run.close()
    assert not len(handlers.jobs)


@pytest.mark.parametrize(("keep", "total", "wanted"), [(49, 196, 9), (1, 196, 1), (36, 36, 36)])
def test_the_slider_keeps_its_share_with_a_new_image(handlers, photo, keep, total, wanted):
    found = handlers.budget(photo, keep, total)
    assert (found.total, found.keep) == (TOKENS, wanted)
    assert found.text.startswith(f"{wanted} of {TOKENS} visual tokens")
    assert handlers.budget(None, keep, total).keep == keep


def test_two_files_of_one_picture_are_one_image(handlers, photo, tmp_path):
    calls = []
    last(handlers.ask(photo, QUESTION, *VALUES))
    copied = tmp_path / "copied.bmp"
    Image.open(photo).save(copied)
    handlers.engine.model.register_forward_pre_hook(lambda *_: calls.append(1))
    again = last(handlers.ask(str(copied), QUESTION, *VALUES))
    assert not calls
    assert again.answers is not None
    assert Path(photo).read_bytes() != copied.read_bytes()
