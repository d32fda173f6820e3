"""`lvlm-prune inspect`: one picture of what a model does with an image's tokens."""

from pathlib import Path
from typing import Annotated

import typer

from lvlm_prune.commands.options import DeviceOption, LayersOption, ModelOption, PlantOption


def inspect(
    image: Annotated[Path, typer.Argument(help="Image file (PNG, JPEG, WebP, BMP or GIF).")],
    question: Annotated[
        str, typer.Argument(help="Question about the image.")
    ] = "Is there a cat in the image?",
    model: ModelOption = None,
    method: Annotated[
        str | None,
        typer.Option(help="What is kept; visionzip, or everything where only layers are named."),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="Tokens per image (64) or share of them (0.25 or 25%); 0.25 if none."),
    ] = None,
    layers: LayersOption = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="File of `lvlm-prune calibrate` for this model; norms if not given."),
    ] = None,
    plant_sinks: PlantOption = False,
    save: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("runs/inspect.png"),
    json: Annotated[Path | None, typer.Option(help="Where all numbers go, as JSON.")] = None,
    device: DeviceOption = "cpu",
) -> None:
    """Show what a model does with an image's tokens: one picture, one table.

    \b
    Row by row the picture shows
      encoder   norms with ViT sinks, the CLS row (or received attention), what is kept
      LLM       which visual tokens are LLM sinks at which layers; the largest norms
      heads     how much of the last prompt row's attention is on visual tokens and on sinks

    ViT sinks are patches whose encoder row has a far higher norm than the rest. LLM sinks are
    tokens that draw attention whatever the question is: those that were ViT sinks have propagated,
    the others emerged in the LLM. The LLM is read unpruned, in one pass. A calibration tells LLM
    sinks better than norms do. The picture needs the `plot` extra.

    \b
    Examples:
      lvlm-prune inspect photo.jpg
      lvlm-prune inspect photo.jpg --plant-sinks
      lvlm-prune inspect photo.jpg "How many dogs?" --method divprune --keep 64
      lvlm-prune inspect photo.jpg --layers pyramiddrop --json runs/inspect.json
      lvlm-prune calibrate ./llava-7b --out sinks.json
      lvlm-prune inspect photo.jpg --model ./llava-7b --calibration sinks.json
    """
    from lvlm_prune.budget import parse_keep
    from lvlm_prune.config import PruneConfig
    from lvlm_prune.layers.schedule import parse_layers
    from lvlm_prune.show_inspection import show_inspection

    settings = {
        "method": method,
        "keep": None if keep is None else parse_keep(keep),
        "layers": None if layers is None else parse_layers(layers),
    }
    named = {name: value for name, value in settings.items() if value is not None}
    show_inspection(
        image=image,
        question=question,
        model=model,
        config=PruneConfig.from_dict(named),
        calibration=calibration,
        plant=plant_sinks,
        save=save,
        numbers=json,
        device=device,
    )
