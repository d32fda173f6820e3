"""Draws the demo's large example image: a scene as the probe's, but many times as large.

In: Debian's `fonts-noto-color-emoji` (its bitmaps are 136 pixels wide) and the background photos of
the sprites. Out: `assets/demo/mountains.jpg`, 880x660, whose middle square the bundled models see
reduced to 112x112. Places, sizes and angles are fixed here, so that it comes out the same again.
Authors and licences: THIRD_PARTY_NOTICES.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from classes import CODEPOINTS
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from sprites import ATLAS

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
TARGET = Path(__file__).parent.parent / "demo" / "mountains.jpg"
SIZE = (880, 660)


@dataclass(frozen=True)
class Placed:
    """An object: its class, the centre and the longest side in pixels, and its angle."""

    label: str
    x: int
    y: int
    side: int
    angle: int = 0


OBJECTS = (
    Placed("airplane", 330, 110, 130, 6),
    Placed("giraffe", 635, 305, 250),
    Placed("elephant", 440, 380, 225),
    Placed("umbrella", 225, 280, 150, -9),
    Placed("dog", 270, 540, 165),
    Placed("cat", 605, 560, 150, 4),
)


def emoji(label: str) -> Image.Image:
    """The main picture of a class, cropped to what is visible."""
    font = ImageFont.truetype(FONT, 109)
    image = Image.new("RGBA", (160, 160))
    glyph = chr(int(CODEPOINTS[label][0][0], 16))
    ImageDraw.Draw(image).text((10, 10), glyph, font=font, embedded_color=True)
    return image.crop(image.getchannel("A").getbbox())


def draw(canvas: Image.Image, placed: Placed) -> None:
    """Put an object on the canvas, with a soft shadow below it."""
    sprite = emoji(placed.label)
    scale = placed.side / max(sprite.size)
    size = (round(sprite.width * scale), round(sprite.height * scale))
    sprite = sprite.resize(size, Image.Resampling.LANCZOS)
    sprite = sprite.rotate(placed.angle, Image.Resampling.BICUBIC, expand=True)
    corner = (placed.x - sprite.width // 2, placed.y - sprite.height // 2)
    shadow = Image.new("L", canvas.size)
    shadow.paste(sprite.getchannel("A").point(lambda a: a // 3), (corner[0] + 4, corner[1] + 8))
    canvas.paste((20, 25, 30), (0, 0), shadow.filter(ImageFilter.GaussianBlur(7)))
    canvas.paste(sprite, corner, sprite)


def scene() -> Image.Image:
    """The whole picture."""
    photo = Image.open(ATLAS / "backgrounds" / "picosdeeuropa.jpg").convert("RGB")
    width = round(photo.height * SIZE[0] / SIZE[1])
    left = (photo.width - width) // 2
    photo = photo.crop((left, 0, left + width, photo.height))
    canvas = photo.resize(SIZE, Image.Resampling.LANCZOS)
    for placed in OBJECTS:
        draw(canvas, placed)
    return canvas


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    scene().save(TARGET, quality=90)
