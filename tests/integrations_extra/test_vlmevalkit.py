"""VLMEvalKit on the probe: our answers, its scores, and a name for each configuration."""

import importlib.util
import shutil

import pytest

from lvlm_prune import attach
from lvlm_prune.assets import probe_path
from lvlm_prune.eval.integrations.probe_files import pope_items, write_vlmevalkit_table
from lvlm_prune.eval.pope import score
from lvlm_prune.images import load_image
from lvlm_prune.loading import load

MODULE = "lvlm_prune.eval.integrations.vlmevalkit"
OPTIONS = ("--data", "POPE", "--judge", "exact_matching", "--work-dir", "out")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vlmeval") is None,
    reason="vlmeval is not installed here; eval/integrations/README.md says how",
)


@pytest.fixture
def evaluate(tmp_path, command):
    """Run VLMEvalKit on the questions about two images."""
    write_vlmevalkit_table(tmp_path / "data", pope_items(2))

    def run(*settings, options=OPTIONS):
        words = (*settings, "max_new_tokens=4", "own_table=POPE", *options)
        return command(MODULE, *words, LMUData=str(tmp_path / "data"))

    return run


def predictions(folder):
    """The answers by question and image, with their labels and splits."""
    import pandas

    (file,) = folder.glob("*_POPE.xlsx")
    return pandas.read_excel(file)


def test_answers_and_scores_are_our_own(evaluate, tmp_path):
    process = evaluate("method=visionzip", "keep=12")
    assert process.returncode == 0, process.stderr[-3000:]
    (folder,) = tmp_path.glob("out/lvlm-prune-llava-pictogram-visionzip-*")
    table = predictions(folder)
    items = pope_items(2)
    asked = list(dict.fromkeys((item.image, item.question) for item in items))
    assert list(table["question"]) == [question for _, question in asked]
    loaded = load("llava-pictogram")
    with attach(loaded.model, method="visionzip", keep=12):
        ours = {pair: _answer(loaded, *pair) for pair in asked}
    assert list(table["prediction"]) == [ours[pair] for pair in asked]

    import pandas

    numbers = pandas.read_csv(next(folder.glob("*_score.csv"))).set_index("split")
    for split in ("random", "popular", "adversarial"):
        chosen = [item for item in items if item.split == split]
        official = score(
            [item.label for item in chosen], [ours[item.image, item.question] for item in chosen]
        )
        assert numbers.loc[split, "acc"] == pytest.approx(100 * official.accuracy)
        assert numbers.loc[split, "Overall"] == pytest.approx(100 * official.f1)


def _answer(loaded, image, question):
    inputs = loaded.inputs([load_image(probe_path() / "images" / image)], [question])
    output = loaded.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    return loaded.processor.batch_decode(
        output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )[0]


def test_configurations_share_no_file(evaluate, tmp_path):
    for keep in (12, 0.5):
        assert evaluate("method=cls", f"keep={keep}").returncode == 0
    assert len(list(tmp_path.glob("out/lvlm-prune-llava-pictogram-cls-*/*_POPE.xlsx"))) == 2


def test_a_failure_is_no_answer_and_can_be_made_good(evaluate, tmp_path):
    """The image of the last question is broken at first."""
    file = tmp_path / "data" / "POPE.tsv"
    whole = file.read_text(encoding="utf-8")
    lines = whole.splitlines()
    index, image, *rest = lines[-1].split("\t")
    file.write_text("\n".join([*lines[:-1], "\t".join([index, image[:400], *rest])]) + "\n")
    process = evaluate("keep=12")
    assert process.returncode != 0
    assert "POPE: 0 answers failed; " in process.stderr
    assert not list(tmp_path.glob("out/*/*.xlsx"))

    file.write_text(whole, encoding="utf-8")
    shutil.rmtree(tmp_path / "data" / "images")
    process = evaluate("keep=12", options=(*OPTIONS, "--reuse"))
    assert process.returncode == 0
    left = (len(lines) - 1) % 10
    assert f"{left}/{left} [" in process.stderr


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        (("kep=3",), OPTIONS, "unknown settings"),
        (("keep=3",), ("--model", "llava_v1.5_7b", *OPTIONS), "would choose another model"),
        (("keep=3", "POPE"), OPTIONS, "is no setting or is there twice"),
    ],
)
def test_wrong_command_lines_are_refused(evaluate, settings, options, message):
    process = evaluate(*settings, options=options)
    assert process.returncode != 0
    assert message in process.stderr
