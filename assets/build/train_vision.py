"""Stage 1: trains a vision encoder on dense labels of visual tokens, and on a teacher's tokens.

In: drawn scenes; optionally a trained LLaVA. Out: a checkpoint of the model. Losses: dense.py. The
presence of classes is read from the CLS of the last layer, whose attention so becomes an object
pooler. With a teacher the projector is trained too, and the teacher's language model, which is
copied, answers from the new tokens as soon as they resemble its own. It knows nothing of language.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attention import use_plain_products
from classes import CLASSES
from dense import dense_heads, dense_loss, dense_targets, imitation_loss, to_tensor
from families import NAMES, Family, family
from parallel import average, start
from scenes import GRID, Painter, Scene, dense_scene, random_scene
from schedule import Clock, load_checkpoint, optimizers, save_checkpoint
from teacher import Teacher
from torch import Tensor, nn
from torch.nn import functional as F


@torch.no_grad()
def evaluate(
    kind: Family, model: Any, heads: nn.ModuleDict, painter: Painter, teacher: Teacher | None
) -> dict[str, float]:
    """Quality on 60 scenes of other photos: object tokens, colours, rows, presence, imitation."""
    rng = np.random.default_rng(99)
    sums: dict[str, list[float]] = {}
    for _ in range(3):
        scenes = [random_scene(painter, rng) for _ in range(20)]
        images = to_tensor(scenes)
        labels, colors, presence = dense_targets(scenes)
        encoded = kind.encode(model, images)
        on_object = (labels >= 0) & (labels < len(CLASSES))
        index = torch.arange(GRID * GRID).expand(len(scenes), -1)
        said = {name: heads[name](encoded.tokens).argmax(-1) for name in ("label", "color", "row")}
        found = {
            "token": (said["label"] == labels)[on_object],
            "color": (said["color"] == colors)[colors >= 0],
            "row": (said["row"] == index // GRID)[on_object],
        }
        if encoded.pooled is not None:
            guess = heads["presence"](encoded.pooled) > 0
            found |= {"recall": guess[presence == 1], "specificity": ~guess[presence == 0]}
        if teacher is not None:
            wanted = teacher.features(images)
            found["cosine"] = F.cosine_similarity(encoded.features, wanted, dim=-1)[on_object]
        for name, values in found.items():
            sums.setdefault(name, []).extend(values.float().tolist())
    return {name: float(np.mean(values)) for name, values in sums.items()}


def step_loss(
    kind: Family, model: Any, heads: nn.ModuleDict, scenes: list[Scene], teacher: Teacher | None
) -> Tensor:
    """All losses of one batch."""
    images = to_tensor(scenes)
    encoded = kind.encode(model, images)
    loss = dense_loss(heads, encoded, scenes)
    if teacher is not None:
        loss = loss + 2 * imitation_loss(encoded.features, teacher.features(images), scenes)
    return loss


def train(args: argparse.Namespace) -> None:
    """Runs the stage until the time is spent; resumes from `--out` where it exists."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    rank, world = start()
    kind = family(args.family)
    model, heads = kind.build_model(), dense_heads(kind)
    use_plain_products(model)
    teacher = Teacher(args.teacher) if args.teacher else None
    groups: list[tuple[nn.Module, float]] = [(kind.tower(model), 1.0), (heads, 1.0)]
    if teacher is not None:
        teacher.start(model, kind)
        groups.append((kind.projector(model), 1.0))
    if args.init:
        saved = load_checkpoint(args.init)
        model.load_state_dict(saved["model"])
        heads.load_state_dict(saved["heads"])
    parts = optimizers(groups, muon_lr=args.rate, adam_lr=args.rate / 2)
    clock, step = Clock(args.minutes, plateau=args.plateau), 0
    if args.out.exists():
        state = load_checkpoint(args.out)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        for part, saved in zip(parts, state["optimizers"], strict=True):
            part.load_state_dict(saved)
        clock, step = Clock(args.minutes, state["spent"], args.plateau), state["step"]
    painter, held = Painter("train", args.seed), Painter("test", args.seed + 1)
    rng = np.random.default_rng((args.seed, 1, rank, step))
    trained = list({id(p): p for module, _ in groups for p in module.parameters()}.values())
    mean, mark = 0.0, clock.spent
    while clock.progress < 1:
        clock.apply(parts)
        draw = [dense_scene if rng.random() < 0.8 else random_scene for _ in range(args.batch)]
        scenes = [one(painter, rng) for one in draw]
        with torch.autocast("cpu", torch.bfloat16):
            loss = step_loss(kind, model, heads, scenes, teacher)
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
                seen = evaluate(kind, model, heads, held, teacher)
                found = {k: round(v, 3) for k, v in seen.items()}
                print(f"{step=} {mean=:.3f} {rate=:.0f} img/s {left=:.0f} s {found}", flush=True)
                state = {"model": model.state_dict(), "heads": heads.state_dict()}
                state |= {"optimizers": [p.state_dict() for p in parts], "step": step}
                save_checkpoint(args.out, state | {"spent": clock.spent})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=NAMES, default="llava")
    parser.add_argument("--teacher", type=Path, help="folder of an exported LLaVA to imitate")
    parser.add_argument("--init", type=Path, help="checkpoint to start from with fresh optimisers")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8, help="per process")
    parser.add_argument("--rate", type=float, default=2e-3, help="Muon learning rate")
    parser.add_argument("--plateau", type=float, default=0.45, help="share before the decay")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=float, default=30)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
