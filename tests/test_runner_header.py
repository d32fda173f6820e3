"""What makes runs the same: every setting that an answer depends on, and nothing else."""

import json
import shutil

import pytest
import torch
from runner_pope import PROMPTS, pope_grid, said, write_pope
from tiny_models import fresh_copy
from tiny_probe import tiny_loaded

from lvlm_prune.eval.ledger import Ledger
from lvlm_prune.eval.run_header import Header, OtherRunError
from lvlm_prune.loading import Loaded

SETTINGS = {"model": {"dtype": "float32"}, "prune": {"keep": 9, "options": {}}, "data": {"a": "0"}}


@pytest.fixture(scope="module")
def loaded():
    return tiny_loaded()


@pytest.fixture(scope="module")
def ran(loaded, tmp_path_factory):
    """A folder with questions and one with all their answers."""
    folder = tmp_path_factory.mktemp("header")
    write_pope(folder / "pope", 2)
    pope_grid(loaded, folder / "pope", folder / "out").run()
    return folder


def test_the_hash_depends_on_settings_alone():
    header = Header("a", "pope", SETTINGS)
    assert header.hash == Header("b", "mme", dict(reversed(SETTINGS.items()))).hash
    assert json.loads(header.to_json())["header"]["hash"] == header.hash
    assert len(header.hash) == 16
    int(header.hash, 16)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": {"dtype": "float16"}}, "model.dtype is 'float32' there and 'float16' now"),
        ({"prune": {"keep": 0.25, "options": {}}}, "prune.keep is 9 there and 0.25 now"),
        ({"data": {"a": "1"}}, "data.a is '0' there and '1' now"),
        (
            {"data": {"b": "0"}},
            "data.a is '0' there and None now; data.b is None there and '0' now",
        ),
        (
            {"prune": {"keep": 9, "options": {"alpha": 1}}},
            "prune.options.alpha is None there and 1",
        ),
    ],
)
def test_both_values_of_a_difference_are_named(tmp_path, changed, message):
    found = json.loads(Header("a", "pope", SETTINGS).to_json())["header"]
    with pytest.raises(OtherRunError) as refused:
        Header("a", "pope", {**SETTINGS, **changed}).check(found, tmp_path / "answers-0.jsonl")
    assert message in str(refused.value)
    assert "answers-0.jsonl" in str(refused.value)
    assert "--restart" in str(refused.value)


def test_a_tuple_is_the_list_that_was_written(tmp_path):
    found = json.loads(Header("a", "pope", {"cut": (1, 2)}).to_json())["header"]
    Header("a", "pope", {"cut": [1, 2]}).check(found, tmp_path)


def other_weights(loaded: Loaded) -> Loaded:
    """The same model with one changed weight."""
    model = fresh_copy(loaded.model)
    with torch.no_grad():
        model.lm_head.weight[3, 3] += 1
    return Loaded(model, loaded.processor, loaded.name)


def other_generation(loaded: Loaded) -> Loaded:
    """The same model with another generation config."""
    model = fresh_copy(loaded.model)
    model.generation_config.repetition_penalty = 1.5
    return Loaded(model, loaded.processor, loaded.name)


def half(loaded: Loaded) -> Loaded:
    """The same model in another dtype."""
    return Loaded(fresh_copy(loaded.model).bfloat16(), loaded.processor, loaded.name)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (None, {"template": "{question} Yes or no?"}, "prompt.template is '{question}' there and"),
        (None, {"longest": 4}, "generation.max_new_tokens is 3 there and 4 now"),
        (None, {"seed": 1}, "prune.seed is 0 there and 1 now"),
        (other_weights, {}, "model.fingerprint is '"),
        (other_generation, {}, "repetition_penalty is None there and 1.5 now"),
        (half, {}, "model.dtype is 'float32' there and 'bfloat16' now"),
    ],
)
def test_another_setting_is_refused_and_leaves_the_answers(loaded, ran, change, settings, message):
    path = ran / "out" / "random-9" / "pope" / "answers-0.jsonl"
    before = path.read_bytes()
    model = loaded if change is None else change(loaded)
    with pytest.raises(OtherRunError) as refused:
        pope_grid(model, ran / "pope", ran / "out", **settings)
    assert message in str(refused.value)
    assert path.read_bytes() == before


def test_an_edited_question_file_is_refused(loaded, ran, tmp_path):
    shutil.copytree(ran, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "pope" / "coco_pope_random.json"
    path.write_text(path.read_text().replace('"label": "no"', '"label": "yes"', 1))
    with pytest.raises(OtherRunError, match="data.coco_pope_random.json is '[0-9a-f]{16}' there"):
        pope_grid(loaded, tmp_path / "pope", tmp_path / "out")


def test_restart_answers_everything_anew(loaded, ran, tmp_path):
    shutil.copytree(ran, tmp_path, dirs_exist_ok=True)
    found = pope_grid(
        loaded, tmp_path / "pope", tmp_path / "out", template="is {question}", restart=True
    ).run()
    fresh = pope_grid(loaded, tmp_path / "pope", template="is {question}").run()
    assert said(found) == said(fresh)
    assert said(found) != said(pope_grid(loaded, ran / "pope", ran / "out").run())


def asked_by(model: torch.nn.Module) -> list[int]:
    """Grows by the number of prompts whenever the LLM begins to answer."""
    counted: list[int] = []

    def count(module, args, kwargs):
        found = kwargs["inputs_embeds"]
        if found.shape[1] > 1:
            counted.append(len(found))

    model.model.language_model.register_forward_pre_hook(count, with_kwargs=True)
    return counted


@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"batch_size": 64}, {"limit": 1}, {}])
def test_a_finished_run_asks_nothing_again(loaded, ran, settings):
    model = Loaded(fresh_copy(loaded.model), loaded.processor, loaded.name)
    counted = asked_by(model.model)
    results = pope_grid(model, ran / "pope", ran / "out", **settings).run()
    assert counted == []
    images = settings.get("limit", 2)
    assert [len(run.rows) for run in results] == [PROMPTS * images] * 2
    assert [len(run.items) for run in results] == [6 * images] * 2


def test_a_larger_limit_asks_what_is_new(loaded, tmp_path):
    write_pope(tmp_path / "pope", 3)
    whole = said(pope_grid(loaded, tmp_path / "pope").run())
    pope_grid(loaded, tmp_path / "pope", tmp_path / "out", limit=1).run()
    model = Loaded(fresh_copy(loaded.model), loaded.processor, loaded.name)
    counted = asked_by(model.model)
    assert said(pope_grid(model, tmp_path / "pope", tmp_path / "out").run()) == whole
    assert sum(counted) == 2 * PROMPTS * 2
    rows = Ledger(
        tmp_path / "out" / "unpruned" / "pope",
        pope_grid(loaded, tmp_path / "pope", tmp_path / "out").runs[0][0].ledger.header,
    ).rows
    assert len(rows) == 3 * PROMPTS
