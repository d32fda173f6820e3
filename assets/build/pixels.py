"""Turns drawn images into what an image processor would hand to the model.

In: uint8 images [B, 112, 112, 3]. Out: normalised float [B, 3, 112, 112], or the flat patches of
Qwen's image processor. It knows nothing of models.
"""

from __future__ import annotations

import torch
from torch import Tensor

CLIP = (
    torch.tensor([0.48145466, 0.4578275, 0.40821073]),
    torch.tensor([0.26862954, 0.26130258, 0.27577711]),
)


def normalised(images: Tensor, statistics: tuple[Tensor, Tensor]) -> Tensor:
    """Rescales to 0..1 and normalises: float [B, 3, 112, 112].

    Args:
        images: uint8 [B, 112, 112, 3].
        statistics: mean and standard deviation per channel.
    """
    mean, deviation = statistics
    return ((images.float() / 255 - mean) / deviation).permute(0, 3, 1, 2).contiguous()


def flat_patches(pixels: Tensor, patch: int, merge: int, frames: int) -> Tensor:
    """Cuts images into patches in Qwen's order: the patches of one visual token are neighbours.

    Args:
        pixels: float [B, C, H, W].
        patch: side of a patch.
        merge: patches per side of a visual token.
        frames: copies of the image along time.

    Returns:
        float [B, H * W / patch**2, C * frames * patch**2].
    """
    size, channels, height, width = pixels.shape
    shape = (height // patch // merge, merge, patch, width // patch // merge, merge, patch)
    cut = pixels.view(size, channels, *shape).permute(0, 2, 5, 3, 6, 1, 4, 7)
    cut = cut.unsqueeze(6).expand(*cut.shape[:6], frames, *cut.shape[6:])
    return cut.reshape(size, -1, channels * frames * patch * patch)
