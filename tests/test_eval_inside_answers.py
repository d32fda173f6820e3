"""The fast path gives the answers of attach(), then generate, with anything inside the LLM.

Batches are padded and images are encoded once in the fast path; the plain one asks each question
alone, through the processor. The tiny random models answer with four tokens that depend on every
kept token, so equal answers mean equal prompts and equal attention.
"""

from dataclasses import replace

import pytest
import torch
from test_layer_methods import OPTIONS
from tiny_chatters import tiny_internvl, tiny_qwen
from tiny_probe import tiny_loaded, write_probe

from lvlm_prune import attach
from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.config import PruneConfig
from lvlm_prune.eval.answer import answer_all
from lvlm_prune.eval.attached import contrasts, handed_marks
from lvlm_prune.eval.benchmarks import load_benchmark
from lvlm_prune.eval.chosen import Chosen
from lvlm_prune.eval.encoding import SharedEncodings
from lvlm_prune.eval.halving import BatchLimit
from lvlm_prune.eval.inside import UNPRUNED, base_of
from lvlm_prune.eval.questions import prepare
from lvlm_prune.layers.registry import LAYER_METHODS
from lvlm_prune.layers.schedule import LayerSchedule
from lvlm_prune.reweight.config import ReweightConfig
from lvlm_prune.reweight.registry import REWEIGHTERS

MAX_NEW_TOKENS = 4
FAMILIES = {"llava": tiny_loaded, "qwen": tiny_qwen, "internvl": tiny_internvl}
MERGED = PruneConfig(method="visionzip", keep=0.25)
STRONG = {
    "var": {"move": 1.0, "rho": 0.0},
    "pai": {"alpha": 1.0},
    "paint": {"alpha": 3.0},
    "headguide": {"alpha": 1.0},
}
REWEIGHTS = [ReweightConfig(name) for name in REWEIGHTERS] + [ReweightConfig("pai", "code")]
STAGES = [LayerSchedule(name, options=OPTIONS.get(name, {})) for name in LAYER_METHODS]


def made(family, tmp_path_factory):
    folder = tmp_path_factory.mktemp(family) / "probe"
    probe = load_benchmark("probe", write_probe(folder))
    return prepare(FAMILIES[family](), probe.items, probe.files)


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return made("llava", tmp_path_factory)


@pytest.fixture(scope="module", params=["qwen", "internvl"])
def other(request, tmp_path_factory):
    return made(request.param, tmp_path_factory)


def some(questions):
    """Places of a short question about each image, and of a long one."""
    first = [next(p for p, q in enumerate(questions.asked) if q.image == i) for i in range(3)]
    return [*first, max(range(first[-1]), key=lambda p: len(questions.asked[p].ids))]


def fast(questions, config):
    stage = BoundaryStage(questions.loaded.model, base_of(config), None, handed_marks(config))
    with torch.inference_mode():
        images = range(len(questions.images))
        encodings = SharedEncodings([stage], questions, images, BatchLimit(2))
        chosen = Chosen(stage, images, encodings.encoded(stage))
    return answer_all(questions, some(questions), chosen, BatchLimit(3), config, MAX_NEW_TOKENS)


def plain(questions, config):
    """Each question alone; what it said and the tokens of each layer."""
    found, loaded = {}, questions.loaded
    with attach(loaded.model, config) as handle:
        for place in some(questions):
            asked = questions.asked[place]
            image = questions.picture(asked.image)
            inputs = loaded.inputs([image], [asked.text])
            output = loaded.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS)
            new = output[:, inputs["input_ids"].shape[1] :]
            (text,) = loaded.processor.batch_decode(new, skip_special_tokens=True)
            report = None if handle.layers is None else handle.layers.report
            counts = ((), 0) if report is None else (tuple(report.tokens[0]), report.text[0])
            found[place] = (text, *counts)
    return found


def check(questions, config):
    answers = fast(questions, config)
    expected = plain(questions, config)
    said = {place: (one.text, one.tokens, one.words) for place, one in answers.items()}
    assert said == expected
    return answers


@pytest.mark.parametrize("base", [UNPRUNED, MERGED], ids=["unpruned", "visionzip"])
@pytest.mark.parametrize("schedule", STAGES, ids=lambda one: one.method)
def test_stages(llava, base, schedule):
    answers = check(llava, replace(base, layers=schedule))
    entered = {one.tokens[0] for one in answers.values()}
    assert entered == {36 if base is UNPRUNED else 9}
    assert all(one.tokens[-1] < one.tokens[0] for one in answers.values())


@pytest.mark.parametrize("base", [UNPRUNED, MERGED], ids=["unpruned", "visionzip"])
@pytest.mark.parametrize("reweight", REWEIGHTS, ids=lambda one: one.label())
def test_reweighting(llava, base, reweight):
    if reweight.method == "restore" and base is UNPRUNED:
        pytest.skip("calibrates merged tokens, and nothing is merged")
    strong = replace(reweight, options=STRONG.get(reweight.method, {}))
    check(llava, replace(base, reweight=strong))


def test_reweighting_changes_answers(llava):
    """So that equal answers say something."""
    without = [one.text for one in fast(llava, UNPRUNED).values()]
    changed = {}
    for reweight in REWEIGHTS:
        base = MERGED if reweight.method == "restore" else UNPRUNED
        strong = replace(reweight, options=STRONG.get(reweight.method, {}))
        said = [one.text for one in fast(llava, replace(base, reweight=strong)).values()]
        changed[reweight.label()] = said != without
    assert changed.pop("restore"), "the base is another one"
    assert sum(changed.values()) >= 6, changed


@pytest.mark.parametrize(
    "config",
    [
        PruneConfig(layers="fastv"),
        PruneConfig(reweight="pai"),
        PruneConfig(reweight="ilvad"),
        PruneConfig(reweight="paint"),
        PruneConfig(reweight="vcd"),
        PruneConfig(method="cdpruner", keep=0.5, layers="fastv"),
        PruneConfig(method="visionzip", keep=0.5, reweight="restore"),
        PruneConfig(method="visionzip", keep=0.5, layers="dart", reweight="pai:code"),
        PruneConfig(method="visionzip", keep=0.5, layers="sparsevlm", reweight="paint"),
    ],
    ids=lambda config: (
        f"{config.method}-{config.layers and config.layers.method}-"
        f"{config.reweight and config.reweight.label()}"
    ),
)
def test_other_families_and_combinations(other, config):
    check(other, config)


def test_nothing_is_left_on_the_model(llava):
    model = llava.loaded.model
    before = set(model.__dict__)
    fast(llava, PruneConfig(layers="fastv", reweight="pai"))
    fast(llava, PruneConfig(reweight="vcd"))
    assert set(model.__dict__) == before


def test_what_needs_a_second_answer():
    assert contrasts(PruneConfig(reweight="vcd"))
    assert contrasts(PruneConfig(reweight="pai:code"))
    assert not contrasts(PruneConfig(reweight="pai"))
    assert not contrasts(PruneConfig(layers="fastv"))
    assert handed_marks(PruneConfig(layers="fastv")) == (), "attach looks at no encoder there"
    assert handed_marks(replace(MERGED, layers="fastv")) == ("vit_sink",)
    assert handed_marks(PruneConfig(reweight="paint")) == ("local", "summary")
