"""Turns a training checkpoint into a Hugging Face model folder.

In: a checkpoint of stage 2. Out: config, generation config, float16 safetensors, tokenizer, chat
template and processor, loadable by `from_pretrained`. The config names float32, so that the model
runs in float32 on any CPU unless another dtype is asked for. The processor is made for images; a
description of its video processor is added where the family has one, because transformers with
torchvision asks for it. The model card is made by card.py.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from families import NAMES, Family, family
from schedule import load_checkpoint

MODELS = Path(__file__).parent.parent / "models"


def export(kind: Family, checkpoint: Path, out: Path) -> None:
    """Writes the model folder.

    Args:
        kind: the family of the checkpoint.
        checkpoint: file written by train_language.py.
        out: folder to write.
    """
    model = kind.build_model()
    saved = load_checkpoint(checkpoint)["student"]
    weights = {k.removeprefix("model."): v for k, v in saved.items() if k.startswith("model.")}
    model.load_state_dict(weights)
    model.to(torch.float16).save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    kind.build_processor().save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if kind.video:
        described = json.loads((out / "processor_config.json").read_text())
        described["video_processor"] = kind.video
        (out / "processor_config.json").write_text(json.dumps(described, indent=2) + "\n")
    shutil.copy(Path(__file__).parent / "THIRD_PARTY_NOTICES.md", out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--family", choices=NAMES, default="llava")
    parser.add_argument("--out", type=Path, help="folder to write, the bundled one by default")
    args = parser.parse_args()
    out = args.out or MODELS / f"{args.family}-pictogram"
    export(family(args.family), args.checkpoint, out)


if __name__ == "__main__":
    main()
