"""The bundled model loads by the public classes and answers through generate."""

import json

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from lvlm_prune.assets import model_path, probe_path

PROBE = probe_path()


@pytest.fixture(scope="module")
def loaded():
    model = AutoModelForImageTextToText.from_pretrained(model_path()).eval()
    return model, AutoProcessor.from_pretrained(model_path())


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


def records(split, step):
    rows = (PROBE / f"pope_{split}.jsonl").read_text().splitlines()
    return [json.loads(row) for row in rows][::step]


def test_files_are_small_and_the_architecture_is_llava(loaded):
    model, processor = loaded
    assert sum(path.stat().st_size for path in model_path().iterdir()) <= 8_000_000
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert model.dtype == torch.float32
    assert type(processor).__name__ == "LlavaProcessor"
    assert processor.tokenizer.padding_side == "left"


def test_the_template_gives_196_visual_tokens_and_the_llava_prompt(loaded):
    _, processor = loaded
    (text,) = prompts(processor, ["Is there a dog in the image?"])
    assert text == "USER: <image>\nIs there a dog in the image? ASSISTANT:"
    inputs = processor(images=Image.new("RGB", (112, 112)), text=text, return_tensors="pt")
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 196
    assert processor.tokenizer.unk_token_id not in inputs["input_ids"]


@pytest.mark.slow
def test_existence_questions_are_answered_through_generate(loaded):
    right = total = 0
    for split in ("random", "popular", "adversarial"):
        rows = records(split, 23)
        for start in range(0, len(rows), 25):
            part = rows[start : start + 25]
            answers = ask(loaded, part)
            assert set(answers) <= {"yes", "no"}
            right += sum(a == r["label"] for a, r in zip(answers, part, strict=True))
            total += len(part)
    assert right / total >= 0.93


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
        padded = model(**both, position_ids=positions).logits[0, -1]
        alone = model(**one).logits[0, -1]
    torch.testing.assert_close(padded, alone, atol=1e-4, rtol=1e-4)


def test_the_float16_weights_answer_alike_in_half_precision(loaded):
    _, processor = loaded
    half = AutoModelForImageTextToText.from_pretrained(model_path(), dtype=torch.bfloat16).eval()
    rows = records("random", 120)
    same = zip(ask((half, processor), rows), ask(loaded, rows), strict=True)
    assert sum(a == b for a, b in same) >= len(rows) - 1


def test_the_card_holds_only_measured_numbers():
    card = (model_path() / "README.md").read_text()
    metrics = json.loads((model_path() / "metrics.json").read_text())
    assert "{" not in card.split("## Architecture")[1]
    for task, row in metrics["tasks"].items():
        assert f"| {task} | {row['n']} | {100 * row['accuracy']:.1f} |" in card
    assert metrics["pope_mean"] >= 0.95
