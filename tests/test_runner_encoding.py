"""An image is encoded once a run, a question is asked once, and portions change nothing."""

from dataclasses import replace

import pytest
import torch
from runner_pope import NOUNS, PROMPTS, pope_grid, said, write_pope
from tiny_models import fresh_copy
from tiny_probe import tiny_loaded

from lvlm_prune.eval import passes
from lvlm_prune.eval.inside import UNPRUNED
from lvlm_prune.layers.schedule import parse_layers
from lvlm_prune.loading import Loaded

IMAGES = 5
# Attention, merging, drawing; the first layers' rows; and what reads the question.
PLAIN = ("cls", "visionzip", "random", "dart")
BY_QUESTION = ("cdpruner", "mmtok")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pope(tmp_path_factory.mktemp("encoding") / "pope", IMAGES)


@pytest.fixture
def loaded():
    """A model of the test's own."""
    shared = tiny_loaded()
    return Loaded(fresh_copy(shared.model), shared.processor, shared.name)


def counted(model):
    """Pixels of every image that the vision encoder is given, and the prompts that are answered."""
    images, prompts = [], []

    def encoded(module, args, kwargs):
        found = args[0] if args else kwargs["pixel_values"]
        images.extend(one.numpy().tobytes() for one in found)

    def answered(module, args, kwargs):
        if kwargs["inputs_embeds"].shape[1] > 1:
            prompts.append(len(kwargs["inputs_embeds"]))

    model.model.vision_tower.register_forward_pre_hook(encoded, with_kwargs=True)
    model.model.language_model.register_forward_pre_hook(answered, with_kwargs=True)
    return images, prompts


@pytest.mark.parametrize("method", [*PLAIN, *BY_QUESTION])
def test_an_image_is_encoded_at_most_once_a_run(loaded, folder, method):
    images, prompts = counted(loaded.model)
    runs = pope_grid(loaded, folder, methods=[method]).run()
    assert len(set(images)) == IMAGES
    assert max(images.count(one) for one in images) <= len(runs)
    assert sum(prompts) == len(runs) * PROMPTS * IMAGES


def test_runs_that_can_share_a_pass_do(loaded, folder):
    fastv = [replace(UNPRUNED, layers=parse_layers("fastv@1:4"))]
    images, _ = counted(loaded.model)
    assert len(pope_grid(loaded, folder, methods=PLAIN).run()) == 1 + len(PLAIN)
    assert len(images) == IMAGES
    images.clear()
    assert len(pope_grid(loaded, folder, methods=PLAIN, inner=fastv).run()) == 3 + len(PLAIN)
    assert len(images) == 2 * IMAGES, "the control of fastv comes after what it is to match"


def test_what_three_splits_share_is_asked_once_and_scored_in_each(loaded, folder):
    _, prompts = counted(loaded.model)
    (run, *_) = pope_grid(loaded, folder, methods=()).run()
    assert sum(prompts) == PROMPTS * IMAGES
    lines = {item.id: (item.image, item.question) for item in run.items}
    assert len(lines) == 2 * IMAGES * len(NOUNS)
    named = {name: row for row in run.rows for name in row.items}
    assert sorted(named) == sorted(lines)
    for name, (image, question) in lines.items():
        assert (named[name].image, named[name].question) == (image, question)
    answers = dict(zip(lines, run.answers, strict=True))
    assert all(answers[name] == row.text for name, row in named.items())


def test_portions_give_the_same_answers(loaded, folder, monkeypatch):
    """Two images at a time are held, each a pass of its own; a run is still one pass an image."""
    methods = [*PLAIN, *BY_QUESTION]
    layers = [replace(UNPRUNED, layers=parse_layers("fastv@1:4"))]
    whole = pope_grid(loaded, folder, methods=methods, inner=layers).run()
    monkeypatch.setattr(passes, "HELD_BYTES", 1)
    monkeypatch.setattr(passes, "IMAGES_PER_PASS", 2)
    images, _ = counted(loaded.model)
    found = pope_grid(loaded, folder, methods=methods, inner=layers).run()
    assert said(found) == said(whole)
    assert [run.same_as for run in found] == [run.same_as for run in whole]
    stages, controls = 1 + len(methods), 1
    assert {images.count(one) for one in images} == {stages + controls}
    assert [run.to_dict()["kept"] for run in found] == [run.to_dict()["kept"] for run in whole]


def test_portions_of_a_resumed_run(loaded, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(passes, "HELD_BYTES", 1)
    monkeypatch.setattr(passes, "IMAGES_PER_PASS", 2)
    whole = said(pope_grid(loaded, folder).run())
    pope_grid(loaded, folder, tmp_path, limit=3).run()
    images, prompts = counted(loaded.model)
    assert said(pope_grid(loaded, folder, tmp_path).run()) == whole
    assert len(set(images)) == 2, "images of which nothing is left are not encoded"
    assert sum(prompts) == 2 * PROMPTS * 2


def test_runs_with_the_same_rows_are_answered_once(loaded, folder):
    """The whole prompt, kept by a method: its answers are the unpruned run's."""
    configs = [replace(UNPRUNED, method="cls", keep=36), replace(UNPRUNED, method="cls", keep=9)]
    _, prompts = counted(loaded.model)
    unpruned, all_kept, cut = pope_grid(loaded, folder, methods=(), inner=configs).run()
    assert all_kept.same_as == "unpruned"
    assert cut.same_as is None
    assert [row.text for row in all_kept.rows] == [row.text for row in unpruned.rows]
    assert sum(prompts) == 2 * PROMPTS * IMAGES
    assert {row.seconds for row in all_kept.rows} == {0.0}


def test_the_model_is_as_before(loaded, folder):
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    pope_grid(loaded, folder, methods=[*PLAIN, *BY_QUESTION]).run()
    assert "generate" not in vars(loaded.model)
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(before[name], value)
