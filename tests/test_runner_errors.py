"""What fails is a row with its error, the rest is answered, and the exit code says so."""

import json
from collections import Counter

import pytest
import torch
from PIL import Image
from runner_pope import (
    PROMPTS,
    exit_code,
    pope_grid,
    results,
    said,
    samples,
    write_image,
    write_model,
    write_pope,
)
from tiny_chatters import tiny_qwen
from tiny_models import fresh_copy
from tiny_probe import tiny_loaded

from lvlm_prune.eval import evaluate
from lvlm_prune.eval.eval_settings import EvalSettings
from lvlm_prune.eval.evaluate import FailedAnswersError, evaluate_benchmark
from lvlm_prune.eval.ledger import Ledger
from lvlm_prune.eval.missing import MissingImagesError
from lvlm_prune.eval.passes import HOPELESS, HopelessRunError
from lvlm_prune.loading import Loaded

IMAGES = 4
OOM = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model and questions."""
    folder = tmp_path_factory.mktemp("errors")
    write_model(folder / "model")
    write_pope(folder / "pope", IMAGES)
    return folder


@pytest.fixture
def loaded():
    """A model of the test's own."""
    shared = tiny_loaded()
    return Loaded(fresh_copy(shared.model), shared.processor, shared.name)


@pytest.fixture(scope="module")
def whole(place):
    """All answers of unpruned and random."""
    return said(pope_grid(tiny_loaded(), place / "pope").run())


@pytest.fixture(scope="module")
def finished(place):
    """What results.json says of the runs in which nothing failed."""
    evaluate_benchmark(settings(place, place / "pope"), place / "finished")
    return results(place / "finished")["runs"]


def settings(place, pope):
    return EvalSettings(
        keeps=[9], models=[str(place / "model")], methods=["random"], benchmarks=["pope"],
        data={"pope": pope}, longest=3, batch_size=4,
    )  # fmt: skip


def before_prompts(model, act):
    """Call `act(ids)` whenever the model reads a prompt, `[B, L]`; not for each new token."""

    def hook(module, args):
        if args[0].shape[1] > 1:
            act(args[0])

    return model.get_input_embeddings().register_forward_pre_hook(hook)


def before_answers(model, act):
    """Call `act(batch)` with the size of each batch whose answers begin."""

    def hook(module, args, kwargs):
        found = kwargs["inputs_embeds"]
        if found.shape[1] > 1:
            act(len(found))

    return model.model.language_model.register_forward_pre_hook(hook, with_kwargs=True)


def raising(error):
    """A function that raises, whatever it is given."""

    def act(given):
        raise error

    return act


def spoil(path, how):
    """An image that is there and cannot be decoded."""
    data = path.read_bytes()
    spoiled = {
        "truncated": data[: len(data) // 2],
        "empty": b"",
    }
    path.write_bytes(spoiled[how])


@pytest.mark.parametrize("how", ["truncated", "empty"])
def test_an_image_that_cannot_be_read(place, whole, finished, tmp_path, monkeypatch, capsys, how):
    """Its questions fail, the others are answered, and once it is repaired it is asked again."""
    write_pope(tmp_path / "pope", IMAGES)
    image = tmp_path / "pope" / "images" / "1.png"
    spoil(image, how)
    out = tmp_path / "out"
    words = (
        f"eval --benchmark pope --data {tmp_path / 'pope'} --model {place / 'model'} "
        f"--method random --keep 9 --max-new-tokens 3 --out {out}"
    )
    assert exit_code(monkeypatch, *words.split()) == 1
    told = capsys.readouterr().err
    assert f"{2 * PROMPTS} of {2 * PROMPTS * IMAGES} answers failed" in told
    assert "cannot be read" in told
    assert "1.png" in told
    for row in samples(out):
        broken = row["image"] == "1.png"
        assert (row["error"] is not None) == (row["text"] is None) == broken
        if broken:
            assert "ImageFileError" in row["error"] or "1.png" in row["error"]
            assert row["parsed"] == {}
            assert row["kept"] is None
        else:
            assert row["text"] == whole[row["run"], row["id"]]
    found = results(out)
    assert found["benchmarks"]["pope"]["unreadable_images"] == ["1.png"]
    for run in found["runs"]:
        assert run["errors"] == PROMPTS
        block = run["benchmarks"]["pope"]["pope"]
        assert block["counts"]["error"] == 6, "lines, of three prompts"

    write_image(image, 1)
    assert exit_code(monkeypatch, *words.split()) == 0
    assert {(row["run"], row["id"]): row["text"] for row in samples(out)} == whole
    repaired = results(out)
    assert [run["errors"] for run in repaired["runs"]] == [0, 0]
    assert repaired["runs"] == finished


def test_a_question_that_fails_leaves_its_batch(loaded, place, tmp_path):
    """The word cat fails, as it does alone; dog and bus stand in the same batches."""
    (cat,) = loaded.processor.tokenizer("cat", add_special_tokens=False)["input_ids"]
    sizes = []

    def act(ids):
        sizes.append(len(ids))
        if bool((ids == cat).any()):
            raise RuntimeError("no cats")

    whole = {key: text for key, text in said(pope_grid(loaded, place / "pope").run()).items()}
    hook = before_prompts(loaded.model, act)
    found = pope_grid(loaded, place / "pope", tmp_path / "out").run()
    assert max(sizes) == 4
    for run in found:
        assert run.errors == IMAGES
        for row in run.rows:
            if "cat" in row.question:
                assert (row.text, row.error) == (None, "RuntimeError: no cats")
            else:
                assert (row.text, row.error) == (whole[run.name, row.id], None)
        assert {item.split for item in run.items} == {"random", "popular", "adversarial"}
        assert len(run.items) == 3 * IMAGES, "lines without cats"
    hook.remove()
    again = []
    before_answers(loaded.model, again.append)
    assert said(pope_grid(loaded, place / "pope", tmp_path / "out").run()) == whole
    assert sum(again) == 2 * IMAGES


@pytest.mark.parametrize("most", [1, 3])
def test_a_batch_that_does_not_fit_is_halved_and_all_is_answered(
    loaded, place, whole, capsys, most
):
    tried = []

    def act(batch):
        tried.append(batch)
        if batch > most:
            raise OOM

    before_answers(loaded.model, act)
    found = pope_grid(loaded, place / "pope", batch_size=8).run()
    assert said(found) == whole
    assert sum(batch for batch in tried if batch <= most) == 2 * PROMPTS * IMAGES
    told = capsys.readouterr().err
    assert "out of memory with 8 at a time; going on with 4" in told
    assert tried[-1] <= most, "the size is remembered"


def test_a_prompt_that_does_not_fit_alone_is_a_failed_call(loaded, place):
    (bus,) = loaded.processor.tokenizer("bus", add_special_tokens=False)["input_ids"]

    def act(ids):
        if bool((ids == bus).any()):
            raise OOM

    before_prompts(loaded.model, act)
    found = pope_grid(loaded, place / "pope").run()
    for run in found:
        errors = {row.question: row.error for row in run.rows}
        assert sum(error is not None for error in errors.values()) == 1
        assert str(OOM) in errors["Is there a bus in the image ?"]
        assert "OutOfMemoryError" in errors["Is there a bus in the image ?"]


def failing_encoder(loaded, folder, name, error):
    """The vision encoder refuses one image."""
    from lvlm_prune.images import load_image

    inputs = loaded.inputs([load_image(folder / "images" / name)], ["?"])
    wanted = inputs["pixel_values"][0]

    def hook(module, args, kwargs):
        found = args[0] if args else kwargs["pixel_values"]
        if any(torch.equal(one, wanted) for one in found):
            raise error

    loaded.model.model.vision_tower.register_forward_pre_hook(hook, with_kwargs=True)


@pytest.mark.parametrize("error", [ValueError("no such colours"), OOM], ids=["value", "memory"])
def test_an_image_that_cannot_be_encoded_fails_alone(
    loaded, place, whole, tmp_path, monkeypatch, error
):
    """All files are written, with pictures and times of the other images."""
    failing_encoder(loaded, place / "pope", "0.png", error)
    monkeypatch.setattr(evaluate, "load", lambda *settings: loaded)
    out = tmp_path / "out"
    with pytest.raises(FailedAnswersError, match=f"6 of 24 answers failed.*{str(error)[:10]}"):
        evaluate_benchmark(settings(place, place / "pope"), out)
    for row in samples(out):
        if row["image"] == "0.png":
            assert str(error) in row["error"]
        else:
            assert row["text"] == whole[row["run"], row["id"]]
    assert [run["errors"] for run in results(out)["runs"]] == [PROMPTS, PROMPTS]
    written = json.loads((out / "results.json").read_text())
    assert "3 prompts" in written["timing"]
    assert (out / "overlays.png").is_file()
    assert (out / "report.html").is_file()


def test_where_nothing_can_be_timed_the_results_are_written(loaded, place, tmp_path, monkeypatch):
    """Memory runs out after the last answer."""
    monkeypatch.setattr(evaluate, "load", lambda *settings: loaded)
    measure = evaluate.measure

    def measured(*arguments):
        hook = before_answers(loaded.model, raising(OOM))
        try:
            return measure(*arguments)
        finally:
            hook.remove()

    monkeypatch.setattr(evaluate, "measure", measured)
    evaluate_benchmark(settings(place, place / "pope"), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["timing"].startswith("nothing: memory ran out")
    assert [run["errors"] for run in written["runs"]] == [0, 0]


def test_a_run_in_which_everything_fails_is_given_up(loaded, tmp_path):
    write_pope(tmp_path / "pope", 12)
    hook = before_answers(loaded.model, raising(RuntimeError("wrong dtype")))
    with pytest.raises(HopelessRunError, match="run unpruned failed; the last one.*wrong dtype"):
        pope_grid(loaded, tmp_path / "pope", tmp_path / "out").run()
    path = tmp_path / "out" / "unpruned" / "pope" / "answers-0.jsonl"
    failed = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert HOPELESS <= len(failed) < 12 * PROMPTS
    assert all(row["error"] == "RuntimeError: wrong dtype" for row in failed)
    assert "generate" not in vars(loaded.model)
    hook.remove()
    found = pope_grid(loaded, tmp_path / "pope", tmp_path / "out").run()
    assert [run.errors for run in found] == [0, 0]
    assert said(found) == said(pope_grid(loaded, tmp_path / "pope").run())


def test_failed_calls_that_fail_again_beside_good_answers_are_no_reason_to_give_up(
    loaded, tmp_path
):
    write_pope(tmp_path / "pope", HOPELESS + 2)
    (cat,) = loaded.processor.tokenizer("cat", add_special_tokens=False)["input_ids"]

    def act(ids):
        if bool((ids == cat).any()):
            raise RuntimeError("no cats")

    before_prompts(loaded.model, act)
    for _ in range(2):
        found = pope_grid(loaded, tmp_path / "pope", tmp_path / "out").run()
        assert [run.errors for run in found] == [HOPELESS + 2] * 2


@pytest.mark.parametrize("images", [2, HOPELESS])
def test_images_of_which_none_can_be_read_end_the_run(loaded, tmp_path, images):
    write_pope(tmp_path / "pope", images)
    for path in (tmp_path / "pope" / "images").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(HopelessRunError, match=f"none of the {images} images can be read"):
        pope_grid(loaded, tmp_path / "pope").run()


def test_a_short_run_without_a_good_answer_is_no_table_of_zeros(
    loaded, place, tmp_path, monkeypatch
):
    """Fewer calls than a long run is given up after; what failed is on disk and asked again."""
    hook = before_answers(loaded.model, raising(RuntimeError("wrong dtype")))
    monkeypatch.setattr(evaluate, "load", lambda *settings: loaded)
    out = tmp_path / "out"
    with pytest.raises(HopelessRunError, match="all 12 answers of run unpruned failed.*wrong dty"):
        evaluate_benchmark(settings(place, place / "pope"), out)
    assert not (out / "results.json").exists()
    assert not (out / "report.md").exists()
    hook.remove()
    evaluate_benchmark(settings(place, place / "pope"), out)
    assert [run["errors"] for run in results(out)["runs"]] == [0, 0]


def test_an_interrupted_run_goes_on(loaded, place, whole, tmp_path, monkeypatch):
    """Ctrl-C between two batches: what was answered is on disk, and the model is as before."""
    calls, add = Counter(), Ledger.add

    def interrupted(ledger, rows):
        calls["batches"] += bool(rows)
        if calls["batches"] == 3:
            raise KeyboardInterrupt
        add(ledger, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pope_grid(loaded, place / "pope", tmp_path / "out", batch_size=1).run()
    assert "generate" not in vars(loaded.model)
    path = tmp_path / "out" / "unpruned" / "pope" / "answers-0.jsonl"
    assert len(path.read_text().splitlines()) == 1 + 2
    assert said(pope_grid(loaded, place / "pope", tmp_path / "out").run()) == whole


def test_missing_images_are_listed_before_anything_runs(place, tmp_path):
    write_pope(tmp_path / "pope", IMAGES)
    for name in ("0.png", "3.png"):
        (tmp_path / "pope" / "images" / name).unlink()
    nowhere = EvalSettings(
        keeps=[9], models=["/no/such/model"], benchmarks=["pope"], data={"pope": tmp_path / "pope"}
    )
    with pytest.raises(
        MissingImagesError, match=r"2 of 4 images of pope are missing: 0.png, 3.png"
    ):
        evaluate_benchmark(nowhere, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_that_the_processor_refuses_is_one_that_cannot_be_read(tmp_path):
    """Qwen takes no image that is 200 times as wide as it is high."""
    write_pope(tmp_path / "pope", IMAGES)
    Image.new("RGB", (900, 4)).save(tmp_path / "pope" / "images" / "2.png")
    found = pope_grid(tiny_qwen(), tmp_path / "pope").run()
    for run in found:
        assert run.errors == PROMPTS
        for row in run.rows:
            assert (row.error is not None) == (row.image == "2.png")
            assert row.error is None or "aspect ratio" in row.error
