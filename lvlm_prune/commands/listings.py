"""`lvlm-prune methods` and `lvlm-prune models`: what there is."""

from typing import Annotated

import typer


def methods(
    name: Annotated[str | None, typer.Argument(help="Only this method.")] = None,
) -> None:
    """List the methods before and inside the LLM: what they read, options, papers.

    \b
    Names are values of --method, --layers and --reweight, and of the same words in Python:
      attach(model, method="divprune", keep=64)
      attach(model, method="visionzip", keep=64, options={"merge": "mean"})
      attach(model, layers="fastv")
      attach(model, method="cls", keep=64, reweight="pai")
    \b
    Examples:
      lvlm-prune methods
      lvlm-prune methods visionzip
      lvlm-prune methods pyramiddrop
    """
    from lvlm_prune.listings import methods_table

    typer.echo(methods_table(name))


def models(
    every: Annotated[
        bool,
        typer.Option("--all", help="Every class of the installed transformers that can be pruned."),
    ] = False,
) -> None:
    """List the model families, their signals, and what does not work there.

    \b
    A model of such a family is a value of --model, as a folder or a hub name:
      lvlm-prune run photo.jpg "What is this?" --model llava-hf/llava-1.5-7b-hf
    Any other class that takes encoder outputs is pruned by its features alone:
      lvlm-prune models --all
    """
    from lvlm_prune.listings import classes_table, models_table

    typer.echo(classes_table() if every else models_table())
