"""Draw the README's first picture: one question with all visual tokens, a quarter, and a sixteenth.

In: the bundled LLaVA and the first scene and question of its probe, so not picked for looks; by
default a method that reads the question. Out: assets/images/hero.png: the image and what is kept
of it, with answers, tokens and the LLM's prefill, measured here in interleaved rounds, and the time
that choosing the tokens adds to it. The letters are large, so that a phone shows them.

Usage: python assets/build/hero.py [--method NAME] [--save FILE]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lvlm_prune import attach
from lvlm_prune.assets import probe_path
from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.config import PruneConfig
from lvlm_prune.eval.panels import MARGIN, Panel, panel_grid
from lvlm_prune.eval.pictures import save_png
from lvlm_prune.eval.prefill import StageTimes, interleaved
from lvlm_prune.images import load_image
from lvlm_prune.loading import Loaded, load
from lvlm_prune.overlay import draw_kept_views, draw_views
from lvlm_prune.overlay_legend import DROPPED, KEPT, with_legend
from lvlm_prune.show_answer import answer
from lvlm_prune.show_figure import whole
from lvlm_prune.views import views

SIDE = 560  # pixels of a panel; the whole picture is about twice as wide as a page shows it
LETTERS = 56  # pixels; 12 where a phone shows the picture 390 pixels wide
ROUNDS = 25
SHARES = (0.25, 0.0625)
SCENE, QUESTION = "scene_000001.jpg", "Is there a giraffe in the image?"
UNPRUNED = PruneConfig(method="identity", keep=1.0)


def hero(loaded: Loaded, picture: Image.Image, method: str) -> Image.Image:
    """Answer, measure and draw.

    Args:
        loaded: model and processor.
        picture: the scene.
        method: what chooses the tokens.
    """
    inputs = loaded.inputs([picture], [QUESTION])
    configs = [UNPRUNED, *(PruneConfig(method=method, keep=share) for share in SHARES)]
    stages = [BoundaryStage(loaded.model, config) for config in configs]
    base, timings, _ = interleaved(loaded.model, stages[0], stages[1:], inputs, ROUNDS)
    every = [base, *(timing.times for timing in timings)]
    panels = [
        panel(loaded, picture, inputs, stage, cost(times, base))
        for stage, times in zip(stages, every, strict=True)
    ]
    grid = panel_grid([panels], f"“{QUESTION}”", LETTERS)
    return with_legend(grid, [KEPT, DROPPED], LETTERS - 8, MARGIN)


def panel(
    loaded: Loaded,
    picture: Image.Image,
    inputs: dict[str, Tensor],
    stage: BoundaryStage,
    costs: str,
) -> Panel:
    """What a stage keeps, the answer that follows, and what it costs."""
    with attach(loaded.model, stage.config):
        said, _ = answer(loaded, inputs, 8)
    with torch.inference_mode():
        chosen = whole(stage.select(stage.encode(inputs)))
    rows = views(picture, inputs, chosen.tiles, loaded.processor.image_processor)
    kept, note = len(chosen.kept), f"answer: {said}\n{costs}"
    if kept == chosen.total:
        return Panel(draw_views(rows, SIDE), f"all {kept} tokens", note)
    drawn = draw_kept_views(rows, chosen.kept, None, chosen.total, SIDE)
    return Panel(drawn, f"{kept} tokens ({kept / chosen.total:.0%})", note)


def cost(times: StageTimes, base: StageTimes) -> str:
    """The LLM's prefill with its share of the unpruned one, and what the choice adds to it."""
    if times is base:
        return f"prefill {times.prefill:.1f} ms"
    share = times.prefill / base.prefill
    chosen = times.select + times.splice
    return f"prefill {times.prefill:.1f} ms: {share:.0%}\nchoosing + {chosen:.1f} ms"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="cdpruner", help="what chooses the tokens")
    parser.add_argument("--save", type=Path, default=Path("assets/images/hero.png"))
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    scene = load_image(probe_path() / "images" / SCENE)
    save_png(hero(load(), scene, given.method), given.save)
    print(given.save)


if __name__ == "__main__":
    main()
