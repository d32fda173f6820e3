"""The loop in the README runs as it stands, and gives the answers of single questions."""

import re
from pathlib import Path

import pytest
from PIL import Image

from lvlm_prune import attach
from lvlm_prune.loading import load

README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.fixture(scope="module")
def script():
    """The one block of its section."""
    section = README.read_text(encoding="utf-8").split("### In your own loop\n")[1]
    (block,) = re.findall(r"```python\n(.*?)```", section.split("\n## ")[0], re.DOTALL)
    return block


def test_the_script_is_short(script):
    lines = [line for line in script.splitlines() if line.strip()]
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100


def test_the_script_prints_answers_and_reports(script, capsys):
    names: dict = {}
    exec(compile(script, "README.md", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    reports = [line for line in printed if line.startswith("visionzip: 784 -> 196 visual tokens")]
    said = [line for line in printed if line not in reports]
    assert len(reports) == len(names["pairs"]) // 4
    assert not names["handle"].attached
    assert said == [f"{question} {answer}" for question, answer in _alone(names["pairs"])]
    assert {line.rpartition(" ")[2] for line in said} == {"yes", "no"}


def _alone(pairs):
    """Every question in a call of its own."""
    loaded = load()
    with attach(loaded.model, method="visionzip", keep=49):
        for path, question in pairs:
            inputs = loaded.inputs([Image.open(path).convert("RGB")], [question])
            output = loaded.model.generate(**inputs, max_new_tokens=16, do_sample=False)
            new = output[:, inputs["input_ids"].shape[1] :]
            yield question, loaded.processor.batch_decode(new, skip_special_tokens=True)[0]
