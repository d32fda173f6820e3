"""Measures an exported model on the probe through `generate` and the real chat template.

In: a model folder. Out: `metrics.json` in it: accuracy per question type with the blind bound
beside it, and recall on seen and held-out renderings. Greedy, float32, left-padded batches of all
questions about an image, which is encoded once. Pruned accuracies are added by measure_pruning.py.
It knows nothing of training.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from probe_files import PROBE, SPLITS, Asked, all_questions, blind_bound, scenes
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedModel

from lvlm_prune.processors import load_processor

# Relation strings name two classes and hardly repeat: a per-string bound would mean nothing.
# Each image asks a relation and its opposite, so that a blind answerer is right half of the time.
HALF = {"mme relation"}


@contextmanager
def encoding_once(model: PreTrainedModel) -> Iterator[None]:
    """Encodes the first image of a batch and repeats its visual tokens for the others.

    All questions of a batch are about one image here; nothing else of `generate` is touched.
    """
    encode = model.model.get_image_features

    @wraps(encode)
    def repeated(pixel_values: Tensor, **kwargs: Any) -> Any:
        grid = kwargs.get("image_grid_thw")
        count = len(pixel_values) if grid is None else len(grid)
        if grid is not None:
            kwargs["image_grid_thw"] = grid[:1]
        out = encode(pixel_values=pixel_values[: len(pixel_values) // count], **kwargs)
        found = out.pooler_output
        stacked = isinstance(found, Tensor)
        out.pooler_output = found.repeat(count, 1, 1) if stacked else [*found] * count
        return out

    model.model.get_image_features = repeated
    try:
        yield
    finally:
        del model.model.get_image_features


@torch.no_grad()
def answers(
    model: PreTrainedModel, processor: Any, asked: list[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    """Greedy answers by (image name, question), one batch an image."""
    found: dict[tuple[str, str], str] = {}
    by_image: dict[str, list[str]] = {}
    for image, text in sorted(set(asked)):
        by_image.setdefault(image, []).append(text)
    for done, (name, texts) in enumerate(by_image.items(), 1):
        prompts = [
            processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}],
                add_generation_prompt=True,
            )
            for text in texts
        ]
        images = [Image.open(PROBE / "images" / name)] * len(texts)
        inputs = processor(images=images, text=prompts, padding=True, return_tensors="pt")
        with encoding_once(model):
            out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        new = processor.batch_decode(
            out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        found |= {(name, a): b.strip() for a, b in zip(texts, new, strict=True)}
        if done % 20 == 0:
            print(f"{done} of {len(by_image)} images", flush=True)
    return found


def rendering_recall(said: dict[tuple[str, str], str], questions: list[Asked]) -> dict[str, float]:
    """Recall on classes shown only in held-out, or only in seen renderings."""
    truth = scenes()
    hits: dict[str, list[bool]] = {"seen": [], "held_out": []}
    for question in {(q.image, q.text) for q in questions if q.answer == "yes"}:
        image, text = question
        label = text.split()[3]
        shown = {o["held_out"] for o in truth[image]["objects"] if o["class"] == label}
        if len(shown) == 1:
            hits["held_out" if shown.pop() else "seen"].append(said[question] == "yes")
    out: dict[str, float] = {}
    for name, values in hits.items():
        out[f"recall_{name}"], out[f"n_{name}"] = sum(values) / len(values), len(values)
    return out


def summary(said: dict[tuple[str, str], str], questions: list[Asked]) -> dict[str, Any]:
    """Accuracy, yes-ratio and blind bound per task, and the POPE mean."""
    tasks: dict[str, Any] = {}
    for task in dict.fromkeys(q.task for q in questions):
        part = [q for q in questions if q.task == task]
        right = [said[q.image, q.text] == q.answer for q in part]
        bound = 0.5 if task in HALF else blind_bound(part)
        row = {"n": len(part), "accuracy": sum(right) / len(part), "blind_bound": bound}
        if {q.answer for q in part} == {"yes", "no"}:
            row["yes_ratio"] = sum(said[q.image, q.text] == "yes" for q in part) / len(part)
        tasks[task] = row
    mean = sum(tasks[f"pope {split}"]["accuracy"] for split in SPLITS) / len(SPLITS)
    return {"tasks": tasks, "pope_mean": mean}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = PROBE.parent / "models" / "llava-pictogram"
    parser.add_argument("--model", type=Path, default=default)
    parser.add_argument("--mme", type=Path, help="folder of candidate MME files")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=torch.float32).eval()
    processor = load_processor(args.model)
    questions = all_questions(args.mme)
    said = answers(model, processor, [(q.image, q.text) for q in questions])
    found = summary(said, questions)
    found |= rendering_recall(said, [q for q in questions if q.task.startswith("pope")])
    found["parameters"] = sum(p.numel() for p in model.parameters())
    (args.model / "metrics.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
