"""The `eval` command: check the settings, run a grid for each model and benchmark, write the files.

In: the command line's values. Out: in the given folder the files of `result_files`, and beside them
one folder a run with its answers as they came; with several models such a folder for each of them,
and the probe's tables of all. The first part of the probe's table is printed. Started by torchrun
or accelerate, the processes share the questions and the first one writes the files.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
import typer

from lvlm_prune import __version__
from lvlm_prune.assets import probe_path
from lvlm_prune.config import PruneConfig
from lvlm_prune.eval.absent import absent
from lvlm_prune.eval.benchmark import Benchmark
from lvlm_prune.eval.caption import load_scenes
from lvlm_prune.eval.configs import grid_configs, runnable
from lvlm_prune.eval.eval_settings import PROBE, EvalSettings, load_benchmarks
from lvlm_prune.eval.folder_lock import note_holder, only_one
from lvlm_prune.eval.grid import Grid
from lvlm_prune.eval.grid_settings import GridSettings
from lvlm_prune.eval.inside import UNPRUNED, inside_configs, runnable_inside
from lvlm_prune.eval.inside_models import inside_text
from lvlm_prune.eval.inside_table import inside_parts
from lvlm_prune.eval.models_table import ModelResults, models_table
from lvlm_prune.eval.own_files import EVERY, OF_MODELS, OF_PROBE, check_evaluation
from lvlm_prune.eval.plot import check_plot_extra
from lvlm_prune.eval.prefill import StageTimes
from lvlm_prune.eval.processes import Processes, joined
from lvlm_prune.eval.prompt_template import check_placeholders
from lvlm_prune.eval.result_files import Finished, write_files, write_inside
from lvlm_prune.eval.results import as_json, write_text
from lvlm_prune.eval.row import Row
from lvlm_prune.eval.table import table_text
from lvlm_prune.eval.timing import measure
from lvlm_prune.loading import Loaded, load
from lvlm_prune.methods import METHODS


class FailedAnswersError(RuntimeError):
    """Calls of the model failed; everything else was written."""


def evaluate_benchmark(settings: EvalSettings, out: Path) -> list[ModelResults]:
    """Run benchmarks and write everything about them.

    Args:
        settings: what to run.
        out: folder for the files; answers that it holds are taken over, other files replaced.

    Returns:
        For each model its runs on the probe, the unpruned one first; none where the probe was not
        run, or in a process that does not write the files.

    Raises:
        ValueError: an unknown benchmark, a setting that does not fit a model, or a folder with the
            answers of other settings.
        ImportError: matplotlib is missing.
        MissingImagesError: images that are not there.
        FailedAnswersError: calls that failed, after all files were written.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must name a folder, but {out} is a file")
    if out.is_symlink() and not out.exists():
        raise ValueError(f"--out must name a folder, but {absent(out)}")
    check_plot_extra()
    benchmarks = load_benchmarks(settings)
    with joined() as processes:
        return _evaluate_models(settings, benchmarks, processes, out)


def _evaluate_models(
    settings: EvalSettings, benchmarks: Sequence[Benchmark], processes: Processes, out: Path
) -> list[ModelResults]:
    """Run every model, and set them beside each other."""
    names = list(dict.fromkeys(settings.models))
    several = len(names) > 1
    files = (*EVERY, *(OF_PROBE if PROBE in settings.benchmarks else ()))
    check_evaluation(out, OF_MODELS if several else files)
    if several:
        # So that a mistake in the last name is found before the first model runs for minutes.
        _check_models(settings, names, processes)
    found: list[ModelResults] = []
    failed: list[Row] = []
    folders: list[Path] = []
    for name in names:
        loaded = _load(settings, name, processes)
        folder = out / Path(loaded.name).name if several else out
        folders.append(folder)
        check_evaluation(folder, files)
        with only_one(folder) if processes.first else nullcontext():
            processes.wait()
            if not processes.first:
                note_holder(folder)
            finished = _evaluate(settings, loaded, benchmarks, processes, folder)
            if processes.first:
                found += _written(settings, loaded, finished, folder, printing=not several)
                failed += [row for one in finished for run in one.results for row in run.rows]
    if not processes.first:
        return []
    if several and found:
        text = models_table(found)
        runs = [{**each.about, "runs": [r.to_dict() for r in each.results]} for each in found]
        write_text(out / "results.json", as_json(runs))
        write_text(out / "table.md", text)
        write_inside(found, out)
        _print("\n\n".join([text, inside_text(found)]))
    typer.echo(f"\nAll runs, pictures and answers: {out}")
    for folder in folders:
        typer.echo(f"Report: {folder / 'report.html'}")
    if several:
        typer.echo(f"Side by side: lvlm-prune compare {' '.join(map(str, folders))}")
    errors = [row.error for row in failed if row.error is not None]
    if errors:
        raise FailedAnswersError(
            f"{len(errors)} of {len(failed)} answers failed, the first with: {errors[0]}. Their "
            "rows have an error and no text, and are in no score; run the same command again to "
            "ask them again"
        )
    return found


def _load(settings: EvalSettings, name: str | None, processes: Processes) -> Loaded:
    """Load a model on this process's devices, and see that it can be asked like this."""
    cards = processes.cards() if settings.device == "auto" else None
    loaded = load(name, processes.own(settings.device), settings.plant, cards)
    check_placeholders(settings.template, loaded)
    return loaded


def _check_models(
    settings: EvalSettings, names: Sequence[str | None], processes: Processes
) -> None:
    """Load every model once and check the settings on it; their folders must differ."""
    folders: list[str] = []
    for name in names:
        loaded = _load(settings, name, processes)
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
    benchmarks: Sequence[Benchmark],
    processes: Processes,
    out: Path,
) -> list[Finished]:
    """Run the grids of one model; another process than the first one returns nothing."""
    configs, left_out = _configs(settings, loaded)
    for reason in left_out.values() if processes.first else ():
        typer.echo(f"{loaded.name} without this one: {reason}", err=True)
    grids = GridSettings(
        out=out,
        batch_size=settings.batch_size,
        seed=settings.seed,
        pairs=settings.pairs,
        template=settings.template,
        longest=settings.longest,
        restart=settings.restart,
        processes=processes,
    )
    finished: list[Finished] = []
    for benchmark in benchmarks:
        scenes = load_scenes(_probe_folder(settings)) if settings.captions else None
        grid = Grid(loaded, benchmark, configs, grids, scenes)
        results = grid.run()
        if processes.first:
            finished.append(Finished(grid, results, *_timed(grid, results, finished), left_out))
    return finished


def _probe_folder(settings: EvalSettings) -> Path:
    """Where the probe's files are."""
    return settings.data.get(PROBE) or probe_path()


def _timed(
    grid: Grid, results: Sequence[Any], before: Sequence[Finished]
) -> tuple[StageTimes | None, str]:
    """Time the prefill on the first benchmark; the others show the same times."""
    if before:
        times = {run.name: run.timing for run in before[0].results}
        for run in results:
            run.timing = times.get(run.name)
        return before[0].base, before[0].timing
    return measure(grid, results)


def _written(
    settings: EvalSettings,
    loaded: Loaded,
    finished: Sequence[Finished],
    out: Path,
    printing: bool,
) -> list[ModelResults]:
    """Write the folder of one model; the probe's results, if it was run."""
    about = {**_about(settings, loaded, finished), "timing": finished[0].timing}
    about["left_out"] = finished[0].left_out
    found: list[ModelResults] = []
    for one in finished:
        if one.grid.benchmark.name == PROBE and one.base is not None:
            found.append(ModelResults(one.results, {**about, **_counts(one.grid)}))
            first = table_text(found[0].plain, found[0].about, one.base).split("## Every run")[0]
            if printing:
                _print("\n\n".join([first, *inside_parts(one.results)]))
    write_files(finished, found[0] if found else None, about, out)
    return found


def _print(markdown: str) -> None:
    """Markdown as plain text, its columns as wide as they were."""
    typer.echo(markdown.strip().replace("<br>", "    "))


def _about(settings: EvalSettings, loaded: Loaded, finished: Sequence[Finished]) -> dict[str, Any]:
    """What was asked of which model, and with which versions."""
    longest = {
        key: one.grid.benchmark.longest[key]
        for one in finished
        for key in one.grid.benchmark.scorings
    }
    generation = {**finished[0].grid.generation, "max_new_tokens": settings.longest or longest}
    return {
        "model": loaded.label,
        "fingerprint": finished[0].grid.fingerprint,
        "planted_sinks": loaded.planted,
        "prompt": loaded.prompt(settings.template),
        "template": settings.template,
        "generation": generation,
        "seed": settings.seed,
        "device": str(loaded.model.device),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "command": settings.command,
        "lvlm_prune": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _counts(grid: Grid) -> dict[str, Any]:
    """How large the probe is, without its captions."""
    items = [item for item in grid.benchmark.items if item.benchmark != "caption"]
    return {
        "benchmark": PROBE,
        "images": len(grid.questions.images),
        "questions": len(items),
        "asked": len(set(grid.questions.places(items))),
    }
