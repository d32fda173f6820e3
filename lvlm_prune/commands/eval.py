"""`lvlm-prune eval`: methods and budgets on hallucination benchmarks."""

import os
from pathlib import Path
from typing import Annotated

import typer

from lvlm_prune.commands.options import (
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

INTERRUPTED = 130  # exit code of a command that Ctrl-C ended, as shells have it


def evaluate(
    benchmark: Annotated[
        str,
        typer.Option(
            help="Benchmarks, separated by commas: probe (bundled), pope, mme, chair, amber, "
            "hallusionbench, mmvp, do-you-see-me; `lvlm-prune benchmarks` says what each needs."
        ),
    ] = "probe",
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
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="File or folder of a benchmark's questions; with several benchmarks NAME=FOLDER, "
            "once for each. Without it they come from the hub."
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(help="Folder of a benchmark's images, written like --data."),
    ] = None,
    subset: Annotated[
        list[str] | None,
        typer.Option(help="Part of a benchmark, such as coco/random, written like --data."),
    ] = None,
    captions: Annotated[
        bool,
        typer.Option("--captions", help="Caption the probe's images too: CHAIR and recall."),
    ] = False,
    prompt: Annotated[
        str,
        typer.Option(
            help="What a prompt asks, with {question} in it and \\n for a line break, inside the "
            "model's own chat template."
        ),
    ] = "{question}",
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="New tokens of an answer at most; the benchmark's if not given."),
    ] = None,
    sinks: PoliciesOption = "ignore",
    per: PerOption = "image",
    order: OrderOption = "raster",
    plant_sinks: PlantOption = False,
    pairs: PairsOption = "visionzip,random",
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first images.")] = None,
    batch_size: Annotated[
        int,
        typer.Option(min=1, help="Questions in one batch; halved when memory runs out."),
    ] = 64,
    seed: Annotated[int, typer.Option(help="Seed of random choices and of the bootstrap.")] = 0,
    out: Annotated[
        Path,
        typer.Option(help="Folder for results; a run that was interrupted goes on from there."),
    ] = Path("runs/probe"),
    restart: Annotated[
        bool, typer.Option("--restart", help="Answer everything anew, whatever --out holds.")
    ] = False,
    device: Annotated[
        str,
        typer.Option(help="cpu, cuda (one GPU a process), or auto: a large model over all GPUs."),
    ] = "cpu",
) -> None:
    """Measure what methods and budgets do to a model's answers on hallucination benchmarks.

    The model answers unpruned first, then with every method at every budget, and on top of each of
    them with every stage and every reweighting inside the LLM. A stage is compared with random
    tokens at the same layers, a reweighting with the same run without it.

    Writes report.html and report.md, results.json (every number with its interval), samples.jsonl
    (every answer), overlays.png and budgets.png; for the probe table.md and accuracy.png too. Each
    answer is on disk as soon as it is there: stop at any time and run the same command again.
    Failed calls are counted, never scored, and end the command with exit code 1. Plots need the
    `plot` extra.

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
    \b
      lvlm-prune eval --benchmark pope --data POPE/output/coco --images val2014 \\
          --model llava-hf/llava-1.5-7b-hf --device cuda --method visionzip --keep 64,128 \\
          --prompt '{question}\\nAnswer the question using a single word or phrase.'
      lvlm-prune eval --benchmark pope,mme --data pope=POPE --data mme=MME_Benchmark ...
      torchrun --nproc-per-node 4 -m lvlm_prune.cli eval --device cuda ...
      accelerate launch --multi_gpu --num_processes 4 -m lvlm_prune.cli eval --device cuda ...
      torchrun --nproc-per-node 2 -m lvlm_prune.cli eval ...    two on a CPU
      accelerate launch --multi_gpu --num_processes 2 -m lvlm_prune.cli eval ...    the same
    """
    from lvlm_prune.budget import parse_keep
    from lvlm_prune.commands.options import command_line
    from lvlm_prune.eval.eval_settings import EvalSettings, by_benchmark
    from lvlm_prune.eval.evaluate import evaluate_benchmark
    from lvlm_prune.eval.inside import parse_inside
    from lvlm_prune.names import entries

    inside = parse_inside(layers, reweight, combine, seed)
    if method is None:
        method = DEFAULT_METHODS if inside.empty else "identity"
    names = entries(benchmark, "--benchmark")
    folders = by_benchmark(data or [], names, "--data")
    pictures = by_benchmark(images or [], names, "--images")
    settings = EvalSettings(
        benchmarks=names,
        data={name: Path(folder) for name, folder in folders.items()},
        images={name: Path(folder) for name, folder in pictures.items()},
        subsets=by_benchmark(subset or [], names, "--subset"),
        models=[None] if model is None else entries(model, "--model"),
        methods=None if method.strip() == "all" else method_names(method),
        keeps=[parse_keep(value) for value in entries(keep, "--keep")],
        sinks=entries(sinks, "--sinks"),
        per=per,
        order=order,
        plant=plant_sinks,
        pairs=method_names(pairs, "--pairs"),
        limit=limit,
        batch_size=batch_size,
        seed=seed,
        device=device,
        inside=inside,
        captions=captions,
        template=prompt.replace("\\n", "\n"),
        longest=max_new_tokens,
        restart=restart,
        command=command_line(),
    )
    try:
        evaluate_benchmark(settings, out)
    except KeyboardInterrupt as error:
        # One of several processes says it.
        if os.environ.get("RANK", "0") == "0":
            typer.echo(f"lvlm-prune: {_interrupted(out, restart)}", err=True)
        raise typer.Exit(INTERRUPTED) from error


def _interrupted(out: Path, restart: bool) -> str:
    """What there is after Ctrl-C, and how it goes on."""
    if not out.is_dir():
        return f"interrupted before the first answer; nothing was written to {out}"
    without = " without --restart" if restart else ""
    return (
        f"interrupted; the answers so far are kept in {out}, and the same command{without} goes "
        "on from there"
    )
