"""Measures an exported model on the probe through `generate` and the real chat template.

In: a model folder. Out: `metrics.json` in it: accuracy per question type with the blind bound
beside it, and recall on seen and held-out renderings. Greedy, float32, left-padded batches.
Pruned accuracies are added by measure_pruning.py. It knows nothing of training.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from probe_files import PROBE, SPLITS, Asked, all_questions, blind_bound, scenes
from transformers import AutoProcessor, LlavaForConditionalGeneration

# Relation strings name two classes and hardly repeat: a per-string bound would mean nothing.
# Each image asks a relation and its opposite, so that a blind answerer is right half of the time.
HALF = {"mme relation"}


@torch.no_grad()
def answers(
    model: LlavaForConditionalGeneration, processor: Any, asked: list[tuple[str, str]], size: int
) -> dict[tuple[str, str], str]:
    """Greedy answers by (image name, question), in batches of `size`."""
    found: dict[tuple[str, str], str] = {}
    asked = sorted(set(asked), key=lambda pair: (len(pair[1].split()), pair))
    for start in range(0, len(asked), size):
        part = asked[start : start + size]
        images = [Image.open(PROBE / "images" / image) for image, _ in part]
        prompts = [
            processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}],
                add_generation_prompt=True,
            )
            for _, text in part
        ]
        inputs = processor(images=images, text=prompts, padding=True, return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        new = processor.batch_decode(
            out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        found |= {pair: text.strip() for pair, text in zip(part, new, strict=True)}
        if start // size % 20 == 0:
            print(f"{start + len(part)} of {len(asked)} questions", flush=True)
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
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = LlavaForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(args.model)
    questions = all_questions(args.mme)
    said = answers(model, processor, [(q.image, q.text) for q in questions], args.batch)
    found = summary(said, questions)
    found |= rendering_recall(said, [q for q in questions if q.task.startswith("pope")])
    found["parameters"] = sum(p.numel() for p in model.parameters())
    (args.model / "metrics.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
