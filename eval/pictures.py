"""Pictures of a grid of runs: which tokens each method kept of the first scenes, and the answers.

In: scored runs with their choices. Out: two PNG files, one with methods across at one budget, one
with budgets across for one method. The scenes and questions are the first of the benchmark, not
picked for looks.
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lvlm_prune.eval.benchmark import OFFICIAL
from lvlm_prune.eval.grid import PICTURED, Grid
from lvlm_prune.eval.panels import Panel, panel_grid
from lvlm_prune.eval.results import RunResult
from lvlm_prune.methods import METHODS
from lvlm_prune.overlay import draw_kept_views, draw_views
from lvlm_prune.views import views

SIDE = 224
WRAP = 8  # panels in a line
LINES = 4  # of panels, so that the picture stays legible in a page
LONGEST_SHOWN = 40  # characters of an answer
BUDGET_SCENES = 2  # so that the picture fits on a screen


def methods_picture(grid: Grid, results: Sequence[RunResult], kept: int) -> Image.Image:
    """Scenes down, methods across, all at one budget; runs with the same rows stand together.

    Where any of them ranks tokens, those that do not (evenly spaced ones) are left out, as they
    look alike; with many methods there are fewer scenes: the picture stays legible in a page.

    Args:
        grid: the runs' model, questions and choices.
        results: the unpruned run first, then the others.
        kept: the budget in tokens.
    """
    shown = [r for r in results if r.kept == kept and not r.unpruned and not r.same_as]
    shown = [r for r in shown if METHODS[r.config.method].ranks] or shown
    crosses = "; crosses: ViT sinks" if any(r.sinks for r in shown) else ""
    heading = (
        f"{grid.loaded.label}: {kept} of {results[0].total} visual tokens kept (in colour; merged "
        f"rows where they stand{crosses})"
    )
    lines = -(-len(shown) // (WRAP - 1))
    rows = _rows(grid, results, shown, False)[: max(1, LINES // lines)]
    return panel_grid(rows, heading, 17, wrap=WRAP)


def budgets_picture(grid: Grid, results: Sequence[RunResult], label: str) -> Image.Image:
    """Two scenes down, budgets across, for one run label; see `methods_picture`."""
    shown = [result for result in results if result.label == label]
    heading = f"{grid.loaded.label}: visual tokens kept by {label} (in colour)"
    return panel_grid(_rows(grid, results, shown, True)[:BUDGET_SCENES], heading, 17)


def _rows(
    grid: Grid, results: Sequence[RunResult], shown: Sequence[RunResult], by_budget: bool
) -> list[list[Panel]]:
    """One row of panels for each scene."""
    rows, unpruned, loaded = [], results[0], grid.loaded
    for number, image in enumerate(grid.sound()[:PICTURED]):
        asked, picture = grid.asked(image), grid.questions.picture(image)
        inputs = loaded.inputs([picture], [asked.text])
        chosen = grid.pictured(unpruned.name)[number].tiles
        tiles = [(rows_of.cpu(), shape) for rows_of, shape in chosen]
        seen = views(picture, inputs, tiles, loaded.processor.image_processor)
        if not seen:
            continue
        said, wrong = _said(grid, unpruned, image)
        panels = [Panel(draw_views(seen, SIDE), asked.text, f"unpruned: {said}", wrong)]
        for result in shown:
            choice = grid.pictured(result.name)[number]
            sinks = None if choice.sinks is None else choice.sinks.cpu()
            kept = choice.rows.kept.cpu()
            drawn = draw_kept_views(seen, kept, sinks, choice.rows.total, SIDE)
            title = f"{result.kept} tokens" if by_budget else title_of(result, results)
            panels.append(Panel(drawn, title, *_said(grid, result, image)))
        rows.append(panels)
    return rows


def title_of(result: RunResult, results: Sequence[RunResult]) -> str:
    """Names of all methods that kept the rows of this run."""
    others = [other.label for other in results if other.same_as == result.name]
    return " = ".join([result.label, *others])


def _said(grid: Grid, result: RunResult, image: int) -> tuple[str, bool]:
    """A run's answer to the question that is shown, in words, and whether it is wrong."""
    item = grid.shown_item(image)
    if item not in result.items:
        return "no answer", True
    answer = result.answers[result.items.index(item)]
    shown = answer.strip()[:LONGEST_SHOWN] or "nothing"
    judge = grid.benchmark.scorings[item.benchmark].right
    if judge is None:
        return shown, False
    right = judge(item, answer, OFFICIAL)
    return f"{shown} ({'right' if right else 'wrong'})", not right


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    image.save(part, format="PNG", optimize=True)
    part.replace(path)
