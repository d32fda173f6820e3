"""The environment of torchrun: who a process is, and what is said where it is incomplete."""

import os

import pytest
import torch
from runner_pope import write_model, write_pope
from tiny_models import fresh_copy
from tiny_probe import tiny_loaded

from lvlm_prune.eval.benchmarks import load_benchmark
from lvlm_prune.eval.processes import Processes, joined
from lvlm_prune.eval.questions import prepare
from lvlm_prune.eval.run import Run, Sheet
from lvlm_prune.loading import load

NAMES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("world", [None, "1"])
def test_one_process_needs_nothing(monkeypatch, world):
    if world is not None:
        monkeypatch.setenv("WORLD_SIZE", world)
    with joined() as processes:
        assert processes == Processes(0, 1, 0, 1)
        assert processes.first
        processes.wait()
        assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"WORLD_SIZE": "2"},
            "RANK, MASTER_ADDR, MASTER_PORT is not set; start them with torchrun",
        ),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR, MASTER_PORT is not set"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a"}, "but MASTER_PORT is not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is ''"),
        (
            {"WORLD_SIZE": "2", "RANK": "x", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "RANK is 'x'",
        ),
    ],
)
def test_an_incomplete_environment_is_a_sentence(monkeypatch, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError) as refused, joined():
        pass
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("device", "rank", "count", "own"),
    [
        ("cuda", 1, 2, "cuda:1"),
        ("cuda", 0, 1, "cuda"),
        ("cpu", 1, 2, "cpu"),
        ("cuda:3", 1, 2, "cuda:3"),
        ("auto", 1, 2, "auto"),
    ],
)
def test_each_process_has_its_own_card(device, rank, count, own):
    assert Processes(rank, count, rank, count).own(device) == own


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_processes_share_out_every_question_once_and_never_an_image(tmp_path, count):
    loaded = tiny_loaded()
    probe = load_benchmark("pope", write_pope(tmp_path / "pope", 5))
    questions = prepare(loaded, probe.items, probe.files)
    shares = []
    for rank in range(count):
        sheet = Sheet(probe, questions, Processes(rank, count))
        places = sorted(set(questions.places(probe.items)))
        run = Run(None, "run", None, list(probe.items), places, None)
        shares.append(sheet.own(run))
    assert sorted(place for share in shares for place in share) == list(range(15))
    images = [{questions.asked[place].image for place in share} for share in shares]
    assert sum(map(len, images)) == 5
    assert max(map(len, shares)) - min(map(len, shares)) <= 3


def test_a_spread_out_model_is_no_tensor_parallel_one(monkeypatch, tmp_path):
    """transformers reads WORLD_SIZE with device_map="auto" as a wish for it."""
    folder = write_model(tmp_path / "model")
    monkeypatch.setenv("WORLD_SIZE", "2")
    loaded = load(folder, "auto")
    assert os.environ["WORLD_SIZE"] == "2"
    assert not torch.distributed.is_initialized()
    assert getattr(loaded.model, "_tp_size", None) is None
    ours = dict(loaded.model.named_parameters())
    for name, value in fresh_copy(tiny_loaded().model).named_parameters():
        assert torch.equal(ours[name], value), name


def test_the_environment_comes_back_after_an_error_too(monkeypatch, tmp_path):
    folder = write_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OSError, match="cannot load the model"):
        load(folder, "auto")
    assert os.environ["WORLD_SIZE"] == "2"
