"""Stage 1 losses: what each visual token shows, what the image holds, what a teacher sees.

In: encoded images and the truth of their scenes. Out: scalar losses. The class of each visual
token, its colour, row and column, whether it holds the centre of an object; the presence of each
class from the CLS where there is one; the distance to the projected tokens of a trained model. It
knows nothing of language.
"""

from __future__ import annotations

import numpy as np
import torch
from classes import CLASSES, COLOR_NAMES
from families import Encoded, Family
from scenes import GRID, Scene
from torch import Tensor, nn
from torch.nn import functional as F

IGNORE = -100


def dense_heads(family: Family) -> nn.ModuleDict:
    """Linear heads on visual tokens, and the presence head on the CLS."""
    width = family.token_width
    heads = {
        "label": nn.Linear(width, len(CLASSES) + 1),
        "color": nn.Linear(width, len(COLOR_NAMES)),
        "row": nn.Linear(width, GRID),
        "column": nn.Linear(width, GRID),
        "anchor": nn.Linear(width, 1),
    }
    if family.pooled_width:
        heads["presence"] = nn.Linear(family.pooled_width, len(CLASSES))
    return nn.ModuleDict(heads)


def to_tensor(scenes: list[Scene]) -> Tensor:
    """Stacks scene images: uint8 [B, 112, 112, 3]."""
    return torch.from_numpy(np.stack([s.image for s in scenes]))


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


def dense_loss(heads: nn.ModuleDict, encoded: Encoded, scenes: list[Scene]) -> Tensor:
    """Sum of the losses on the truth.

    Args:
        heads: `dense_heads`.
        encoded: the encoder's output for the B scenes.
        scenes: the B scenes.
    """
    tokens = encoded.tokens
    labels, colors, presence = dense_targets(scenes)
    weight = torch.ones(len(CLASSES) + 1)
    weight[-1] = 0.25
    loss = F.cross_entropy(heads["label"](tokens).float().flatten(0, 1), labels.flatten(), weight)
    if (colors >= 0).any():
        color = heads["color"](tokens).float().flatten(0, 1)
        loss = loss + 0.3 * F.cross_entropy(color, colors.flatten())
    on_object = ((labels >= 0) & (labels < len(CLASSES))).flatten()
    if on_object.any():
        index = torch.arange(GRID * GRID).expand(len(scenes), -1).flatten()[on_object]
        chosen = tokens.flatten(0, 1)[on_object]
        for name, target in (("row", index // GRID), ("column", index % GRID)):
            loss = loss + 0.15 * F.cross_entropy(heads[name](chosen).float(), target)
    anchor = heads["anchor"](tokens).float()[..., 0]
    rare = torch.tensor(8.0)
    loss = loss + F.binary_cross_entropy_with_logits(
        anchor, anchor_targets(scenes), pos_weight=rare
    )
    if encoded.pooled is None:
        return loss
    logits = heads["presence"](encoded.pooled).float()
    balance = torch.tensor(2.0)
    return loss + F.binary_cross_entropy_with_logits(logits, presence, pos_weight=balance) * 2


def imitation_loss(features: Tensor, wanted: Tensor, scenes: list[Scene]) -> Tensor:
    """Squared distance to a teacher's visual tokens as a share of their variance.

    Tokens on objects count four times, because most tokens show background.

    Args:
        features: [B, 196, 128] projected tokens.
        wanted: [B, 196, 128] the teacher's.
        scenes: the B scenes.
    """
    wanted = wanted.float()
    labels = torch.from_numpy(np.stack([s.patch_labels for s in scenes])).flatten(1)
    weight = torch.where(labels == -1, 1.0, 4.0)
    spread = (wanted - wanted.mean((0, 1))).square().sum(-1)
    distance = (features.float() - wanted).square().sum(-1)
    return (weight * distance).sum() / (weight * spread).sum()
