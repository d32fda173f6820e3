"""The `run` command: one question, once with all visual tokens and once with the kept ones.

In: an image file, a question and a config. Out: on the screen both answers with tokens and times,
and a picture of what was kept. Both answers come from `model.generate`, the pruned one through
`attach`, as a script would get it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import typer
from PIL import Image
from torch import Tensor

from lvlm_prune.adapters import adapter_for
from lvlm_prune.attachment import attach
from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.config import PruneConfig
from lvlm_prune.eval.pictures import save_png
from lvlm_prune.eval.prefill import StageTimes, medians, time_stages
from lvlm_prune.eval.workers import divided_threads
from lvlm_prune.images import load_image
from lvlm_prune.inside import inside, wanted_marks
from lvlm_prune.layers.reached import reached_layers
from lvlm_prune.layers.report import LayerReport
from lvlm_prune.loading import Loaded, load
from lvlm_prune.show_answer import answer
from lvlm_prune.show_figure import Drawn, Shown, figure, whole
from lvlm_prune.views import views

ROUNDS = 5
UNPRUNED = PruneConfig(method="identity", keep=1.0)


def show_run(
    image: Path,
    question: str,
    model: str | None,
    config: PruneConfig,
    plant: bool,
    max_new_tokens: int,
    save: Path,
    device: str,
) -> None:
    """Answer, measure, print and draw.

    Args:
        image: image file.
        question: question about it.
        model: folder, hub name or name of a bundled model; None is the bundled LLaVA.
        config: what to prune and reweight.
        plant: plant ViT sinks in the bundled LLaVA first.
        max_new_tokens: longest answer.
        save: PNG file to write.
        device: torch device.

    Raises:
        ImageFileError: the image cannot be read.
        ValueError: a setting that does not fit, or a picture file that is no .png.
    """
    picture = load_image(image)
    if save.suffix.lower() != ".png":
        raise ValueError(f"--save must name a .png file, got {str(save)!r}")
    loaded = load(model, device, plant)
    configs = (UNPRUNED, config)
    stages = [BoundaryStage(loaded.model, each, None, wanted_marks(each)) for each in configs]
    inputs = loaded.inputs([picture], [question])
    with divided_threads(loaded.model.device):
        threads = torch.get_num_threads()
        times = measure(loaded.model, stages, inputs)
    full = answer(loaded, inputs, max_new_tokens)
    with attach(loaded.model, config) as handle:
        contrasted = handle.reweighting is not None and handle.reweighting.contrast is not None
        pruned = answer(loaded, inputs, max_new_tokens, contrasted)
        layers = None if handle.layers is None else handle.layers.report
    with torch.inference_mode():
        choice = whole(stages[1].select(stages[1].encode(inputs)))
    entered = len(choice.kept)
    left = None if layers is None else left_inside(loaded.model, inputs, choice, layers)
    last = entered if left is None else len(left)
    shown = (
        Shown("unpruned", *full, choice.total, choice.total, times[0]),
        Shown(short_label(config), *pruned, entered, last, times[1]),
    )
    typer.echo(table(loaded, question, shown, threads))
    if (line := untimed(config)) is not None:
        typer.echo(line)
    if layers is not None:
        typer.echo(str(layers))
    rows = views(picture, inputs, choice.tiles, loaded.processor.image_processor)
    _save(figure(config, f"{loaded.label}: {question}", rows, shown, choice, left), save)


def _save(drawn: Image.Image | None, save: Path) -> None:
    """Write the picture and say where it is, or why there is none."""
    if drawn is None:
        typer.echo("no picture: this model's visual tokens form no grid that is known")
        return
    save_png(drawn, save)
    typer.echo(f"picture: {save}")


def left_inside(
    model: Any, inputs: dict[str, Tensor], choice: Drawn, layers: LayerReport
) -> Tensor:
    """Placeholders of the image that reach the last layer, `[K]`."""
    token_id = adapter_for(model).token_id("image")
    reached = torch.zeros(choice.total, dtype=torch.long)
    reached[choice.kept] = layers.shape.depth
    columns = {layer: kept[0].cpu() for layer, kept in layers.kept.items()}
    visual = inputs["input_ids"][0].cpu() == token_id
    reached = reached_layers(visual, reached, columns)
    return (reached == layers.shape.depth).nonzero()[:, 0]


def measure(
    model: Any, stages: Sequence[BoundaryStage], inputs: dict[str, Tensor]
) -> list[StageTimes]:
    """Medians of each stage over interleaved rounds, after one round that warms up."""
    rounds = []
    for _ in range(ROUNDS + 1):
        times = []
        for stage in stages:
            with inside(model, stage.config):
                times.append(time_stages(model, stage, inputs))
        rounds.append(times)
    return [medians(times) for times in zip(*rounds[1:], strict=True)]


def short_label(config: PruneConfig) -> str:
    """What a config does, in few words."""
    parts = [config.method] if config.prunes_before_llm else []
    if config.layers is not None:
        parts.append(config.layers.method)
    if config.reweight is not None:
        parts.append(config.reweight.label())
    return " + ".join(parts)


def table(loaded: Loaded, question: str, shown: Sequence[Shown], timed_threads: int) -> str:
    """Both answers with their numbers, as aligned text."""
    heads = ["", "visual tokens", "encode", "select", "prefill", "total", "p(yes)", "p(no)"]
    rows = [heads]
    for each in shown:
        times = each.times
        values = (times.encode, times.select + times.splice, times.prefill, times.total)
        chances = ("-", "-") if each.yes_no is None else [f"{p:.3f}" for p in each.yes_no]
        tokens = str(each.tokens) if each.last == each.tokens else f"{each.tokens} -> {each.last}"
        rows.append([each.name, tokens, *(f"{v:.1f}" for v in values), *chances])
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    ends = ["answer", *(each.text for each in shown)]
    lines = [f"{line}  {text}" for line, text in zip(lines, ends, strict=True)]
    device = loaded.model.device.type
    threads = f", {timed_threads} thread(s)" if device == "cpu" else ""
    note = "; a -> b: tokens that enter the LLM, and those at its last layer"
    dropped = any(each.last < each.tokens for each in shown)
    return "\n".join(
        [
            f"{loaded.label}: {question}",
            *lines,
            f"ms up to the first token, medians of {ROUNDS} interleaved rounds after a warm-up "
            f"({device}{threads}); select includes shortening the prompt"
            + (note if dropped else ""),
        ]
    )


def untimed(config: PruneConfig) -> str | None:
    """A line about what a reweighting runs beside the answer, or None where it runs nothing."""
    beside = None if config.reweight is None else config.reweight.beside()
    if config.reweight is None or beside is None:
        return None
    return f"not in the times of {config.reweight.label()}: {beside}, which generate runs too"
