"""`lvlm-prune compare`: several evaluations in one table and one plot."""

from pathlib import Path
from typing import Annotated

import typer


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folders that `eval --out` wrote, or folders that hold one for each model.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("runs/compare"),
    force: Annotated[
        bool, typer.Option("--force", help="Compare also where the benchmark data differ.")
    ] = False,
) -> None:
    """Put evaluations side by side: one table and one plot for each benchmark.

    Reads the results.json of each folder and writes report.md, report.html and their pictures.
    Refuses runs on other data versions; says which prompts, generation settings and models differ.
    Every difference is to the baseline of the same folder.

    \b
    Examples:
      lvlm-prune compare runs/llava runs/qwen
      lvlm-prune compare runs/models --out runs/models/compared     one folder for each model
      lvlm-prune compare runs/new-prompt runs/old-prompt --out runs/prompts
    """
    from lvlm_prune.eval.compare_runs import compare_folders

    compared = compare_folders(runs, out, force)
    for warning in compared.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(compared.text)
    typer.echo(f"\nReport: {compared.folder / 'report.html'}")
