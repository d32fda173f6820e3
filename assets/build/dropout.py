"""Visual token dropout: in part of the training scenes the answers must come from fewer tokens.

In: scenes and a random generator. Out: which visual tokens may be seen. Without it the model learns
to read "no" off the background, and says yes to everything once a selector keeps objects only. A
class that is in the scene keeps at least one token, so that no answer is trained without its
evidence. Masking a token in every layer equals removing it from the prompt.
"""

from __future__ import annotations

import numpy as np
import torch
from families import VISUAL_TOKENS
from packing import Packed
from scenes import Scene


def seen_tokens(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Visual tokens of one scene that stay, bool [196].

    A random share of the background (none of it in every third scene) and of the object tokens.
    """
    labels = scene.patch_labels.flatten()
    background = 0.0 if rng.random() < 0.35 else rng.random()
    objects = rng.uniform(0.1, 1.0)
    stays = rng.random(VISUAL_TOKENS) < np.where(labels >= 0, objects, background)
    anchors = [item.anchor for item in scene.objects]
    stays[anchors] |= rng.random(len(anchors)) < 0.7
    for label in np.unique(labels[labels >= 0]):
        places = np.flatnonzero(labels == label)
        if not stays[places].any():
            stays[rng.choice(places)] = True
    if not stays.any():
        stays[rng.integers(VISUAL_TOKENS)] = True
    return stays


def drop_tokens(
    packed: Packed, scenes: list[Scene], rng: np.random.Generator, share: float
) -> None:
    """Hides the dropped tokens of a share of the scenes in the mask of a batch, in place.

    Args:
        packed: the batch.
        scenes: its B scenes.
        rng: source of the choices.
        share: share of the scenes that lose tokens.
    """
    start = packed.layout.visual.start
    for row, scene in enumerate(scenes):
        if rng.random() < share:
            hidden = start + np.flatnonzero(~seen_tokens(scene, rng))
            packed.mask[row, :, :, torch.from_numpy(hidden)] = -1e9
