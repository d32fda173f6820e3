"""Pictures of a grid of runs: which tokens each method kept of the first scenes, and the answers.

In: scored runs with their choices. Out: two PNG files, one with methods across at one budget, one
with budgets across for one method. The scenes and questions are the first of the benchmark, not
picked for looks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lvlm_prune.eval.grid import PICTURED
from lvlm_prune.eval.panels import Panel, panel_grid
from lvlm_prune.eval.pope import parse
from lvlm_prune.eval.probe import Item
from lvlm_prune.eval.questions import Questions
from lvlm_prune.eval.results import RunResult
from lvlm_prune.loading import Loaded
from lvlm_prune.methods import METHODS
from lvlm_prune.overlay import draw_kept, enlarge, model_view
from lvlm_prune.stage import Choice

SIDE = 224
BUDGET_SCENES = 2  # so that the picture fits on a screen


def methods_picture(
    loaded: Loaded,
    questions: Questions,
    results: Sequence[RunResult],
    choices: Mapping[str, Sequence[Choice]],
    kept: int,
) -> Image.Image:
    """Scenes down, methods across, all at one budget; runs with the same rows stand together.

    Where any of them ranks tokens, those that do not (evenly spaced ones) are left out: they look
    alike, and the picture stays legible in a page.

    Args:
        loaded: the model and its processor.
        questions: the images.
        results: the unpruned run first, then the others.
        choices: for each run's name, the choices of at least the first scenes.
        kept: the budget in tokens.
    """
    shown = [r for r in results if r.kept == kept and not r.unpruned and not r.same_as]
    shown = [r for r in shown if METHODS[r.config.method].ranks] or shown
    crosses = "; crosses: ViT sinks" if any(r.sinks for r in shown) else ""
    heading = (
        f"{loaded.label}: {kept} of {results[0].total} visual tokens kept (in colour; merged rows "
        f"where they stand{crosses})"
    )
    return panel_grid(_rows(loaded, questions, results, shown, choices, False), heading, 17)


def budgets_picture(
    loaded: Loaded,
    questions: Questions,
    results: Sequence[RunResult],
    choices: Mapping[str, Sequence[Choice]],
    label: str,
) -> Image.Image:
    """Two scenes down, budgets across, for one run label; see `methods_picture`."""
    shown = [result for result in results if result.label == label]
    heading = f"{loaded.label}: visual tokens kept by {label} (in colour)"
    rows = _rows(loaded, questions, results, shown, choices, True)[:BUDGET_SCENES]
    return panel_grid(rows, heading, 17)


def _rows(
    loaded: Loaded,
    questions: Questions,
    results: Sequence[RunResult],
    shown: Sequence[RunResult],
    choices: Mapping[str, Sequence[Choice]],
    by_budget: bool,
) -> list[list[Panel]]:
    """One row of panels for each scene."""
    rows, unpruned = [], results[0]
    for number, name in enumerate(questions.images[:PICTURED]):
        view = _view(loaded, questions, number)
        item = _question(unpruned, name)
        said, wrong = _said(unpruned, item)
        panels = [Panel(enlarge(view, SIDE), item.question, f"unpruned: {said}", wrong)]
        for result in shown:
            choice = choices[result.name][number]
            picture = draw_kept(view, _grid(view, choice), choice.rows.kept, choice.sinks, SIDE)
            title = f"{result.kept} tokens" if by_budget else title_of(result, results)
            panels.append(Panel(picture, title, *_said(result, item)))
        rows.append(panels)
    return rows


def title_of(result: RunResult, results: Sequence[RunResult]) -> str:
    """Names of all methods that kept the rows of this run."""
    others = [other.label for other in results if other.same_as == result.name]
    return " = ".join([result.label, *others])


def _question(result: RunResult, image: str) -> Item:
    """The first question about an image whose answer is yes."""
    return next(item for item in result.items if item.image == image and item.label == "yes")


def _said(result: RunResult, item: Item) -> tuple[str, bool]:
    """A run's answer to a question in words, and whether it is wrong."""
    answer = result.answers[result.items.index(item)]
    wrong = parse(answer) != item.label
    return f"{answer.strip() or 'nothing'} ({'wrong' if wrong else 'right'})", wrong


def _view(loaded: Loaded, questions: Questions, number: int) -> Image.Image:
    """What the encoder sees of an image."""
    processor: Any = loaded.processor.image_processor
    pixels = questions.pixels["pixel_values"][number]
    return model_view(pixels, processor.image_mean, processor.image_std)


def _grid(view: Image.Image, choice: Choice) -> tuple[int, int]:
    """Grid of the tokens of an image whose patches are square."""
    height = round((choice.rows.total * view.height / view.width) ** 0.5)
    return height, choice.rows.total // height


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    image.save(part, format="PNG", optimize=True)
    part.replace(path)
