"""Ctrl-C ends `eval` in one sentence; the same command goes on from what was answered."""

import pytest
from runner_pope import exit_code, samples, write_model, write_pope

from lvlm_prune.eval import evaluate
from lvlm_prune.eval.ledger import Ledger

IMAGES = 4
AFTER = 3  # batches that are written before


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The command line without --out."""
    folder = tmp_path_factory.mktemp("interrupt")
    write_model(folder / "model")
    write_pope(folder / "pope", IMAGES)
    return (
        f"eval --benchmark pope --data {folder / 'pope'} --model {folder / 'model'} "
        "--method random --keep 9 --max-new-tokens 2 --batch-size 1 --out"
    ).split()


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C once some batches are written."""
    left, add = [AFTER], Ledger.add

    def stopped(ledger, rows):
        if rows and not left[0]:
            raise KeyboardInterrupt
        left[0] -= bool(rows)
        add(ledger, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "add", stopped)
        yield patch


@pytest.mark.parametrize("more", [(), ("--restart",)])
def test_what_was_answered_is_kept(words, tmp_path, monkeypatch, capsys, interrupted, more):
    out = tmp_path / "out"
    assert exit_code(monkeypatch, *words, str(out), *more) == 130
    said = capsys.readouterr().err
    assert f"answers so far are kept in {out}" in said
    assert ("without --restart" in said) == bool(more)
    assert "Traceback" not in said
    assert "Abort" not in said
    path = out / "unpruned" / "pope" / "answers-0.jsonl"
    kept = path.read_text()
    assert len(kept.splitlines()) == 1 + AFTER
    interrupted.undo()
    assert exit_code(monkeypatch, *words, str(out)) == 0
    assert path.read_text().startswith(kept)
    assert len(samples(out)) == 2 * 3 * IMAGES


def test_of_several_processes_the_first_one_says_it(
    words, tmp_path, monkeypatch, capsys, interrupted
):
    for rank, says in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert exit_code(monkeypatch, *words, str(tmp_path / "out")) == 130
        assert ("interrupted" in capsys.readouterr().err) == says


def test_before_the_first_answer(words, tmp_path, monkeypatch, capsys):
    def load(*settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "load", load)
    assert exit_code(monkeypatch, *words, str(tmp_path / "out")) == 130
    assert "before the first answer; nothing was written" in capsys.readouterr().err
