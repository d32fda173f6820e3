"""`lvlm-prune run`: one question about one image, unpruned and pruned."""

from pathlib import Path
from typing import Annotated

import typer

from lvlm_prune.commands.options import (
    DeviceOption,
    LayersOption,
    ModelOption,
    OrderOption,
    PerOption,
    PlantOption,
    ReweightOption,
    SinksOption,
)


def run(
    image: Annotated[Path, typer.Argument(help="Image file (PNG, JPEG, WebP, BMP or GIF).")],
    question: Annotated[str, typer.Argument(help="Question about the image.")],
    model: ModelOption = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="See `lvlm-prune methods`; visionzip, or none where only layers or a reweighting "
            "are named."
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="Tokens per image (64) or share of them (0.25 or 25%); 0.25 if none."),
    ] = None,
    layers: LayersOption = None,
    reweight: ReweightOption = None,
    sinks: SinksOption = "ignore",
    per: PerOption = "image",
    order: OrderOption = "raster",
    plant_sinks: PlantOption = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of the answers.")] = 32,
    save: Annotated[
        Path, typer.Option(help="Where the picture of kept and dropped tokens goes.")
    ] = Path("runs/run.png"),
    device: DeviceOption = "cpu",
) -> None:
    """Answer a question unpruned and pruned; draw the kept tokens.

    Both answers are greedy answers of the stock `generate`. Times are measured on the spot, after
    a warm-up, in turn for both, and the KV cache's memory on its tensors; p(yes) and p(no) are
    those of the first token, where the model takes the question for a yes/no one. The picture
    shows the kept tokens, their scores, and for methods that merge which token went into which.

    \b
    Examples:
      lvlm-prune run photo.jpg "Is there a cat in the image?"
      lvlm-prune run photo.jpg "Is there a cat in the image?" --method cls --keep 12
      lvlm-prune run photo.jpg "Is there a cat in the image?" --layers fastv@2:0.25
      lvlm-prune run photo.jpg "Is there a cat in the image?" --keep 49 --reweight pai
      lvlm-prune run photo.jpg "Describe this image." --model llava-hf/llava-1.5-7b-hf --keep 64
    """
    from lvlm_prune.budget import parse_keep
    from lvlm_prune.config import PruneConfig
    from lvlm_prune.layers.schedule import parse_layers
    from lvlm_prune.show import show_run

    settings = {
        "method": method,
        "keep": None if keep is None else parse_keep(keep),
        "layers": None if layers is None else parse_layers(layers),
        "reweight": reweight,
    }
    named = {name: value for name, value in settings.items() if value is not None}
    show_run(
        image=image,
        question=question,
        model=model,
        config=PruneConfig.from_dict({**named, "sinks": sinks, "per": per, "order": order}),
        plant=plant_sinks,
        max_new_tokens=max_new_tokens,
        save=save,
        device=device,
    )
