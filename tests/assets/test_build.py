"""The scene generator is deterministic for a seed and keeps its promises."""

import sys
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[2] / "assets" / "build"
pytestmark = pytest.mark.skipif(
    not (BUILD / "sprites" / "atlas.webp").exists(), reason="no sprite atlas in this checkout"
)


@pytest.fixture(scope="module")
def build():
    """The build scripts import each other by bare names, as when run in their folder."""
    sys.path.insert(0, str(BUILD))
    before = set(sys.modules)
    import packing
    import questions
    import scenes

    yield scenes, questions, packing
    sys.path.remove(str(BUILD))
    for name in set(sys.modules) - before:
        if str(BUILD) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def painter(build):
    return build[0].Painter("test", 3)


def draw(build, painter, count=12):
    import numpy as np

    return [build[0].random_scene(painter, np.random.default_rng((5, i))) for i in range(count)]


@pytest.mark.slow
def test_equal_seeds_draw_equal_scenes(build, painter):
    for a, b in zip(draw(build, painter), draw(build, painter), strict=True):
        assert (a.image == b.image).all()
        assert a.objects == b.objects
        assert (a.patch_labels == b.patch_labels).all()


def test_training_scenes_show_no_held_out_rendering(build):
    sprites = sys.modules["sprites"]
    classes = sys.modules["classes"]
    held = [r for r in sprites.load_renderings() if r.held_out]
    assert {r.label for r in held} == set(classes.CLASSES)
    assert not set(sprites.TRAIN_PHOTOS) & set(sprites.TEST_PHOTOS)


def test_answers_follow_from_the_truth(build, painter):
    import numpy as np

    questions, classes = build[1], sys.modules["classes"]
    rng = np.random.default_rng(0)
    for scene in draw(build, painter, 40):
        present = {classes.CLASSES[o.label] for o in scene.objects}
        for question in questions.training_questions(scene, rng):
            if question.kind == "existence":
                assert (question.text.split()[3] in present) == (question.answer == "yes")


def test_counting_questions_give_a_blind_answerer_nothing(build, painter):
    import numpy as np

    rng = np.random.default_rng(1)
    answers = [
        question.answer
        for scene in draw(build, painter, 60)
        for _ in range(20)
        if (question := build[1].count_yes_no(scene, rng))
    ]
    assert abs(answers.count("yes") / len(answers) - 0.5) < 0.06


def test_packed_branches_hold_the_token_ids_of_the_template(build):
    packing = build[2]
    from PIL import Image
    from transformers import AutoProcessor

    from lvlm_prune.assets import model_path

    processor = AutoProcessor.from_pretrained(model_path())
    text = "Is there an umbrella in the image?\nAnswer the question using a single word or phrase."
    prompt = f"USER: <image>\n{text} ASSISTANT:"
    real = processor(images=Image.new("RGB", (112, 112)), text=prompt)["input_ids"][0]
    packed = packing.pack([[build[1].Question("existence", text, "yes")]])
    end = packed.first[0][0] + 1
    assert real[-end:] == packed.ids[0, :end].tolist()
    assert real[: len(packing.START)] == list(packing.START)
