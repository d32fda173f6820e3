"""Prompts of texts and images, answered in batches, are answered as an attached model answers."""

import base64
import csv
import io
import sys

import pytest
import torch
from PIL import Image

from lvlm_prune import attach
from lvlm_prune.assets import MODEL_NAMES, example_images, probe_path
from lvlm_prune.errors import UnknownMethodError
from lvlm_prune.eval.integrations.arguments import read_arguments
from lvlm_prune.eval.integrations.chat import PrunedChat, interleave
from lvlm_prune.eval.integrations.generation import read_generation
from lvlm_prune.eval.integrations.probe_files import pope_items, write_vlmevalkit_table
from lvlm_prune.eval.probe import load_probe
from lvlm_prune.loading import load

GREEDY = read_generation({"max_new_tokens": 4})
KINDS = ("giraffe", "dog", "zebra")
QUESTIONS = [f"Is there a {kind} in the image?" for kind in KINDS]


@pytest.fixture(scope="module")
def images():
    return [Image.open(path) for path in example_images(len(QUESTIONS))]


def alone(loaded, image, question):
    """A plain script, one question at a time."""
    inputs = loaded.inputs([image.convert("RGB")], [question])
    output = loaded.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    new = output[:, inputs["input_ids"].shape[1] :]
    return loaded.processor.batch_decode(new, skip_special_tokens=True)[0]


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_bundled_models_answer_as_in_a_plain_script(name, images):
    settings = {"method": "cls", "keep": 9, "layers": "fastv@2:0.5"}
    loaded = load(name)
    with attach(loaded.model, **settings):
        expected = [alone(loaded, *pair) for pair in zip(images, QUESTIONS, strict=True)]
    chat = PrunedChat(read_arguments({"pretrained": name, **settings}), "cpu")
    prompts = [interleave(*pair) for pair in zip(QUESTIONS, [[one] for one in images], strict=True)]
    assert chat.answer(prompts, GREEDY) == expected
    assert chat.handle.report.tokens_after == 9 * len(images)
    chat.detach()
    assert not chat.handle.attached


def test_batches_hold_any_number_of_images(images):
    chat = PrunedChat(read_arguments({"method": "visionzip", "keep": 49}), "cpu")
    prompts = [
        interleave(QUESTIONS[0], images[:1]),
        interleave("Is there a dog?", []),
        interleave("In <image> or in <image>, is there a zebra?", images[1:]),
    ]
    together = chat.answer(prompts, GREEDY)
    assert chat.handle.report.tokens_after == 3 * 49
    assert together == [chat.answer([prompt], GREEDY)[0] for prompt in prompts]


def test_modes_of_images_do_not_matter(images):
    chat = PrunedChat(read_arguments({"keep": 49}), "cpu")
    grey = images[0].convert("L")
    answers = chat.answer([[grey, QUESTIONS[0]], [grey.convert("RGB"), QUESTIONS[0]]], GREEDY)
    assert answers[0] == answers[1]


def test_a_failed_batch_is_an_exception(images):
    settings = {"pretrained": "qwen-pictogram", "method": "norm", "keep": 197}
    chat = PrunedChat(read_arguments(settings), "cpu")
    with pytest.raises(ValueError, match="keep=197 is more than the 196 visual tokens"):
        chat.answer([[images[0], QUESTIONS[0]]], GREEDY)


def test_a_model_that_cannot_be_pruned_so_is_refused_at_once():
    with pytest.raises(UnknownMethodError, match="none"):
        PrunedChat(read_arguments({"method": "none"}), "cpu")


def test_answers_are_cut(images):
    chat = PrunedChat(read_arguments({"keep": 49}), "cpu")
    prompt = interleave(QUESTIONS[0], images[:1])
    whole = chat.answer([prompt], GREEDY)[0]
    assert len(whole) > 1
    cut = read_generation({"max_new_tokens": 4, "until": [whole[1:]]})
    assert chat.answer([prompt], cut) == [whole[0]]


@torch.inference_mode()
def test_identity_is_the_model_itself(images):
    loaded = load()
    chat = PrunedChat(read_arguments({"method": "identity"}), "cpu")
    expected = [alone(loaded, *pair) for pair in zip(images, QUESTIONS, strict=True)]
    prompts = [[image, question] for image, question in zip(images, QUESTIONS, strict=True)]
    assert chat.answer(prompts, GREEDY) == expected


def test_the_probe_is_the_same_for_vlmevalkit(tmp_path):
    """One line for each distinct question, which names all splits that ask it."""
    items = pope_items(3)
    everything = [one for one in load_probe(probe_path(), 3).items if one.benchmark == "pope"]
    assert items == everything
    csv.field_size_limit(sys.maxsize)
    with write_vlmevalkit_table(tmp_path, items).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    said = {
        (Image.open(io.BytesIO(base64.b64decode(row["image"]))).tobytes(), row["question"], split)
        for row in rows
        for split in row["category"].split(",")
    }
    folder = probe_path() / "images"
    asked = {
        (Image.open(folder / one.image).tobytes(), one.question, one.split) for one in everything
    }
    assert said == asked
    assert len({(row["image"], row["question"]) for row in rows}) == len(rows)
    assert {row["answer"] for row in rows} == {"Yes", "No"}
