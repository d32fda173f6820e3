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
        str | None,
        typer.Option(
            help="Methods before the LLM, separated by commas, or all that a model can run; a "
            "choice of every kind if not given, or identity (the unpruned prompt) with --layers or "
            "--reweight."
        ),
    ] = None,
    keep: Annotated[
        str, typer.Option(help="Budgets, separated by commas: 64, 0.25 or 25%.")
    ] = "0.25,0.125,0.06",
    layers: Annotated[
        str,
        typer.Option(
            help="Stages inside the LLM, each a run of its own on every method and budget: "
            "METHOD or METHOD@LAYER:KEEP, separated by commas; a part that begins with a digit is "
            "one more cut of the schedule before it. all names every one; all@LAYER:KEEP gives "
            "those with a fixed budget that schedule, the others keep their own."
        ),
    ] = "none",
    reweight: Annotated[
        str,
        typer.Option(
            help="Reweightings of attention, each a run of its own on every method and budget: "
            "METHOD or METHOD:PRESET, separated by commas, or all."
        ),
    ] = "none",
    combine: Annotated[
        bool, typer.Option("--combine", help="Run each stage with each reweighting too.")
    ] = False,
    captions: Annotated[
        bool,
        typer.Option("--captions", help="Caption every image too, and score CHAIR and recall."),
    ] = False,
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

    The model answers unpruned first, then with every method at every budget, and on top of each of
    them with every stage and every reweighting inside the LLM. A stage is compared with random
    tokens at the same layers, a reweighting with the same run without it.

    Writes a folder for each run (config.json, results.json, answers.jsonl; captions.jsonl), and
    table.md, accuracy.png, overlays.png and budgets.png, inside.md and inside.png; with several
    models such a folder for each, and the tables of all. Plots need the `plot` extra.

    \b
    Examples:
      lvlm-prune eval                                  the whole probe, some minutes on two cores
      lvlm-prune eval --limit 40                       a first look, about a minute
      lvlm-prune eval --method cls,divprune,random --keep 64,25%
      lvlm-prune eval --method cls,random --plant-sinks --sinks ignore,drop
      lvlm-prune eval --method all --model llava-pictogram,qwen-pictogram,internvl-pictogram
      lvlm-prune eval --layers fastv@1:0.25,pyramiddrop@1:0.5,2:0.25    two schedules
      lvlm-prune eval --layers all@1:0.25 --reweight all --captions
      lvlm-prune eval --method identity,visionzip --keep 0.25 --reweight var,var:official_code
    """
    from lvlm_prune.budget import parse_keep
    from lvlm_prune.eval.evaluate import EvalSettings, evaluate_benchmark
    from lvlm_prune.eval.inside import parse_inside

    inside = parse_inside(layers, reweight, combine, seed)
    if method is None:
        method = DEFAULT_METHODS if inside.empty else "identity"
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
        inside=inside,
        captions=captions,
    )
    evaluate_benchmark(settings, out)
