"""Draws the probe: held-out scenes, their truth and benchmark records, frozen as files.

In: a folder. Out: `images/scene_000001.jpg ...`, `scenes.json`, `pope_*.jsonl`, `mme/*.txt`,
`open_questions.jsonl`. Other photos, seeds and, for about one object in eight, renderings than
in training. The bytes depend on the Pillow version: the committed files are the probe, this script
documents them.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from classes import CLASSES, COLOR_NAMES
from PIL import Image
from records import mme_lines, mme_pairs, open_questions, pope_records, relation_pairs
from scenes import GRID, Painter, Scene, compose, sizes_for

SEED = 20_240
SCENES = 320
KINDS = ("existence", "color", "count", "position")


def probe_scene(painter: Painter, index: int) -> Scene:
    """Scene number `index`; it shows at least three classes, as POPE's images do."""
    rng = np.random.default_rng((SEED, index))
    while True:
        labels = compose(rng, int(rng.integers(3, 5)))
        scene = painter.draw(labels, rng, sizes_for(len(labels)))
        if len({o.label for o in scene.objects}) >= 3:
            return scene


def truth(scene: Scene, name: str) -> dict[str, Any]:
    """The JSON record of a scene."""
    objects = [
        {
            "class": CLASSES[o.label],
            "color": None if o.color is None else COLOR_NAMES[o.color],
            "box": o.box,
            "rendering": o.rendering,
            "held_out": o.held_out,
        }
        for o in scene.objects
    ]
    labels = scene.patch_labels.tolist()
    return {
        "image": name,
        "background": scene.background,
        "objects": objects,
        "patch_labels": labels,
    }


def _write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_probe(out: Path, count: int = SCENES) -> list[Scene]:
    """Writes all files of the probe and returns its scenes."""
    painter = Painter("test", SEED)
    scenes = [probe_scene(painter, i) for i in range(count)]
    names = [f"scene_{i + 1:06d}.jpg" for i in range(count)]
    (out / "images").mkdir(parents=True, exist_ok=True)
    (out / "mme").mkdir(exist_ok=True)
    for name, scene in zip(names, scenes, strict=True):
        Image.fromarray(scene.image).save(out / "images" / name, quality=95, subsampling=0)
    records = ",\n".join(json.dumps(truth(s, n)) for n, s in zip(names, scenes, strict=True))
    head = f'"classes": {json.dumps(CLASSES)},\n"grid": [{GRID}, {GRID}]'
    legend = '"patch_legend": "class index; -1 background; -2 ambiguous"'
    (out / "scenes.json").write_text(f'{{{head},\n{legend},\n"scenes": [\n{records}\n]}}\n')
    for split, rows in pope_records(scenes, names, SEED + 1).items():
        _write_jsonl(out / f"pope_{split}.jsonl", rows)
    rng = np.random.default_rng(SEED + 2)
    pairs = {kind: mme_pairs(kind, scenes, rng) for kind in KINDS}
    pairs["relation"] = relation_pairs(scenes, rng)
    for kind, found in pairs.items():
        (out / "mme" / f"{kind}.txt").write_text("\n".join(mme_lines(found, names)) + "\n")
    rows = [
        {"image": name, "kind": q.kind, "text": q.text, "answer": q.answer}
        for name, scene in zip(names, scenes, strict=True)
        for q in open_questions(scene, rng)
    ]
    _write_jsonl(out / "open_questions.jsonl", [{"question_id": i + 1, **r} for i, r in
                                                enumerate(rows)])  # fmt: skip
    shutil.copy(Path(__file__).parent / "THIRD_PARTY_NOTICES.md", out)
    return scenes


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "probe")
    parser.add_argument("--count", type=int, default=SCENES)
    args = parser.parse_args()
    scenes = write_probe(args.out, args.count)
    objects = [o for s in scenes for o in s.objects]
    held = sum(o.held_out for o in objects)
    print(f"{len(scenes)} scenes, {len(objects)} objects, {held} in a held-out rendering")


if __name__ == "__main__":
    main()
