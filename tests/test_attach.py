"""Invariants 6 and 9: attaching leaves no trace, and never silently does nothing."""

import copy
import json
import pickle
import threading

import pytest
import torch
from tiny_models import prompts, tiny_llava
from transformers import LlavaForConditionalGeneration, StoppingCriteria

from lvlm_prune import PruneConfig, attach, prune_inputs
from lvlm_prune.errors import AlreadyAttachedError, NoReportError, NothingDroppedError
from lvlm_prune.methods import METHODS

METHOD_NAMES = list(METHODS)


def warm_llava():
    """A model that has run once: transformers installs output-capturing hooks of its own then."""
    model = tiny_llava()
    model(**prompts("tit"))
    return model


def traces(model) -> dict:
    """Everything attaching could leave behind."""
    return {
        "attributes": {name: id(value) for name, value in model.__dict__.items()},
        "hooks": [
            (name, len(m._forward_pre_hooks), len(m._forward_hooks))
            for name, m in model.named_modules()
        ],
        "configs": [
            (name, id(m.config)) for name, m in model.named_modules() if hasattr(m, "config")
        ],
        "implementation": model.config._attn_implementation,
        "keys": list(model.state_dict()),
    }


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_detach_leaves_no_trace(method):
    model = warm_llava()
    inputs = prompts("tit")
    before, logits = traces(model), model(**inputs).logits
    handle = attach(model, method=method, keep=9)
    assert traces(model) != before
    model.generate(**inputs, max_new_tokens=2)
    handle.detach()
    handle.detach()
    assert traces(model) == before
    assert torch.equal(model(**inputs).logits, logits)


class Explode(StoppingCriteria):
    """Fails in the middle of decoding."""

    def __call__(self, input_ids, scores, **kwargs):
        raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["encode", "decode", "mismatch"])
def test_exceptions_leave_no_state(where):
    model = warm_llava()
    inputs = prompts("tit")
    before = traces(model)
    with attach(model, method="cls", keep=9):
        expected = model.generate(**inputs, max_new_tokens=3)
        if where == "encode":
            with pytest.raises(RuntimeError):
                model.generate(**{**inputs, "pixel_values": torch.zeros(1, 5, 42, 42)})
        elif where == "decode":
            with pytest.raises(KeyboardInterrupt):
                model.generate(**inputs, max_new_tokens=3, stopping_criteria=[Explode()])
        else:
            with pytest.raises(ValueError, match="placeholder tokens"):
                model(
                    **{name: inputs[name][:, :-10] for name in inputs if name != "pixel_values"},
                    pixel_values=inputs["pixel_values"],
                )
        assert torch.equal(model.generate(**inputs, max_new_tokens=3), expected)
    assert traces(model) == before


def test_detach_after_an_exception_in_the_block():
    model = warm_llava()
    before = traces(model)
    with pytest.raises(ZeroDivisionError), attach(model, method="visionzip", keep=9):
        raise ZeroDivisionError
    assert traces(model) == before


def test_second_attach_is_refused_and_the_first_stays():
    model = tiny_llava()
    with attach(model, method="cls", keep=9) as handle:
        with pytest.raises(AlreadyAttachedError, match="method='cls', keep=9 attached already; c"):
            attach(model, method="divprune", keep=4)
        model(**prompts("tit"))
        assert handle.report.tokens_after == 9
    attach(model, method="divprune", keep=4).detach()


def test_a_failed_attach_attaches_nothing():
    model = warm_llava()
    before = traces(model)
    for settings in ({"keep": 0}, {"keep": 37}, {"method": "nope"}, {"options": {"x": 1}}):
        with pytest.raises(ValueError):
            attach(model, **settings)
        assert traces(model) == before


def test_deepcopy_while_attached_binds_to_the_copy():
    model = tiny_llava()
    inputs = prompts("tit")
    with attach(model, method="visionzip", keep=9) as handle:
        expected = model.generate(**inputs, max_new_tokens=3)
        twin = copy.deepcopy(model)
        for parameter in model.parameters():
            parameter.data.zero_()
        assert torch.equal(twin.generate(**inputs, max_new_tokens=3), expected)
        copied = twin.__dict__["_lvlm_prune"]
        assert copied.model is twin
        assert copied.report.tokens_after == 9
    # Detaching the original left the copy attached, and the copy detaches alone.
    assert handle.model is model
    assert torch.equal(twin.generate(**inputs, max_new_tokens=3), expected)
    copied.detach()
    assert "generate" not in twin.__dict__
    assert len(twin._forward_pre_hooks) == 0


def test_saving_while_attached_saves_the_plain_model(tmp_path):
    model = tiny_llava()
    inputs = prompts("tit")
    with attach(model, method="cls", keep=9):
        model.save_pretrained(tmp_path)
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    assert "lvlm_prune" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("method", ["cls", "visionzip", "random"])
def test_threads_share_a_model(method):
    model = tiny_llava()
    calls = [prompts("tit", seed=seed) for seed in range(4)]
    results, reports = {}, {}
    with attach(model, method=method, keep=9) as handle:
        expected = [model.generate(**call, max_new_tokens=4) for call in calls]
        kept = []
        for call in calls:
            model(**call)
            kept.append(handle.report.kept)

        def work(number):
            tokens = [model.generate(**calls[number], max_new_tokens=4) for _ in range(3)]
            results[number], reports[number] = tokens[-1], handle.report

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number in range(4):
        assert torch.equal(results[number], expected[number])
        assert torch.equal(reports[number].kept[0], kept[number][0])


def test_report_counts_what_happened():
    model = tiny_llava()
    inputs = prompts("tit", "titi")
    config = PruneConfig(method="cls", keep=0.25)
    with attach(model, config) as handle:
        with pytest.raises(NoReportError, match="no image was pruned yet"):
            _ = handle.report
        model.generate(**inputs, max_new_tokens=2)
        report = handle.report
    assert (report.tokens_before, report.tokens_after) == (108, 27)
    assert report.prompt_before == inputs["input_ids"].shape[1]
    assert report.prompt_after == report.prompt_before - 2 * 27
    assert [len(rows) for rows in report.kept] == [9, 9, 9]
    assert [scores.shape for scores in report.scores] == [(36,)] * 3
    assert min(report.encode_ms, report.select_ms, report.splice_ms, report.peak_mib) > 0
    assert report.method == "cls"
    assert report.config == config
    assert "108 -> 27 visual tokens (25.0%) in 3 image(s)" in str(report)


def test_a_method_that_drops_nothing_is_an_error(monkeypatch):
    lazy = copy.copy(METHODS["divprune"])
    object.__setattr__(lazy, "select", METHODS["identity"].select)
    monkeypatch.setitem(METHODS, "divprune", lazy)
    model = tiny_llava()
    with attach(model, method="divprune", keep=9), pytest.raises(NothingDroppedError):
        model(**prompts("tit"))


def test_config_round_trips(tmp_path):
    config = PruneConfig("visionzip", 64, {"merge": "mean"}, "drop", 100.0, "compact", 3)
    path = config.save_pretrained(tmp_path)
    assert json.loads(path.read_text())["lvlm_prune_version"]
    assert PruneConfig.from_pretrained(tmp_path) == config
    assert PruneConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="unknown config keys"):
        PruneConfig.from_dict({"keep_ratio": 0.5})


def test_single_settings_override_a_config():
    model = tiny_llava()
    with attach(model, PruneConfig(method="cls", keep=4), keep=9) as handle:
        assert handle.config == PruneConfig(method="cls", keep=9)
    with attach(model, {"method": "divprune"}, keep=9) as handle:
        assert handle.config.method == "divprune"
    with pytest.raises(TypeError, match="name single settings"):
        attach(model, "cls")


def test_prune_inputs_leaves_model_and_inputs_alone():
    model = warm_llava()
    inputs = prompts("tit", "ttitt")
    copies = {name: value.clone() for name, value in inputs.items()}
    before = traces(model)
    prune_inputs(model, inputs, method="visionzip", keep=9)
    assert traces(model) == before
    assert all(torch.equal(inputs[name], copies[name]) for name in copies)


def test_detach_leaves_what_others_put_in_place():
    model = warm_llava()
    handle = attach(model, method="cls", keep=4)

    def theirs(*args, **kwargs):
        return "theirs"

    model.generate = theirs
    handle.detach()
    assert model.generate() == "theirs"
    assert not model._forward_pre_hooks


def test_what_was_there_before_is_put_back_and_called():
    model = warm_llava()
    stock, calls = model.generate, []

    def wrapped(*args, **kwargs):
        calls.append(kwargs)
        return stock(*args, **kwargs)

    model.generate = wrapped
    with attach(model, method="cls", keep=4) as handle:
        model.generate(**prompts("tit"), max_new_tokens=2)
        assert handle.report.tokens_after == 4
    assert model.generate is wrapped
    assert calls[0]["max_new_tokens"] == 2


def test_a_detached_attachment_is_not_entered_again():
    handle = attach(tiny_llava(), method="cls", keep=4)
    handle.detach()
    with pytest.raises(RuntimeError, match="this attachment is detached"):
        handle.__enter__()


def test_report_of_a_streaming_thread_is_read_outside():
    model = tiny_llava()
    with attach(model, method="cls", keep=4) as handle:
        call = {**prompts("tit"), "max_new_tokens": 2}
        thread = threading.Thread(target=model.generate, kwargs=call)
        thread.start()
        thread.join()
        assert handle.report.tokens_after == 4


def test_configs_are_values():
    one = PruneConfig("cls", 4, {"layer": 2})
    assert {one: 1}[PruneConfig("cls", 4, {"layer": 2})] == 1
    assert hash(one) != hash(PruneConfig("cls", 4, {"layer": 1}))
    assert pickle.loads(pickle.dumps(one)) == one
