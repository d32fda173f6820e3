"""attach() with layers and reweight: the parts compose, act alone, and leave in any order."""

import copy
from itertools import permutations

import pytest
import torch
from tiny_families import FAMILIES, IMAGE
from tiny_generic import GENERIC

from lvlm_prune import LayerSchedule, PruneConfig, SinkRule, attach, prune_inputs
from lvlm_prune.calibration import calibrate
from lvlm_prune.errors import (
    MissingSignalError,
    NoReportError,
    UnknownMethodError,
    UnsupportedModelError,
)
from lvlm_prune.layers.stage import LayerStage
from lvlm_prune.reweight.engine import Reweighting

ATTENDING = [name for name, family in FAMILIES.items() if family.masks]
LAYERS = {"method": "fastv", "stages": {2: 0.5}}
PAI = {"method": "pai", "options": {"alpha": 0.5}}
FAR = {"distance": True}
PARTS = {
    "pruning": {"method": "cls", "keep": 6},
    "layers": {"layers": LAYERS},
    "reweighting": {"reweight": PAI},
}
LAYOUTS = {"single": ("titit",), "padded 0/1/2": ("ttt", "tit", "titit")}


def trace(model) -> list:
    """Everything that attaching may touch."""
    modules = list(model.modules())
    return [
        {name for name in model.__dict__},
        [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in modules],
        [id(m.__dict__.get("config")) for m in modules],
    ]


def generated(model, inputs: dict, **settings):
    """Greedy tokens and logits of four steps."""
    out = model.generate(
        **inputs, **settings, max_new_tokens=4, output_logits=True, return_dict_in_generate=True
    )
    return out.sequences[:, -4:], torch.stack(out.logits, 1)


def same(one, other) -> bool:
    """Whether two answers are bit-identical."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("layouts", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", ATTENDING)
def test_attach_is_the_parts_one_around_the_other(name, layouts):
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts(*layouts)
    plain = generated(model, inputs)
    with attach(model, method="cls", keep=6) as handle:
        pruned = generated(model, inputs)
        kept = handle.report.kept
    with LayerStage(model, LAYERS), Reweighting(model, PAI), attach(model, method="cls", keep=6):
        apart = generated(model, inputs)
    with attach(model, method="cls", keep=6, layers=LAYERS, reweight=PAI) as handle:
        together = generated(model, inputs)
        report = handle.report
    assert same(together, apart)
    assert all(torch.equal(a, b) for a, b in zip(report.kept, kept, strict=True))
    assert (together[1] - pruned[1]).abs().max() > 1e-3
    assert (pruned[1] - plain[1]).abs().max() > 1e-3
    counts = report.layers.tokens
    images = [layout.count("i") for layout in layouts]
    assert sum(row[0] for row in counts) == report.tokens_after
    assert [row[-1] for row in counts] == [row[0] // 2 for row in counts]
    assert [row[0] > 0 for row in counts] == [count > 0 for count in images]


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
@pytest.mark.parametrize("order", list(permutations(PARTS)), ids="-".join)
def test_parts_detach_in_any_order_and_leave_no_trace(name, order):
    model, inputs = copy.deepcopy(FAMILIES[name].model()), FAMILIES[name].prompts("tit")
    expected = generated(model, inputs)
    before = trace(model)
    twin = copy.deepcopy(model)
    handle = attach(model, method="cls", keep=6, layers=LAYERS, reweight=PAI)
    left = dict(PARTS)
    for part in order:
        getattr(handle, part).detach()
        del left[part]
        if left:
            settings = {name: value for one in left.values() for name, value in one.items()}
            with attach(twin, **settings):
                alone = generated(twin, inputs)
            assert same(generated(model, inputs), alone)
    assert same(generated(model, inputs), expected)
    handle.detach()
    assert trace(model) == before


def test_an_error_in_one_part_takes_the_others_back():
    model = copy.deepcopy(FAMILIES["llava"].model())
    generated(model, FAMILIES["llava"].prompts("tit"))
    before = trace(model)
    for settings in (
        {"layers": "fastv@7:0.5", "reweight": "pai", "method": "cls", "keep": 4},
        {"layers": LAYERS, "method": "cls", "keep": 99},
        {"layers": LAYERS, "reweight": "var", "sink_rule": SinkRule(dims=(32,), tau=2.0)},
        {"reweight": "restore"},
    ):
        with pytest.raises(ValueError):
            attach(model, **settings)
        assert trace(model) == before


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"layers": "fastvv"}, UnknownMethodError, "did you mean 'fastv'"),
        ({"reweight": "pay"}, UnknownMethodError, "did you mean 'pai'"),
        ({"reweight": "var:official"}, ValueError, "known: general, .*official_code"),
        ({"reweight": {"method": "pai", "options": {"gain": 1}}}, ValueError, "allowed: alpha"),
        ({"layers": {"stage": {2: 0.5}}}, ValueError, "unknown layer schedule keys"),
        ({"layers": 3}, TypeError, "LayerSchedule, its dict or the name"),
        ({"reweight": 3}, TypeError, "ReweightConfig, its dict or the name"),
        ({"layers": "fastv@2;0.5"}, ValueError, "fastv@2:0.5"),
        ({"reweight": "restore"}, ValueError, "name a merging method too"),
        (
            {"reweight": "var", "sink_rule": SinkRule(dims=(40,), tau=2.0)},
            ValueError,
            "not in 0..31",
        ),
    ],
)
def test_mistakes_are_named_at_attach(settings, error, message):
    with pytest.raises(error, match=message):
        attach(FAMILIES["llava"].model(), **settings)


@pytest.mark.parametrize("rule", ["norm", {"ratio": 3.0}, calibrate(FAMILIES["llava"].model())])
@pytest.mark.parametrize(
    "settings", [{"reweight": "var"}, {"layers": "fastv"}, {"method": "cls", "keep": 4}]
)
def test_what_is_no_sink_rule_is_refused_at_attach(settings, rule):
    with pytest.raises(TypeError, match=r"sink_rule must be a SinkRule.*\.rule\(\)"):
        attach(FAMILIES["llava"].model(), **settings, sink_rule=rule)


@pytest.mark.parametrize("part", [LayerStage, Reweighting])
@pytest.mark.parametrize("settings", [{"first_layer": 3}, {"dims": (1,), "tau": 6.0}])
def test_sink_rules_of_another_llm_are_refused_at_attach(part, settings):
    config = "fastv" if part is LayerStage else "var"
    with pytest.raises(ValueError, match="lvlm-prune calibrate"):
        part(FAMILIES["llava"].model(), config, SinkRule(**settings))


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"reweight": "pai"}, "reweighting is not possible here"),
        ({"layers": "fastv"}, "prune before the LLM instead"),
    ],
)
def test_unknown_llms_are_refused_with_advice_that_fits(settings, advice):
    with pytest.raises(UnsupportedModelError, match=f"no layers and norm as LLaMA's has; {advice}"):
        attach(GENERIC["lfm2_vl"].model(), **settings)


@pytest.mark.parametrize(
    ("reweight", "advice"),
    [
        ("var", "it has no options for that, use another method"),
        ("headguide", r"choose others with its options \(first, last\)"),
        ("gift", r"choose others with its options \(saliency, first, last, of\)"),
    ],
)
def test_layers_that_do_not_attend_are_chosen_by_options_that_choose_layers(reweight, advice):
    with pytest.raises(UnsupportedModelError, match=rf"only \[3\] of this LLM attend; {advice}$"):
        attach(FAMILIES["qwen3_5"].model(), reweight=reweight)


def test_paint_needs_an_encoder_that_can_be_read():
    with pytest.raises(MissingSignalError, match="local, summary are read off the encoder's att"):
        attach(GENERIC["aya_vision"].model(), reweight="paint")


def test_recurrent_layers_are_refused_for_stages_and_not_for_reweighting():
    model, inputs = FAMILIES["qwen3_5"].model(), FAMILIES["qwen3_5"].prompts("tit")
    with pytest.raises(UnsupportedModelError, match="linear_attention"):
        attach(model, layers="fastv")
    plain = generated(model, inputs)
    with attach(model, reweight=PAI):
        assert (generated(model, inputs)[1] - plain[1]).abs().max() > 1e-4


def test_without_a_method_nothing_is_dropped_before_the_llm():
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].prompts("tit")
    assert PruneConfig() == PruneConfig(method="visionzip", keep=0.25)
    assert PruneConfig(layers="fastv").method == "identity"
    assert PruneConfig(layers="fastv", keep=9).method == "visionzip"
    with attach(model, layers="fastv@2:4") as handle:
        out = model.generate(**inputs, max_new_tokens=3, return_dict_in_generate=True)
        lengths = [layer.keys.shape[2] for layer in out.past_key_values.layers]
        assert handle.layers.report.tokens == [[16, 16, 4]]
        with pytest.raises(NoReportError, match=r"layers\.report"):
            _ = handle.report
    length = inputs["input_ids"].shape[1] + 2
    assert lengths == [length, length, length - 12]


def test_config_round_trip(tmp_path):
    config = PruneConfig(
        method="cls", keep=9, layers=LayerSchedule("fastv", {2: 4}), reweight="var:official_code"
    )
    assert PruneConfig.from_dict(config.to_dict()) == config
    config.save_pretrained(tmp_path)
    assert PruneConfig.from_pretrained(tmp_path) == config
    assert config.reweight.complete()["move"] == 0.4
    assert hash(PruneConfig.from_dict(config.to_dict())) == hash(config)


def test_prune_inputs_leaves_the_llm_alone():
    inputs = FAMILIES["llava"].prompts("tit")
    with pytest.raises(ValueError, match="use attach"):
        prune_inputs(FAMILIES["llava"].model(), inputs, method="cls", keep=4, layers="fastv")


class Marks:
    """A user of the decoder hooks that looks at the marks of a pass."""

    def begin(self, call):
        self.marks = {name: values.clone() for name, values in call.memory.marks.items()}
        self.visual = call.memory.visual

    def before_layer(self, call, layer, arguments):
        pass

    def attention(self, call, layer, attention):
        return None

    def before_norm(self, call, hidden):
        return hidden


@pytest.mark.parametrize("keep", [1.0, 5])
@torch.no_grad()
def test_paint_gets_the_sets_that_cls_rows_choose(keep):
    from lvlm_prune.decoder_hooks import join, leave
    from lvlm_prune.reweight.paint import local_and_summary

    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].prompts("tit", "titt")
    eager = FAMILIES["llava"].model("eager").model.vision_tower
    maps = eager(inputs["pixel_values"], output_attentions=True).attentions
    looker = Marks()
    with attach(model, method="cls", keep=keep, reweight="paint") as handle:
        join(model, looker)
        model(**inputs)
        leave(model, looker)
        kept = handle.report.kept
    for image, rows in enumerate(kept):
        wanted = local_and_summary(maps[0][image, :, 0, 1:], maps[-2][image, :, 0, 1:])
        for name, expected in zip(("local", "summary"), wanted, strict=True):
            got = looker.marks[name][image][looker.visual[image]]
            assert torch.equal(got.bool(), expected[rows])
        assert wanted[0].any()
    assert not looker.marks["local"][~looker.visual].any()


@torch.no_grad()
def test_restore_gets_how_many_tokens_each_stands_for():
    from lvlm_prune.decoder_hooks import join, leave

    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].prompts("tit", "titt")
    looker = Marks()
    with attach(model, method="tome", keep=5, reweight="restore"):
        join(model, looker)
        out = model(**inputs).logits
        leave(model, looker)
    assert torch.equal(looker.marks["position"][1, :3], torch.tensor([0.0, 1.0, 2.0]))
    with attach(model, method="tome", keep=5, reweight={"method": "restore", "options": FAR}):
        assert (model(**inputs).logits[:, -1] - out[:, -1]).abs().max() > 1e-3
    sizes = looker.marks["size"]
    assert sizes.sum(1).tolist() == [16, 16]
    assert (sizes[looker.visual] >= 1).all()
    with attach(model, method="tome", keep=5):
        assert (model(**inputs).logits[:, -1] - out[:, -1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize(
    "settings", [{"reweight": "paint"}, {"method": "tome", "keep": 0.5, "reweight": "restore"}]
)
def test_marks_stay_at_their_columns_without_a_cache(name, settings):
    """A column that is put in front of a prompt shifts them along."""
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts("titt")
    with attach(model, **settings):
        with_cache, without = (generated(model, inputs, use_cache=one)[1] for one in (True, False))
    assert (with_cache - without).abs().max() < 10 * family.tolerance


def test_prompts_without_images_are_untouched():
    model = FAMILIES["llava"].model()
    inputs = {"input_ids": torch.arange(3, 12)[None]}
    assert IMAGE not in inputs["input_ids"]
    expected = generated(model, inputs)
    with attach(model, method="cls", keep=6, layers=LAYERS, reweight=PAI):
        assert same(generated(model, inputs), expected)
