"""Options that several commands share, and how lists of method names are read.

Only typer is imported here, as in every file of this package: each command imports what it needs
when it runs, so that `--help` answers at once.
"""

from typing import Annotated

import typer

ModelOption = Annotated[
    str | None,
    typer.Option(
        help="Folder, hub name, or a bundled model: llava-pictogram (if not given), "
        "qwen-pictogram or internvl-pictogram."
    ),
]
ModelsOption = Annotated[
    str | None,
    typer.Option(
        help="Folders, hub names or bundled models (llava-pictogram, qwen-pictogram, "
        "internvl-pictogram), separated by commas; llava-pictogram if not given."
    ),
]
PoliciesOption = Annotated[
    str,
    typer.Option(help="ViT sink policies, separated by commas: ignore, keep, drop, only, query."),
]
PairsOption = Annotated[
    str, typer.Option(help="Methods that answer the MME pairs too, separated by commas, or all.")
]
DeviceOption = Annotated[str, typer.Option(help="Torch device, such as cpu or cuda.")]
SinksOption = Annotated[
    str, typer.Option(help="What happens to ViT sink tokens: ignore, keep, drop, only or query.")
]
PerOption = Annotated[str, typer.Option(help="What a budget counts: an image, or each tile.")]
PlantOption = Annotated[
    bool, typer.Option(help="Plant ViT sinks in the bundled LLaVA first (a demonstration).")
]
LayersOption = Annotated[
    str | None,
    typer.Option(
        help="Drop tokens inside the LLM: METHOD, or METHOD@LAYER:KEEP,LAYER:KEEP such as "
        "fastv@2:0.5 (share or number of the tokens that entered)."
    ),
]
ReweightOption = Annotated[
    str | None,
    typer.Option(help="Reweight the LLM's attention: METHOD or METHOD:PRESET, such as var."),
]
OrderOption = Annotated[str, typer.Option(help="Order of the kept tokens: raster, or sinks_first.")]


def method_names(text: str, option: str = "--method") -> list[str]:
    """Read the method names of an option; `all` is every method."""
    from lvlm_prune.methods import METHODS, method_named
    from lvlm_prune.names import entries

    if text.strip() == "all":
        return list(METHODS)
    return [method_named(name).name for name in entries(text, option)]


def command_line() -> str:
    """The command as it was typed, for a report."""
    import shlex
    import sys

    return shlex.join(["lvlm-prune", *sys.argv[1:]])
