"""The scene generator keeps its promises; training sees what the exported models will see."""

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


@pytest.mark.parametrize("name", ["llava", "qwen", "internvl"])
def test_packed_branches_hold_the_token_ids_of_the_template(build, name):
    packing = build[2]
    from families import family
    from PIL import Image

    kind = family(name)
    processor = kind.build_processor()
    text = "Is there an umbrella in the image?\nAnswer the question using a single word or phrase."
    parts = [{"type": "image"}, {"type": "text", "text": text}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True
    )
    real = processor(images=Image.new("RGB", (112, 112)), text=prompt)["input_ids"][0]
    around = packing.layout(kind)
    packed = packing.pack([[build[1].Question("existence", text, "yes")]], around=around)
    end = packed.first[0][0] + 1
    assert real[around.prefix :] == packed.ids[0, :end].tolist()
    assert real[: around.visual.start] == list(around.before)
    assert real[around.visual.stop : around.prefix] == list(around.after)
    assert set(real[around.visual]) == {processor.image_token_id}


@pytest.mark.parametrize("name", ["llava", "qwen", "internvl"])
def test_the_training_encoder_equals_the_model_on_processed_images(build, painter, name):
    import torch
    from dense import to_tensor
    from families import family
    from PIL import Image

    kind = family(name)
    model, processor = kind.build_model().eval(), kind.build_processor()
    scenes = draw(build, painter, 2)
    images = [Image.fromarray(scene.image) for scene in scenes]
    inputs = processor.image_processor(images, return_tensors="pt")
    given = {key: inputs[key] for key in ("pixel_values", "image_grid_thw") if key in inputs}
    with torch.no_grad():
        real = model.model.get_image_features(**given).pooler_output
        mine = kind.encode(model, to_tensor(scenes)).features
    torch.testing.assert_close(torch.stack(list(real)), mine, atol=1e-5, rtol=1e-4)


def test_prefix_positions_are_those_of_the_model(build):
    import torch
    from families import family
    from packing import layout, pack

    kind = family("qwen")
    model, around = kind.build_model(), layout(kind)
    packed = pack([[build[1].Question("", "Is there a dog in the image?", "yes")]], around=around)
    ids = torch.cat([torch.tensor([[*around.before, *[4] * 196, *around.after]]), packed.ids], 1)
    wanted, _ = model.model.get_rope_index(
        ids, (ids == 4).int(), image_grid_thw=torch.tensor([[1, 28, 28]])
    )
    assert packed.positions.tolist() == wanted.tolist()


@pytest.mark.parametrize("axes", [1, 3])
def test_jittered_positions_never_reach_into_the_text(build, axes):
    import numpy as np
    from positions import prefix_positions

    for seed in range(60):
        ids, begin = prefix_positions(4, 1, axes, np.random.default_rng(seed))
        assert ids.shape == (axes, 201)
        assert ids.max() == begin - 1
        assert (np.diff(ids[0]) >= 0).all()


def test_the_training_attention_equals_sdpa(build):
    import torch
    from attention import Attend

    torch.manual_seed(0)
    parts = [(9 * torch.randn(1, 2, 37, 4, dtype=torch.float64)).requires_grad_() for _ in range(3)]
    mask = torch.full((37, 37), -1e9, dtype=torch.float64).triu(1)
    for added in (None, mask):
        mine = Attend.apply(*parts, added)
        real = torch.nn.functional.scaled_dot_product_attention(*parts, added, scale=1.0)
        torch.testing.assert_close(mine, real)
        weight = torch.randn_like(real)
        grads = (torch.autograd.grad((x * weight).sum(), parts) for x in (mine, real))
        torch.testing.assert_close(*grads)


@pytest.mark.slow
def test_an_inherited_encoder_sees_what_its_teacher_sees(build, painter):
    import torch
    from dense import to_tensor
    from families import family
    from inherit_encoder import inherit
    from teacher import Teacher

    from lvlm_prune.assets import model_path

    teacher, kind = Teacher(model_path()), family("internvl")
    model = kind.build_model()
    teacher.start(model, kind)
    inherit(teacher, model)
    images = to_tensor(draw(build, painter, 4))
    with torch.no_grad():
        mine, wanted = kind.encode(model, images).features, teacher.features(images)
    assert torch.cosine_similarity(mine, wanted, dim=-1).mean() > 0.9
