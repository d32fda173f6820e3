"""The fast path gives the answers of the plain one: attach, then generate, one question at a time.

The tiny random model answers with four tokens that depend on every kept token, so equal answers
mean equal prompts.
"""

import pytest
import torch
from tiny_probe import tiny_loaded, write_probe

from lvlm_prune import attach
from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.config import PruneConfig
from lvlm_prune.errors import ImageFileError
from lvlm_prune.eval.answer import MAX_NEW_TOKENS, answer_all, batches, padded
from lvlm_prune.eval.encoding import SharedEncodings, compatible, merged
from lvlm_prune.eval.grid import grid_configs
from lvlm_prune.eval.probe import load_probe
from lvlm_prune.eval.questions import prepare
from lvlm_prune.images import load_image
from lvlm_prune.methods import METHODS
from lvlm_prune.signals import SignalRequest

KEEPS = (9, 0.5)


@pytest.fixture(scope="module")
def loaded():
    return tiny_loaded()


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    return load_probe(write_probe(tmp_path_factory.mktemp("probe") / "probe"))


@pytest.fixture(scope="module")
def questions(loaded, probe):
    return prepare(loaded, probe.items, probe.images, probe.folder)


@pytest.fixture(scope="module")
def fast(loaded, questions):
    """Answers of every method and budget, from encoder passes that all share."""
    configs = [PruneConfig(method="identity", keep=1.0)]
    configs += grid_configs(list(METHODS), KEEPS, ["ignore"], seed=3)
    configs += [PruneConfig(method="cls", keep=9, sinks="drop", sink_threshold=1.0)]
    stages = [BoundaryStage(loaded.model, config) for config in configs]
    answers = {}
    with torch.inference_mode():
        shared = SharedEncodings(stages, questions, batch_size=2)
        for stage in stages:
            choices, kind = shared.choices(stage)
            key = stage.config.method, stage.config.keep, stage.config.sinks
            answers[key] = answer_all(loaded, questions.asked, choices, kind, batch_size=4)
    return answers


def plain(loaded, probe, questions, config=None):
    """The same questions, each alone, through the processor and an attachment."""
    said = []
    for asked in questions.asked:
        image = load_image(probe.folder / questions.images[asked.image])
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
def test_answers_equal_the_attached_model(loaded, probe, questions, fast, method, keep):
    config = PruneConfig(method=method, keep=keep, seed=3)
    assert fast[method, keep, "ignore"] == plain(loaded, probe, questions, config)


def test_baseline_equals_the_stock_model(loaded, probe, questions, fast):
    assert fast["identity", 1.0, "ignore"] == plain(loaded, probe, questions)


def test_answers_depend_on_image_method_and_budget(fast):
    assert len({text for said in fast.values() for text in said}) > 50
    assert len({tuple(said) for said in fast.values()}) > len(fast) // 2


def test_answers_with_sinks_dropped(loaded, probe, questions, fast):
    config = PruneConfig(method="cls", keep=9, sinks="drop", sink_threshold=1.0)
    assert fast["cls", 9, "drop"] == plain(loaded, probe, questions, config)


def test_each_question_is_asked_once(probe, questions):
    pairs = {(item.image, item.question) for item in probe.items}
    assert len(questions.asked) == len(pairs) < len(probe.items)
    places = questions.places(probe.items)
    for item, place in zip(probe.items, places, strict=True):
        asked = questions.asked[place]
        assert (questions.images[asked.image], asked.text) == (item.image, item.question)


def test_batches_hold_every_question_once_sorted_by_length(questions):
    found = list(batches(questions.asked, 4))
    assert sorted(place for batch in found for place in batch) == list(range(len(questions.asked)))
    lengths = [len(questions.asked[place].ids) for batch in found for place in batch]
    assert lengths == sorted(lengths)


def test_prompts_are_padded_on_the_left(loaded):
    batch = padded([torch.tensor([5]), torch.tensor([6, 7, 8])], loaded.processor.tokenizer)
    assert batch["input_ids"].tolist() == [[0, 0, 5], [6, 7, 8]]
    assert batch["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]


def test_requests_merge_only_where_one_pass_can_serve_both():
    cls, keys = SignalRequest(cls_layers=(2,)), SignalRequest(cls_layers=(1, 3), keys_layer=2)
    assert compatible(cls, keys)
    assert merged(cls, keys) == SignalRequest(cls_layers=(1, 2, 3), keys_layer=2)
    assert not compatible(SignalRequest(keys_layer=1), keys)


def test_a_broken_image_is_named(loaded, probe, tmp_path):
    (tmp_path / probe.images[0]).write_text("no image")
    with pytest.raises(ImageFileError, match=probe.images[0]):
        prepare(loaded, probe.items, probe.images, tmp_path)


def test_limit_takes_whole_images(tmp_path):
    probe = load_probe(write_probe(tmp_path / "probe"), limit=2)
    assert probe.images == ["scene_0.png", "scene_1.png"]
    assert len(probe.items) == 2 * (3 * 2 + 5 * 2)
