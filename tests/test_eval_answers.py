"""The fast path gives the answers of the plain one: attach, then generate, one question at a time.

The tiny random models answer with four tokens that depend on every kept token, so equal answers
mean equal prompts. That holds for every method, and for methods that read the question.
"""

import pytest
import torch
from tiny_chatters import tiny_internvl, tiny_next, tiny_qwen
from tiny_probe import tiny_loaded, write_probe

from lvlm_prune import attach
from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.config import PruneConfig
from lvlm_prune.eval.answer import answer_all, batches
from lvlm_prune.eval.benchmarks import load_benchmark
from lvlm_prune.eval.chosen import Chosen
from lvlm_prune.eval.configs import grid_configs, runnable
from lvlm_prune.eval.encoding import SharedEncodings
from lvlm_prune.eval.halving import BatchLimit
from lvlm_prune.eval.questions import Asked, padded, prepare
from lvlm_prune.images import load_image
from lvlm_prune.methods import METHODS

MAX_NEW_TOKENS = 4
KEEPS = (9, 0.5)
FAMILIES = {"next": tiny_next, "qwen": tiny_qwen, "internvl": tiny_internvl}
# One method of each kind: attention, merging, reading the question, drawing, averaging, smaller.
KINDS = ("vtc_cls", "prumerge", "mmtok", "dart", "random", "pool", "downsample")
SPECIAL = (
    PruneConfig(method="cls", keep=9, sinks="drop", sink_threshold=1.0),
    PruneConfig(method="cls", keep=9, sinks="query", sink_threshold=1.0),
    PruneConfig(method="cls", keep=9, sinks="query", sink_threshold=9.0),
    PruneConfig(method="cls", keep=9, order="sinks_first", sink_threshold=1.0),
)


@pytest.fixture(scope="module")
def loaded():
    return tiny_loaded()


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    return load_benchmark("probe", write_probe(tmp_path_factory.mktemp("probe") / "probe"))


@pytest.fixture(scope="module")
def questions(loaded, probe):
    return prepare(loaded, probe.items, probe.files)


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request, tmp_path_factory):
    """Another model with its questions, whose last image is wider than the others."""
    probe = load_benchmark("probe", write_probe(tmp_path_factory.mktemp("family") / "probe"))
    last = probe.files[probe.images[-1]]
    load_image(last).resize((96, 40)).save(last)
    return prepare(FAMILIES[request.param](), probe.items, probe.files)


def answers_of(questions, configs):
    """Answers of all runs, from encoder passes that all share."""
    stages = [BoundaryStage(questions.loaded.model, config) for config in configs]
    answers = {}
    with torch.inference_mode():
        images = range(len(questions.images))
        shared = SharedEncodings(stages, questions, images, BatchLimit(2))
        for stage in stages:
            chosen = Chosen(stage, images, shared.encoded(stage))
            places = range(len(questions.asked))
            limit, config = BatchLimit(4), stage.config
            found = answer_all(questions, places, chosen, limit, config, MAX_NEW_TOKENS)
            answers[config] = [found[place].text for place in places]
    return answers


@pytest.fixture(scope="module")
def fast(questions):
    """Answers of every method and budget of the tiny LLaVA."""
    configs = [PruneConfig(method="identity", keep=1.0)]
    return answers_of(questions, [*configs, *grid_configs(list(METHODS), KEEPS, seed=3), *SPECIAL])


def plain(questions, config=None):
    """The same questions, each alone, through the processor and an attachment."""
    said, loaded = [], questions.loaded
    for asked in questions.asked:
        image = questions.picture(asked.image)
        inputs = loaded.inputs([image], [asked.text])
        if config is None:
            output = loaded.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS)
        else:
            with attach(loaded.model, config):
                output = loaded.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS)
        new = output[:, inputs["input_ids"].shape[1] :]
        said += loaded.processor.batch_decode(new, skip_special_tokens=True)
    return said


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.drops])
def test_answers_equal_the_attached_model(questions, fast, method, keep):
    config = PruneConfig(method=method, keep=keep, seed=3)
    assert fast[config] == plain(questions, config)


def test_baseline_equals_the_stock_model(questions, fast):
    assert fast[PruneConfig(method="identity", keep=1.0)] == plain(questions)


def test_answers_depend_on_image_method_and_budget(fast):
    assert len({text for said in fast.values() for text in said}) > 50
    assert len({tuple(said) for said in fast.values()}) > len(fast) // 2


@pytest.mark.parametrize("config", SPECIAL, ids=str)
def test_answers_with_other_settings(questions, fast, config):
    assert fast[config] == plain(questions, config)


def test_answers_of_other_families(family):
    unpruned = PruneConfig(method="identity", keep=1.0)
    configs, _ = runnable(family.loaded.model, grid_configs(KINDS, [0.25], seed=3))
    configs.append(PruneConfig(method="cdpruner", keep=5, per="tile"))
    configs.append(PruneConfig(method="cls", keep=0.25, sinks="query"))
    answers = answers_of(family, [unpruned, *configs])
    assert answers[unpruned] == plain(family)
    for config in configs:
        assert answers[config] == plain(family, config), config
    assert len(configs) >= len(KINDS) + 1
    assert len({tuple(said) for said in answers.values()}) > len(configs) - 2


def test_query_aware_methods_choose_for_each_question(questions):
    stage = BoundaryStage(questions.loaded.model, PruneConfig(method="cdpruner", keep=9))
    asked = [question for question in questions.asked if question.image == 0]
    with torch.inference_mode():
        images = range(len(questions.images))
        encodings = SharedEncodings([stage], questions, images, BatchLimit(2))
        chosen = Chosen(stage, images, encodings.encoded(stage))
        choices = chosen.choices(asked, questions.arguments(asked))
    assert chosen.by_image is None
    assert len({tuple(choice.rows.kept.tolist()) for choice in choices}) > 1


def test_each_question_is_asked_once(probe, questions):
    pairs = {(item.image, item.question) for item in probe.items}
    assert len(questions.asked) == len(pairs) < len(probe.items)
    places = questions.places(probe.items)
    for item, place in zip(probe.items, places, strict=True):
        asked = questions.asked[place]
        assert (questions.name(asked), asked.text) == (item.image, item.question)


def test_batches_hold_every_question_once_sorted_by_length(questions):
    found = list(batches(questions, range(len(questions.asked)), 4))
    assert sorted(place for batch in found for place in batch) == list(range(len(questions.asked)))
    lengths = [len(questions.asked[place].ids) for batch in found for place in batch]
    assert lengths == sorted(lengths)


def test_prompts_are_padded_on_the_left():
    short, long = torch.tensor([5]), torch.tensor([6, 7, 8])
    rows = [
        Asked(0, "", {"input_ids": ids, "mm_token_type_ids": ids * 0 + 1}) for ids in (short, long)
    ]
    batch = padded(rows, pad=9)
    assert batch["input_ids"].tolist() == [[9, 9, 5], [6, 7, 8]]
    assert batch["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]
    assert batch["mm_token_type_ids"].tolist() == [[0, 0, 1], [1, 1, 1]]


def test_a_broken_image_is_noted_with_its_questions(loaded, probe, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    first, second = probe.images[:2]
    found = prepare(loaded, probe.items, {**probe.files, first: broken})
    assert list(found.broken) == [0]
    assert "broken.png" in found.broken[0]
    assert found.readable() == [1, 2]
    for question in found.asked:
        assert (question.columns == {}) == (question.image == 0)
    assert found.totals[:2] == [0, 36]
    assert len(found.places(probe.items)) == len(probe.items)
    assert found.images[1] == second


def test_limit_takes_whole_images(tmp_path):
    probe = load_benchmark("probe", write_probe(tmp_path / "probe"), limit=2)
    assert probe.images == ["scene_0.png", "scene_1.png"]
    assert len(probe.items) == 2 * (3 * 2 + 5 * 2)
