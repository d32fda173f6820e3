"""The demo's engine: its answers are the model's own, made once, and leave the model as it was."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from math import inf

import pytest
import torch
from PIL import Image
from tiny_models import TOKENS
from tiny_probe import tiny_loaded

from lvlm_prune import attach
from lvlm_prune.demo.cache import ByteLimitedCache
from lvlm_prune.demo.cancelling import CancelledError, Job
from lvlm_prune.demo.compare import compare_budgets, compare_methods
from lvlm_prune.demo.engine import Engine
from lvlm_prune.demo.settings import Asking, Settings
from lvlm_prune.demo.uploads import digest
from lvlm_prune.methods import METHODS

NEW = 4  # tokens of an answer


@pytest.fixture
def engine():
    made = Engine(tiny_loaded(), max_new_tokens=NEW, unsteady=inf)
    yield made
    made.close()


def asking(question: str = "is there a cat ?", turned: int = 0) -> Asking:
    image = Image.linear_gradient("L").convert("RGB").rotate(turned)
    return Asking(image, digest(image), question)


@pytest.fixture
def passes(engine):
    """How often the model was called."""
    counted = []
    engine.model.register_forward_pre_hook(lambda *_: counted.append(1))
    return counted


def generated(engine, asked: Asking, settings: Settings | None) -> str:
    """The answer as a script gets it."""
    loaded = engine.loaded
    inputs = loaded.inputs([asked.image], [asked.question])

    def run() -> str:
        output = loaded.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        return loaded.processor.batch_decode(new, skip_special_tokens=True)[0].strip()

    if settings is None:
        return run()
    with attach(loaded.model, settings.config()):
        return run()


@pytest.mark.parametrize(
    ("method", "reweight"),
    [("cls", "none"), ("random", "none"), ("tome", "pai"), ("visionzip", "vcd")],
)
def test_answers_are_those_of_a_script(engine, method, reweight):
    settings = Settings(method, 9, reweight)
    found = engine.ask(asking(), settings)
    assert found.full.text == generated(engine, asking(), None)
    assert found.pruned.text == generated(engine, asking(), settings)
    assert (found.full.tokens, found.pruned.tokens) == (TOKENS, 9)


@pytest.mark.parametrize("keep", [1, 9, TOKENS])
def test_memory_is_that_of_keys_and_values(engine, keep):
    measured = engine.ask(asking(), Settings("divprune", keep)).measured
    text = engine.model.config.get_text_config()
    column = 2 * 4 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
    prompt = engine.loaded.inputs([asking().image], [asking().question])["input_ids"].shape[1]
    assert measured.full.kv_bytes == column * prompt
    assert measured.pruned.kv_bytes == column * (prompt - TOKENS + keep)
    assert min(measured.full.prefill, measured.pruned.prefill, measured.pruned.select) > 0


def test_a_question_typed_twice_is_not_computed_again(engine, passes):
    first = engine.ask(asking(), Settings("cls", 9))
    passes.clear()
    again = engine.ask(asking(" is  there a cat ?\n"), Settings("cls", 9))
    assert not passes
    assert again.pruned is first.pruned
    assert again.measured is first.measured


def test_the_full_model_answers_once_an_image_and_question(engine, passes):
    engine.full(asking(), Job())
    assert len(passes) == NEW
    engine.full(asking(), Job())
    assert len(passes) == NEW
    engine.pruned(asking(), Settings("cls", 9), Job())
    assert len(passes) == 2 * NEW
    engine.full(asking(turned=90), Job())
    engine.full(asking("is there a dog ?"), Job())
    assert len(passes) == 4 * NEW


def state(engine) -> tuple:
    """Everything that an attachment could leave behind, on a model that was used before."""
    # transformers installs its own hooks for hidden states at their first use, and keeps them.
    engine.ask(asking("word1"), Settings("cls", 3))
    hooks = sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in engine.model.modules()
    )
    return hooks, sorted(engine.model.__dict__), engine.model.config._attn_implementation


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (Settings("cls", TOKENS + 1), "is more than the 36 visual tokens"),
        (Settings("cls", 9, "ilvad:nothing"), "has no preset"),
        (Settings("nothing", 9), "nothing"),
        (Settings("cls", 9, sinks="only"), "sink"),
    ],
)
def test_a_step_that_fails_leaves_nothing_attached(engine, settings, sentence):
    before = state(engine)
    held = len(engine.cache)
    with pytest.raises((ValueError, RuntimeError), match=sentence):
        engine.pruned(asking(), settings, Job())
    assert state(engine) == before
    assert len(engine.cache) == held
    assert engine.pruned(asking(), Settings("cls", 9), Job()).tokens == 9


@pytest.mark.parametrize(
    ("after", "reweight"), [(1, "none"), (NEW, "none"), (3, "vcd"), (2, "ilvad")]
)
def test_a_cancelled_answer_ends_before_the_next_token(engine, after, reweight):
    before, job, seen = state(engine), Job(), []
    engine.full(asking(), Job())
    settings = Settings("visionzip", 9, reweight)

    def count(*_):
        seen.append(1)
        if len(seen) == after:
            job.cancel()

    # Counted where the pass begins, so the pass that is running still ends.
    hook = engine.model.get_decoder().register_forward_pre_hook(count)
    with pytest.raises(CancelledError):
        engine.ask(asking(), settings, job)
    hook.remove()
    assert len(seen) <= after + 1
    assert state(engine) == before
    wanted = generated(engine, asking(), settings)
    assert engine.pruned(asking(), settings, Job()).text == wanted


def test_users_at_the_same_time_get_what_each_gets_alone(engine):
    ways = [
        (asking(question, turned), Settings(method, keep, reweight))
        for question in ("is there a cat ?", "is there a bus ?")
        for turned, method, keep, reweight in (
            (0, "cls", 4, "none"),
            (90, "visionzip", 9, "pai"),
            (0, "random", 20, "var"),
            (180, "divprune", TOKENS, "none"),
        )
    ]
    wanted = [(generated(engine, asked, None), generated(engine, asked, s)) for asked, s in ways]
    with ThreadPoolExecutor(8) as users:
        found = list(users.map(lambda way: engine.ask(*way), ways * 2))
    assert [(one.full.text, one.pruned.text) for one in found] == wanted * 2
    assert "_lvlm_prune" not in engine.model.__dict__


def test_all_methods_are_compared_at_one_budget(engine):
    *before, last = compare_methods(engine, asking(), Settings("cls", 9), Job())
    assert [row.label for row in last.rows] == [
        "full model",
        *(name for name in METHODS if name != "identity"),
    ]
    assert [len(step.rows) for step in before] == list(range(last.total))
    for row in last.rows[1:]:
        assert row.refusal or row.answered.text == generated(
            engine, asking(), Settings(row.label, 9)
        )


def test_one_method_is_compared_over_budgets(engine):
    *_, last = compare_budgets(engine, asking(), Settings("cls", 7), Job())
    kept = [row.answered.tokens for row in last.rows]
    assert kept == [TOKENS, 18, 9, 7, 5, 2, 1]


def test_a_comparison_that_is_cancelled_stops(engine, passes):
    job = Job()
    steps = compare_methods(engine, asking(), Settings("cls", 9), job)
    next(steps)
    next(steps)
    passes.clear()
    job.cancel()
    with pytest.raises(CancelledError):
        next(steps)
    assert not passes


def test_remembered_results_hold_no_image(engine):
    asked = asking()
    image = weakref.ref(asked.image)
    engine.ask(asked, Settings("cls", 9))
    assert len(engine.cache) == 3
    del asked
    gc.collect()
    assert image() is None


class Held:
    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


def test_the_cache_never_holds_more_than_its_limit():
    cache, plain = ByteLimitedCache(100), {}
    draw = torch.Generator().manual_seed(0)
    for _ in range(500):
        key = int(torch.randint(12, (), generator=draw))
        if torch.rand((), generator=draw) < 0.5:
            found = cache.get(key)
            assert found is plain.get(key)
            if found is not None:
                plain[key] = plain.pop(key)
            continue
        value = Held(int(torch.randint(1, 120, (), generator=draw)))
        plain.pop(key, None)
        cache.put(key, value)
        if value.nbytes <= 100:
            plain[key] = value
        while sum(one.nbytes for one in plain.values()) > 100:
            del plain[next(iter(plain))]
        assert len(cache) == len(plain)
        assert cache.nbytes == sum(one.nbytes for one in plain.values()) <= 100


def test_an_engine_forgets_what_does_not_fit(passes, engine):
    engine.cache.limit = 3 * engine.full(asking(), Job()).nbytes
    for number in range(10):
        engine.full(asking(f"word{number}"), Job())
        assert engine.cache.nbytes <= engine.cache.limit
    passes.clear()
    engine.full(asking("word9"), Job())
    assert not passes
    engine.full(asking("word0"), Job())
    assert passes
