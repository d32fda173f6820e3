"""What `run` says of an answer: the probabilities that decide, and what was not timed."""

import pytest
import torch
from PIL import Image
from tiny_probe import tiny_loaded
from typer.testing import CliRunner

from lvlm_prune import attach
from lvlm_prune.cli import app
from lvlm_prune.config import PruneConfig
from lvlm_prune.show import untimed
from lvlm_prune.show_answer import answer, yes_no_tokens

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
    loaded = tiny_loaded()
    for part in (loaded.model, loaded.processor):
        part.save_pretrained(tmp_path / "model")
    photo = tmp_path / "photo.png"
    Image.linear_gradient("L").convert("RGB").save(photo)
    inputs = loaded.inputs([Image.open(photo)], ["is there a cat ?"])
    with attach(loaded.model, reweight="vcd"):
        _, (yes, no) = answer(loaded, inputs, 1, contrasted=True)
    arguments = ["run", str(photo), "is there a cat ?", "--model", str(tmp_path / "model")]
    out = ["--save", str(tmp_path / "run.png")]
    result = CliRunner().invoke(app, [*arguments, "--reweight", "vcd", *out])
    assert result.exit_code == 0, result.output
    assert f"{yes:.3f}  {no:.3f}" in result.output.split("\nvcd")[1]
    assert "\nnot in the times of vcd: " in result.output
