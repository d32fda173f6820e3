"""`--answers` as a folder: a run's answers are found where `lvlm-prune eval` writes them."""

import pytest
from made_up_answers import as_rows, pope_records, said, write_lines

from lvlm_prune.eval.score import Request, score
from lvlm_prune.eval.score_error import ScoreError


def labels(folder):
    return write_lines(folder / "made_pope_random.json", pope_records("random"))


def write_answers(folder):
    """The answers of two processes."""
    records = pope_records("random")
    rows = as_rows(records, said(records), "random")[1:]
    folder.mkdir(parents=True)
    for rank in range(2):
        write_lines(folder / f"answers-{rank}.jsonl", [{"header": {}}, *rows[rank::2]])


def refusal(answers, labels):
    with pytest.raises(ScoreError) as found:
        score(Request("pope", answers, labels))
    assert found.value.name == "several_runs"
    return str(found.value)


@pytest.mark.parametrize("models", [("",), ("llava", "qwen")])
def test_a_whole_evaluation_names_its_runs(tmp_path, models):
    """Each name is one that does."""
    out, path = tmp_path / "out", labels(tmp_path)
    for model in models:
        write_answers(out / model / "unpruned" / "pope")
        write_answers(out / model / "cls-16" / "pope")
        write_answers(out / model / "cls-16" / "mmvp")
        write_answers(out / model / "random-16" / "pope" / "0f3a")
    message = refusal(out, path)
    assert f"{3 * len(models)} runs" in message
    for model in models:
        for run in ("unpruned", "cls-16", "random-16/pope/0f3a"):
            assert str((out / model / run).relative_to(out)) in message
            assert score(Request("pope", out / model / run, path))["n"] == 24
    assert str(out / models[0] / "cls-16") in message.split("such as ")[1]


def test_a_control_stands_below_its_benchmark(tmp_path):
    run, path = tmp_path / "out" / "random-16", labels(tmp_path)
    write_answers(run / "pope" / "0f3a")
    for folder in (run.parent, run, run / "pope", run / "pope" / "0f3a"):
        assert score(Request("pope", folder, path))["n"] == 24
    write_answers(run / "pope" / "17cc")
    for folder in (run.parent, run, run / "pope"):
        assert "2 runs" in refusal(folder, path)
    assert score(Request("pope", run / "pope" / "17cc", path))["n"] == 24


def test_runs_of_other_benchmarks_are_none(tmp_path):
    write_answers(tmp_path / "out" / "cls-16" / "mmvp")
    with pytest.raises(ScoreError, match="OUT/RUN, which holds pope/answers-0.jsonl") as found:
        score(Request("pope", tmp_path / "out", labels(tmp_path)))
    assert found.value.name == "directory"
