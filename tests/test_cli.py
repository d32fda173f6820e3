"""The command line: help that teaches and costs nothing, mistakes in one sentence, real runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from planted_llm import Planted, plant_sink, tiny_llm
from tiny_probe import tiny_loaded
from transformers import AutoTokenizer
from typer.testing import CliRunner

from lvlm_prune import cli
from lvlm_prune.assets import model_path
from lvlm_prune.cli import app
from lvlm_prune.commands.eval import DEFAULT_METHODS
from lvlm_prune.methods import METHODS

COMMANDS = (
    "run", "inspect", "eval", "score", "compare", "benchmarks", "build-pope", "speed", "calibrate",
    "methods", "models",
)  # fmt: skip


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


def call(monkeypatch, capsys, *arguments: object) -> tuple[int, str]:
    """Run the entry point as a shell would: exit code, and what stands on stderr."""
    monkeypatch.setattr(sys, "argv", ["lvlm-prune", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0), capsys.readouterr().err
    return 0, capsys.readouterr().err


@pytest.mark.parametrize("command", [(), *[(name,) for name in COMMANDS]])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(command, flag):
    result = CliRunner().invoke(app, [*command, flag])
    assert result.exit_code == 0
    assert "lvlm-prune" in result.output
    assert "completion" not in result.output
    if command and command[0] in ("run", "inspect", "eval", "speed", "calibrate"):
        assert f"\n    lvlm-prune {command[0]}" in result.output, "examples on lines of their own"


def test_help_imports_neither_torch_nor_transformers():
    code = (
        "import sys; from typer.testing import CliRunner; from lvlm_prune.cli import app\n"
        f"for name in {COMMANDS!r}:\n"
        "    assert CliRunner().invoke(app, [name, '--help']).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'PIL', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_a_command_the_help_is_shown():
    assert "Commands" in CliRunner().invoke(app, []).output


def test_methods_lists_every_method():
    output = CliRunner().invoke(app, ["methods"]).output
    for name, method in METHODS.items():
        assert re.search(rf"^{name}\b", output, re.MULTILINE)
        assert method.source in output


def test_methods_shows_one_of_them(monkeypatch, capsys):
    output = CliRunner().invoke(app, ["methods", "visionzip"]).output
    assert "contextual_share=" in output
    assert METHODS["divprune"].source not in output
    code, error = call(monkeypatch, capsys, "methods", "visionzipp")
    assert code == 1
    assert "did you mean 'visionzip'" in error


def test_models_lists_families_and_all_classes():
    families = CliRunner().invoke(app, ["models"]).output
    assert re.search(r"^llava_next +CLS row", families, re.MULTILINE)
    classes = CliRunner().invoke(app, ["models", "--all"]).output
    assert re.search(r"^LlavaForConditionalGeneration +llava +family$", classes, re.MULTILINE)
    assert re.search(r"^Gemma3ForCond\w+ +gemma3 +features$", classes, re.MULTILINE)


@pytest.mark.parametrize(("method", "across"), [("visionzip", 2), ("divprune", 3), ("grid", 2)])
def test_run(photo, model_folder, tmp_path, method, across):
    save = tmp_path / "new" / "picture.png"
    arguments = ["run", str(photo), "Is there a cat ?", "--model", str(model_folder)]
    result = CliRunner().invoke(app, [*arguments, "--method", method, "--save", str(save)])
    assert result.exit_code == 0, result.output
    assert re.search(r"^unpruned +36 ", result.output, re.MULTILINE)
    assert re.search(rf"^{method} +9 ", result.output, re.MULTILINE)
    assert " KV MiB " in result.output
    with Image.open(save) as image:
        assert image.width == across * 462 + (across + 1) * 14


@pytest.mark.parametrize(
    ("arguments", "line", "across"),
    [
        (("--layers", "fastv@1:9"), r"fastv +36 -> 9 ", 2),
        (("--keep", "12", "--layers", "fastv@1:50%"), r"visionzip \+ fastv +12 -> 6 ", 3),
        (("--reweight", "pai:code"), r"pai:code +36 ", 2),
    ],
)
def test_run_inside_the_llm(photo, model_folder, tmp_path, arguments, line, across):
    save = tmp_path / "picture.png"
    base = ["run", str(photo), "Is there a cat ?", "--model", str(model_folder)]
    result = CliRunner().invoke(app, [*base, *arguments, "--save", str(save)])
    assert result.exit_code == 0, result.output
    assert re.search(f"^{line}", result.output, re.MULTILINE)
    assert ("a -> b" in result.output) == ("->" in line)
    with Image.open(save) as image:
        assert image.width == across * 462 + (across + 1) * 14


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layers", "fastvv"), "did you mean 'fastv'"),
        (("--layers", "fastv@1:99"), "of which 36 entered the LLM"),
        (("--layers", "fastv@7:0.5"), "layer 7 is out of range"),
        (("--reweight", "pai:kode"), "has no preset 'kode'; known: code"),
        (("--method", "clss"), "did you mean 'cls'"),
        (("--keep", "0"), "--keep 0: keep must leave at least one token"),
        (("--keep", "x"), "--keep 'x' is no number; pass tokens per image"),
        (("--keep", "37"), "more than the 36 visual tokens"),
        (("--sinks", "all"), "ignore, keep, drop, only, query"),
        (("--sinks", "drop", "--method", "grid"), "ranks no tokens"),
        (("--device", "abacus"), "'abacus' cannot be used"),
        (("--save", "picture.txt"), ".png file"),
        (("--plant-sinks",), "sinks can be planted in the bundled"),
    ],
)
def test_mistakes_end_in_one_sentence(
    monkeypatch, capsys, photo, model_folder, tmp_path, arguments, message
):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    base = ("run", photo, "Is there a cat ?", "--model", model_folder)
    code, error = call(monkeypatch, capsys, *base, *arguments)
    assert code == 1
    assert message in error
    assert error.startswith("lvlm-prune: ")
    assert len(error.strip().splitlines()) == 1
    assert set(tmp_path.iterdir()) == before, "something was written"


@pytest.mark.parametrize(
    ("image", "message"),
    [("none.png", "does not exist"), (".", "is a folder"), ("text.png", "not an image")],
)
def test_bad_images(monkeypatch, capsys, tmp_path, image, message):
    (tmp_path / "text.png").write_text("hello")
    code, error = call(monkeypatch, capsys, "run", tmp_path / image, "What is this?")
    assert code == 1
    assert message in error


def test_models_that_cannot_be_loaded(monkeypatch, capsys, photo, model_folder, tmp_path):
    def failing(model: Path) -> str:
        code, error = call(monkeypatch, capsys, "run", photo, "What ?", "--model", model)
        assert code == 1
        assert len(error.strip().splitlines()) == 1
        return error

    empty, bare = tmp_path / "empty", tmp_path / "bare"
    empty.mkdir()
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((model_folder / name).read_bytes())
    assert "no config.json" in failing(empty)
    assert "no processor files" in failing(bare)
    assert "there is no model folder" in failing(tmp_path / "none")
    (bare / "config.json").write_text("{")
    assert "cannot load the model" in failing(bare)
    (bare / "config.json").write_text('{"model_type": "abacus"}')
    assert "cannot load the model" in failing(bare)


def test_methods_that_eval_runs_by_default():
    names = DEFAULT_METHODS.split(",")
    assert set(names) < set(METHODS)
    assert {"random", "grid", "pool"} < set(names)


def test_eval_refuses_unknown_benchmarks(monkeypatch, capsys):
    code, error = call(monkeypatch, capsys, "eval", "--benchmark", "mmbench")
    assert code == 1
    assert "no benchmark 'mmbench'; there are probe, pope" in error


def test_speed_measures_a_preset_or_says_what_it_needs(monkeypatch, capsys, tmp_path):
    settings = ("--preset", "tiny", "--repeats", 1, "--new-tokens", 2, "--out", tmp_path)
    assert call(monkeypatch, capsys, "speed", *settings)[0] == 0
    assert (tmp_path / "speed.md").is_file()
    code, error = call(monkeypatch, capsys, "speed", "--preset", "qwen2.5-vl-7b")
    assert code == 1
    assert "meant for a GPU; add --device cuda" in error
    code, error = call(monkeypatch, capsys, "speed", "--preset", "tiny", "--keep", "65")
    assert code == 1
    assert "65" in error


@pytest.fixture
def text_llm(tmp_path):
    """A function that saves a plain LLM with planted sinks beside a tokenizer."""

    def saved(pull: float = 8.0) -> Path:
        folder = tmp_path / "llm"
        plant_sink(tiny_llm(), Planted(), pull=pull).save_pretrained(folder)
        AutoTokenizer.from_pretrained(model_path()).save_pretrained(folder)
        return folder

    return saved


def test_calibrate_a_plain_llm(text_llm, tmp_path):
    out = tmp_path / "new" / "sinks.json"
    arguments = ["calibrate", str(text_llm()), "--check", "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert re.search(r"^dims +17$", result.output, re.MULTILINE)
    assert "precision 1.000, recall 1.000" in result.output
    written = json.loads(out.read_text())
    assert written["dims"] == [17]
    assert f"tau         {written['tau']:.2f} of at most 8.00" in result.output


def test_calibrate_refuses_sinks_that_attract_no_attention(monkeypatch, capsys, text_llm, tmp_path):
    arguments = ("calibrate", text_llm(pull=0), "--out", tmp_path / "sinks.json")
    code, error = call(monkeypatch, capsys, *arguments, "--check")
    assert code == 1
    assert "do not agree with attention: precision 0.000" in error
    assert not (tmp_path / "sinks.json").exists()
    assert call(monkeypatch, capsys, *arguments) == (0, "")


def test_calibrate_a_model_without_separable_sinks(model_folder, tmp_path):
    out = tmp_path / "sinks.json"
    result = CliRunner().invoke(app, ["calibrate", str(model_folder), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "no separable sinks" in result.output
    assert json.loads(out.read_text())["tau"] is None
    result = CliRunner().invoke(app, ["calibrate", str(model_folder), "--check", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "no reliable sinks: neither rule agrees with attention" in result.output
    assert json.loads(out.read_text())["check"]["reliable"] is False


def test_models_that_cannot_be_calibrated(monkeypatch, capsys, text_llm, tmp_path):
    folder = text_llm()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    capsys.readouterr()
    for model, message in (
        (folder, "cannot load a tokenizer"),
        (tmp_path / "none", "there is no model folder"),
    ):
        code, error = call(monkeypatch, capsys, "calibrate", model)
        assert code == 1
        assert message in error
        assert len(error.strip().splitlines()) == 1
