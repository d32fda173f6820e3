"""The speed harness: what it runs, counts and divides. No test depends on how fast anything is."""

import json
from statistics import median

import pytest
import torch

from lvlm_prune.eval.speed import measure_speed
from lvlm_prune.eval.speed_clock import MEASURES
from lvlm_prune.eval.speed_memory import highest_sum
from lvlm_prune.eval.speed_models import PRESETS, build_model, preset_named
from lvlm_prune.eval.speed_table import HEADER, sentence, summarise
from lvlm_prune.eval.speed_variants import make_workload, prepared

VARIANTS = ["unpruned", "ideal", "cls", "visionzip"]
KEEP = 16
ROUNDS = 4


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
    assert json.loads((folder / "speed.json").read_text(encoding="utf-8")) == results
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


def test_llava_7b_has_the_size_of_the_checkpoint():
    model = build_model(PRESETS["llava-1.5-7b"], "meta")
    assert sum(weights.numel() for weights in model.parameters()) == 7_063_427_072
    assert {weights.dtype for weights in model.parameters()} == {torch.bfloat16}


def test_meaning_without_a_dropped_token():
    times = {measure: 1.0 for measure in MEASURES}
    names = ("unpruned", "ideal", "identity")
    rows = [{"round": 0, "block": 0, "variant": name, "wall": times} for name in names]
    summaries = summarise(rows, {name: (1.0, 64) for name in names}, "wall")
    assert sentence(summaries, 64).startswith("No method dropped a token")


@pytest.mark.parametrize(
    ("preset", "device", "message"),
    [
        (
            "llava-next-7b",
            "cuda",
            "needs the model family 'llava_next', which cannot be pruned yet",
        ),
        ("llava-9b", "cpu", "unknown preset 'llava-9b'; known: cpu, llava-1.5-7b, tiny"),
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
