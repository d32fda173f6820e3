"""`lvlm-prune eval`: the accuracy of methods and budgets on a benchmark."""

from pathlib import Path
from typing import Annotated

import typer

from lvlm_prune.commands.options import (
    DeviceOption,
    ModelsOption,
    OrderOption,
    PairsOption,
    PerOption,
    PlantOption,
    PoliciesOption,
    method_names,
)

# What `eval` runs within some minutes: ranking by attention, merging, diversity, the question, and
# the controls.
DEFAULT_METHODS = (
    "cls,visionzip,divprune,cdpruner,mmtok,vscan,holov,prumerge_plus,dart,random,grid,pool"
)


def evaluate(
    benchmark: Annotated[str, typer.Option(help="Which benchmark: probe (bundled).")] = "probe",
    model: ModelsOption = None,
    method: Annotated[
        str, typer.Option(help="Methods, separated by commas, or all that a model can run.")
    ] = DEFAULT_METHODS,
    keep: Annotated[
        str, typer.Option(help="Budgets, separated by commas: 64, 0.25 or 25%.")
    ] = "0.25,0.125,0.06",
    sinks: PoliciesOption = "ignore",
    per: PerOption = "image",
    order: OrderOption = "raster",
    plant_sinks: PlantOption = False,
    pairs: PairsOption = "visionzip,random",
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first images.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions in one batch.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of random choices.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for results, table and plot.")] = Path(
        "runs/probe"
    ),
    device: DeviceOption = "cpu",
) -> None:
    """Measure the accuracy of methods and budgets on a benchmark.

    The model answers unpruned first, then with every method at every budget.

    Writes a folder for each run (config.json, results.json, answers.jsonl), and table.md,
    accuracy.png, overlays.png and budgets.png; with several models such a folder for each, and the
    table of all. The plot needs the `plot` extra.

    \b
    Examples:
      lvlm-prune eval                                  the whole probe, some minutes on two cores
      lvlm-prune eval --limit 40                       a first look, about a minute
      lvlm-prune eval --method cls,divprune,random --keep 64,25%
      lvlm-prune eval --method cls,random --plant-sinks --sinks ignore,drop
      lvlm-prune eval --method all --model llava-pictogram,qwen-pictogram,internvl-pictogram
    """
    from lvlm_prune.budget import parse_keep
    from lvlm_prune.eval.evaluate import EvalSettings, evaluate_benchmark

    settings = EvalSettings(
        benchmark=benchmark,
        models=[None] if model is None else [name.strip() for name in model.split(",")],
        methods=None if method.strip() == "all" else method_names(method),
        keeps=[parse_keep(value) for value in keep.split(",")],
        sinks=[policy.strip() for policy in sinks.split(",")],
        per=per,
        order=order,
        plant=plant_sinks,
        pairs=method_names(pairs),
        limit=limit,
        batch_size=batch_size,
        seed=seed,
        device=device,
    )
    evaluate_benchmark(settings, out)
