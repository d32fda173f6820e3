"""`lvlm-prune demo`: a page in the browser."""

from typing import Annotated

import typer

from lvlm_prune.commands.options import DeviceOption, ModelOption, PlantOption


def demo(
    model: ModelOption = None,
    share: Annotated[
        bool, typer.Option("--share", help="Also make a public link, through gradio's servers.")
    ] = False,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for the whole network.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port; the first free one from 7860 if none."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of the answers.")] = 32,
    plant_sinks: PlantOption = False,
    device: DeviceOption = "cpu",
) -> None:
    """Serve a page: ask about an image, see what is pruned, compare methods and budgets.

    \b
    On the page
      Image, Question     what is asked; examples are one click away
      Method              how the visual tokens are chosen that reach the language model
      Visual tokens to keep   how many of them, in tokens and percent
      Reweighting         also turns up the language model's attention to the image
      ViT sink policy     what happens to patches of very high norm
      Ask, Cancel         both answers, full and pruned, measured on the spot; end what runs
      Border on the picture   drag it: whole image on its left, kept tokens on its right
      All methods at this budget, This method over budgets   small pictures with their answers
      Cancel comparison   end it; other users are never touched

    It starts without a network on the bundled model and listens on this machine only, unless --host
    or --share say otherwise. It needs the `demo` extra.

    \b
    Examples:
      lvlm-prune demo
      lvlm-prune demo --plant-sinks
      lvlm-prune demo --model qwen-pictogram
      lvlm-prune demo --model llava-hf/llava-1.5-7b-hf --device cuda --port 8000
    """
    from lvlm_prune.demo.server import serve

    serve(
        model=model,
        device=device,
        plant=plant_sinks,
        host=host,
        port=port,
        share=share,
        max_new_tokens=max_new_tokens,
    )
