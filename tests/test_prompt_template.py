"""What a prompt may hold is said before any question is asked."""

import json

import pytest
from runner_pope import exit_code
from tiny_chatters import tiny_qwen
from tiny_probe import tiny_loaded

from lvlm_prune.eval.eval_settings import EvalSettings
from lvlm_prune.eval.prompt_template import check_placeholders, check_template
from lvlm_prune.eval.questions import filled


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("yes or no?", "lacks {question}"),
        ("{questions}", "lacks {question}"),
        ("{question} {x}", "{x}, which nothing fills"),
        ("{context}\n{question}", "{context}, which nothing fills"),
    ],
)
def test_a_name_that_nothing_fills_is_named(template, named):
    for refuses in (check_template, lambda text: EvalSettings([0.25], template=text)):
        with pytest.raises(ValueError) as refused:
            refuses(template)
        assert named in str(refused.value)


@pytest.mark.parametrize(
    "around", ["", 'Answer as {"answer": "yes"}.', "a {} b", "{0} or {1}", "{ x }", "\\frac{1}{2}"]
)
def test_other_braces_are_text(around):
    template = f"{{question}} {around}"
    check_template(template)
    assert filled(template, "Is it?") == f"Is it? {around}"


@pytest.mark.parametrize(
    ("model", "token"),
    [
        (tiny_loaded, "<image>"),
        (tiny_qwen, "<|image_pad|>"),
        (tiny_qwen, "<|video_pad|>"),
        (tiny_qwen, "<|vision_start|>"),
    ],
)
def test_a_placeholder_of_the_model_is_named(model, token):
    loaded = model()
    check_placeholders("{question} image <p>", loaded)
    with pytest.raises(ValueError) as refused:
        check_placeholders(f"{token}\n{{question}}", loaded)
    assert f"has {token}, which" in str(refused.value)


def test_the_command_says_so_and_writes_nothing(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    words = ("eval", "--limit", "2", "--method", "random", "--out", str(out), "--prompt")
    for prompt, named in (("<image>{question}", "<image>"), ("{question}{x}", "{x}")):
        assert exit_code(monkeypatch, *words, prompt) == 1
        said = capsys.readouterr()
        assert json.dumps(prompt)[1:-1] in said.err
        assert f"has {named}, which" in said.err
        assert not out.exists()
