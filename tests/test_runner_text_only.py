"""Questions without an image are answered as the plain model answers them, whatever is pruned."""

import json
from dataclasses import replace

import pytest
from runner_pope import write_image
from tiny_probe import tiny_loaded

from lvlm_prune import attach
from lvlm_prune.eval.benchmarks import load_benchmark
from lvlm_prune.eval.configs import grid_configs
from lvlm_prune.eval.grid import Grid
from lvlm_prune.eval.grid_settings import GridSettings
from lvlm_prune.eval.inside import UNPRUNED
from lvlm_prune.eval.processes import Processes
from lvlm_prune.eval.result_files import Finished, results_dict
from lvlm_prune.layers.schedule import parse_layers
from lvlm_prune.reweight.config import ReweightConfig

TEXTS = ("Is there a cat ?", "Is the cat in the image ?", "Is there a bus or a dog ?")
# On the prompt, before it, inside the LLM, and beside it.
METHODS = ("random", "visionzip", "cdpruner")
LAYERS = ("fastv@1:4", "zipvl")
REWEIGHTS = ("pai", "vcd", "var")
LONGEST = 3


def write_questions(folder, only_text=False):
    """Two sets: each question with a figure and without; both sets share a text-only question."""
    (folder / "VD").mkdir(parents=True)
    records = []
    for number in range(2):
        write_image(folder / "VD" / f"{number}.png", number)
        for place, text in enumerate(TEXTS):
            for figure in ("0",) if only_text else ("0", "1"):
                records.append(
                    {
                        "category": "VS" if figure == "0" else "VD",
                        "subcategory": "chart",
                        "set_id": str(number),
                        "figure_id": figure,
                        "question_id": str(place),
                        "visual_input": figure,
                        "question": text if place < 2 else f"{text} word{number + 40}",
                        "gt_answer": str(place % 2),
                        "filename": None if figure == "0" else f"./VD/{number}.png",
                    }
                )
    (folder / "HallusionBench.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="module")
def loaded():
    return tiny_loaded()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_questions(tmp_path_factory.mktemp("text") / "bench")


def inner():
    layers = [replace(UNPRUNED, layers=parse_layers(text)) for text in LAYERS]
    reweights = [replace(UNPRUNED, reweight=ReweightConfig(name)) for name in REWEIGHTS]
    on_pruned = replace(grid_configs(["visionzip"], [9])[0], layers=parse_layers("fastv@1:4"))
    return [*layers, *reweights, on_pruned]


def grid(loaded, folder, out=None, **settings):
    benchmark = load_benchmark("hallusionbench", folder, limit=settings.pop("limit", None))
    configs = [UNPRUNED, *grid_configs(list(METHODS), [9]), *inner()]
    chosen = GridSettings(out=out, longest=LONGEST, batch_size=4, **settings)
    return Grid(loaded, benchmark, configs, chosen)


@pytest.fixture(scope="module")
def ran(loaded, folder):
    return grid(loaded, folder).run()


def plain(loaded, question):
    """The stock model, one question at a time."""
    inputs = loaded.text_inputs([question])
    output = loaded.model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)
    new = output[:, inputs["input_ids"].shape[1] :]
    return loaded.processor.batch_decode(new, skip_special_tokens=True)[0]


def test_every_run_answers_as_the_plain_model(loaded, ran):
    assert len(ran) >= 1 + len(METHODS) + len(inner())
    for run in ran:
        rows = [row for row in run.rows if row.image is None]
        assert len(rows) == 4, "two of six lines are shared"
        for row in rows:
            assert row.text == plain(loaded, row.question), run.name
            assert (row.kept, row.total, row.error, row.tokens) == (0, 0, None, ())
            assert "<image>" not in row.prompt


@pytest.mark.parametrize("config", inner(), ids=lambda one: str(one.layers or one.reweight)[:40])
def test_so_does_an_attached_model(loaded, config):
    expected = [plain(loaded, text) for text in TEXTS]
    with attach(loaded.model, config):
        assert [plain(loaded, text) for text in TEXTS] == expected


def test_images_are_counted_without_them(ran):
    for run in ran:
        about = [row for row in run.rows if row.image is not None]
        assert len(about) == 6
        assert {row.kept for row in about} == {run.kept}
        assert {row.total for row in about} == {run.total} == {36}
    assert ran[0].kept == 36


def test_they_change_no_answer_about_an_image(loaded, folder, ran):
    alone = load_benchmark("hallusionbench", folder, subset="image")
    configs = [UNPRUNED, *grid_configs(list(METHODS), [9]), *inner()]
    found = Grid(loaded, alone, configs, GridSettings(longest=LONGEST, batch_size=4)).run()
    assert [run.name for run in found] == [run.name for run in ran]
    for run, other in zip(found, ran, strict=True):
        said = {row.id: row.text for row in other.rows}
        assert all(said[row.id] == row.text for row in run.rows)
        if run.use is not None:
            assert run.use == other.use, "what the LLM spent is of prompts with images"


def test_every_line_is_scored(loaded, folder):
    one = grid(loaded, folder)
    results = one.run()
    about = {"seed": 0}
    found = results_dict([Finished(one, results, None, "nothing", {})], about, 0)
    for run in found["runs"]:
        counts = run["benchmarks"]["hallusionbench"]["hallusionbench"]["counts"]
        assert counts["error"] == 0
        assert sum(counts[name] for name in ("yes", "no", "unparsed", "empty")) == 12


def test_a_benchmark_of_nothing_else(loaded, tmp_path):
    """No image at all: nothing to encode, nothing to prune, everything answered."""
    only = write_questions(tmp_path / "bench", only_text=True)
    for run in grid(loaded, only).run():
        assert (run.kept, run.total, run.errors) == (0, 0, 0)
        for row in run.rows:
            assert row.text == plain(loaded, row.question)


def test_a_larger_limit_scores_the_lines_that_share_an_answer(loaded, folder, tmp_path):
    """Later sets ask what the first one asked: their lines are new, some prompts are not."""
    first = grid(loaded, folder, tmp_path, limit=1).run()
    assert len(first[0].items) == 3
    both = grid(loaded, folder, tmp_path).run()
    whole = grid(loaded, folder).run()
    for ours, theirs in zip(both, whole, strict=True):
        assert [item.id for item in ours.items] == [item.id for item in theirs.items]
        assert ours.answers == theirs.answers
        assert {row.id: row.items for row in ours.rows} == {r.id: r.items for r in theirs.rows}


def test_processes_share_them_out(loaded, folder):
    asked = grid(loaded, folder)
    runs = asked.runs[0]
    places = [place for place in runs[0].places if asked.questions.asked[place].image is None]
    shares = []
    for rank in range(2):
        asked.sheet.processes = Processes(rank, 2)
        shares.append([place for place in asked.sheet.own(runs[0]) if place in places])
    assert sorted(shares[0] + shares[1]) == sorted(places)
    assert all(shares)
