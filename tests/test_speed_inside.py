"""Speed of what works inside the LLM: what runs, counts and divides, not how fast anything is."""

import json
from dataclasses import replace
from statistics import median

import pytest
import torch

from lvlm_prune.commands.speed import layer_method_names, reweighter_names
from lvlm_prune.eval.speed import measure_speed
from lvlm_prune.eval.speed_edits import watched
from lvlm_prune.eval.speed_hand_cut import hand_cut
from lvlm_prune.eval.speed_layers import lengths, measure_layers, schedule_for
from lvlm_prune.eval.speed_llm import LLM_PRESETS, RULE, llm_preset_named, make_llm_work, with_keep
from lvlm_prune.eval.speed_models import build_model
from lvlm_prune.eval.speed_passes import PASSES, time_passes
from lvlm_prune.eval.speed_reweight import (
    EAGER,
    PLAIN,
    eager,
    edited_layers,
    measure_reweighting,
    reweighted,
)
from lvlm_prune.layers.registry import LAYER_METHODS
from lvlm_prune.layers.stage import LayerStage
from lvlm_prune.reweight.config import ReweightConfig
from lvlm_prune.reweight.registry import REWEIGHTERS

MHA, GQA = LLM_PRESETS["reweight-tiny"].cases
(STAGED,) = LLM_PRESETS["layers-tiny"].cases
ROUNDS = 2
EDITING = [name for name in REWEIGHTERS if ReweightConfig.of(name).beside() is None]


def answer(work):
    """Logits of the prompt's last token and of the last decode step."""
    with torch.inference_mode():
        prefill = work.prefill()
        return torch.cat([prefill.logits, work.decode(prefill.past_key_values).logits], 1)


@pytest.fixture(scope="module")
def reweight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reweight")
    return measure_reweighting("reweight-tiny", ["var", "pai"], ROUNDS, 3, 1, folder, "cpu"), folder


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layers")
    names = ["fastv", "pyramiddrop", "exit"]
    return measure_layers("layers-tiny", names, 8, ROUNDS, 3, 1, folder, "cpu"), folder


@pytest.mark.parametrize("case", [MHA, GQA], ids=lambda case: case.name)
@pytest.mark.parametrize("name", ["var", "pai", "headguide"])
def test_row_split_and_eager_baseline_answer_alike_and_not_like_the_plain_model(case, name):
    work = make_llm_work(case, "cpu", new_tokens=3)
    plain = answer(work)
    with reweighted(work, name):
        split = answer(work)
    with eager(work, name):
        baseline = answer(work)
    assert torch.equal(answer(work), plain)
    torch.testing.assert_close(split, baseline, atol=1e-5, rtol=1e-4)
    # Random weights make logits small; the edits stand out from rounding all the same.
    assert (split - plain).abs().max() > 20 * (split - baseline).abs().max()


def test_planted_sinks_are_those_of_the_norm_rule():
    work = make_llm_work(MHA, "cpu", new_tokens=2)
    hidden = []
    layer = work.model.get_decoder().layers[0]
    hook = layer.register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
    answer(work)
    hook.remove()
    visual = work.ids == MHA.shapes.image_token
    sinks = RULE.marks(hidden[0], visual, torch.ones_like(visual), 0)
    assert sinks[0].nonzero()[:, 0].tolist() == [0, 4, 68]
    assert int(visual.sum()) == MHA.visual


@pytest.mark.parametrize("name", EDITING)
def test_every_reweighter_is_seen_to_change_something(name):
    work = make_llm_work(GQA, "cpu", new_tokens=2)
    moved = watched(work, lambda: reweighted(work, name))
    assert moved["rows"] == (5 if REWEIGHTERS[name].rows == "text" else 1)
    assert 0 < moved["changed"] <= 1
    assert moved["moved"] > 0 or name == "vhr"


def test_all_names_every_method():
    assert reweighter_names("all") == list(REWEIGHTERS)
    assert layer_method_names("all") == list(LAYER_METHODS)
    assert layer_method_names("fastv, dart") == ["fastv", "dart"]
    assert reweighter_names("pai, var:official_code") == ["pai", "var:official_code"]


def test_what_cannot_be_timed_is_left_out_and_the_rest_is_not(tmp_path, monkeypatch):
    monkeypatch.setitem(
        LLM_PRESETS, "reweight-tiny", replace(LLM_PRESETS["reweight-tiny"], cases=(GQA,))
    )
    names = ["vcd", "var:official_code", "ilvad", "pai:code", "pai"]
    results = measure_reweighting("reweight-tiny", names, 1, 2, 1, tmp_path, "cpu")
    assert list(results["cases"]["GQA"]["variants"]) == [PLAIN, "var:official_code", "pai"]
    assert list(results["left_out"]) == ["vcd", "ilvad", "pai:code"]
    page = (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert "Left out: vcd, generate runs a second answer, to the prompt with a noised" in page
    assert "Left out: ilvad, generate runs a first answer of up to 10 tokens as well" in page
    with pytest.raises(ValueError, match="no reweighter is left to time .vcd: generate runs a sec"):
        measure_reweighting("reweight-tiny", ["vcd"], 1, 2, 1, tmp_path / "none", "cpu")
    assert not (tmp_path / "none").exists()


def test_presets_edit_as_they_are_attached():
    work = make_llm_work(GQA, "cpu", new_tokens=2)
    answers = []
    for name in ("var", "var:official_code"):
        with reweighted(work, name) as reweighting:
            assert reweighting.config == ReweightConfig.of(name)
            answers.append(answer(work))
    assert not torch.equal(*answers)


def test_reweighter_that_changes_nothing_is_refused():
    work = make_llm_work(MHA, "cpu", new_tokens=2)
    work.features[:] = 0.01  # no sink among them
    with pytest.raises(ValueError, match="'var' changes nothing"):
        watched(work, lambda: reweighted(work, "var"))


def test_reweighted_runs_stand_next_to_plain_ones(reweight):
    results, folder = reweight
    assert list(results["cases"]) == ["MHA", "GQA"]
    for case in results["cases"].values():
        assert list(case["variants"]) == [PLAIN, "var", "pai", EAGER]
        for number in range(ROUNDS):
            rows = [row for row in case["rounds"] if row["round"] == number]
            blocks = [{row["variant"] for row in rows if row["block"] == n} for n in (0, 1)]
            assert sorted(blocks, key=len) == [{PLAIN, "pai"}, {PLAIN, "var", EAGER}]
            assert [row["place"] for row in rows] == list(range(5))
        for name, rows_edited in (("var", 5), ("pai", 1), (EAGER, 5)):
            assert case["variants"][name]["edits"]["rows"] == rows_edited
    page = (folder / "speed.md").read_text(encoding="utf-8")
    assert "--preset reweight-tiny --reweight var,pai" in page
    assert "128 visual and 9 text tokens" in page
    assert len([line for line in page.splitlines() if line.startswith("|")]) == 2 + 8
    saved = json.loads((folder / "speed.json").read_text(encoding="utf-8"))
    assert saved == json.loads(json.dumps(results))


def test_ratios_are_medians_of_runs_in_the_same_block(reweight):
    for case in reweight[0]["cases"].values():
        for measure in PASSES:
            ratios = []
            for row in (each for each in case["rounds"] if each["variant"] == EAGER):
                (plain,) = (
                    each
                    for each in case["rounds"]
                    if each["variant"] == PLAIN
                    and (each["round"], each["block"]) == (row["round"], row["block"])
                )
                ratios.append(row["cpu"][measure] / plain["cpu"][measure])
            found = case["variants"][EAGER]["of_plain"][measure]["median"]
            assert found == pytest.approx(median(ratios))


def test_attention_is_part_of_the_prefill():
    work = make_llm_work(MHA, "cpu", new_tokens=2)
    for times in time_passes(work).values():
        assert 0 < times["attention"] < times["prefill"]
        assert times["decode"] > 0


def test_stages_are_counted_exactly(layers):
    results, folder = layers
    variants = results["cases"]["4 layers"]["variants"]
    assert variants["fastv"]["tokens"] == [64, 64, 8, 8]
    assert variants["pyramiddrop"]["tokens"] == [64, 64, 8, 8]
    assert variants["exit"]["tokens"][0] == 64
    # 9 text tokens; projections and MLP grow with the length, attention with its square.
    token, width = 8 * 64 * 64 + 6 * 64 * 96, 64
    whole, short = (n * token + 2 * n * (n + 1) * width for n in (73, 17))
    share = (2 * whole + 2 * short) / (4 * whole)
    assert variants["fastv"]["prefill_flops"] == pytest.approx(share)
    page = (folder / "speed.md").read_text(encoding="utf-8")
    assert "--preset layers-tiny --layers fastv,pyramiddrop,exit --keep 8" in page
    assert "64 x 2, 8 x 2" in page
    for number in range(ROUNDS):
        rows = [row for row in results["cases"]["4 layers"]["rounds"] if row["round"] == number]
        blocks = [{row["variant"] for row in rows if row["block"] == n} for n in range(3)]
        wanted = [{"unpruned", name, f"ideal of {name}"} for name in variants]
        assert all(block in wanted for block in blocks)
        assert len(rows) == 9


@pytest.mark.parametrize("tokens", [[64, 64, 16, 16], [64, 40, 40, 7], [64, 64, 64, 64]])
def test_ideal_has_the_lengths_and_the_answer_of_a_model_that_masks_the_same_keys(tokens):
    work = make_llm_work(STAGED, "cpu", new_tokens=1)
    with torch.inference_mode(), hand_cut(work, tokens):
        output = work.prefill()
    for layer, count in zip(output.past_key_values.layers, tokens, strict=True):
        assert layer.get_seq_length() == count + STAGED.text
    with torch.inference_mode():
        expected = masked_prefill(work, tokens)
    torch.testing.assert_close(output.logits, expected, atol=1e-5, rtol=1e-4)


def masked_prefill(work, tokens):
    """The last logits of the unpruned model with the keys of the other visual tokens hidden."""
    length = work.ids.shape[1]

    def hide(_, args, kwargs, count):
        mask = torch.zeros(length, length).masked_fill(
            torch.ones(length, length, dtype=torch.bool).triu(1), -torch.inf
        )
        mask[:, work.visual[count:]] = -torch.inf
        # A row that is gone sees itself, so that it has no empty softmax; nobody sees it.
        mask.fill_diagonal_(0)
        return args, {**kwargs, "attention_mask": mask[None, None]}

    hooks = [
        layer.register_forward_pre_hook(
            lambda m, a, k, count=count: hide(m, a, k, count), with_kwargs=True
        )
        for layer, count in zip(work.model.get_decoder().layers, tokens, strict=True)
    ]
    try:
        return work.prefill().logits
    finally:
        for hook in hooks:
            hook.remove()


def test_stage_and_its_ideal_have_equally_many_keys():
    work = make_llm_work(STAGED, "cpu", new_tokens=2)
    with LayerStage(work.model, schedule_for("fastv", STAGED), RULE) as stage:
        answer(work)
        counts = stage.report.tokens[0]
    assert counts == [64, 64, 16, 16]
    assert lengths(counts) == "64 x 2, 16 x 2"
    assert schedule_for("visipruner", STAGED).stages is None
    with hand_cut(work, counts) as cut:
        assert [len(columns) for columns in cut.columns] == [73, 73, 25, 25]
    assert torch.equal(answer(work), answer(work))


@pytest.mark.parametrize(
    ("preset", "tokens", "parameters"),
    [
        ("reweight-7b", [(576, 700), (2640, 2900)] * 2, None),
        ("layers-7b", [(576, 700), (2640, 2900)] * 2, None),
        ("reweight", [(576, 700)] * 2 + [(2640, 2900)] * 2, 1),
    ],
)
def test_presets_have_the_stated_shapes(preset, tokens, parameters):
    """On the meta device, which has no memory."""
    cases = LLM_PRESETS[preset].cases
    assert [(case.visual, case.tokens) for case in cases] == tokens
    for case in cases:
        model = build_model(case.shapes, "meta")
        attention = model.get_decoder().layers[0].self_attn
        heads, kv_heads = (32, 32) if case.kv_heads is None else (28, 4)
        assert attention.q_proj.out_features == 128 * heads
        assert attention.k_proj.out_features == 128 * kv_heads
        assert case.keep == 64
        if preset.endswith("-7b"):
            assert attention.q_proj.weight.dtype == torch.bfloat16
            depth, mlp = (32, 11008) if case.kv_heads is None else (28, 18944)
            assert len(model.get_decoder().layers) == depth
            assert model.get_decoder().layers[0].mlp.gate_proj.out_features == mlp
            assert edited_layers(case, "var") == set(range(2, depth - 1))
        else:
            assert edited_layers(case, "var") == {0}


def test_presets_for_a_gpu_run_at_tiny_scale_in_bfloat16(tmp_path, monkeypatch):
    case = replace(GQA, dtype="bfloat16", every_layer=False)
    for name in ("reweight-7b", "layers-7b"):
        small = replace(LLM_PRESETS[name], cases=(case,), needs_gpu=False)
        monkeypatch.setitem(LLM_PRESETS, name, small)
    for settings in ({"preset": "reweight-7b"}, {"preset": "layers-7b", "keep": 16}):
        results = measure_speed(
            **{"methods": None, "keep": None, **settings},
            repeats=1,
            new_tokens=2,
            threads=1,
            out=tmp_path,
            device="cpu",
        )
        assert list(results["cases"]) == ["GQA"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "reweight-7b"}, "meant for a GPU; add --device cuda, or use --preset reweight"),
        ({"preset": "layers-7b"}, "meant for a GPU; add --device cuda, or use --preset layers"),
        ({"preset": "cpu", "reweight": ["var"]}, "'cpu' does not measure --reweight; .* reweight,"),
        ({"preset": "reweight-tiny", "layers": ["fastv"]}, "does not measure --layers"),
        ({"preset": "layers-tiny", "methods": ["cls"]}, "runs no vision encoder"),
        ({"preset": "reweight-tiny", "keep": 8}, "drops no tokens; leave --keep out"),
        ({"preset": "layers-tiny", "keep": 0.5}, "pass --keep as a whole number, got 0.5"),
        ({"preset": "layers-tiny", "keep": 65}, "keep=65 is not possible; 4 layers has 64 tokens"),
        ({"reweight": ["var"], "layers": ["fastv"]}, "one at a time"),
        ({"reweight": ["paii"]}, "unknown reweighter 'paii'; did you mean 'pai'"),
        ({"reweight": ["var:official"]}, "no preset 'official'; known: general"),
        ({"layers": ["fastw"]}, "unknown layer method 'fastw'; did you mean 'fastv'"),
    ],
)
def test_what_cannot_be_measured_is_refused(settings, message, tmp_path):
    defaults = {"preset": None, "methods": None, "keep": None}
    with pytest.raises(ValueError, match=message):
        measure_speed(
            **{**defaults, **settings},
            repeats=1,
            new_tokens=2,
            threads=1,
            out=tmp_path / "out",
            device="cpu",
        )
    assert not (tmp_path / "out").exists()


def test_budget_of_a_case():
    assert with_keep(STAGED, None) == STAGED
    assert with_keep(STAGED, 8).keep == 8
    assert llm_preset_named("layers-tiny", "layers", "cpu").cases == (STAGED,)
