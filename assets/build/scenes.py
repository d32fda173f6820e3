"""Draws scenes of labelled pictograms with exact ground truth.

In: a split ("train" or "test") and seeds. Out: `Scene` with a uint8 [112, 112, 3] image, the
placed objects, and labels of the 14x14 patches: class index, -1 background, -2 ambiguous (the
object covers 5-25 % of the patch). Test scenes use other photos, other seeds, and about one object
in eight in its class's held-out rendering. About 2,000 scenes per second on one core: nothing is
stored on disk for training. It knows nothing of questions or models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from backgrounds import SIZE, background_bank
from classes import CLASSES, COLOR_NAMES, COLORABLE, COLORS, THEMES
from PIL import Image
from sprites import load_renderings

GRID = 14
PATCH = SIZE // GRID
SIZES = (20, 23, 26, 29, 32, 36, 40, 45)
ANGLES = (-18, -9, 0, 9, 18)
BACKGROUND, AMBIGUOUS = -1, -2
HELD_OUT_SHARE = 1 / 8


@dataclass(frozen=True)
class SceneObject:
    """One placed object. `box` is (x0, y0, x1, y1) in pixels; `color` is None if not tinted."""

    label: int
    color: int | None
    box: tuple[int, int, int, int]
    rendering: str
    held_out: bool

    @property
    def center(self) -> tuple[float, float]:
        """Box centre (x, y) in pixels."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    @property
    def anchor(self) -> int:
        """Index of the patch that holds the centre, in raster order."""
        x, y = self.center
        return int(y) // PATCH * GRID + int(x) // PATCH


@dataclass(frozen=True)
class Scene:
    """A drawn scene: image uint8 [112, 112, 3], patch classes and colours int [14, 14]."""

    image: np.ndarray
    objects: tuple[SceneObject, ...]
    background: str
    patch_labels: np.ndarray
    patch_colors: np.ndarray


def _rotated(rgba: np.ndarray, size: int, angle: int) -> np.ndarray:
    """Premultiplied float32 [h, w, 4] of one sprite at a size and rotation."""
    image = Image.fromarray(rgba).rotate(angle, Image.Resampling.BICUBIC, expand=True)
    image = image.crop(image.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox())
    scale = size / max(image.size)
    shape = (max(4, round(image.width * scale)), max(4, round(image.height * scale)))
    out = np.asarray(image.resize(shape, Image.Resampling.BOX), np.float32) / 255
    out = out.copy()
    out[..., :3] *= out[..., 3:]
    return out


def _tinted(sprite: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Replaces the hue by `color` and keeps the sprite's shading."""
    alpha = sprite[..., 3:]
    light = sprite[..., :3] @ np.float32([0.3, 0.59, 0.11])
    light = light / max(1e-3, float(light.sum() / alpha.sum()))
    out = sprite.copy()
    shade = np.minimum(0.35 * alpha + 0.62 * light[..., None], 1.25 * alpha)
    out[..., :3] = np.minimum(shade * color, alpha)
    return out


class Painter:
    """Draws scenes of one split from pre-rendered sprites."""

    def __init__(self, split: str, seed: int) -> None:
        """Renders every sprite of the split at every size and angle.

        Args:
            split: "train" (held-out renderings excluded) or "test".
            seed: seed of the backgrounds.
        """
        self.split = split
        self.backgrounds, self.background_ids = background_bank(split, seed)
        self.seen: list[list[int]] = [[] for _ in CLASSES]
        self.held: list[list[int]] = [[] for _ in CLASSES]
        self.renderings = load_renderings()
        self.bank: dict[tuple[int, int, int], np.ndarray] = {}
        for i, rendering in enumerate(self.renderings):
            if rendering.held_out and split == "train":
                continue
            target = self.held if rendering.held_out else self.seen
            target[CLASSES.index(rendering.label)].append(i)
            for size in SIZES:
                for angle in ANGLES:
                    self.bank[i, size, angle] = _rotated(rendering.rgba, size, angle)

    def _sprite(
        self, label: int, sizes: tuple[int, ...], rng: np.random.Generator
    ) -> tuple[np.ndarray, int | None, int]:
        """Picks a rendering, size, angle, flip, colour and light: (sprite, colour, rendering)."""
        held = bool(self.held[label]) and rng.random() < HELD_OUT_SHARE
        choices = self.held[label] if held else self.seen[label]
        index = choices[rng.integers(len(choices))]
        size = sizes[rng.integers(len(sizes))]
        sprite = self.bank[index, size, ANGLES[rng.integers(len(ANGLES))]]
        if rng.random() < 0.5:
            sprite = sprite[:, ::-1]
        color = None
        if CLASSES[label] in COLORABLE:
            color = int(rng.integers(len(COLOR_NAMES)))
            sprite = _tinted(sprite, np.float32(COLORS[COLOR_NAMES[color]]))
            gain = np.float32(rng.uniform(0.85, 1.08))
        else:
            gain = np.float32(rng.uniform(0.8, 1.15) * rng.uniform(0.9, 1.1, 3))
        sprite = sprite.copy()
        sprite[..., :3] = np.minimum(sprite[..., :3] * gain, sprite[..., 3:])
        return sprite, color, index

    def draw(
        self, labels: list[int], rng: np.random.Generator, sizes: tuple[int, ...] = SIZES
    ) -> Scene:
        """Draws one scene with the given classes; objects that find no room are left out.

        Args:
            labels: class index of each object wanted.
            rng: source of every choice.
            sizes: sizes (longest side in pixels) to choose from.
        """
        pick = int(rng.integers(len(self.backgrounds)))
        canvas = self.backgrounds[pick].astype(np.float32) / 255
        if rng.random() < 0.5:
            canvas = canvas[:, ::-1]
        canvas = np.clip(canvas * rng.uniform(0.7, 1.15), 0, 1)
        cover = np.zeros((len(labels) + 1, GRID, GRID), np.float32)
        objects: list[SceneObject] = []
        for label in labels:
            sprite, color, index = self._sprite(label, sizes, rng)
            box = _place(sprite.shape, [o.box for o in objects], rng)
            if box is None:
                continue
            x0, y0, x1, y1 = box
            alpha = sprite[..., 3:]
            canvas[y0:y1, x0:x1] = canvas[y0:y1, x0:x1] * (1 - alpha) + sprite[..., :3]
            plane = np.zeros((SIZE, SIZE), np.float32)
            plane[y0:y1, x0:x1] = alpha[..., 0]
            cover[len(objects)] = plane.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3))
            chosen = self.renderings[index]
            name = f"{chosen.vendor}:{chosen.codepoint}"
            objects.append(SceneObject(label, color, box, name, chosen.held_out))
        classes, colors = _patch_truth(cover, objects)
        image = (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)
        return Scene(image, tuple(objects), self.background_ids[pick], classes, colors)


def _place(
    shape: tuple[int, ...], boxes: list[tuple[int, int, int, int]], rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Finds a place overlapping every earlier box by at most 8 % of the smaller of the two."""
    h, w = shape[:2]
    for _ in range(25):
        x, y = int(rng.integers(0, SIZE - w + 1)), int(rng.integers(0, SIZE - h + 1))
        for a, b, c, d in boxes:
            inter = max(0, min(c, x + w) - max(a, x)) * max(0, min(d, y + h) - max(b, y))
            if inter > 0.08 * min(w * h, (c - a) * (d - b)):
                break
        else:
            return x, y, x + w, y + h
    return None


def _patch_truth(cover: np.ndarray, objects: list[SceneObject]) -> tuple[np.ndarray, np.ndarray]:
    """Class and colour of each patch from the objects' coverage [n, 14, 14]."""
    top, share = cover.argmax(0), cover.max(0)
    labels = np.array([o.label for o in objects] + [BACKGROUND])
    colors = np.array([BACKGROUND if o.color is None else o.color for o in objects] + [BACKGROUND])
    unclear = np.where(share >= 0.05, AMBIGUOUS, BACKGROUND)
    top = np.minimum(top, len(objects))
    return (
        np.where(share >= 0.25, labels[top], unclear),
        np.where(share >= 0.25, colors[top], unclear),
    )


def compose(rng: np.random.Generator, groups: int, most: int = 7) -> list[int]:
    """Chooses the classes of a scene: `groups` distinct ones, 80 % of a theme, 1-4 of each.

    Args:
        rng: source of every choice.
        groups: number of distinct classes.
        most: largest number of objects altogether.
    """
    theme = list(THEMES.values())[rng.integers(len(THEMES))]
    chosen: list[int] = []
    while len(chosen) < groups:
        pool = theme if rng.random() < 0.8 else CLASSES
        label = CLASSES.index(pool[rng.integers(len(pool))])
        if label not in chosen:
            chosen.append(label)
    labels: list[int] = []
    for i, label in enumerate(chosen):
        room = most - len(labels) - (len(chosen) - i - 1)
        count = 1 if rng.random() < 0.55 else int(rng.integers(2, 5))
        labels += [label] * min(count, room)
    rng.shuffle(labels)
    return labels


def sizes_for(count: int) -> tuple[int, ...]:
    """Object sizes that leave room for `count` objects."""
    return SIZES[1:] if count <= 4 else SIZES[:6]


def random_scene(painter: Painter, rng: np.random.Generator) -> Scene:
    """A scene of the question-answering stage: 0-4 classes, up to 7 objects."""
    groups = int(rng.choice(5, p=(0.02, 0.13, 0.25, 0.35, 0.25)))
    labels = compose(rng, groups)
    return painter.draw(labels, rng, sizes_for(len(labels)))


def dense_scene(painter: Painter, rng: np.random.Generator) -> Scene:
    """A crowded scene of the vision stage: 5-10 objects of any class."""
    labels = rng.integers(len(CLASSES), size=rng.integers(5, 11)).tolist()
    return painter.draw(labels, rng, SIZES[:6])
