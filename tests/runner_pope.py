"""Made-up POPE questions on disk, a tiny model beside them, and what a run's folder says."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_probe import tiny_loaded

from lvlm_prune import cli
from lvlm_prune.eval.benchmarks import load_benchmark
from lvlm_prune.eval.configs import grid_configs
from lvlm_prune.eval.grid import Grid
from lvlm_prune.eval.grid_settings import GridSettings
from lvlm_prune.eval.inside import UNPRUNED
from lvlm_prune.loading import Loaded

# What the two questions of each split name; the first is there. Three prompts in six lines.
NOUNS = {"random": ("cat", "dog"), "popular": ("cat", "dog"), "adversarial": ("cat", "bus")}
PROMPTS = 3
# What is not the same in two runs: measured times and memory, and what was typed.
MEASURED = ("seconds", "prefill", "peak_mib", "timing", "command")


def write_image(path: Path, seed: int) -> None:
    """An image of random blocks."""
    blocks = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((64, 48), Image.Resampling.NEAREST).save(path)


def write_pope(folder: Path, images: int = 4) -> Path:
    """Three splits of two questions about each image."""
    (folder / "images").mkdir(parents=True)
    for number in range(images):
        write_image(folder / "images" / f"{number}.png", number)
    for split, nouns in NOUNS.items():
        rows = [
            {
                "question_id": 2 * number + place + 1,
                "image": f"{number}.png",
                "text": f"Is there a {noun} in the image ?",
                "label": ("yes", "no")[place],
            }
            for number in range(images)
            for place, noun in enumerate(nouns)
        ]
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        (folder / f"coco_pope_{split}.json").write_text(text)
    return folder


def write_model(folder: Path) -> Path:
    """The tiny LLaVA with its processor."""
    loaded = tiny_loaded()
    loaded.model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    return folder


def pope_grid(
    loaded: Loaded,
    folder: Path,
    out: Path | None = None,
    methods: Any = ("random",),
    **settings: Any,
) -> Grid:
    """A grid on made-up POPE questions: unpruned, and methods with 9 visual tokens."""
    limit = settings.pop("limit", None)
    inner = settings.pop("inner", ())
    benchmark = load_benchmark("pope", folder, limit=limit)
    configs = grid_configs(list(methods), [9], ["ignore"], settings.get("seed", 0))
    settings = {"longest": 3, "batch_size": 4, **settings}
    return Grid(loaded, benchmark, [UNPRUNED, *configs, *inner], GridSettings(out=out, **settings))


def exit_code(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the command line in this process."""
    monkeypatch.setattr(sys, "argv", ["lvlm-prune", *words])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def said(results: Any) -> dict[tuple[str, str], str | None]:
    """The text of each answer by run and id; every id of a run is there once."""
    texts = [((run.name, row.id), row.text) for run in results for row in run.rows]
    assert len(dict(texts)) == len(texts)
    return dict(texts)


def samples(out: Path) -> list[dict[str, Any]]:
    """The lines of samples.jsonl."""
    return [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]


def written(out: Path) -> dict[tuple[str, str, str], str | None]:
    """The text of each answer in samples.jsonl by run, benchmark and id; each is there once."""
    texts = [((row["run"], row["benchmark"], row["id"]), row["text"]) for row in samples(out)]
    assert len(dict(texts)) == len(texts)
    return dict(texts)


def lasting(values: Any) -> Any:
    """A result file without what is measured anew each time."""
    if isinstance(values, dict):
        return {name: lasting(each) for name, each in values.items() if name not in MEASURED}
    return [lasting(each) for each in values] if isinstance(values, list) else values


def results(out: Path) -> dict[str, Any]:
    """results.json without what is measured anew each time."""
    found: dict[str, Any] = lasting(json.loads((out / "results.json").read_text()))
    return found
