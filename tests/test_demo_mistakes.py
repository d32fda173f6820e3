"""What fails in the demo: whoever asked gets a sentence, the log the rest, and others go on."""

import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from time import sleep

import pytest
import torch
from PIL import Image
from tiny_probe import tiny_loaded

from lvlm_prune import attach
from lvlm_prune.capabilities import refused_methods
from lvlm_prune.config import METHOD
from lvlm_prune.demo import cards
from lvlm_prune.demo.cancelling import CancelledError, Job
from lvlm_prune.demo.compare import Compared, Progress
from lvlm_prune.demo.engine import Engine
from lvlm_prune.demo.handlers import Handlers
from lvlm_prune.demo.measure import first_token
from lvlm_prune.demo.mistakes import BROKEN, NO_MEMORY, told
from lvlm_prune.demo.settings import Asking, Settings, first_method
from lvlm_prune.demo.uploads import LARGE, LargeImages, pixels, read_upload

QUESTION = "is there a cat ?"
VALUES = ("cls", 9, "none", "ignore")
INSIDE = "forward() got an unexpected argument in /secret/venv/foo.py"


@pytest.fixture
def handlers():
    engine = Engine(tiny_loaded(), max_new_tokens=4)
    yield Handlers(engine)
    engine.close()


@pytest.fixture
def photo(tmp_path) -> str:
    path = tmp_path / "photo.png"
    Image.linear_gradient("L").convert("RGB").save(path)
    return str(path)


class FailsAt:
    """A hook of the model that fails while one number of visual tokens is in the prompt."""

    def __init__(self, model, columns: int, error: Exception) -> None:
        self.columns, self.error = columns, error
        self.handle = model.get_decoder().register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, named):
        if named["inputs_embeds"].shape[1] == self.columns:
            raise self.error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), NO_MEMORY),
        (MemoryError(), NO_MEMORY),
        (TypeError(INSIDE), BROKEN),
        (ValueError(INSIDE), BROKEN),
        (RuntimeError(INSIDE), BROKEN),
    ],
)
def test_one_way_that_fails_does_not_end_a_comparison(handlers, photo, caplog, error, sentence):
    *_, plain = handlers.compare_budgets(photo, QUESTION, *VALUES)
    *_, asked = handlers.ask(photo, QUESTION, *VALUES)
    handlers.engine.cache = type(handlers.engine.cache)(2**20)
    with caplog.at_level(logging.WARNING):
        fails = FailsAt(handlers.engine.model, asked.numbers["pruned"]["prompt_columns"], error)
        *_, broken = handlers.compare_budgets(photo, QUESTION, *VALUES)
        fails.handle.remove()
    refused = [row for row in broken.numbers if "refused" in row]
    assert [row["refused"] for row in refused] == [sentence]
    assert len(broken.numbers) == len(plain.numbers) > 3
    others = [row for row in plain.numbers if row["label"] != refused[0]["label"]]
    assert [row for row in broken.numbers if "refused" not in row] == others
    assert "/secret" not in broken.grid
    assert ("/secret" in caplog.text) == (sentence == BROKEN)
    assert "1 could not run" in broken.progress


@pytest.mark.parametrize(
    ("refused", "method"),
    [([], METHOD), (refused_methods(None), "divprune")],
    ids=["family", "any"],
)
def test_the_page_opens_with_a_method_that_the_model_can_run(refused, method):
    assert first_method(refused) == method


def raised(error: Exception) -> Exception:
    """An error that another package raises."""
    try:
        torch.nn.Linear(1, 1).register_module("a.b", error)  # type: ignore[arg-type]
    except Exception as caught:
        return caught
    raise AssertionError


def test_sentences_of_the_package_itself_are_told_as_they_are():
    with pytest.raises(ValueError, match="got 0") as caught:
        Settings("cls", 0).config()
    assert told(caught.value)[1:] in f"{caught.value}."
    assert told(raised(TypeError("x"))) == BROKEN


@pytest.mark.parametrize("answered", [1, 3])
def test_ways_without_an_answer_are_not_counted_as_ways(handlers, photo, answered):
    full = handlers.engine.full(Asking(*read_upload(photo), QUESTION), Job())
    rows = [Compared("full model", full), *[Compared("x", full)] * answered, Compared("y", None)]
    words = cards.progress(Progress(tuple(rows), len(rows), "", "title"))
    assert f"Done: {answered} ways to prune; 0 of them change the answer. 1 could not run." in words


@pytest.mark.parametrize("reweight", ["none", "vcd", "ilvad", "pai:code", "var"])
def test_the_wait_holds_every_pass_that_generate_runs(handlers, photo, reweight):
    engine = handlers.engine
    inputs = engine.loaded.inputs([Image.open(photo).convert("RGB")], [QUESTION])
    config = Settings("cls", 5, reweight).config()
    passes = []
    engine.model.get_decoder().register_forward_pre_hook(lambda *_: passes.append(1))
    with attach(engine.model, config):
        engine.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    wanted = len(passes)
    assert (wanted > 1) == (reweight in ("vcd", "ilvad", "pai:code"))
    passes.clear()
    assert first_token(engine.model, config, inputs) > 0
    assert len(passes) == wanted
    *_, view = handlers.ask(photo, QUESTION, "cls", 5, reweight, "ignore")
    assert ("and not in prefill and KV cache" in view.answers) == (wanted > 1)


def test_large_images_go_in_one_at_a_time_and_small_ones_do_not_wait(tmp_path):
    large, small = tmp_path / "large.png", tmp_path / "small.png"
    Image.new("1", (LARGE // 1000 + 1, 1000)).save(large)
    Image.new("1", (1000, 1000)).save(small)
    assert pixels(str(large)) > LARGE > pixels(str(small)) == 10**6
    gate, inside, most, lock = LargeImages(), {}, {}, Lock()

    def go(path: str) -> None:
        with gate.one_at_a_time(path, Job()):
            with lock:
                inside[path] = inside.get(path, 0) + 1
                most[path] = max(most.get(path, 0), inside[path])
            sleep(0.05)
            with lock:
                inside[path] -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(go, [str(large), str(small)] * 4))
    assert most[str(large)] == 1
    assert most[str(small)] > 1


@pytest.mark.parametrize("path", ["", "/no/such/file.png", __file__])
def test_what_is_no_image_is_not_large(path):
    assert pixels(path) == 0


def test_whoever_waits_for_a_large_image_can_cancel(tmp_path):
    large = tmp_path / "large.png"
    Image.new("1", (LARGE // 1000 + 1, 1000)).save(large)
    gate, job = LargeImages(), Job()
    job.cancel()
    with (
        gate.one_at_a_time(str(large), Job()),
        pytest.raises(CancelledError),
        gate.one_at_a_time(str(large), job),
    ):
        pass
    with gate.one_at_a_time(str(large), Job()):
        pass
