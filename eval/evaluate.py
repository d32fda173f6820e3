"""The `eval` command: check the settings, run a grid for each model, write the files.

In: the command line's values. Out: in the given folder one folder a run, `results.json`,
`table.md`, `accuracy.png`, `overlays.png` and `budgets.png`, and with runs inside the LLM
`inside.md` and `inside.png`; with several models such a folder for each of them, and the tables and
`results.json` of all. The first part of the table is printed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
import typer

from lvlm_prune import __version__
from lvlm_prune.config import PruneConfig
from lvlm_prune.eval.caption import Scenes, load_scenes
from lvlm_prune.eval.configs import grid_configs, runnable
from lvlm_prune.eval.grid import Grid
from lvlm_prune.eval.inside import UNPRUNED, Inside, inside_configs, runnable_inside
from lvlm_prune.eval.inside_models import inside_text
from lvlm_prune.eval.inside_plot import plot_inside
from lvlm_prune.eval.inside_table import inside_parts
from lvlm_prune.eval.models_table import ModelResults, models_table
from lvlm_prune.eval.pictures import budgets_picture, methods_picture, save_png
from lvlm_prune.eval.plot import check_plot_extra, plot_accuracy
from lvlm_prune.eval.prefill import StageTimes
from lvlm_prune.eval.probe import Probe, load_probe
from lvlm_prune.eval.results import as_json, write_run, write_text
from lvlm_prune.eval.table import budgets, table_text
from lvlm_prune.eval.timing import measure
from lvlm_prune.loading import Loaded, load
from lvlm_prune.methods import METHODS

BENCHMARKS = ("probe",)


@dataclass(frozen=True)
class EvalSettings:
    """What to run.

    Args:
        keeps: budgets.
        models: folders, hub names or names of bundled models; None is the bundled LLaVA.
        methods: names of methods; None is every method that a model can run.
        benchmark: its name, `probe`.
        sinks: ViT sink policies.
        per: what a budget counts, `image` or `tile`.
        order: `raster` or `sinks_first`.
        plant: plant ViT sinks in the bundled LLaVA first.
        pairs: methods that answer the MME pairs too; the unpruned model always does.
        limit: use only the first images.
        batch_size: questions in one batch.
        seed: seed of methods that draw and of the bootstrap.
        device: torch device.
        inside: what is run inside the LLM, on each method and budget; with the method `identity`
            on the unpruned prompt.
        captions: whether every run captions the images too.
    """

    keeps: Sequence[int | float]
    models: Sequence[str | None] = (None,)
    methods: Sequence[str] | None = None
    benchmark: str = "probe"
    sinks: Sequence[str] = ("ignore",)
    per: str = "image"
    order: str = "raster"
    plant: bool = False
    pairs: Sequence[str] = ()
    limit: int | None = None
    batch_size: int = 64
    seed: int = 0
    device: str = "cpu"
    inside: Inside = Inside()
    captions: bool = False


def evaluate_benchmark(settings: EvalSettings, out: Path) -> list[ModelResults]:
    """Run a benchmark and write everything about it.

    Args:
        settings: what to run.
        out: folder for the files; files of an earlier run with the same names are replaced.

    Returns:
        For each model its runs, the unpruned one first.

    Raises:
        ValueError: an unknown benchmark or a setting that does not fit a model.
        ImportError: matplotlib is missing.
    """
    if settings.benchmark not in BENCHMARKS:
        known = ", ".join(BENCHMARKS)
        raise ValueError(f"unknown benchmark {settings.benchmark!r}; known: {known}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must name a folder, but {out} is a file")
    check_plot_extra()
    from lvlm_prune.assets import probe_path

    probe = load_probe(probe_path(), settings.limit)
    scenes = load_scenes(probe_path()) if settings.captions else None
    names = list(dict.fromkeys(settings.models))
    several = len(names) > 1
    if several:
        # So that a mistake in the last name is found before the first model runs for minutes.
        _check_models(settings, names)
    found = []
    for name in names:
        loaded = load(name, settings.device, settings.plant)
        folder = out / Path(loaded.name).name if several else out
        found.append(_evaluate(settings, loaded, probe, scenes, folder, printing=not several))
    if several:
        text = models_table(found)
        runs = [{**each.about, "runs": [r.to_dict() for r in each.results]} for each in found]
        write_text(out / "results.json", as_json(runs))
        write_text(out / "table.md", text)
        _write_inside(found, out)
        _print("\n\n".join([text, inside_text(found)]))
    typer.echo(f"\nAll runs, pictures and answers: {out}")
    return found


def _check_models(settings: EvalSettings, names: Sequence[str | None]) -> None:
    """Load every model once and check the settings on it; their folders must differ."""
    folders: list[str] = []
    for name in names:
        loaded = load(name, settings.device, settings.plant)
        _configs(settings, loaded)
        folders.append(Path(loaded.name).name)
    if len(set(folders)) < len(folders):
        raise ValueError(
            f"the models would share a folder for their results: {', '.join(folders)}; run those "
            "of the same name one by one, with another --out each"
        )


def _configs(settings: EvalSettings, loaded: Loaded) -> tuple[list[PruneConfig], dict[str, str]]:
    """The runs of one model, and the methods that it cannot run with the reasons."""
    names = list(METHODS) if settings.methods is None else settings.methods
    configs = grid_configs(
        names, settings.keeps, settings.sinks, settings.seed, settings.per, settings.order
    )
    kept, why = runnable(loaded.model, configs)
    if settings.methods is not None and why:
        raise ValueError(f"{loaded.name}: {next(iter(why.values()))}")
    unpruned = [replace(UNPRUNED, seed=settings.seed)]
    bases = [*(unpruned if UNPRUNED.method in names else []), *kept]
    inner = inside_configs(bases, settings.inside)
    try:
        inner, refused = runnable_inside(loaded.model, inner, settings.inside.optional)
    except ValueError as error:
        raise ValueError(f"{loaded.name}: {error}") from error
    return [*kept, *inner], {**why, **refused}


def _evaluate(
    settings: EvalSettings,
    loaded: Loaded,
    probe: Probe,
    scenes: Scenes | None,
    out: Path,
    printing: bool,
) -> ModelResults:
    """Run the grid of one model and write its folder."""
    configs, left_out = _configs(settings, loaded)
    for reason in left_out.values():
        typer.echo(f"{loaded.name} without this one: {reason}", err=True)
    grid = Grid(loaded, probe, configs, settings.batch_size, settings.seed, settings.pairs, scenes)
    out.mkdir(parents=True, exist_ok=True)
    results = grid.run()
    base, timing = measure(grid, results)
    about = {"benchmark": settings.benchmark, **_about(grid), "timing": timing}
    about["left_out"] = left_out
    found = ModelResults(results, about)
    _write(grid, found, base, out)
    if printing:
        first = table_text(found.plain, about, base).split("## Every run")[0]
        _print("\n\n".join([first, *inside_parts(results)]))
    return found


def _print(markdown: str) -> None:
    """Markdown as plain text, its columns as wide as they were."""
    typer.echo(markdown.strip().replace("<br>", "    "))


def _about(grid: Grid) -> dict[str, Any]:
    """What was asked of which model, and with which versions."""
    return {
        "model": grid.loaded.label,
        "planted_sinks": grid.loaded.planted,
        "images": len(grid.probe.images),
        "questions": len(grid.probe.items),
        "asked": len(grid.questions.asked) - len(grid.captioned),
        "prompt": grid.loaded.prompt("{question}"),
        "lvlm_prune": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _write(grid: Grid, found: ModelResults, base: StageTimes, out: Path) -> None:
    """Write the files of a grid; a run's own folder comes first, the table last."""
    about, plain = found.about, found.plain
    for result in found.results:
        write_run(result, out, about)
    title = f"{about['model']} on the {about['benchmark']}, {about['images']} images"
    kept = budgets(plain)
    if kept:
        plot_accuracy(plain, title, out / "accuracy.png")
        picture = methods_picture(grid, plain, kept[len(kept) // 2])
        save_png(picture, out / "overlays.png")
        label = next((r.label for r in plain if r.config.method == "cls"), plain[1].label)
        picture = budgets_picture(grid, plain, label)
        save_png(picture, out / "budgets.png")
    if found.inside:
        plot_inside(found.results, title, out / "inside.png")
    _write_inside([found], out)
    runs = [result.to_dict() for result in found.results]
    write_text(out / "results.json", as_json({**about, "runs": runs}))
    write_text(out / "table.md", table_text(plain, about, base, inside_parts(found.results)))


def _write_inside(found: Sequence[ModelResults], out: Path) -> None:
    """Write what was done inside the LLM, if anything was."""
    text = inside_text(found)
    if text:
        write_text(out / "inside.md", text)
