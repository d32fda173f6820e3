"""The bundled models load by the public classes and answer through generate."""

import json

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from lvlm_prune.assets import MODEL_NAMES, model_path, probe_path
from lvlm_prune.loading import load
from lvlm_prune.processors import load_processor

PROBE = probe_path()
CLASSES = {
    "llava-pictogram": ("LlavaForConditionalGeneration", "LlavaProcessor"),
    "qwen-pictogram": ("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLProcessor"),
    "internvl-pictogram": ("InternVLForConditionalGeneration", "InternVLProcessor"),
}
IMAGE = {
    "llava-pictogram": "<image>",
    "qwen-pictogram": "<|vision_start|><|image_pad|><|vision_end|>",
    "internvl-pictogram": "<IMG_CONTEXT>",
}


@pytest.fixture(scope="module", params=MODEL_NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def loaded(name):
    model = AutoModelForImageTextToText.from_pretrained(model_path(name)).eval()
    return model, load_processor(model_path(name))


def prompts(processor, questions):
    return [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}],
            add_generation_prompt=True,
        )
        for text in questions
    ]


def ask(loaded, records):
    model, processor = loaded
    images = [Image.open(PROBE / "images" / record["image"]) for record in records]
    text = prompts(processor, [record["text"] for record in records])
    inputs = processor(images=images, text=text, padding=True, return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    new = out[:, inputs["input_ids"].shape[1] :]
    return [answer.strip() for answer in processor.batch_decode(new, skip_special_tokens=True)]


def metrics(name):
    return json.loads((model_path(name) / "metrics.json").read_text())


def records(split, step):
    rows = (PROBE / f"pope_{split}.jsonl").read_text().splitlines()
    return [json.loads(row) for row in rows][::step]


def test_files_are_small_and_the_classes_are_those_of_transformers(name, loaded):
    model, processor = loaded
    assert sum(path.stat().st_size for path in model_path(name).iterdir()) <= 8_000_000
    assert (type(model).__name__, type(processor).__name__) == CLASSES[name]
    assert model.dtype == torch.float32
    assert processor.tokenizer.padding_side == "left"


def test_load_takes_the_name_of_a_bundled_model(name):
    found = load(name)
    assert (type(found.model).__name__, type(found.processor).__name__) == CLASSES[name]
    assert found.label == name
    inputs = found.inputs([Image.new("RGB", (112, 112))] * 2, ["Is there a dog?", "How many?"])
    assert inputs["input_ids"].shape[0] == 2


def test_the_template_gives_196_visual_tokens_and_the_llava_prompt(name, loaded):
    _, processor = loaded
    (text,) = prompts(processor, ["Is there a dog in the image?"])
    assert text == f"USER: {IMAGE[name]}\nIs there a dog in the image? ASSISTANT:"
    inputs = processor(images=Image.new("RGB", (112, 112)), text=text, return_tensors="pt")
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 196
    assert processor.tokenizer.unk_token_id not in inputs["input_ids"]


@pytest.mark.slow
def test_existence_questions_are_answered_through_generate(loaded):
    right = total = 0
    for split in ("random", "popular", "adversarial"):
        rows = records(split, 53)
        for start in range(0, len(rows), 25):
            part = rows[start : start + 25]
            answers = ask(loaded, part)
            assert set(answers) <= {"yes", "no"}
            right += sum(a == r["label"] for a, r in zip(answers, part, strict=True))
            total += len(part)
    assert right / total >= 0.90


def test_left_padding_does_not_change_answers_or_logits(loaded):
    model, processor = loaded
    rows = records("random", 97)[:4]
    long = {**rows[0], "text": rows[0]["text"] + " Please answer yes or no."}
    assert ask(loaded, [*rows, long])[:4] == [ask(loaded, [row])[0] for row in rows]
    images = [Image.open(PROBE / "images" / row["image"]) for row in (rows[0], long)]
    text = prompts(processor, [rows[0]["text"], long["text"]])
    both = processor(images=images, text=text, padding=True, return_tensors="pt")
    one = processor(images=images[:1], text=text[:1], return_tensors="pt")
    with torch.no_grad():
        positions = (both["attention_mask"].cumsum(1) - 1).clamp(min=0)
        # M-RoPE makes its own positions from the grid and the attention mask.
        given = {} if "image_grid_thw" in both else {"position_ids": positions}
        padded = model(**both, **given).logits[0, -1]
        alone = model(**one).logits[0, -1]
    torch.testing.assert_close(padded, alone, atol=1e-4, rtol=1e-4)


def test_the_float16_weights_answer_alike_in_half_precision(name, loaded):
    _, processor = loaded
    folder = model_path(name)
    half = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16).eval()
    rows = records("random", 120)
    same = zip(ask((half, processor), rows), ask(loaded, rows), strict=True)
    assert sum(a == b for a, b in same) >= len(rows) - 1


def test_the_card_holds_only_measured_numbers(name):
    card = (model_path(name) / "README.md").read_text()
    measured = metrics(name)
    assert card.split("# ")[1].startswith(name)
    assert "{" not in card.split("## Architecture")[1]
    for task, row in measured["tasks"].items():
        assert f"| {task} | {row['n']} | {100 * row['accuracy']:.1f} |" in card
    assert measured["pope_mean"] >= 0.90
