"""Lists on the command line: an entry that was forgotten is named, not passed on."""

import pytest
from runner_pope import exit_code

from lvlm_prune.names import entries

LISTS = [("cls,", 2), (",cls", 1), ("cls,,random", 2), ("cls, ,random", 2), ("", 1), (",", 1)]


@pytest.mark.parametrize("text", ["cls", " cls ,random", "0.25,64, 25%"])
def test_a_list_is_read_as_python_splits_it(text):
    assert entries(text, "--x") == [part.strip() for part in text.split(",")]


@pytest.mark.parametrize(("text", "place"), LISTS)
def test_the_first_empty_entry_is_counted(text, place):
    with pytest.raises(ValueError, match=f"entry {place} of the list is empty") as refused:
        entries(text, "--method")
    assert f"--method {text!r}" in str(refused.value)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--method", "cls,"),
        ("--method", ",cls"),
        ("--keep", "0.25,,0.5"),
        ("--sinks", "ignore,"),
        ("--pairs", "visionzip,,random"),
        ("--model", "llava-pictogram,"),
        ("--benchmark", "probe,"),
        ("--layers", "fastv@2:0.5,,dart"),
        ("--layers", "fastv@2:0.5,"),
        ("--reweight", ",var"),
    ],
)
def test_eval_names_the_option(tmp_path, monkeypatch, capsys, option, text):
    out = tmp_path / "out"
    assert exit_code(monkeypatch, "eval", "--out", str(out), option, text) == 1
    assert f"{option} {text!r}: entry" in capsys.readouterr().err
    assert not out.exists()
