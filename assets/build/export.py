"""Turns a training checkpoint into a Hugging Face model folder.

In: a checkpoint of stage 2. Out: config, generation config, float16 safetensors, tokenizer, chat
template and processor, loadable by `from_pretrained`. The config names float32, so that the model
runs in float32 on any CPU unless another dtype is asked for. The model card is made by card.py.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from model import build_model, build_processor
from schedule import load_checkpoint


def export(checkpoint: Path, out: Path) -> None:
    """Writes the model folder.

    Args:
        checkpoint: file written by train_language.py.
        out: folder to write.
    """
    model = build_model()
    saved = load_checkpoint(checkpoint)["student"]
    weights = {k.removeprefix("model."): v for k, v in saved.items() if k.startswith("model.")}
    model.load_state_dict(weights)
    model.to(torch.float16).save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    build_processor().save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.copy(Path(__file__).parent / "THIRD_PARTY_NOTICES.md", out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    default = Path(__file__).parent.parent / "models" / "llava-pictogram"
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args()
    export(args.checkpoint, args.out)


if __name__ == "__main__":
    main()
