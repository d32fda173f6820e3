"""What one asks for later in the same folder is added; what is there is not asked again."""

import json

import pytest
from runner_pope import exit_code, samples, write_model, write_pope
from tiny_probe import write_probe

from lvlm_prune.config import PruneConfig
from lvlm_prune.eval.benchmarks import load_benchmark
from lvlm_prune.eval.run import run_name


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model and questions."""
    folder = tmp_path_factory.mktemp("growing")
    write_model(folder / "model")
    write_pope(folder / "pope", 3)
    write_probe(folder / "probe", 2)
    return folder


def answers(out):
    """The text of each file of answers."""
    return {str(path.relative_to(out)): path.read_text() for path in out.rglob("answers-*.jsonl")}


def texts(out):
    """Each answer by run and id."""
    return {(row["run"], row["id"]): row["text"] for row in samples(out)}


@pytest.mark.parametrize(
    ("keep", "name"), [(49, "cls-49"), (0.25, "cls-0.25"), (1, "cls-1"), (1.0, "cls-1.0")]
)
def test_a_name_tells_a_share_from_a_number(keep, name):
    assert run_name(PruneConfig("cls", keep)) == name


@pytest.mark.parametrize("keeps", [("9", "0.25"), ("25%", "9")])
def test_a_number_and_the_share_that_it_is_go_into_one_folder(place, tmp_path, monkeypatch, keeps):
    """9 of 36 tokens is a quarter; each is a run of its own with the same answers."""
    words = f"eval --benchmark pope --data {place / 'pope'} --model {place / 'model'}".split()
    words += ["--method", "cls", "--max-new-tokens", "3", "--out", str(tmp_path)]
    found = []
    for keep in keeps:
        assert exit_code(monkeypatch, *words, "--keep", keep) == 0
        found.append({key: text for (run, key), text in texts(tmp_path).items() if "cls" in run})
    assert found[0] == found[1]
    assert (tmp_path / "cls-9").is_dir()
    assert (tmp_path / "cls-0.25").is_dir()


def test_captions_are_added_to_the_answers_that_are_there(place, tmp_path, monkeypatch):
    words = f"eval --data {place / 'probe'} --model {place / 'model'} --method random --keep 9"
    words = [*words.split(), "--pairs", "identity", "--out", str(tmp_path)]
    assert exit_code(monkeypatch, *words) == 0
    before, said = answers(tmp_path), texts(tmp_path)
    assert not any("caption" in key for _, key in said)
    assert exit_code(monkeypatch, *words, "--captions") == 0
    after = answers(tmp_path)
    for name, text in before.items():
        assert after[name].startswith(text)
        new = [json.loads(line)["id"] for line in after[name][len(text) :].splitlines()]
        assert sorted(new) == ["caption/scene_0.png", "caption/scene_1.png"]
    assert said.items() < texts(tmp_path).items()
    assert exit_code(monkeypatch, *words) == 0
    assert answers(tmp_path) == after
    assert texts(tmp_path) == said


def test_a_limit_that_leaves_a_kind_of_question_out_is_no_other_run(place):
    """The longest answers are those of all kinds, whichever are asked."""
    whole = load_benchmark("probe", place / "probe", "all")
    for subset, limit in ((None, None), ("caption", 1), ("pope", 1)):
        part = load_benchmark("probe", place / "probe", subset, limit=limit)
        assert part.longest == whole.longest
        same = {key: value for key, value in part.version.items() if key not in part.growing}
        assert same.items() == {key: whole.version[key] for key in same}.items()
