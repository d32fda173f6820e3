"""Builds InternVL's vision encoder from the trained CLIP encoder of the small LLaVA.

In: an exported LLaVA. Out: a checkpoint like that of stage 1. CLIP reads patches of 8 pixels,
InternVL four patches of 4 pixels in their place. The first InternVL layer is made to gather these
four: its position embeddings hold a code of the place, head h looks at the h-th patch of the same
place and copies its pixels through CLIP's patch embedding. So all four tokens become CLIP's token,
and CLIP's first four layers follow unchanged. CLIP's normalisation of the embedding is linear here,
with one scale for all tokens; training has to learn the rest. It knows nothing of training.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dense import dense_heads, to_tensor
from families import family
from family_internvl import GRID as FINE
from family_internvl import HEADS, PATCH_SIZE, WIDTH
from pixels import CLIP, normalised
from scenes import GRID, Painter, random_scene
from schedule import save_checkpoint
from teacher import Teacher
from torch import Tensor

HEAD = WIDTH // HEADS
PIXELS = 3 * PATCH_SIZE**2
# Share of a pixel and of the place code in the residual stream; margin between attention scores.
LIGHT, PLACE, MARGIN = 0.15, 0.4, 14.0
LINEAR = {
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.projection_layer": "self_attn.out_proj",
    "layernorm_before": "layer_norm1",
    "layernorm_after": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def circle_code() -> Tensor:
    """14 places on a line as vectors [14, 13]: product 6.5 with themselves, -0.5 with others."""
    turns = 2 * torch.pi * torch.arange(GRID)[:, None] * torch.arange(1, GRID // 2) / GRID
    last = (-1.0) ** torch.arange(GRID)[:, None] / 2**0.5
    return torch.cat([turns.cos(), turns.sin(), last], 1)


def place_code() -> Tensor:
    """Code of CLS and fine patches [785, 31]: row, column, which of four, whether CLS."""
    index = torch.arange(FINE**2)
    row, column = index // FINE, index % FINE
    code = circle_code()
    which = torch.nn.functional.one_hot(row % 2 * 2 + column % 2, HEADS)
    fine = torch.cat([code[row // 2], code[column // 2], which, torch.zeros(FINE**2, 1)], 1)
    cls = torch.zeros(1, fine.shape[1])
    cls[0, -1] = 1
    return PLACE * torch.cat([cls, fine])


def directions(tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Orthonormal directions without mean: for the code where tokens are smallest, then pixels.

    Args:
        tokens: [n, D] tokens that the later layers expect.
        count: length of the code.

    Returns:
        [D, count] and [D, 48].
    """
    flat = torch.eye(WIDTH) - 1 / WIDTH
    spread = tokens @ flat
    values, vectors = torch.linalg.eigh(spread.T @ spread / len(tokens) + 1e-6 * flat)
    used = vectors[:, values > 5e-7]
    return used[:, :count], used[:, count : count + PIXELS]


def gather_layer(
    layer: Any, code: Tensor, light: Tensor, kernels: list[Tensor], scale: float
) -> None:
    """Writes the weights of the first layer.

    Args:
        layer: the InternVL layer, changed in place.
        code: [D, 31] directions of the place code.
        light: [D, 48] directions of the pixels.
        kernels: for each of the four patches, pixels to token [D, 48], with the pixels' roots.
        scale: what the layer norm divides by.
    """
    attention, places = layer.attention, code.shape[1] - HEADS - 1
    gain = (MARGIN / 7 * HEAD**0.5) ** 0.5 * scale / PLACE
    for part in (attention.q_proj, attention.k_proj, attention.v_proj, attention.projection_layer):
        part.weight.zero_()
        part.bias.zero_()
    for head, kernel in enumerate(kernels):
        rows = slice(head * HEAD, head * HEAD + places)
        sub, cls = head * HEAD + places, head * HEAD + places + 1
        attention.q_proj.weight[rows] = gain * code[:, :places].T
        attention.k_proj.weight[rows] = gain * code[:, :places].T
        attention.q_proj.bias[sub] = MARGIN * HEAD**0.5 / gain * scale / PLACE
        attention.k_proj.weight[sub] = gain * code[:, places + head]
        attention.q_proj.weight[cls] = attention.k_proj.weight[cls] = 7 * gain * code[:, -1]
        left, values, right = kernel
        span = slice(head * HEAD, (head + 1) * HEAD)
        attention.v_proj.weight[span] = scale / LIGHT * (right[:HEAD] @ light.T)
        attention.projection_layer.weight[:, span] = left[:, :HEAD] * values[:HEAD]
    layer.mlp.fc2.weight.zero_()
    layer.mlp.fc2.bias.zero_()


def fine_pixels(images: Tensor) -> Tensor:
    """Pixels of the fine patches of each place: [n, 4, 48] of float [B, 3, 112, 112]."""
    step = PATCH_SIZE
    cut = images.unfold(2, step, step).unfold(3, step, step).permute(0, 2, 3, 1, 4, 5)
    cut = cut.reshape(len(images), GRID, 2, GRID, 2, PIXELS).transpose(2, 3)
    return cut.reshape(-1, HEADS, PIXELS)


def quarter(kernel: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Splits a quarter of the patch embedding so that the first 32 parts lose least.

    Args:
        kernel: [D, 48].
        seen: [n, 48] pixels.

    Returns:
        [D, 48], [48] and [48, 48], whose product is the kernel.
    """
    values, vectors = torch.linalg.eigh(seen.T @ seen / len(seen) + 1e-4 * torch.eye(PIXELS))
    root = vectors * values.sqrt()
    left, weights, right = torch.linalg.svd(kernel @ root, full_matrices=False)
    return left, weights, right @ torch.linalg.inv(root)


@torch.no_grad()
def inherit(teacher: Teacher, model: Any) -> None:
    """Turns the encoder of a new InternVL into the teacher's, in place."""
    painter, rng = Painter("train", 77), np.random.default_rng(77)
    images = normalised(to_tensor([random_scene(painter, rng) for _ in range(150)]), CLIP)
    clip, vision = teacher.model.model.vision_tower, model.model.vision_tower
    before = clip.embeddings(images)
    spread = before[:, 1:].std(-1, correction=0).median()
    centre = torch.diag(clip.pre_layrnorm.weight) @ (torch.eye(WIDTH) - 1 / WIDTH) / spread
    places = clip.embeddings.position_embedding.weight @ centre.T + clip.pre_layrnorm.bias
    wanted = clip.pre_layrnorm(before)
    codes = place_code()
    code, light = directions(wanted[:, 1:].flatten(0, 1), codes.shape[1])
    index = torch.arange(FINE**2)
    coarse = index // FINE // 2 * GRID + index % FINE // 2
    kernels = []
    patch, seen = clip.embeddings.patch_embedding.weight, fine_pixels(images)
    for which in range(HEADS):
        top, left = which // 2 * PATCH_SIZE, which % 2 * PATCH_SIZE
        weight = patch[:, :, top : top + PATCH_SIZE, left : left + PATCH_SIZE].flatten(1)
        kernels.append(quarter(centre @ weight, seen[:, which]))
    parts = vision.embeddings
    parts.cls_token.zero_()
    parts.patch_embeddings.projection.weight.copy_(
        (LIGHT * light).view(WIDTH, 3, *[PATCH_SIZE] * 2)
    )
    parts.patch_embeddings.projection.bias.zero_()
    places = torch.cat([wanted[:1, 0], places[1:]])
    for used in (code, light):
        places = places - places @ used @ used.T
    embedded = places[torch.cat([torch.zeros(1, dtype=torch.long), 1 + coarse])]
    parts.position_embeddings[0] = embedded + codes @ code.T
    scale = float(parts(images)[:, 1:].std(-1, correction=0).median())
    gather_layer(vision.encoder.layer[0], code, light, kernels, scale)
    for layer, source in zip(vision.encoder.layer[1:], clip.encoder.layers, strict=False):
        for mine, its in LINEAR.items():
            layer.get_submodule(mine).load_state_dict(source.get_submodule(its).state_dict())
    inherit_projector(teacher, model, images)


def inherit_projector(teacher: Teacher, model: Any, images: Tensor) -> None:
    """Fits the first layer of the projector, whose input is normalised here but not in LLaVA."""
    first = teacher.model.model.multi_modal_projector.linear_1
    tokens = teacher.model.model.vision_tower(images, output_hidden_states=True)
    tokens = tokens.hidden_states[-2][:, 1:].flatten(0, 1)
    normed = torch.nn.functional.layer_norm(tokens, (WIDTH,))
    normed = torch.cat([normed, torch.ones(len(normed), 1)], 1)
    fitted = torch.linalg.lstsq(normed, first(tokens)).solution.T
    projector = model.model.multi_modal_projector
    projector.linear_1.weight.copy_(fitted[:, :-1].repeat(1, 4) / 4)
    projector.linear_1.bias.copy_(fitted[:, -1])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True, help="folder of an exported LLaVA")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(0)
    kind, teacher = family("internvl"), Teacher(args.teacher)
    model = kind.build_model()
    teacher.start(model, kind)
    inherit(teacher, model)
    heads = dense_heads(kind)
    save_checkpoint(args.out, {"model": model.state_dict(), "heads": heads.state_dict()})


if __name__ == "__main__":
    main()
