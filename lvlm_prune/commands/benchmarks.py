"""`lvlm-prune benchmarks`: what there is, what each needs, and whether a folder has it."""

from pathlib import Path
from typing import Annotated

import typer


def benchmarks(
    name: Annotated[str | None, typer.Argument(help="Only this benchmark.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Its file or folder: check what is there.")
    ] = None,
    subset: Annotated[str | None, typer.Option(help="A part of it, such as coco/random.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of its images, if not beside the questions.")
    ] = None,
    missing: Annotated[
        Path | None, typer.Option(help="Write the names of missing images here, one a line.")
    ] = None,
) -> None:
    """List the benchmarks, or check the files of one: questions, images, version, licence.

    \b
    Names are values of --benchmark. With --data the files are read, and images that are not
    there are named; --missing writes all of them, with COCO's addresses beside the names, so that
    only these are downloaded (500 of COCO's 123,287 for POPE). The exit code is 1 if any is
    missing.
    \b
    Examples:
      lvlm-prune benchmarks
      lvlm-prune benchmarks pope
      lvlm-prune benchmarks pope --data POPE/output --images coco/val2014
      lvlm-prune benchmarks pope --data POPE/output --missing missing.txt
      cut -f2 missing.txt | wget --input-file - --directory-prefix coco/val2014
      lvlm-prune benchmarks mme --data MME_Benchmark_release_version --subset hallucination
    """
    from lvlm_prune.eval.show_benchmarks import benchmark_text, benchmarks_table, checked

    given = {"--data": data, "--subset": subset, "--images": images, "--missing": missing}
    named = [option for option, value in given.items() if value is not None]
    if name is None and named:
        raise ValueError(f"{', '.join(named)} is about one benchmark; name it, such as pope")
    if name is None:
        typer.echo(benchmarks_table())
        return
    if not named:
        typer.echo(benchmark_text(name))
        return
    text, complete = checked(name, data, subset, images, missing)
    typer.echo(text)
    if not complete:
        raise typer.Exit(1)
