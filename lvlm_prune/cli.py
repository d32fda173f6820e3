"""The command line: run, eval, speed, methods, models.

Only typer is imported here; each command imports what it needs when it runs, so `--help` answers at
once. Mistakes of the user end in one sentence on stderr and exit code 1, never in a traceback.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

# What `eval` runs within some minutes: ranking by attention, merging, diversity, the question, and
# the controls.
DEFAULT_METHODS = (
    "cls,visionzip,divprune,cdpruner,mmtok,vscan,holov,prumerge_plus,dart,random,grid,pool"
)

app = typer.Typer(
    name="lvlm-prune",
    help="Prune the visual tokens of a vision-language model, and measure what it costs and saves.",
    epilog="Begin with: lvlm-prune eval --limit 40",
    no_args_is_help=True,
    add_completion=False,
    # Plain help: aligned examples, and no time spent on importing a renderer.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelOption = Annotated[
    str | None,
    typer.Option(help="Folder, hub name, or a bundled model; llava-pictogram if not given."),
]
ModelsOption = Annotated[
    str | None,
    typer.Option(
        help="Folders, hub names or bundled models, separated by commas; llava-pictogram if "
        "not given."
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
OrderOption = Annotated[str, typer.Option(help="Order of the kept tokens: raster, or sinks_first.")]


@app.command()
def run(
    image: Annotated[Path, typer.Argument(help="Image file (PNG, JPEG, WebP, BMP or GIF).")],
    question: Annotated[str, typer.Argument(help="Question about the image.")],
    model: ModelOption = None,
    method: Annotated[str, typer.Option(help="See `lvlm-prune methods`.")] = "visionzip",
    keep: Annotated[
        str, typer.Option(help="Tokens per image (64) or share of them (0.25 or 25%).")
    ] = "0.25",
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
    a warm-up, in turn for both.

    \b
    Examples:
      lvlm-prune run photo.jpg "Is there a cat in the image?"
      lvlm-prune run photo.jpg "Is there a cat in the image?" --method cls --keep 12
      lvlm-prune run photo.jpg "Describe this image." --model llava-hf/llava-1.5-7b-hf --keep 64
    """
    from lvlm_prune.budget import parse_keep
    from lvlm_prune.show import show_run

    show_run(
        image=image,
        question=question,
        model=model,
        method=method,
        keep=parse_keep(keep),
        sinks=sinks,
        per=per,
        order=order,
        plant=plant_sinks,
        max_new_tokens=max_new_tokens,
        save=save,
        device=device,
    )


@app.command("eval")
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
        methods=None if method.strip() == "all" else _names(method),
        keeps=[parse_keep(value) for value in keep.split(",")],
        sinks=[policy.strip() for policy in sinks.split(",")],
        per=per,
        order=order,
        plant=plant_sinks,
        pairs=_names(pairs),
        limit=limit,
        batch_size=batch_size,
        seed=seed,
        device=device,
    )
    evaluate_benchmark(settings, out)


@app.command()
def speed(
    preset: Annotated[
        str,
        typer.Option(
            help="What is measured: cpu, selection-576, selection-2880, signals, llava-1.5-7b, "
            "llava-next-7b, qwen2.5-vl-7b or tiny."
        ),
    ] = "cpu",
    method: Annotated[
        str | None,
        typer.Option(help="Methods, separated by commas, or all; the preset's own if not given."),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="Tokens per image (64) or share (0.25); the preset's own if not given."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 9,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens to decode.")] = 16,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; 1 on a CPU if not given.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for results and table.")] = Path("runs/speed"),
    device: DeviceOption = "cpu",
) -> None:
    """Time pruning side by side: whole answers, selection, or signals.

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

    \b
    Examples:
      lvlm-prune speed
      lvlm-prune speed --preset selection-2880 --method divprune,cdpruner,mmtok --repeats 3
      lvlm-prune speed --preset llava-1.5-7b --device cuda --keep 64 --method cls,visionzip
    """
    from lvlm_prune.budget import parse_keep
    from lvlm_prune.eval.speed import measure_speed

    measure_speed(
        preset=preset,
        methods=None if method is None else _names(method),
        keep=None if keep is None else parse_keep(keep),
        repeats=repeats,
        new_tokens=new_tokens,
        threads=threads,
        out=out,
        device=device,
    )


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Only this method.")] = None,
) -> None:
    """List the pruning methods: what they read, where they run, options and papers.

    \b
    Any of these is a value of --method, and of `method` in Python:
      attach(model, method="divprune", keep=64)
      attach(model, method="visionzip", keep=64, options={"merge": "mean"})
    \b
    Examples:
      lvlm-prune methods
      lvlm-prune methods visionzip
    """
    from lvlm_prune.listings import methods_table

    typer.echo(methods_table(name))


@app.command()
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


def _names(text: str) -> list[str]:
    """Read method names; `all` is every method."""
    from lvlm_prune.methods import METHODS, method_named

    if text.strip() == "all":
        return list(METHODS)
    return [method_named(name.strip()).name for name in text.split(",")]


def main() -> None:
    """Entry point: turn mistakes of the user into one sentence."""
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        if type(error) is RuntimeError:
            raise
        typer.echo(f"lvlm-prune: {error}", err=True)
        sys.exit(1)
