"""Stage 2: trains the whole small LLaVA end to end on packed questions.

In: the encoder checkpoint of stage 1 and drawn scenes. Out: a checkpoint of the whole model.
Loss: cross entropy on answers, plus the stage 1 losses on the encoder, alignment, grounding (first
60 % of the time) and state losses. The first 150 steps train the projector alone. It knows
nothing of benchmark files.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from attention import use_plain_products
from dropout import drop_tokens
from losses import (
    alignment_loss,
    counting_loss,
    grounding_loss,
    patch_state_loss,
    state_heads,
    state_loss,
)
from model import build_model
from packing import IGNORE, PREFIX, START, Packed, pack
from parallel import average, start
from questions import training_questions
from scenes import Painter, Scene, random_scene
from schedule import Clock, load_checkpoint, optimizers, save_checkpoint
from torch import Tensor, nn
from torch.nn import functional as F
from train_vision import dense_heads, dense_loss, encode, to_tensor
from transformers import LlavaForConditionalGeneration

ALIGNMENT_STEPS = 150


class Student(nn.Module):
    """The model and the auxiliary heads that training needs."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        """Wraps an initialised model."""
        super().__init__()
        self.model = model
        self.dense = dense_heads(model.config.vision_config.hidden_size)
        self.state = state_heads(model.config.text_config.hidden_size)

    @property
    def words(self) -> Tensor:
        """Token embeddings [V, D], tied with the output layer."""
        return self.model.model.language_model.embed_tokens.weight

    def embeddings(self, features: Tensor, packed: Packed) -> Tensor:
        """Input embeddings [B, 199 + T, D] of prefix and branches."""
        size = len(features)
        head = F.embedding(torch.tensor(START), self.words).expand(size, -1, -1)
        tail = F.embedding(packed.ids, self.words)
        return torch.cat([head.to(features.dtype), features, tail.to(features.dtype)], 1)

    def states(self, embeds: Tensor, packed: Packed) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Final hidden states, and the inputs of all layers, each [B, 199 + T, D]."""
        out = self.model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=packed.mask,
            position_ids=packed.positions,
            output_hidden_states=True,
            use_cache=False,
        )
        return out.last_hidden_state, out.hidden_states


def projector_loss(student: Student, scenes: list[Scene]) -> Tensor:
    """Loss of the first steps: the projector learns to speak class words."""
    with torch.no_grad():
        patches, _ = encode(student.model.model.vision_tower, to_tensor(scenes))
    features = student.model.model.multi_modal_projector(patches)
    loss = alignment_loss(features, student.words.detach(), scenes)
    return loss + 0.3 * patch_state_loss(student.state, features, scenes)


def full_loss(student: Student, scenes: list[Scene], packed: Packed, grounded: bool) -> Tensor:
    """Weighted sum of all stage 2 losses."""
    patches, pooled = encode(student.model.model.vision_tower, to_tensor(scenes))
    features = student.model.model.multi_modal_projector(patches)
    embeds = student.embeddings(features, packed)
    final, hidden = student.states(embeds, packed)
    asked = packed.labels != IGNORE
    logits = F.linear(final[:, PREFIX:][asked], student.words).float()
    loss = F.cross_entropy(logits, packed.labels[asked])
    loss = loss + 0.3 * dense_loss(student.dense, patches, pooled, scenes)
    loss = loss + 0.3 * alignment_loss(features, student.words, scenes)
    loss = loss + 0.1 * patch_state_loss(student.state, features, scenes)
    loss = loss + 0.15 * state_loss(student.state, hidden[2], packed, scenes)
    if grounded:
        llm = student.model.model.language_model
        loss = loss + 0.3 * grounding_loss(llm, hidden, packed, scenes)
        loss = loss + 0.15 * counting_loss(llm, hidden, packed, scenes)
    return loss


@torch.no_grad()
def evaluate(student: Student, painter: Painter, count: int = 120) -> dict[str, float]:
    """Share of exactly right answers per kind of question, on scenes of the test split."""
    rng = np.random.default_rng(98)
    hits: dict[str, list[float]] = defaultdict(list)
    for _ in range(count // 20):
        scenes = [random_scene(painter, rng) for _ in range(20)]
        packed = pack([training_questions(s, rng) for s in scenes])
        patches, _ = encode(student.model.model.vision_tower, to_tensor(scenes))
        features = student.model.model.multi_modal_projector(patches)
        final, _ = student.states(student.embeddings(features, packed), packed)
        right = F.linear(final[:, PREFIX:], student.words).argmax(-1) == packed.labels
        right |= packed.labels == IGNORE
        for row, (asked, begins) in enumerate(zip(packed.questions, packed.first, strict=True)):
            ends = [*begins[1:], packed.ids.shape[1]]
            for question, a, b in zip(asked, begins, ends, strict=True):
                hits[question.kind].append(float(right[row, a:b].all()))
    return {kind: round(float(np.mean(v)), 3) for kind, v in sorted(hits.items())}


def initialised(args: argparse.Namespace) -> Student:
    """A new student, from stage 1 or, with fresh optimisers, from a run of this stage."""
    student = Student(build_model())
    use_plain_products(student.model)
    if args.init and not args.out.exists():
        saved = load_checkpoint(args.init)["student"]
        student.load_state_dict(saved, strict=False)
    elif not args.out.exists():
        stage1 = load_checkpoint(args.vision)
        student.model.model.vision_tower.load_state_dict(stage1["vision"])
        student.dense.load_state_dict(stage1["heads"], strict=False)
    return student


def train(args: argparse.Namespace) -> None:
    """Runs the stage until the time is spent; resumes from `--out` where it exists."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    rank, world = start()
    student = initialised(args)
    inner = student.model.model
    groups = [(inner.vision_tower, 0.5), (inner.multi_modal_projector, 1.0)]
    groups += [(inner.language_model, 1.0), (student.dense, 1.0), (student.state, 1.0)]
    parts = optimizers(groups, muon_lr=args.rate, adam_lr=1e-3)
    clock, step = Clock(args.minutes, plateau=args.plateau), ALIGNMENT_STEPS if args.init else 0
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
                packed = pack([training_questions(s, rng) for s in scenes], rng)
                drop_tokens(packed.mask, scenes, rng, args.drop)
                loss = full_loss(student, scenes, packed, clock.progress < args.grounded)
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
    parser.add_argument("--vision", type=Path, help="checkpoint of stage 1 to start from")
    parser.add_argument("--init", type=Path, help="checkpoint of this stage to start from instead")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8, help="per process")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="Muon learning rate")
    parser.add_argument("--plateau", type=float, default=0.45, help="share before the decay")
    parser.add_argument("--grounded", type=float, default=0.6, help="share with attention losses")
    parser.add_argument("--drop", type=float, default=0.6, help="share of scenes losing tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=float, default=120)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
