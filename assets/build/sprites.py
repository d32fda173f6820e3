"""Builds and reads the sprite atlas: every rendering of every class, and the background photos.

In (build): the font file of Debian `fonts-noto-color-emoji`, unpacked npm packages
`@lobehub/fluent-emoji-3d`, `@twemoji/svg`, `@iconify-json/fluent-emoji-flat`,
`@iconify-json/noto-v1`, the unpacked Debian package `lomiri-wallpapers-16.04` and the
`skimage/data` folder of a scikit-image wheel, all below one folder. Out: `sprites/atlas.webp`
(lossless RGBA cells of 64x64), `sprites/atlas.json` (class, vendor, codepoint of each cell) and
`sprites/backgrounds/*.jpg`. Reading needs those files only. Licences: THIRD_PARTY_NOTICES.md.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from classes import CODEPOINTS, HELD_OUT_VENDOR, VENDORS
from PIL import Image, ImageDraw, ImageFont

ATLAS = Path(__file__).parent / "sprites"
CELL = 64
COLUMNS = 16
# Noto's first edition drew "laptop" as a desktop computer.
EXCLUDED = {("laptop", "notov1")}
TRAIN_PHOTOS = ("aitzgorri", "life", "seeding", "sunset", "umang", "Picture_1A", "brick", "grass")
TEST_PHOTOS = ("picosdeeuropa", "Picture_0B", "gravel")


@dataclass(frozen=True)
class Rendering:
    """One picture of a class. `rgba` is uint8 [64, 64, 4]."""

    label: str
    vendor: str
    codepoint: str
    held_out: bool
    rgba: np.ndarray


def is_held_out(label: str, vendor: str, codepoint: str) -> bool:
    """True for the one rendering per class that no training scene shows."""
    return vendor == HELD_OUT_VENDOR and codepoint == CODEPOINTS[label][0][0]


def _rasterise(svg: str) -> Image.Image:
    done = subprocess.run(
        ["rsvg-convert", "-w", "256", "-h", "256"], input=svg.encode(), stdout=-1, check=True
    )
    return Image.open(io.BytesIO(done.stdout)).convert("RGBA")


def _iconify(folder: Path, slug: str) -> Image.Image | None:
    icons = json.loads((folder / "package/icons.json").read_text())
    name = icons.get("aliases", {}).get(slug, {}).get("parent", slug)
    if name not in icons["icons"]:
        return None
    icon = icons["icons"][name]
    w, h = icon.get("width", icons["width"]), icon.get("height", icons["height"])
    return _rasterise(
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {w} {h}">{icon["body"]}</svg>'
    )


def _fetch(sources: Path, vendor: str, codepoint: str, slug: str) -> Image.Image | None:
    """Reads one rendering from the unpacked packages, or None where the vendor lacks it."""
    if vendor == "noto":
        font = ImageFont.truetype("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf", 109)
        image = Image.new("RGBA", (160, 160))
        glyph = chr(int(codepoint, 16))
        ImageDraw.Draw(image).text((10, 10), glyph, font=font, embedded_color=True)
        return image if image.getbbox() else None
    if vendor == "fluent3d":
        folder = next(sources.glob("*fluent-emoji-3d*/package/assets"))
        found = [folder / f"{codepoint}{end}.webp" for end in ("", "-fe0f")]
        found = [path for path in found if path.exists()]
        return Image.open(found[0]).convert("RGBA") if found else None
    if vendor == "twemoji":
        path = next(sources.glob("twemoji-svg*/package")) / f"{codepoint}.svg"
        return _rasterise(path.read_text()) if path.exists() else None
    pattern = {"fluentflat": "*fluent-emoji-flat*/", "notov1": "*noto-v1*/"}[vendor]
    return _iconify(next(path for path in sources.glob(pattern) if path.is_dir()), slug)


def _cell(image: Image.Image) -> Image.Image:
    """Crops to the visible part and centres it in a square cell."""
    image = image.crop(image.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox())
    scale = CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS)
    cell = Image.new("RGBA", (CELL, CELL))
    cell.paste(image, ((CELL - image.width) // 2, (CELL - image.height) // 2))
    return cell


def build_sprites(sources: Path) -> int:
    """Writes `atlas.webp` and `atlas.json`; returns the number of renderings."""
    cells, index = [], []
    for label, points in CODEPOINTS.items():
        for codepoint, slug in points:
            for vendor in VENDORS:
                if (label, vendor) in EXCLUDED:
                    continue
                image = _fetch(sources, vendor, codepoint, slug)
                if image is None:
                    print(f"no {vendor} rendering of {slug}")
                    continue
                cells.append(_cell(image))
                index.append({"label": label, "vendor": vendor, "codepoint": codepoint})
    rows = -(-len(cells) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for i, cell in enumerate(cells):
        sheet.paste(cell, (i % COLUMNS * CELL, i // COLUMNS * CELL))
    sheet.save(ATLAS / "atlas.webp", quality=92, method=6)
    lines = ",\n".join(json.dumps(row) for row in index)
    (ATLAS / "atlas.json").write_text(f"[\n{lines}\n]\n")
    return len(cells)


def build_backgrounds(sources: Path) -> None:
    """Writes each background photo with its short side reduced to 224 pixels."""
    folder = ATLAS / "backgrounds"
    folder.mkdir(exist_ok=True)
    found = list(sources.rglob("*.jpg")) + list((sources / "ski/skimage/data").glob("*.png"))
    for name in TRAIN_PHOTOS + TEST_PHOTOS:
        path = next(path for path in found if path.stem.split("_by_")[0] == name)
        image = Image.open(path).convert("RGB")
        scale = 224 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)))
        image.save(folder / f"{name}.jpg", quality=85)


def load_renderings() -> list[Rendering]:
    """Reads the atlas in its stored order."""
    sheet = np.asarray(Image.open(ATLAS / "atlas.webp").convert("RGBA"))
    out = []
    for i, row in enumerate(json.loads((ATLAS / "atlas.json").read_text())):
        y, x = i // COLUMNS * CELL, i % COLUMNS * CELL
        held = is_held_out(row["label"], row["vendor"], row["codepoint"])
        out.append(Rendering(**row, held_out=held, rgba=sheet[y : y + CELL, x : x + CELL].copy()))
    return out


def main() -> None:
    """Command line: python sprites.py SOURCES."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", type=Path, help="folder with the unpacked packages")
    sources = parser.parse_args().sources
    ATLAS.mkdir(exist_ok=True)
    print(build_sprites(sources), "renderings")
    build_backgrounds(sources)


if __name__ == "__main__":
    main()
