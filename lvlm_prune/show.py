"""The `run` command: one question, once with all visual tokens and once with the kept ones.

In: an image file, a question and a config. Out: on the screen both answers with tokens, times and
the memory of the KV cache, and a picture of what was kept. Both answers come from
`model.generate`, the pruned one through `attach`, as a script would get it.
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
from lvlm_prune.decoder_call import coming_marks
from lvlm_prune.eval.pictures import save_png
from lvlm_prune.eval.prefill import StageTimes, medians, time_stages
from lvlm_prune.eval.workers import divided_threads
from lvlm_prune.images import load_image
from lvlm_prune.inside import inside, wanted_marks
from lvlm_prune.kv_cache import cache_bytes
from lvlm_prune.layers.reached import reached_layers
from lvlm_prune.layers.report import LayerReport
from lvlm_prune.loading import load
from lvlm_prune.show_answer import answer
from lvlm_prune.show_figure import Drawn, Shown, figure, whole
from lvlm_prune.show_table import Timed, table
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
        memory = [kv_bytes(loaded.model, stage, inputs) for stage in stages]
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
        Shown("unpruned", *full, choice.total, choice.total, times[0], memory[0]),
        Shown(short_label(config), *pruned, entered, last, times[1], memory[1]),
    )
    timed = Timed(loaded.model.device.type, threads, ROUNDS)
    typer.echo(f"{loaded.label}: {question}\n{table(shown, timed)}")
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


@torch.inference_mode()
def kv_bytes(model: Any, stage: BoundaryStage, inputs: dict[str, Tensor]) -> int:
    """Bytes of the KV cache behind one prompt, measured on its tensors."""
    with inside(model, stage.config):
        rewritten = stage.rewrite(inputs)
        if rewritten.marks:
            coming_marks.set(rewritten.marks)
        output = model(**rewritten.arguments, use_cache=True, logits_to_keep=1)
    return cache_bytes(output.past_key_values)


def short_label(config: PruneConfig) -> str:
    """What a config does, in few words."""
    parts = [config.method] if config.prunes_before_llm else []
    if config.layers is not None:
        parts.append(config.layers.method)
    if config.reweight is not None:
        parts.append(config.reweight.label())
    return " + ".join(parts)


def untimed(config: PruneConfig) -> str | None:
    """A line about what a reweighting runs beside the answer, or None where it runs nothing."""
    beside = None if config.reweight is None else config.reweight.beside()
    if config.reweight is None or beside is None:
        return None
    return f"not in the times of {config.reweight.label()}: {beside}, which generate runs too"
