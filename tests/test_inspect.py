"""Inspection: its numbers are those of eager attention and of the rules, its picture is legible."""

import copy
import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from planted_llm import Planted
from planted_visual import plant_visual_sinks
from tiny_chatters import tiny_internvl, tiny_next
from tiny_families import FAMILIES, IMAGE
from tiny_models import IMAGE_TOKEN, prompts, tiny_llava
from tiny_probe import tiny_loaded
from typer.testing import CliRunner

from lvlm_prune import cli
from lvlm_prune.adapters import adapter_for
from lvlm_prune.assets import asset
from lvlm_prune.attachment import attach
from lvlm_prune.calibration import calibrate
from lvlm_prune.cli import app
from lvlm_prune.config import PruneConfig
from lvlm_prune.decoder import Decoder
from lvlm_prune.decoder_reading import read_decoder
from lvlm_prune.encoder_reading import read_encoder
from lvlm_prune.eval.inspection_picture import draw_inspection
from lvlm_prune.inspection import inspect_prompt
from lvlm_prune.inspection_text import inspection_dict, inspection_text
from lvlm_prune.layers.reached import reached_layers
from lvlm_prune.llm_sinks import SinkRule
from lvlm_prune.sinks import vit_sinks
from lvlm_prune.views import views

RULE = SinkRule(ratio=1.1, first_layer=1)  # random weights have no real sinks
PLANTED = Planted(dim=17, mark=20, constant=5)


@torch.no_grad()
def entering(model, inputs):
    """What enters each decoder layer, `[T, D]`, and the eager attention of each that attends."""
    decoder = Decoder(model)
    states: list[torch.Tensor] = []
    handles = [
        layer.register_forward_pre_hook(
            lambda module, args, kwargs: states.append(kwargs.get("hidden_states", *args)[0]),
            with_kwargs=True,
        )
        for layer in decoder.layers
    ]
    output = model(**inputs, output_attentions=True)
    for handle in handles:
        handle.remove()
    weights = [one for one in output.attentions if one is not None]
    return states, dict(zip(decoder.attends(), weights, strict=True))


def loop_sinks(state: torch.Tensor, visual: list[bool], ratio: float) -> list[bool]:
    """The norm rule, token by token."""
    norms = [math.sqrt(sum(float(x) ** 2 for x in row)) for row in state]
    marks = []
    for norm, kind in zip(norms, visual, strict=True):
        own = sorted(n for n, other in zip(norms, visual, strict=True) if other == kind)
        marks.append(norm >= ratio * own[(len(own) - 1) // 2])
    return marks


@pytest.mark.parametrize("name", FAMILIES)
def test_the_llm_is_read_as_eager_attention_has_it(name):
    family = FAMILIES[name]
    inputs = family.prompts("tit")
    visual = [token == IMAGE for token in inputs["input_ids"][0].tolist()]
    states, weights = entering(family.model("eager"), inputs)
    reading = read_decoder(family.model("sdpa"), inputs, RULE)
    for layer, state in enumerate(states):
        marks = loop_sinks(state, visual, RULE.ratio) if layer else [False] * len(visual)
        found = [mark for mark, kind in zip(marks, visual, strict=True) if kind]
        assert reading.sinks[layer].tolist() == found
        assert int(reading.text_sinks[layer]) == sum(marks) - sum(found)
        if layer not in weights:
            assert bool(reading.visual_mass[layer].isnan().all())
            continue
        for head, row in enumerate(weights[layer][0, :, -1].tolist()):
            seen = [weight for weight, kind in zip(row, visual, strict=True) if kind]
            on_sinks = sum(weight for weight, sink in zip(seen, found, strict=True) if sink)
            assert float(reading.visual_mass[layer, head]) == pytest.approx(sum(seen), abs=1e-5)
            share = float(reading.sink_share[layer, head])
            assert share == pytest.approx(on_sinks / sum(seen), abs=1e-4)
    assert bool(reading.sinks.any()), "nothing was compared"


def test_norm_ratios_are_those_of_the_tokens_that_enter():
    model, inputs = tiny_llava("eager"), prompts("tit")
    visual = inputs["input_ids"][0] == IMAGE_TOKEN
    states, _ = entering(model, inputs)
    reading = read_decoder(model, inputs)
    for layer, state in enumerate(states):
        for mask, found in ((visual, reading.norm_ratio), (~visual, reading.text_norm_ratio)):
            norms = sorted(float(row.norm()) for row in state[mask])
            expected = norms[-1] / norms[(len(norms) - 1) // 2]
            assert float(found[layer]) == pytest.approx(expected, rel=1e-5)


def test_the_encoder_is_read_as_eager_attention_has_it():
    inputs = prompts("tit")
    tower = tiny_llava("eager").model.vision_tower
    with torch.no_grad():
        eager = tower(inputs["pixel_values"], output_attentions=True, output_hidden_states=True)
    reading = read_encoder(adapter_for(tiny_llava()), inputs)
    norms = [float(row.norm()) for row in eager.hidden_states[-2][0, 1:]]
    heads = eager.attentions[-2][0, :, 0, 1:]
    assert reading.norms.tolist() == pytest.approx(norms, rel=1e-5)
    assert reading.attention.tolist() == pytest.approx(heads.mean(0).tolist(), abs=1e-6)
    assert (reading.kind, reading.layer) == ("CLS row", len(eager.attentions) - 2)
    assert torch.equal(reading.sinks, vit_sinks(torch.tensor([norms]))[0])


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_inspected_and_left_as_it_was(name):
    family = FAMILIES[name]
    model = copy.deepcopy(family.model())
    # The longest image has several tiles or a merged grid.
    inputs = family.prompts("tit", seed=3)
    total = int((inputs["input_ids"] == IMAGE).sum())
    with torch.no_grad():
        before = model(**inputs).logits
    inspection = inspect_prompt(model, inputs, PruneConfig(method="visionzip", keep=0.5), RULE)
    assert inspection.encoder.norms.shape == inspection.reached.shape == (total,)
    assert inspection.decoder.attention.shape[2] == total
    candidates = int(inspection.encoder.norms.isfinite().sum())
    assert len(inspection.kept) == round(candidates / 2)
    assert set(inspection.reached.tolist()) == {0, inspection.depth}
    json.dumps(inspection_dict(inspection), allow_nan=False)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, before)
    assert not [key for key in model.__dict__ if key.startswith("_lvlm_prune")]


def planted_llava():
    """A tiny LLaVA, its prompt, and the two visual tokens that are LLM sinks."""
    model, inputs = tiny_llava(), prompts("tit")
    return model, inputs, plant_visual_sinks(model, inputs, PLANTED, amplitude=3000.0)


def test_planted_llm_sinks_are_found_and_draw_the_attention():
    model, inputs, tokens = planted_llava()
    inspection = inspect_prompt(model, inputs, PruneConfig(keep=0.5), SinkRule())
    assert inspection.decoder.sinks[2].nonzero()[:, 0].tolist() == tokens.tolist()
    assert not bool(inspection.decoder.sinks[:2].any()), "nothing is a sink before layer 2"
    assert float(inspection.decoder.norm_ratio[2]) > 10
    assert float(inspection.decoder.sink_share[2].min()) > 0.9
    assert torch.equal(inspection.emerged, inspection.decoder.sinks)


def test_sinks_that_were_vit_sinks_have_propagated():
    model, inputs, tokens = planted_llava()
    inspection = inspect_prompt(model, inputs, PruneConfig(keep=0.5), SinkRule())
    first = torch.zeros(inspection.total, dtype=torch.bool)
    first[tokens[0]] = True
    inspection = replace(inspection, encoder=replace(inspection.encoder, sinks=first))
    assert inspection.propagated.nonzero().tolist() == [[2, int(tokens[0])]]
    assert inspection.emerged.nonzero().tolist() == [[2, int(tokens[1])]]


def test_with_a_calibration_phi_tells_sinks():
    model, inputs, tokens = planted_llava()
    rule = SinkRule(dims=(PLANTED.dim,), tau=0.8 * math.sqrt(32), first_layer=1)
    reading = read_decoder(model, inputs, rule)
    for layer in (1, 2):
        assert reading.sinks[layer].nonzero()[:, 0].tolist() == tokens.tolist()
    assert reading.phi is not None
    assert float(reading.phi[0]) < rule.tau < float(reading.phi[1])


@pytest.mark.parametrize("seed", range(5))
def test_how_far_tokens_get_is_found_from_columns(seed):
    generator = np.random.default_rng(seed)
    visual = generator.random(30) < 0.6
    entered = np.where(generator.random(visual.sum()) < 0.7, 9, 0)
    # The short prompt, column by column, and what two stages leave of it.
    tokens = iter(range(visual.sum()))
    prompt = [next(tokens) if kind else None for kind in visual]
    short = [token for token in prompt if token is None or entered[token]]
    alive = [column for column, token in enumerate(short) if token is not None]
    left, expected = {}, entered.copy()
    for layer in (2, 5):
        stay = [column for column in alive if generator.random() < 0.5]
        for column in set(alive) - set(stay):
            expected[short[column]] = layer
        left[layer], alive = torch.tensor(stay, dtype=torch.long), stay
    found = reached_layers(torch.tensor(visual), torch.tensor(entered), left)
    assert found.tolist() == expected.tolist()


def test_stages_leave_the_tokens_that_an_attached_model_leaves():
    model, inputs = tiny_llava(), prompts("tit")
    config = PruneConfig(
        method="visionzip", keep=18, layers={"method": "fastv", "stages": {1: 0.5, 2: 0.25}}
    )
    inspection = inspect_prompt(model, inputs, config)
    with torch.no_grad(), attach(model, config) as handle:
        model(**inputs)
        assert inspection.counts() == handle.layers.report.tokens[0] == [18, 9, 5]
        assert inspection.kept.tolist() == handle.report.kept[0].tolist()
    assert inspection.stages == (1, 2)


def test_one_prompt_with_an_image_is_needed():
    for inputs in (prompts("ti", "it"), prompts("tt")):
        with pytest.raises(ValueError, match="one prompt with an image"):
            read_decoder(tiny_llava(), inputs)
    assert "_lvlm_prune_decoder_hooks" not in tiny_llava().__dict__


def test_a_picture_is_drawn_where_no_grid_is_known(tmp_path):
    model, inputs, _ = planted_llava()
    inspection = inspect_prompt(model, inputs, PruneConfig(keep=0.5, layers="fastv"))
    draw_inspection(inspection, [], "heading", "numbers", tmp_path / "new" / "page.png")
    check_picture(tmp_path / "new" / "page.png")


@pytest.mark.parametrize("make", [tiny_next, tiny_internvl])
def test_tiles_are_drawn(tmp_path, make):
    loaded, photo = make(), Image.linear_gradient("L").convert("RGB").resize((64, 48))
    inputs = loaded.inputs([photo], ["is there a cat"])
    inspection = inspect_prompt(loaded.model, inputs, PruneConfig(keep=0.5), RULE)
    rows = views(photo, inputs, inspection.tiles, loaded.processor.image_processor)
    assert sum(len(row) for row in rows) == len(inspection.tiles)
    draw_inspection(inspection, rows, "It costs $5 or $6", "numbers", tmp_path / "page.png")
    check_picture(tmp_path / "page.png")


def check_picture(path) -> None:
    """White at the border, at most 1600 x 1200, and something on every quarter."""
    with Image.open(path) as image:
        assert image.width <= 1600
        assert image.height <= 1200
        pixels = np.asarray(image.convert("L"))
    assert (pixels[0] == 255).all()
    assert (pixels[-1] == 255).all()
    height, width = (size // 2 for size in pixels.shape)
    for quarter in (pixels[:height, :width], pixels[:height, width:], pixels[height:, :width]):
        assert (quarter < 200).mean() > 0.005


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    loaded = tiny_loaded()
    loaded.model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    return folder


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.linear_gradient("L").convert("RGB").save(path)
    return path


def test_the_command_prints_draws_and_writes_numbers(photo, model_folder, tmp_path):
    save, numbers = tmp_path / "a" / "page.png", tmp_path / "b" / "page.json"
    calibrate(tiny_llava()).save(tmp_path / "sinks.json")
    arguments = ["--model", model_folder, "--layers", "fastv", "--method", "cls", "--keep", "12"]
    arguments += ["--calibration", tmp_path / "sinks.json"]
    output = CliRunner().invoke(
        app, ["inspect", *map(str, [photo, *arguments, "--save", save, "--json", numbers])]
    )
    assert output.exit_code == 0, output.output
    assert "Is there a cat in the image?" in output.output
    assert "36 visual tokens; 12 kept by cls" in output.output
    assert "no LLM sinks among visual tokens" in output.output
    check_picture(save)
    values = json.loads(numbers.read_text())
    assert values["total"] == len(values["norms"]) == 36
    assert len(values["kept"]) == values["tokens_per_layer"][0] == 12
    assert np.shape(values["visual_mass"]) == (3, 4)


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_bundled_models_are_inspected(tmp_path, name):
    image = asset("probe/images/scene_000001.jpg")
    arguments = [image, "--model", f"{name}-pictogram", "--save", tmp_path / "page.png"]
    if name == "llava":
        arguments.append("--plant-sinks")
    output = CliRunner().invoke(app, ["inspect", *map(str, arguments)])
    assert output.exit_code == 0, output.output
    kind = "received attention" if name == "qwen" else "CLS row"
    assert f"attention       {kind} of encoder layer" in output.output
    assert ("; 4 ViT sinks;" if name == "llava" else "no ViT sinks") in output.output
    check_picture(tmp_path / "page.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.png",), "does not exist"),
        (("photo.png", "--method", "clss"), "did you mean 'cls'"),
        (("photo.png", "--layers", "fastvv"), "did you mean 'fastv'"),
        (("photo.png", "--layers", "fastv@7:0.5"), "layer 7 is out of range"),
        (("photo.png", "--keep", "37"), "more than the 36 visual tokens"),
        (("photo.png", "--calibration", "other.json"), "calibrate this model"),
        (("photo.png", "--calibration", "none.json"), "'none.json' cannot be read (no such file"),
        (("photo.png", "--save", "page.jpg"), ".png file"),
    ],
)
def test_mistakes_end_in_one_sentence(
    monkeypatch, capsys, photo, model_folder, tmp_path, arguments, message
):
    monkeypatch.chdir(tmp_path)
    calibrate(tiny_llava(seed=1)).save("other.json")
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(
        sys, "argv", ["lvlm-prune", "inspect", *arguments, "--model", str(model_folder)]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    error = capsys.readouterr().err
    assert stop.value.code == 1
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert set(tmp_path.iterdir()) == before, "something was written"


def test_the_table_has_a_line_for_each_layer():
    model, inputs, tokens = planted_llava()
    text = inspection_text(inspect_prompt(model, inputs, PruneConfig(keep=0.5), SinkRule()))
    last = next(line.split() for line in text.splitlines() if line.lstrip().startswith("2 "))
    assert last[1:5] == ["18", "2", "0", "2"]
    assert f"{len(tokens)} LLM sinks (0 propagated, 2 emerged)" in text
