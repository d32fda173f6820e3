"""What `run` says of answers: probabilities that decide, times, memory, legend and picture."""

import pytest
import torch
from PIL import Image
from tiny_probe import tiny_loaded
from transformers import DynamicCache
from typer.testing import CliRunner

from lvlm_prune import attach
from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.cli import app
from lvlm_prune.config import PruneConfig
from lvlm_prune.eval.prefill import StageTimes
from lvlm_prune.kv_cache import cache_bytes
from lvlm_prune.loading import load
from lvlm_prune.show import kv_bytes, untimed
from lvlm_prune.show_answer import answer, yes_no_tokens
from lvlm_prune.show_figure import Drawn, Shown, figure, keys
from lvlm_prune.show_table import Timed, table
from lvlm_prune.views import View

VCD = {"method": "vcd", "options": {"alpha": 3.0, "beta": 1e-6}}
GAMMA = {"method": "pai", "options": {"alpha": 0.0, "gamma": 3.0, "beta": 1e-6}}


@pytest.fixture(scope="module")
def asked():
    loaded = tiny_loaded()
    return loaded, loaded.inputs([Image.linear_gradient("L").convert("RGB")], ["is there a cat ?"])


@pytest.mark.parametrize("config", [VCD, GAMMA], ids=["vcd", "pai"])
def test_probabilities_are_those_after_the_contrast(asked, config):
    loaded, inputs = asked
    plain = answer(loaded, inputs, 1)[1]
    with attach(loaded.model, reweight=config):
        said = answer(loaded, inputs, 1, contrasted=True)[1]
        output = loaded.model.generate(
            **inputs,
            max_new_tokens=1,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
        )
    share = output.scores[0][0].double().exp()
    tokens = loaded.processor.tokenizer
    for number, word in enumerate(("yes", "no")):
        wanted = share[list(yes_no_tokens(tokens, word))].sum() / share.sum()
        torch.testing.assert_close(said[number], float(wanted), rtol=1e-5, atol=1e-9)
    assert max(abs(a - b) / b for a, b in zip(said, plain, strict=True)) > 0.01


@pytest.mark.parametrize(
    ("reweight", "line"),
    [
        ("vcd", "not in the times of vcd: a second answer, to the prompt with a noised image"),
        ("pai:code", "of pai:code: a second answer, to the prompt without the image"),
        ("ilvad", "of ilvad: a first answer of up to 10 tokens"),
    ],
)
def test_what_runs_beside_the_answer_is_named(reweight, line):
    assert line in untimed(PruneConfig(keep=1.0, method="identity", reweight=reweight))


@pytest.mark.parametrize("reweight", ["pai", "var", None])
def test_nothing_runs_beside_other_answers(reweight):
    assert untimed(PruneConfig(reweight=reweight)) is None


def test_run_prints_both(tmp_path):
    """The bundled model, whose probabilities of yes and no are those after the contrast."""
    loaded, photo = load(), tmp_path / "photo.png"
    Image.linear_gradient("L").convert("RGB").save(photo)
    question = "Is there a cat in the image?"
    inputs = loaded.inputs([Image.open(photo).convert("RGB")], [question])
    with attach(loaded.model, reweight="vcd"):
        _, (yes, no) = answer(loaded, inputs, 1, contrasted=True)
    out = tmp_path / "run.png"
    result = CliRunner().invoke(
        app, ["run", str(photo), question, "--reweight", "vcd", "--save", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert f"{yes:.3f}  {no:.3f}" in result.output.split("\nvcd")[1]
    assert "\nnot in the times of vcd: " in result.output
    assert Image.open(out).format == "PNG"


TIMES = StageTimes(encode=8.0, select=0.25, splice=0.25, prefill=7.0)


def shown(name="unpruned", yes_no=(0.7, 0.2), tokens=196, last=196, kv=2**20):
    return Shown(name, "yes", yes_no, tokens, last, TIMES, kv)


def test_table_of_a_yes_no_question():
    both = (shown(), shown("cls", (0.25, 0.125), 49, 49, 2**18))
    lines = table(both, Timed("cpu", 2, 5)).splitlines()
    cells = [" ".join(line.split()) for line in lines[:3]]
    assert cells == [
        "visual tokens encode select prefill total KV MiB p(yes) p(no) answer",
        "unpruned 196 8.0 0.5 7.0 15.5 1.00 0.700 0.200 yes",
        "cls 49 8.0 0.5 7.0 15.5 0.25 0.250 0.125 yes",
    ]
    assert len({line.index("yes", 80) for line in lines[1:3]}) == 1, "columns are aligned"
    assert "medians of 5 interleaved rounds" in lines[3]
    assert "(cpu, 2 thread(s))" in lines[3]
    assert "->" not in lines[3]


@pytest.mark.parametrize("yes_no", [(0.3, 0.1), None])
def test_other_questions_have_no_probabilities(yes_no):
    text = table((shown(yes_no=yes_no), shown("cls", yes_no)), Timed("cuda", 2, 5))
    assert "p(yes)" not in text
    assert "thread" not in text


def test_table_says_how_many_tokens_reach_the_last_layer():
    text = table((shown(), shown("fastv", tokens=49, last=16)), Timed("cpu", 1, 5))
    assert "49 -> 16" in text
    assert "a -> b" in text


def test_cache_bytes_are_those_of_its_tensors():
    cache = DynamicCache()
    for layer in range(3):
        rows = torch.zeros(1, 2, 5 + layer, 4, dtype=torch.bfloat16)
        cache.update(rows, rows.clone(), layer)
    assert cache_bytes(cache) == sum(2 * 2 * (5 + layer) * 4 * 2 for layer in range(3))


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"method": "identity", "keep": 1.0}, [36, 36, 36]),
        ({"method": "cls", "keep": 9}, [9, 9, 9]),
        ({"method": "cls", "keep": 9, "layers": "fastv@1:4"}, [9, 4, 4]),
    ],
)
def test_kv_memory_is_that_of_the_tokens_of_each_layer(asked, config, tokens):
    loaded, inputs = asked
    stage = BoundaryStage(loaded.model, PruneConfig.from_dict(config))
    text = loaded.model.config.get_text_config()
    heads = text.num_key_value_heads * text.hidden_size // text.num_attention_heads
    words = inputs["input_ids"].shape[1] - 36
    assert text.num_hidden_layers == len(tokens)
    assert kv_bytes(loaded.model, stage, inputs) == sum(
        2 * 4 * heads * (words + kept) for kept in tokens
    )


def view_and_choice(groups=None, sinks=None, scores=None):
    view = View(Image.new("RGB", (28, 28), "red"), torch.arange(4), (2, 2))
    return [[view]], Drawn([], torch.tensor([0]), scores, sinks, 4, groups)


@pytest.mark.parametrize(
    ("found", "marks"),
    [
        ({}, ["kept", "dropped"]),
        ({"scores": torch.zeros(4)}, ["kept", "dropped", "scores"]),
        ({"groups": torch.zeros(4).long()}, ["kept", "dropped", "merged"]),
        ({"sinks": torch.ones(4).bool()}, ["kept", "dropped", "sink"]),
    ],
)
def test_the_legend_explains_what_is_drawn(found, marks):
    rows, choice = view_and_choice(**found)
    assert [key.mark for key in keys(rows, choice)] == marks


def test_the_legend_says_that_there_are_no_sinks():
    rows, choice = view_and_choice(sinks=torch.zeros(4, dtype=torch.bool))
    assert "none" in keys(rows, choice)[-1].words


def test_the_figure_is_larger_by_what_there_is_to_show():
    both, config = (shown(), shown("cls")), PruneConfig(method="cls")
    sizes = []
    for found in ({}, {"scores": torch.arange(4.0)}, {"groups": torch.zeros(4).long()}):
        rows, choice = view_and_choice(**found)
        sizes.append(figure(config, "a title", rows, both, choice, None).size)
    assert sizes[1][0] > sizes[0][0]
    assert sizes[1] == sizes[2]
    assert figure(config, "a title", [], both, choice, None) is None
