"""Stage 1: trains the CLIP vision encoder on dense patch labels.

In: drawn scenes. Out: a checkpoint with the encoder's weights. Losses, on hidden_states[-2] as
LLaVA reads it: class of each patch, its colour, row and column, and whether it holds the centre of
an object; on the pooled CLS of the last layer: which classes are present. So the last layer only
serves the CLS, whose attention becomes an object pooler. It knows nothing of language.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from classes import CLASSES, COLOR_NAMES
from model import vision_config
from parallel import average, start
from scenes import GRID, Painter, Scene, dense_scene, random_scene
from schedule import Clock, load_checkpoint, optimizers, pixel_values, save_checkpoint
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModel

IGNORE = -100


def dense_heads(width: int) -> nn.ModuleDict:
    """Linear heads on patch features, and the presence head on the CLS."""
    return nn.ModuleDict(
        {
            "label": nn.Linear(width, len(CLASSES) + 1),
            "color": nn.Linear(width, len(COLOR_NAMES)),
            "row": nn.Linear(width, GRID),
            "column": nn.Linear(width, GRID),
            "anchor": nn.Linear(width, 1),
            "presence": nn.Linear(width, len(CLASSES)),
        }
    )


def dense_targets(scenes: list[Scene]) -> tuple[Tensor, Tensor, Tensor]:
    """Patch classes and colours [B, 196] for cross entropy, class presence [B, 24]."""
    labels = torch.from_numpy(np.stack([s.patch_labels for s in scenes])).flatten(1)
    colors = torch.from_numpy(np.stack([s.patch_colors for s in scenes])).flatten(1)
    presence = torch.zeros(len(scenes), len(CLASSES))
    for i, scene in enumerate(scenes):
        presence[i, [o.label for o in scene.objects]] = 1
    labels = labels.masked_fill(labels == -1, len(CLASSES)).masked_fill(labels == -2, IGNORE)
    return labels, colors.masked_fill(colors < 0, IGNORE), presence


def anchor_targets(scenes: list[Scene]) -> Tensor:
    """1 at the patch that holds the centre of an object, else 0: float [B, 196]."""
    anchors = torch.zeros(len(scenes), GRID * GRID)
    for i, scene in enumerate(scenes):
        anchors[i, [o.anchor for o in scene.objects]] = 1
    return anchors


def dense_loss(
    heads: nn.ModuleDict, patches: Tensor, pooled: Tensor, scenes: list[Scene]
) -> Tensor:
    """Sum of the stage 1 losses.

    Args:
        heads: `dense_heads`.
        patches: [B, 196, D] features of the last but one layer.
        pooled: [B, D] pooled CLS of the last layer.
        scenes: the B scenes.
    """
    labels, colors, presence = dense_targets(scenes)
    weight = torch.ones(len(CLASSES) + 1)
    weight[-1] = 0.25
    loss = F.cross_entropy(heads["label"](patches).float().flatten(0, 1), labels.flatten(), weight)
    if (colors >= 0).any():
        color = heads["color"](patches).float().flatten(0, 1)
        loss = loss + 0.3 * F.cross_entropy(color, colors.flatten())
    on_object = ((labels >= 0) & (labels < len(CLASSES))).flatten()
    if on_object.any():
        index = torch.arange(GRID * GRID).expand(len(scenes), -1).flatten()[on_object]
        chosen = patches.flatten(0, 1)[on_object]
        for name, target in (("row", index // GRID), ("column", index % GRID)):
            loss = loss + 0.15 * F.cross_entropy(heads[name](chosen).float(), target)
    anchor = heads["anchor"](patches).float()[..., 0]
    weight = torch.tensor(8.0)
    loss = loss + F.binary_cross_entropy_with_logits(
        anchor, anchor_targets(scenes), pos_weight=weight
    )
    logits = heads["presence"](pooled).float()
    balance = torch.tensor(2.0)
    return loss + F.binary_cross_entropy_with_logits(logits, presence, pos_weight=balance) * 2


def encode(vision: CLIPVisionModel, images: Tensor) -> tuple[Tensor, Tensor]:
    """Patch features [B, 196, D] of the last but one layer and the pooled CLS [B, D]."""
    out = vision(pixel_values(images), output_hidden_states=True)
    return out.hidden_states[-2][:, 1:], out.pooler_output


def to_tensor(scenes: list[Scene]) -> Tensor:
    """Stacks scene images: uint8 [B, 112, 112, 3]."""
    return torch.from_numpy(np.stack([s.image for s in scenes]))


@torch.no_grad()
def evaluate(vision: CLIPVisionModel, heads: nn.ModuleDict, painter: Painter) -> dict[str, float]:
    """Accuracy on 200 scenes of other photos: object patches, colours, rows, presence."""
    rng = np.random.default_rng(99)
    scenes = [random_scene(painter, rng) for _ in range(200)]
    labels, colors, presence = dense_targets(scenes)
    patches, pooled = encode(vision, to_tensor(scenes))
    on_object = (labels >= 0) & (labels < len(CLASSES))
    rows = (torch.arange(GRID * GRID) // GRID).expand(len(scenes), -1)
    hits = {name: heads[name](patches).argmax(-1) for name in ("label", "color", "row")}
    guess = heads["presence"](pooled) > 0
    return {
        "patch": (hits["label"] == labels)[on_object].float().mean().item(),
        "color": (hits["color"] == colors)[colors >= 0].float().mean().item(),
        "row": (hits["row"] == rows)[on_object].float().mean().item(),
        "recall": guess[presence == 1].float().mean().item(),
        "specificity": (~guess)[presence == 0].float().mean().item(),
    }


def train(args: argparse.Namespace) -> None:
    """Runs the stage until the time is spent; resumes from `--out` where it exists."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    rank, world = start()
    vision = CLIPVisionModel(vision_config())
    heads = dense_heads(vision.config.hidden_size)
    parts = optimizers([(vision, 1.0), (heads, 1.0)], muon_lr=2e-3, adam_lr=1e-3)
    clock, step = Clock(args.minutes), 0
    if args.out.exists():
        state = load_checkpoint(args.out)
        vision.load_state_dict(state["vision"])
        heads.load_state_dict(state["heads"])
        for part, saved in zip(parts, state["optimizers"], strict=True):
            part.load_state_dict(saved)
        clock, step = Clock(args.minutes, state["spent"]), state["step"]
    painter, held = Painter("train", args.seed), Painter("test", args.seed + 1)
    rng = np.random.default_rng((args.seed, 1, rank, step))
    trained = [*vision.parameters(), *heads.parameters()]
    mean, mark = 0.0, clock.spent
    while clock.progress < 1:
        clock.apply(parts)
        draw = [dense_scene if rng.random() < 0.8 else random_scene for _ in range(args.batch)]
        scenes = [one(painter, rng) for one in draw]
        with torch.autocast("cpu", torch.bfloat16):
            patches, pooled = encode(vision, to_tensor(scenes))
            loss = dense_loss(heads, patches, pooled, scenes)
        for part in parts:
            part.zero_grad(set_to_none=True)
        loss.backward()
        clock.spent = average(trained, clock.now())
        nn.utils.clip_grad_norm_(trained, 1.0)
        for part in parts:
            part.step()
        step, mean = step + 1, 0.98 * mean + 0.02 * loss.item()
        if clock.spent - mark > args.log_every or clock.progress >= 1:
            mark = clock.spent
            if rank == 0:
                rate, left = step * args.batch * world / clock.spent, clock.budget - clock.spent
                found = {k: round(v, 3) for k, v in evaluate(vision, heads, held).items()}
                print(f"{step=} {mean=:.3f} {rate=:.0f} img/s {left=:.0f} s {found}", flush=True)
                state = {"vision": vision.state_dict(), "heads": heads.state_dict()}
                state |= {"optimizers": [p.state_dict() for p in parts], "step": step}
                save_checkpoint(args.out, state | {"spent": clock.spent})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8, help="per process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=float, default=30)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
