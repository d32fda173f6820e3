"""Banks of scene backgrounds: crops of the bundled photos and procedural patterns.

In: a split name and a seed. Out: uint8 [count, 112, 112, 3] plus one id string per background.
Train and test use different photos and different seeds. It knows nothing of objects.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from sprites import ATLAS, TEST_PHOTOS, TRAIN_PHOTOS

SIZE = 112
PATTERNS = ("gradient", "noise", "stripes", "horizon")


def _photo_crops(name: str, count: int, rng: np.random.Generator) -> np.ndarray:
    photo = Image.open(ATLAS / "backgrounds" / f"{name}.jpg").convert("RGB")
    out = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for i in range(count):
        side = int(rng.integers(90, 221))
        x = int(rng.integers(0, photo.width - side + 1))
        y = int(rng.integers(0, photo.height - side + 1))
        crop = photo.resize((SIZE, SIZE), Image.Resampling.BILINEAR, (x, y, x + side, y + side))
        out[i] = np.asarray(crop)
    return out


def _smooth_noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Low-frequency noise in [0, 1], float [112, 112]."""
    small = Image.fromarray((rng.random((cells, cells)) * 255).astype(np.uint8))
    return np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BICUBIC)) / 255.0


def _pattern(kind: str, rng: np.random.Generator) -> np.ndarray:
    """One procedural background, uint8 [112, 112, 3]."""
    a, b = rng.random(3) * 200 + 30, rng.random(3) * 200 + 30
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    angle = rng.random() * 2 * np.pi
    ramp = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle) + 0.5
    if kind == "noise":
        mix = _smooth_noise(rng, int(rng.integers(3, 14)))
    elif kind == "stripes":
        mix = 0.5 + 0.5 * np.sign(np.sin(ramp * rng.uniform(15, 60))) * rng.uniform(0.1, 0.6)
    elif kind == "horizon":
        mix = (y > rng.uniform(0.3, 0.7)) * 0.8 + 0.2 * _smooth_noise(rng, 8)
    else:
        mix = ramp
    image = a + (b - a) * np.clip(mix, 0, 1)[..., None] + rng.normal(0, 4, (SIZE, SIZE, 1))
    return np.clip(image, 0, 255).astype(np.uint8)


def background_bank(split: str, seed: int, per_photo: int = 64) -> tuple[np.ndarray, list[str]]:
    """Draws all backgrounds of a split, photos 60 % and patterns 40 %.

    Args:
        split: "train" or "test"; decides the photos.
        seed: decides crops and patterns.
        per_photo: crops of each photo.

    Returns:
        uint8 [count, 112, 112, 3] and the id of each.
    """
    rng = np.random.default_rng((seed, 17))
    photos = TRAIN_PHOTOS if split == "train" else TEST_PHOTOS
    images = [_photo_crops(name, per_photo, rng) for name in photos]
    ids = [f"photo:{name}:{i}" for name in photos for i in range(per_photo)]
    patterns = len(ids) * 2 // 3
    kinds = [PATTERNS[i % len(PATTERNS)] for i in range(patterns)]
    images.append(np.stack([_pattern(kind, rng) for kind in kinds]))
    return np.concatenate(images), ids + [f"{kind}:{i}" for i, kind in enumerate(kinds)]
