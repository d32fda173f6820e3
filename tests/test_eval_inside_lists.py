"""Lists of schedules and reweightings: what the command line reads, and the runs that follow."""

import pytest
from tiny_probe import tiny_loaded

from lvlm_prune.config import PruneConfig
from lvlm_prune.errors import UnknownMethodError
from lvlm_prune.eval.attached import Answer
from lvlm_prune.eval.inside import (
    UNPRUNED,
    adaptive,
    base_of,
    inside_configs,
    inside_label,
    parse_inside,
    runnable_inside,
    split_schedules,
)
from lvlm_prune.eval.inside_table import stage_words
from lvlm_prune.eval.layer_use import layer_use, matched_stages
from lvlm_prune.layers.cost import LlmShape, decode_flops, prefill_flops
from lvlm_prune.layers.registry import LAYER_METHODS
from lvlm_prune.layers.schedule import LayerSchedule
from lvlm_prune.reweight.registry import REWEIGHTERS

MERGED = PruneConfig(method="visionzip", keep=9)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("fastv", ["fastv"]),
        ("fastv,dart", ["fastv", "dart"]),
        ("fastv@2:0.5, vscan@1:0.5, 2:9 ,dart", ["fastv@2:0.5", "vscan@1:0.5,2:9", "dart"]),
        ("all@1:12,2:4,zipvl", ["all@1:12,2:4", "zipvl"]),
        ("none", ["none"]),
        ("", []),
    ],
)  # fmt: skip
def test_a_part_with_a_digit_goes_on_with_the_schedule_before(text, parts):
    assert split_schedules(text) == parts


def test_schedules_are_read():
    inside = parse_inside("fastv@2:0.5,pyramiddrop@1:0.5,2:4,fastv", "var,var:official_code")
    assert [one.label() for one in inside.layers] == [
        "fastv 2:0.5",
        "pyramiddrop 1:0.5,2:4",
        "fastv",
    ]
    assert [one.label() for one in inside.reweights] == ["var", "var:official_code"]
    assert not inside.optional
    assert parse_inside("none", "none").empty


def test_all_names_every_method_and_gives_cuts_to_those_with_a_budget():
    inside = parse_inside("all@1:12", "all")
    assert [one.method for one in inside.layers] == list(LAYER_METHODS)
    for one in inside.layers:
        assert one.stages == (None if adaptive(one.method) else {1: 12})
    assert [one.method for one in inside.reweights] == list(REWEIGHTERS)
    assert inside.optional == {inside_label(one) for one in inside_configs([UNPRUNED], inside)}
    assert adaptive("zipvl")
    assert not adaptive("fastv")


@pytest.mark.parametrize(
    ("layers", "reweight", "combine", "error", "match"),
    [
        ("2:0.5", "none", False, ValueError, "begins with a cut"),
        ("fastvv", "none", False, UnknownMethodError, "fastv"),
        ("fastv@x", "none", False, ValueError, "no schedule"),
        ("none", "varr", False, UnknownMethodError, "var"),
        ("none", "var:nothing", False, ValueError, "no preset"),
        ("fastv", "none", True, ValueError, "--combine needs both"),
    ],
)
def test_what_cannot_be_read(layers, reweight, combine, error, match):
    with pytest.raises(error, match=match):
        parse_inside(layers, reweight, combine)


def test_every_stage_and_reweighting_is_a_run_on_each_base():
    single = inside_configs([UNPRUNED, MERGED], parse_inside("fastv,dart", "pai"))
    labels = ["fastv", "dart", "pai"]
    assert [(one.method, inside_label(one)) for one in single] == [
        *(("identity", label) for label in labels), *(("visionzip", label) for label in labels)
    ]  # fmt: skip
    assert all(base_of(one) in (UNPRUNED, MERGED) for one in single)
    both = inside_configs([MERGED], parse_inside("fastv,dart", "pai,var", combine=True))
    assert [inside_label(one) for one in both][4:] == [
        "fastv + pai", "fastv + var", "dart + pai", "dart + var"
    ]  # fmt: skip


def test_methods_that_draw_get_the_seed():
    inside = parse_inside("random,fastv", "vcd,pai", seed=7)
    assert [one.options for one in inside.layers] == [{"seed": 7}, {}]
    assert [one.options for one in inside.reweights] == [{"seed": 7}, {}]
    assert parse_inside("random", "none").layers[0].options == {}


def test_what_a_model_cannot_run_is_left_out_or_an_error():
    model = tiny_loaded().model
    every = parse_inside("none", "restore,pai")
    configs, why = runnable_inside(model, inside_configs([UNPRUNED, MERGED], every), every.optional)
    assert [(one.method, inside_label(one)) for one in configs] == [
        ("identity", "pai"), ("visionzip", "restore"), ("visionzip", "pai")
    ]  # fmt: skip
    assert list(why) == ["identity + restore"]
    assert "nothing is merged" in why["identity + restore"]
    with pytest.raises(ValueError, match="nothing is merged"):
        runnable_inside(model, inside_configs([UNPRUNED], every), every.optional)
    named = parse_inside("none", "all")
    configs, why = runnable_inside(model, inside_configs([UNPRUNED], named), named.optional)
    assert len(configs) == len(REWEIGHTERS) - 1
    late = parse_inside("fastv@9:0.5", "none")
    with pytest.raises(ValueError, match="layer 9 is out of range"):
        runnable_inside(model, inside_configs([MERGED], late), late.optional)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_use_is_the_mean_over_questions():
    shape = LlmShape(3, 8, 8, 4, 16)
    answers = [Answer("a", (10, 4, 4), 5), Answer("b", (6, 2, 0), 7)]
    use = layer_use(answers, [20, 12], shape)
    assert use.tokens_per_layer == (8, 3, 2)
    assert (use.entered, use.last) == (8, 2)
    assert use.average == pytest.approx(13 / 3)
    for share, flops in ((use.prefill_share, prefill_flops), (use.decode_share, decode_flops)):
        less = flops(shape, [15, 9, 9]) + flops(shape, [13, 9, 7])
        assert share == pytest.approx(less / (flops(shape, [25] * 3) + flops(shape, [19] * 3)))


def test_controls_have_the_same_tokens():
    use = layer_use([Answer("a", (10, 4, 0), 5)], [10], LlmShape(3, 8, 8, 4, 16))
    assert matched_stages(use, {1: 0.5, 2: 3}) == {1: 0.5, 2: 3}
    assert matched_stages(use, {1: None, 2: None}) == {1: 0.4, 2: 0}
    level = layer_use([Answer("a", (10, 10, 5, 5, 0, 0), 5)], [10], LlmShape(6, 8, 8, 4, 16))
    found = matched_stages(level, dict.fromkeys(range(1, 6)))
    assert found == {2: 0.5, 4: 0}, "stages must fall"
    LayerSchedule("random", found)
    full = layer_use([Answer("a", (10, 10, 10), 5)], [10], LlmShape(3, 8, 8, 4, 16))
    assert matched_stages(full, {1: None, 2: None}) is None


def test_schedules_in_words():
    assert stage_words({1: 0.25}) == "1: 25%"
    assert stage_words({1: 12, 2: 0}) == "1: 12, 2: 0"
    assert stage_words({1: None, 2: None}) == "1-2: auto"
    assert stage_words(None) == ""
