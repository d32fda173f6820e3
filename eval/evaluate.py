"""The `eval` command: check the settings, run the grid, write its files.

In: the command line's values. Out: in the given folder one folder a run, `results.json`,
`table.md`, `accuracy.png`, `overlays.png` and `budgets.png`; the table's first part on the screen.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
import typer

from lvlm_prune import __version__
from lvlm_prune.eval.grid import Grid, grid_configs
from lvlm_prune.eval.pictures import budgets_picture, methods_picture, save_png
from lvlm_prune.eval.plot import check_plot_extra, plot_accuracy
from lvlm_prune.eval.prefill import StageTimes
from lvlm_prune.eval.probe import load_probe
from lvlm_prune.eval.results import RunResult, as_json, write_run, write_text
from lvlm_prune.eval.table import budgets, table_text
from lvlm_prune.loading import load

BENCHMARKS = ("probe",)


def evaluate_benchmark(
    benchmark: str,
    model: str | None,
    methods: Sequence[str],
    keeps: Sequence[int | float],
    sinks: Sequence[str],
    plant: bool,
    pairs: Sequence[str],
    limit: int | None,
    batch_size: int,
    seed: int,
    out: Path,
    device: str,
) -> list[RunResult]:
    """Run a benchmark and write everything about it.

    Args:
        benchmark: its name, `probe`.
        model: folder or hub name; None is the bundled model.
        methods: names of methods.
        keeps: budgets.
        sinks: ViT sink policies.
        plant: plant ViT sinks in the bundled model first.
        pairs: methods that answer the MME pairs too; the unpruned model always does.
        limit: use only the first images.
        batch_size: questions in one batch.
        seed: seed of methods that draw and of the bootstrap.
        out: folder for the files; files of an earlier run with the same names are replaced.
        device: torch device.

    Returns:
        The runs, the unpruned one first.

    Raises:
        ValueError: an unknown benchmark or a setting that does not fit the model.
        ImportError: matplotlib is missing.
    """
    if benchmark not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {benchmark!r}; known: {', '.join(BENCHMARKS)}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must name a folder, but {out} is a file")
    check_plot_extra()
    from lvlm_prune.assets import probe_path

    probe = load_probe(probe_path(), limit)
    configs = grid_configs(methods, keeps, sinks, seed)
    loaded = load(model, device, plant)
    grid = Grid(loaded, probe, configs, batch_size, seed, pairs)
    out.mkdir(parents=True, exist_ok=True)
    results = grid.run()
    base, timing = grid.measure(results)
    about = {"benchmark": benchmark, **_about(grid), "timing": timing}
    _write(grid, results, base, about, out)
    first_part = table_text(results, about, base).split("## Every run")[0].strip()
    typer.echo(first_part.replace("\\*", "*"))
    typer.echo(f"\nAll runs, pictures and answers: {out}")
    return results


def _about(grid: Grid) -> dict[str, Any]:
    """What was asked of which model, and with which versions."""
    return {
        "model": grid.loaded.label,
        "planted_sinks": grid.loaded.planted,
        "images": len(grid.probe.images),
        "questions": len(grid.probe.items),
        "asked": len(grid.questions.asked),
        "prompt": grid.loaded.prompt("{question}"),
        "lvlm_prune": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _write(
    grid: Grid,
    results: Sequence[RunResult],
    base: StageTimes,
    about: dict[str, Any],
    out: Path,
) -> None:
    """Write the files of a grid; a run's own folder comes first, the table last."""
    for result in results:
        write_run(result, out, about)
    title = f"{about['model']} on the {about['benchmark']}, {about['images']} images"
    plot_accuracy(results, title, out / "accuracy.png")
    found = budgets(results)
    if found:
        middle = found[len(found) // 2]
        picture = methods_picture(grid.loaded, grid.questions, results, grid.pictured, middle)
        save_png(picture, out / "overlays.png")
        label = next((r.label for r in results if r.config.method == "cls"), results[1].label)
        picture = budgets_picture(grid.loaded, grid.questions, results, grid.pictured, label)
        save_png(picture, out / "budgets.png")
    runs = [result.to_dict() for result in results]
    write_text(out / "results.json", as_json({**about, "runs": runs}))
    write_text(out / "table.md", table_text(results, about, base))
