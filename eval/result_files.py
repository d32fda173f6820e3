"""The files of a finished evaluation: results.json, samples.jsonl, report, tables and pictures.

In: the runs of one model on each benchmark. Out: in its folder `results.json` (every number, with
versions and hashes), `samples.jsonl` (every answer), `report.md` and `report.html`, `overlays.png`
and `budgets.png`, and for the probe `table.md`, `accuracy.png`, and with runs inside the LLM
`inside.md` and `inside.png`. Each is written under a temporary name first.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lvlm_prune.eval.benchmark import Benchmark
from lvlm_prune.eval.grid import Grid
from lvlm_prune.eval.inside_models import inside_text
from lvlm_prune.eval.inside_plot import plot_inside
from lvlm_prune.eval.inside_table import inside_parts
from lvlm_prune.eval.models_table import ModelResults
from lvlm_prune.eval.paired import paired
from lvlm_prune.eval.pictures import budgets_picture, methods_picture, save_png
from lvlm_prune.eval.plot import plot_accuracy
from lvlm_prune.eval.prefill import StageTimes, Timing
from lvlm_prune.eval.results import RunResult, as_json, write_text
from lvlm_prune.eval.row import Row
from lvlm_prune.eval.scored import scored
from lvlm_prune.eval.table import budgets, table_text


@dataclass(frozen=True, eq=False)
class Finished:
    """A benchmark that all runs have answered.

    Args:
        grid: model, questions and runs.
        results: the runs, unpruned first.
        base: prefill times of the unpruned model, or None where nothing could be timed.
        timing: what was timed, in words.
        left_out: what the model cannot run, with the reasons.
    """

    grid: Grid
    results: list[RunResult]
    base: StageTimes | None
    timing: str
    left_out: Mapping[str, str]

    @property
    def plain(self) -> list[RunResult]:
        """The runs with nothing inside the LLM."""
        return [run for run in self.results if not run.inside]


def results_dict(finished: Sequence[Finished], about: Mapping[str, Any], seed: int) -> dict:
    """Everything in results.json.

    Args:
        finished: the benchmarks.
        about: what holds for all runs.
        seed: of the bootstrap.
    """
    runs: dict[str, dict[str, Any]] = {}
    for one in finished:
        baseline = next(run for run in one.results if run.unpruned)
        for run in one.results:
            entry = runs.setdefault(run.name, run.to_dict())
            entry.setdefault("benchmarks", {})
            entry.setdefault("against_baseline", None if run.unpruned else {})
            if run.unpruned and one.base is not None:
                entry["prefill"] = Timing(one.base, 1.0, 1.0).to_dict()
            # What is added up over benchmarks.
            if len(entry["benchmarks"]):
                entry["errors"] += run.errors
                entry["seconds"] = round(entry["seconds"] + run.seconds, 1)
            benchmark = replace(one.grid.benchmark, items=tuple(run.asked))
            rows = _rows_of(benchmark, run.rows)
            name = benchmark.name
            entry["benchmarks"][name] = scored(benchmark, rows, seed).to_dict()
            if not run.unpruned:
                theirs = _rows_of(benchmark, baseline.rows)
                entry["against_baseline"][name] = paired(benchmark, rows, theirs, seed).to_dict()
    ordered = sorted(runs.values(), key=lambda entry: not entry["baseline"])
    return {**about, "benchmarks": dict(map(_described, finished)), "runs": ordered}


def _described(one: Finished) -> tuple[str, dict[str, Any]]:
    """What a benchmark is, for a result file."""
    benchmark, questions = one.grid.benchmark, one.grid.questions
    return benchmark.name, {
        "version": dict(benchmark.version),
        "source": benchmark.source,
        "lines": len(benchmark.items),
        "prompts": len(questions.asked),
        "images": len(questions.images),
        "unreadable_images": [questions.images[image] for image in questions.broken],
        "headlines": {
            key: {
                "metric": scoring.headline,
                "scale": scoring.scale,
                "lower_is_better": scoring.lower_is_better,
            }
            for key, scoring in benchmark.scorings.items()
        },
    }


def _rows_of(benchmark: Benchmark, rows: Sequence[Row]) -> list[Row]:
    """Rows that name no line but the benchmark's."""
    known = {item.id for item in benchmark.items}
    named = (replace(row, items=tuple(n for n in row.items if n in known)) for row in rows)
    return [row for row in named if row.items]


def _sample_lines(finished: Sequence[Finished]) -> Iterator[str]:
    """One line for each answer of each run."""
    for one in finished:
        for run in one.results:
            for row in run.rows:
                values = {"run": run.name, "benchmark": one.grid.benchmark.name, **asdict(row)}
                yield json.dumps(values, ensure_ascii=False)


def write_files(
    finished: Sequence[Finished], found: ModelResults | None, about: Mapping[str, Any], out: Path
) -> None:
    """Write the files of one model.

    Args:
        finished: the benchmarks; pictures show the first.
        found: the probe's runs, if it is one of them.
        about: what holds for all runs.
        out: folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    results = results_dict(finished, about, about["seed"])
    write_text(out / "samples.jsonl", "".join(f"{line}\n" for line in _sample_lines(finished)))
    _pictures(finished[0], out)
    if found is not None:
        probe = next(one for one in finished if one.results is found.results)
        _probe_files(probe, found, out)
    write_text(out / "results.json", as_json(results))
    from lvlm_prune.eval.report_write import write_report

    write_report(out, results)


def _pictures(one: Finished, out: Path) -> None:
    """Which tokens are kept: methods at the middle budget, and budgets of one method."""
    kept = budgets(one.plain)
    if not kept or not one.grid.sound():
        return
    save_png(methods_picture(one.grid, one.plain, kept[len(kept) // 2]), out / "overlays.png")
    labels = [run.label for run in one.plain[1:]]
    label = next((run.label for run in one.plain if run.config.method == "cls"), labels[0])
    save_png(budgets_picture(one.grid, one.plain, label), out / "budgets.png")


def _probe_files(one: Finished, found: ModelResults, out: Path) -> None:
    """The probe's own tables and plots."""
    about, plain = found.about, found.plain
    if one.base is None:
        return
    title = f"{about['model']} on the probe, {about['images']} images"
    if budgets(plain):
        plot_accuracy(plain, title, out / "accuracy.png")
    if found.inside:
        plot_inside(found.results, title, out / "inside.png")
    write_inside([found], out)
    write_text(out / "table.md", table_text(plain, about, one.base, inside_parts(found.results)))


def write_inside(found: Sequence[ModelResults], out: Path) -> None:
    """Write what was done inside the LLM, if anything was."""
    text = inside_text(found)
    if text:
        write_text(out / "inside.md", text)
