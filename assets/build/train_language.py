"""Stage 2: trains a whole small model end to end on packed questions.

In: the checkpoint of stage 1 and drawn scenes; optionally the teacher of stage 1. Out: a checkpoint
of the whole model. Loss: cross entropy on answers, plus the stage 1 losses on the encoder,
alignment, grounding (in the first part of the time) and state losses. Without a teacher the first
150 steps train the projector alone. It knows nothing of benchmark files.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from dense import dense_loss, imitation_loss, to_tensor
from dropout import drop_tokens
from families import NAMES, family
from losses import alignment_loss, counting_loss, grounding_loss, patch_state_loss, state_loss
from packing import IGNORE, Packed, layout, pack
from parallel import average, start
from questions import training_questions
from scenes import Painter, Scene, random_scene
from schedule import Clock, load_checkpoint, optimizers, save_checkpoint
from student import Student, evaluate
from teacher import Teacher
from torch import Tensor, nn
from torch.nn import functional as F

ALIGNMENT_STEPS = 150


def projector_loss(student: Student, scenes: list[Scene]) -> Tensor:
    """Loss of the first steps: the projector learns to speak class words."""
    with torch.no_grad():
        tokens = student.encode(scenes).tokens
    features = student.kind.projector(student.model)(tokens)
    loss = alignment_loss(features, student.words.detach(), scenes)
    return loss + 0.3 * patch_state_loss(student.state, features, scenes)


def full_loss(
    student: Student,
    scenes: list[Scene],
    packed: Packed,
    grounded: bool,
    teacher: Teacher | None,
) -> Tensor:
    """Weighted sum of all stage 2 losses."""
    encoded = student.encode(scenes)
    features = encoded.features
    final, hidden = student.states(student.embeddings(features, packed), packed)
    asked = packed.labels != IGNORE
    logits = F.linear(final[:, packed.layout.prefix :][asked], student.words).float()
    loss = F.cross_entropy(logits, packed.labels[asked])
    loss = loss + 0.3 * dense_loss(student.dense, encoded, scenes)
    loss = loss + 0.3 * alignment_loss(features, student.words, scenes)
    loss = loss + 0.1 * patch_state_loss(student.state, features, scenes)
    loss = loss + 0.15 * state_loss(student.state, hidden[2], packed, scenes)
    if teacher is not None:
        loss = loss + imitation_loss(features, teacher.features(to_tensor(scenes)), scenes)
    if grounded:
        llm = student.model.model.language_model
        loss = loss + 0.3 * grounding_loss(llm, hidden, packed, scenes)
        loss = loss + 0.15 * counting_loss(llm, hidden, packed, scenes)
    return loss


def initialised(args: argparse.Namespace) -> Student:
    """A new student, from stage 1 or, with fresh optimisers, from a run of this stage."""
    student = Student(family(args.family))
    if args.init and not args.out.exists():
        student.load_state_dict(load_checkpoint(args.init)["student"], strict=False)
    elif not args.out.exists():
        stage1 = load_checkpoint(args.vision)
        student.model.load_state_dict(stage1["model"])
        student.dense.load_state_dict(stage1["heads"])
    return student


def train(args: argparse.Namespace) -> None:
    """Runs the stage until the time is spent; resumes from `--out` where it exists."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    rank, world = start()
    student = initialised(args)
    kind, model = student.kind, student.model
    teacher = Teacher(args.teacher) if args.teacher else None
    groups = [(kind.projector(model), 1.0), (kind.tower(model), args.tower)]
    groups += [(model.model.language_model, 1.0), (student.dense, 1.0), (student.state, 1.0)]
    parts = optimizers(groups, muon_lr=args.rate, adam_lr=1e-3)
    clock = Clock(args.minutes, plateau=args.plateau)
    step = ALIGNMENT_STEPS if args.init or teacher else 0
    if args.out.exists():
        state = load_checkpoint(args.out)
        student.load_state_dict(state["student"])
        for part, saved in zip(parts, state["optimizers"], strict=True):
            part.load_state_dict(saved)
        clock, step = Clock(args.minutes, state["spent"], args.plateau), state["step"]
    painter, held = Painter("train", args.seed + 2), Painter("test", args.seed + 1)
    rng = np.random.default_rng((args.seed, 2, rank, step))
    trained = list({id(p): p for p in student.parameters()}.values())
    mean, mark = 0.0, clock.spent
    while clock.progress < 1:
        clock.apply(parts)
        scenes = [random_scene(painter, rng) for _ in range(args.batch)]
        with torch.autocast("cpu", torch.bfloat16):
            if step < ALIGNMENT_STEPS:
                loss = projector_loss(student, scenes)
            else:
                questions = [training_questions(s, rng) for s in scenes]
                packed = pack(questions, rng, layout(kind))
                drop_tokens(packed, scenes, rng, args.drop)
                grounded = clock.progress < args.grounded
                loss = full_loss(student, scenes, packed, grounded, teacher)
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
                found = evaluate(student, held)
                print(f"{step=} {mean=:.3f} {rate=:.1f} img/s {left=:.0f} s {found}", flush=True)
                state = {"student": student.state_dict(), "step": step, "spent": clock.spent}
                save_checkpoint(args.out, state | {"optimizers": [p.state_dict() for p in parts]})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=NAMES, default="llava")
    parser.add_argument("--teacher", type=Path, help="folder of an exported LLaVA to imitate")
    parser.add_argument("--vision", type=Path, help="checkpoint of stage 1 to start from")
    parser.add_argument("--init", type=Path, help="checkpoint of this stage to start from instead")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8, help="per process")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="Muon learning rate")
    parser.add_argument("--tower", type=float, default=0.5, help="rate factor of the encoder")
    parser.add_argument("--plateau", type=float, default=0.45, help="share before the decay")
    parser.add_argument("--grounded", type=float, default=0.6, help="share with attention losses")
    parser.add_argument("--drop", type=float, default=0.6, help="share of scenes losing tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=float, default=120)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
