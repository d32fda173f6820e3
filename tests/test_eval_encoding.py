"""Which stages share an encoder pass, and what each of them gets of it."""

import pytest
import torch
from tiny_chatters import tiny_qwen
from tiny_probe import tiny_loaded, write_probe

from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.config import PruneConfig
from lvlm_prune.eval.benchmarks import load_benchmark
from lvlm_prune.eval.configs import grid_configs, runnable
from lvlm_prune.eval.encoding import SharedEncodings
from lvlm_prune.eval.halving import BatchLimit
from lvlm_prune.eval.questions import prepare
from lvlm_prune.methods import METHODS
from lvlm_prune.shared_signals import compatible, merged
from lvlm_prune.signals import SignalRequest

EVERY = SignalRequest(
    cls_layers=(1, 3),
    received_layers=(2,),
    received_rows=8,
    joint_layer=1,
    keys_layer=2,
    sinks_layer=3,
    sinks_ratio=5.0,
    fingerprint=True,
)


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    return load_benchmark("probe", write_probe(tmp_path_factory.mktemp("probe") / "probe"))


def signals_of(encoded):
    return {
        name: value for name, value in vars(encoded.groups[0].signals).items() if value is not None
    }


def test_requests_merge_layer_by_layer():
    cls = SignalRequest(cls_layers=(2,), received_layers=(1, 2), received_rows=8)
    assert compatible(cls, EVERY)
    wanted = vars(EVERY) | {"cls_layers": (1, 2, 3), "received_layers": (1, 2)}
    assert merged(cls, EVERY) == merged(EVERY, cls) == SignalRequest(**wanted)
    assert merged(SignalRequest(), EVERY) == merged(EVERY, SignalRequest()) == EVERY


@pytest.mark.parametrize(
    "other",
    [
        SignalRequest(received_layers=(1,)),
        SignalRequest(joint_layer=2),
        SignalRequest(keys_layer=1),
        SignalRequest(sinks_layer=2, sinks_ratio=5.0),
        SignalRequest(sinks_layer=3),
    ],
    ids=str,
)
def test_requests_for_other_layers_of_one_signal_do_not_share(other):
    assert not compatible(EVERY, other)
    assert not compatible(other, EVERY)


@pytest.mark.parametrize("make", [tiny_loaded, tiny_qwen])
def test_each_stage_gets_what_it_would_read_alone(make, probe):
    loaded = make()
    questions = prepare(loaded, probe.items, probe.files)
    configs, _ = runnable(loaded.model, grid_configs(list(METHODS), [0.25]))
    stages = [BoundaryStage(loaded.model, config) for config in configs]
    with torch.inference_mode():
        shared = SharedEncodings(stages, questions, range(3), BatchLimit(3))
        assert len(shared.passes) <= 2
        inputs = questions.inputs(range(3))
        for stage in stages:
            alone = signals_of(stage.encode(inputs))
            alone.pop("text", None)
            (found,) = map(signals_of, shared.encoded(stage))
            found.pop("text", None)
            assert alone.keys() == found.keys(), stage.method.name
            for name, value in alone.items():
                same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
                assert same(value, found[name]), (stage.method.name, name)
    assert all(each.encoded is None for each in shared.passes), "nothing is held any longer"
    with pytest.raises(ValueError, match="had its turn"):
        shared.encoded(stages[0])


def test_thresholds_of_sinks_that_are_read_do_not_mix(probe):
    loaded = tiny_loaded()
    questions = prepare(loaded, probe.items, probe.files)
    stages = [
        BoundaryStage(
            loaded.model, PruneConfig(method="cls", keep=9, sinks="query", sink_threshold=norm)
        )
        for norm in (1.0, 1.0, 9.0)
    ]
    assert [
        len(each.waiting)
        for each in SharedEncodings(stages, questions, range(3), BatchLimit(3)).passes
    ] == [2, 1]
