"""The speed harness: what it runs, counts and divides. No test depends on how fast anything is."""

import json
from dataclasses import replace
from statistics import median

import pytest
import torch

from lvlm_prune.eval.speed import measure_speed
from lvlm_prune.eval.speed_clock import MEASURES, time_answer
from lvlm_prune.eval.speed_memory import highest_sum, peak_and_tokens
from lvlm_prune.eval.speed_models import build_model, make_prompt
from lvlm_prune.eval.speed_presets import PRESETS, preset_named
from lvlm_prune.eval.speed_table import HEADER, sentence, summarise
from lvlm_prune.eval.speed_variants import make_workload, prepared

TINY = PRESETS["tiny"]
VARIANTS = ["unpruned", "ideal", "cls", "visionzip"]
KEEP = 16
ROUNDS = 4


def tiny_of(kind: str, **changes):
    """The tiny preset in the shape of another family."""
    shapes = {
        "llava": {},
        "llava_next": {"tiles": (2, 2)},
        "qwen2_5_vl": {"grid": (6, 8), "full_layers": (1, 3)},
    }
    return replace(TINY, kind=kind, **shapes[kind], **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("speed")


@pytest.fixture(scope="module")
def results(folder):
    return measure_speed(
        preset="tiny",
        methods=["cls", "visionzip"],
        keep=KEEP,
        repeats=ROUNDS,
        new_tokens=3,
        threads=1,
        out=folder,
        device="cpu",
    )


def test_results_are_written(results, folder):
    assert json.loads((folder / "speed.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(results)
    )
    assert results["clock"] == "cpu"
    assert list(results["variants"]) == VARIANTS
    page = (folder / "speed.md").read_text(encoding="utf-8")
    assert "lvlm-prune speed --preset tiny --method cls,visionzip --keep 16" in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(VARIANTS)
    assert all(row.count("|") == len(HEADER) + 1 for row in rows)
    assert page.rstrip().endswith(results["meaning"])


def test_rounds_are_interleaved_and_every_variant_runs_beside_the_ideal(results):
    orders = []
    for number in range(ROUNDS):
        rows = [row for row in results["rounds"] if row["round"] == number]
        assert [row["place"] for row in rows] == list(range(6))
        orders.append(tuple(row["variant"] for row in rows))
        blocks = [sorted(orders[-1][place : place + 2]) for place in (0, 2, 4)]
        assert sorted(blocks) == [["cls", "ideal"], ["ideal", "unpruned"], ["ideal", "visionzip"]]
        assert [row["block"] for row in rows] == [0, 0, 1, 1, 2, 2]
    assert len(set(orders)) > 1


def test_ideal_and_pruned_models_get_equally_many_visual_tokens(results):
    tokens = {name: summary["visual_tokens"] for name, summary in results["variants"].items()}
    assert tokens == {"unpruned": 64, "ideal": KEEP, "cls": KEEP, "visionzip": KEEP}


def test_ratios_come_from_the_rounds(results):
    rows = results["rounds"]
    for name, summary in results["variants"].items():
        mine = [row for row in rows if row["variant"] == name]
        for field, measure, other in (
            ("of_unpruned", "end_to_end", "unpruned"),
            ("of_ideal", "end_to_end", "ideal"),
            ("encoder_of_unpruned", "encoder", "unpruned"),
        ):
            ratios = []
            for row in mine:
                (partner,) = (
                    each
                    for each in rows
                    if each["variant"] == other
                    and each["round"] == row["round"]
                    and (other == "unpruned" or each["block"] == row["block"])
                )
                ratios.append(row["cpu"][measure] / partner["cpu"][measure])
            assert summary[field]["median"] == pytest.approx(median(ratios))
            assert min(ratios) <= summary[field]["q1"] <= summary[field]["q3"] <= max(ratios)
        for measure in MEASURES:
            values = [row["cpu"][measure] for row in mine]
            assert summary["times"][measure]["median"] == pytest.approx(median(values))


def test_stages_make_up_the_call(results):
    for row in results["rounds"]:
        for clock in ("cpu", "wall"):
            times = row[clock]
            parts = times["encoder"] + times["stage"] + times["prefill"] + 2 * times["decode"]
            assert all(times[name] > 0 for name in MEASURES)
            assert parts <= times["end_to_end"] + 1e-6


def test_pruned_models_need_less_memory(results):
    peaks = {name: summary["peak_mib"] for name, summary in results["variants"].items()}
    assert max(peaks["ideal"], peaks["cls"], peaks["visionzip"]) < peaks["unpruned"]


def test_highest_sum_of_a_trace():
    trace = [
        {"name": "[memory]", "ts": 3, "args": {"Bytes": -60}},
        {"name": "aten::mm", "ts": 1, "args": {}},
        {"name": "[memory]", "ts": 1, "args": {"Bytes": 60}},
        {"name": "[memory]", "ts": 4, "args": {"Bytes": 30}},
        {"name": "[memory]", "ts": 2, "args": {"Bytes": 20}},
    ]
    assert highest_sum(trace) == 80
    assert highest_sum([]) == 0


def test_ideal_is_the_stock_model_on_the_first_rows():
    """Its answer is that of a pruned model which keeps those rows at consecutive positions."""
    work = make_workload(PRESETS["tiny"], "cpu", 4, new_tokens=5)
    with prepared(work, "ideal") as answer:
        ideal = answer()
    with torch.no_grad():
        features = work.model.model.get_image_features(work.prompt["pixel_values"]).pooler_output
        embeds = work.model.get_input_embeddings()(work.ideal_prompt["input_ids"])
        embeds[work.ideal_prompt["input_ids"] == work.preset.image_token] = features[0][:4]
        expected = work.generate(inputs_embeds=embeds)
    assert torch.equal(ideal[:, 4 + work.preset.text_tokens :], expected)


def test_preparing_leaves_the_model_as_it_was():
    work = make_workload(PRESETS["tiny"], "cpu", 4, new_tokens=2)
    for name in ("unpruned", "ideal", "cls"):
        with prepared(work, name):
            pass
        assert "generate" not in work.model.__dict__


@pytest.mark.parametrize(("kind", "placeholders"), [("llava_next", 336), ("qwen2_5_vl", 48)])
def test_other_families_are_timed_the_same_way(kind, placeholders):
    preset = tiny_of(kind)
    work = make_workload(preset, "cpu", KEEP, new_tokens=2)
    assert int((work.prompt["input_ids"] == preset.image_token).sum()) == placeholders
    for name, tokens in {"unpruned": placeholders, "ideal": KEEP, "cls": KEEP}.items():
        with prepared(work, name) as answer:
            assert peak_and_tokens(work, answer)[1] == tokens
            times = time_answer(work, answer)["cpu"]
        assert all(times[measure] > 0 for measure in MEASURES)


@pytest.mark.parametrize(
    ("name", "parameters", "tokens"),
    [
        ("llava-1.5-7b", 7_063_427_072, 576),
        ("llava-next-7b", 7_063_431_168, 2928),
        ("qwen2.5-vl-7b", 8_292_166_656, 2880),
    ],
)
def test_7b_presets_have_the_sizes_of_the_checkpoints(name, parameters, tokens):
    """On the meta device, which has no memory; the model's own code counts the visual tokens."""
    preset = PRESETS[name]
    model = build_model(preset, "meta")
    assert sum(weights.numel() for weights in model.parameters()) == parameters
    assert {weights.dtype for weights in model.parameters()} == {torch.bfloat16}
    assert preset.placeholders == tokens
    prompt = make_prompt(preset, "cpu", tokens)
    if preset.kind == "qwen2_5_vl":
        assert int(prompt["image_grid_thw"].prod()) == 4 * tokens == len(prompt["pixel_values"])
        return
    assert prompt["pixel_values"].shape[-3:] == (3, 336, 336)
    features = torch.zeros(preset.visual_tokens // 576, 576, 8)
    if preset.kind == "llava_next":
        newline, default = torch.zeros(8), "default"
        packed, lengths = model.model.pack_image_features(
            [features], prompt["image_sizes"], default, image_newline=newline
        )
        assert lengths.tolist() == [len(packed[0])] == [tokens]


def test_meaning_without_a_dropped_token():
    times = {measure: 1.0 for measure in MEASURES}
    names = ("unpruned", "ideal", "identity")
    rows = [{"round": 0, "block": 0, "variant": name, "wall": times} for name in names]
    summaries = summarise(rows, {name: (1.0, 64) for name in names}, "wall")
    assert sentence(summaries, 64).startswith("No method dropped a token")


@pytest.mark.parametrize(
    ("preset", "device", "message"),
    [
        ("llava-9b", "cpu", "unknown preset 'llava-9b'; known: cpu, .*, tiny, signals"),
        ("qwen2.5-vl-7b", "cpu", "meant for a GPU; add --device cuda, or use --preset cpu"),
        ("llava-1.5-7b", "cpu", "meant for a GPU; add --device cuda, or use --preset cpu"),
        ("cpu", "mps", "device must be cpu, cuda or cuda:NUMBER, got 'mps'"),
    ],
)
def test_what_cannot_run_is_refused(preset, device, message):
    with pytest.raises(ValueError, match=message):
        preset_named(preset, device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_missing_gpu_is_named():
    with pytest.raises(ValueError, match="torch finds no GPU; use --device cpu"):
        preset_named("cpu", "cuda")


def test_method_that_cannot_run_is_refused_before_measuring(tmp_path):
    with pytest.raises(ValueError, match="cannot make 23 tokens"):
        measure_speed("tiny", ["downsample"], 23, 1, 2, 1, tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()
