"""lmms-eval on the probe: our answers, its scores, its cache, its processes."""

import json
import re
import shutil

import pytest

from lvlm_prune import attach
from lvlm_prune.assets import probe_path
from lvlm_prune.eval.integrations.probe_files import TASK, pope_items, write_lmms_eval_task
from lvlm_prune.eval.pope import score
from lvlm_prune.images import load_image
from lvlm_prune.loading import load

pytestmark = pytest.mark.usefixtures("lmms_eval")
IMAGES = 3
METHOD = {"method": "visionzip", "keep": 12}
ARGUMENTS = "pretrained=llava-pictogram,method=visionzip,keep=12"


@pytest.fixture(scope="session")
def items():
    return pope_items(IMAGES)


@pytest.fixture(scope="session")
def answers(items):
    """Of a plain script with one added line, question by question."""
    loaded = load("llava-pictogram")
    with attach(loaded.model, **METHOD):
        return [_answer(loaded, item) for item in items]


def _answer(loaded, item):
    image = load_image(probe_path() / "images" / item.image)
    inputs = loaded.inputs([image], [item.question])
    output = loaded.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    return loaded.processor.batch_decode(
        output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )[0]


@pytest.fixture
def evaluate(tmp_path, command, items):
    """Run lmms-eval on the probe."""
    write_lmms_eval_task(tmp_path / "task", items)

    def run(arguments=ARGUMENTS, batch_size=7, launcher=(), **variables):
        words = ("lmms_eval", "--model", "lvlm_prune", "--model_args", arguments)
        words += ("--include_path", "task", "--tasks", TASK, "--batch_size", batch_size)
        words += ("--device", "cpu", "--output_path", "out", "--log_samples")
        words += ("--use_cache", "cache", "--verbosity", "DEBUG")
        return command(*words, launcher=launcher, **variables)

    return run


def results(folder):
    """The numbers and the answers of the newest run, answers by document."""
    file = max(folder.glob("out/*/*_results.json"), key=lambda path: path.stat().st_mtime)
    numbers = json.loads(file.read_text())["results"][TASK]
    samples = file.with_name(file.name.replace("_results.json", f"_samples_{TASK}.jsonl"))
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    said = {row["doc_id"]: row["filtered_resps"] for row in rows}
    assert len(said) == len(rows)
    return numbers, [said[place] for place in sorted(said)]


def hits(process):
    """How many answers came out of the cache, and how many did not."""
    found = re.search(r"ResponseCache stats: (\d+) hits.*?, (\d+) misses", process.stdout)
    return int(found[1]), int(found[2])


def test_answers_and_scores_are_our_own_and_are_stored(evaluate, tmp_path, items, answers):
    process = evaluate()
    assert process.returncode == 0, process.stderr[-3000:]
    numbers, said = results(tmp_path)
    assert said == answers
    ours = score([item.label for item in items], said)
    names = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1_score": "f1"}
    for theirs, name in names.items():
        assert numbers[f"pope_{theirs},none"] == pytest.approx(getattr(ours, name), abs=1e-9)
    assert 0.5 < ours.accuracy < 1
    assert hits(process) == (0, len(items))

    again = evaluate(batch_size=1)
    assert hits(again) == (len(items), 0)
    assert results(tmp_path) == (numbers, said)

    other = evaluate(ARGUMENTS.replace("keep=12", "keep=0.5"))
    assert hits(other) == (0, len(items))
    assert results(tmp_path)[1] != said


def test_a_crash_loses_no_answer_and_records_none(evaluate, tmp_path, items, answers):
    """The image of the last third of the questions is broken at first."""
    place, size = 2 * len(items) // 3 + 1, 7
    whole = tmp_path / "task/parquet/data/test-00000-of-00001.parquet"
    kept = tmp_path / "kept.parquet"
    shutil.copy(whole, kept)
    _break_image(whole, place)
    process = evaluate(batch_size=size, LMMS_CACHE_RUN_ID="one")
    assert process.returncode != 0
    assert f"no answer for documents [{place // size * size}" in process.stdout
    assert not list(tmp_path.glob("out/*/*_results.json"))

    shutil.copy(kept, whole)
    process = evaluate(batch_size=size, LMMS_CACHE_RUN_ID="one")
    done = place // size * size
    assert hits(process) == (done, len(items) - done)
    assert results(tmp_path)[1] == answers


def _break_image(parquet, place):
    """Cut the file of one image short."""
    from datasets import Dataset, Image

    rows = Dataset.from_parquet(str(parquet)).cast_column("image", Image(decode=False)).to_list()
    rows[place]["image"]["bytes"] = rows[place]["image"]["bytes"][:200]
    features = Dataset.from_parquet(str(parquet)).features
    Dataset.from_list(rows, features=features).to_parquet(str(parquet))


def test_two_processes_share_the_questions(evaluate, tmp_path, answers):
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29517")
    process = evaluate(launcher=launcher)
    assert process.returncode == 0, process.stderr[-3000:]
    assert results(tmp_path)[1] == answers
    misses = re.findall(r"ResponseCache stats: 0 hits.*?, (\d+) misses", process.stdout)
    assert [int(count) for count in misses] == [len(answers) // 2] * 2


@pytest.fixture(scope="session")
def model_class():
    from lmms_eval.models import get_model

    return get_model("lvlm_prune")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("kep=12", r"unknown settings \['kep'\]"),
        ("pretrained=llava-pictogram,method=clz", "did you mean 'cls'"),
        ("keep=0", "at least one token"),
        ("layers=fastv@99:0.5", "99"),
        ("pretrained=./nowhere", "there is no model folder"),
    ],
)
def test_wrong_arguments_are_refused(model_class, arguments, message):
    with pytest.raises((ValueError, OSError), match=message):
        model_class.create_from_arg_string(arguments, {"batch_size": 1, "device": "cpu"})


def test_automatic_batch_sizes_are_refused(model_class):
    with pytest.raises(ValueError, match="--batch_size must be a number"):
        model_class.create_from_arg_string("", {"batch_size": "auto", "device": "cpu"})


def test_all_prune_options_go_through_model_args(model_class):
    text = "method=cls,keep=49,sinks=keep,sink_threshold=40,per=tile,order=sinks_first,"
    text += "layers='fastv@2:0.5,3:0.25',reweight=var:official_code,seed=2"
    model = model_class.create_from_arg_string(text, {"batch_size": "2", "device": "cpu"})
    config = model.chat.handle.config
    assert config.layers.stages == {2: 0.5, 3: 0.25}
    assert config.reweight.label() == "var:official_code"
    found = (config.method, config.keep, config.sinks, config.sink_threshold, config.per)
    assert found == ("cls", 49, "keep", 40.0, "tile")
    chat = model.chat
    model.clean()
    assert not chat.handle.attached


@pytest.mark.parametrize("name", ["loglikelihood", "generate_until_multi_round"])
def test_other_requests_are_refused(model_class, name):
    model = model_class.create_from_arg_string("", {"batch_size": 1, "device": "cpu"})
    with pytest.raises(NotImplementedError, match="generate_until"):
        getattr(model, name)([])
