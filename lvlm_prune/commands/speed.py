"""`lvlm-prune speed`: what pruning saves, timed side by side."""

from pathlib import Path
from typing import Annotated

import typer

from lvlm_prune.commands.options import DeviceOption, method_names


def speed(
    preset: Annotated[
        str | None,
        typer.Option(
            help="What is measured, see the list above; cpu if not given, or reweight or layers "
            "with those options."
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="Methods, separated by commas, or all; the preset's own if not given."),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="Tokens per image (64) or share (0.25); the preset's own if not given."),
    ] = None,
    reweight: Annotated[
        str | None,
        typer.Option(
            help="Reweighters to time beside plain SDPA, METHOD or METHOD:PRESET, separated by "
            "commas, or all. Those that generate runs a second answer for are left out."
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="Methods inside the LLM to time, separated by commas, or all."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 9,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens to decode.")] = 16,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; 1 on a CPU if not given.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for results and table.")] = Path("runs/speed"),
    device: DeviceOption = "cpu",
) -> None:
    """Time pruning and reweighting side by side: answers, their parts, or the LLM's inside.

    Models have the shapes of a preset and random weights; ratios are of runs of the same round.

    \b
    Whole answers, beside the unpruned model and the ideal of K tokens without a selection:
      cpu              an encoder and an LLM that two cores can run in minutes
      llava-1.5-7b     576 visual tokens; needs a GPU
      llava-next-7b    2,880 visual tokens, 2 x 2 tiles; needs a GPU
      qwen2.5-vl-7b    2,880 visual tokens; needs a GPU
      tiny             shows in seconds that the command works
    Selection as a share of an LLM prefill of 7B width, scaled to 32 layers; some minutes:
      selection-576    576 visual tokens, 64 kept
      selection-2880   2,880 visual tokens, 320 kept
    Attention signals as a share of the vision encoder:
      signals          CLIP-L/14-336, SigLIP-so400m/14-384, Qwen2.5-VL
    Reweighting (--reweight) beside plain SDPA, and VAR beside full eager attention:
      reweight         a layer of 7B attention, narrow MLP: 32 and 28/4 heads, 700 and 2,900 tokens
      reweight-700     the same with 576 visual tokens of 700 alone
      reweight-2900    the same with 2,640 visual tokens of 2,900 alone
      reweight-7b      all layers, bfloat16; needs a GPU
      reweight-tiny    shows in seconds that the command works
    Stages inside the LLM (--layers) beside the unpruned LLM and one that is cut by hand:
      layers           12 layers, 64 of 576 visual tokens from layer 2 on
      layers-7b        7B shapes, 64 of 576 and of 2,640, bfloat16; needs a GPU
      layers-tiny      shows in seconds that the command works

    \b
    Examples:
      lvlm-prune speed
      lvlm-prune speed --preset selection-2880 --method divprune,cdpruner,mmtok --repeats 3
      lvlm-prune speed --reweight var,pai --repeats 5
      lvlm-prune speed --layers fastv,pyramiddrop --keep 64
      lvlm-prune speed --preset llava-1.5-7b --device cuda --keep 64 --method cls,visionzip
    """
    from lvlm_prune.budget import parse_keep
    from lvlm_prune.eval.speed import measure_speed

    measure_speed(
        preset=preset,
        methods=None if method is None else method_names(method),
        keep=None if keep is None else parse_keep(keep),
        repeats=repeats,
        new_tokens=new_tokens,
        threads=threads,
        out=out,
        device=device,
        reweight=None if reweight is None else reweighter_names(reweight),
        layers=None if layers is None else layer_method_names(layers),
    )


def reweighter_names(text: str) -> list[str]:
    """Read `METHOD` or `METHOD:PRESET`, separated by commas; `all` is every method."""
    from lvlm_prune.names import entries
    from lvlm_prune.reweight.config import ReweightConfig
    from lvlm_prune.reweight.registry import REWEIGHTERS

    if text.strip() == "all":
        return list(REWEIGHTERS)
    return [ReweightConfig.of(name).label() for name in entries(text, "--reweight")]


def layer_method_names(text: str) -> list[str]:
    """Read names of layer methods; `all` is every one."""
    from lvlm_prune.layers.registry import LAYER_METHODS, layer_method_named
    from lvlm_prune.names import entries

    if text.strip() == "all":
        return list(LAYER_METHODS)
    return [layer_method_named(name).name for name in entries(text, "--layers")]
