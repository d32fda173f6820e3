"""Presence accuracy of what is done inside the LLM, as a picture: a line a run, a panel a base.

In: scored runs of one model. Out: a PNG file. A filled mark is the run; the grey ring beside it is
what it is measured against: random tokens at the same layers, or the same run without the
reweighting. Needs matplotlib, the `plot` extra; only its object interface is used.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lvlm_prune.eval.inside_table import stage_words, stands_on
from lvlm_prune.eval.plot import COLORS, CONTROL_COLOR
from lvlm_prune.eval.results import RunResult

LINE_INCH = 0.27
STAGE, REWEIGHT = COLORS[0], COLORS[1]


def plot_inside(results: Sequence[RunResult], title: str, path: Path) -> None:
    """Draw every run inside the LLM beside its control.

    Args:
        results: the unpruned run and the others.
        title: the picture's title.
        path: PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [run for run in results if run.inside and run.control_of is None]
    bases = [
        base for base in results if not base.inside and any(stands_on(run, base) for run in shown)
    ]
    labels = list(dict.fromkeys(run.label for run in shown))
    figure = Figure(
        figsize=(3.2 + 3.6 * len(bases), 1.6 + LINE_INCH * max(4, len(labels))),
        dpi=150,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(bases), sharey=True, squeeze=False)[0]
    for axes, base in zip(panels, bases, strict=True):
        _panel(axes, base, [run for run in shown if stands_on(run, base)], labels)
    _ticks(panels[0], shown, labels)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    _legend(figure)
    # Never leave half a picture behind.
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png")
    part.replace(path)


def _panel(axes: Any, base: RunResult, runs: Sequence[RunResult], labels: Sequence[str]) -> None:
    """One base: its runs as marks, their controls as rings."""
    level = 100 * base.accuracy
    axes.axvline(level, color="#222222", linewidth=1)
    for run in runs:
        place = labels.index(run.label)
        reweighted = run.config.reweight is not None
        against = run.against_base if reweighted else run.against_random
        value = 100 * run.accuracy
        if against is not None:
            control = value - 100 * against.difference
            axes.plot([control, value], [place, place], color=CONTROL_COLOR, linewidth=0.8)
            axes.plot(control, place, "o", markersize=7, mec=CONTROL_COLOR, mfc="none")
        color, marker = (REWEIGHT, "s") if reweighted else (STAGE, "o")
        axes.plot(value, place, marker, color=color, markersize=5)
    name = f"all {base.total} tokens" if base.unpruned else f"{base.base}, {base.kept} tokens"
    axes.set_title(f"{name}: {level:.1f} %", fontsize=9)
    axes.set_xlabel("presence accuracy in %", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(axis="both", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _ticks(axes: Any, runs: Sequence[RunResult], labels: Sequence[str]) -> None:
    """Names of the lines, the first one on top."""
    words = {run.label: stage_words(run.stages) for run in runs}
    names = [
        f"{label.split()[0]}  ({words[label]})" if words[label] and " + " not in label else label
        for label in labels
    ]
    axes.set_yticks(range(len(labels)), names, fontsize=8)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def _legend(figure: Any) -> None:
    """What the marks are."""
    from matplotlib.lines import Line2D

    ring = {"markersize": 7, "markerfacecolor": "none"}
    looks: list[tuple[str, str, str, dict[str, Any]]] = [
        ("stage inside the LLM", STAGE, "o", {}),
        ("reweighting", REWEIGHT, "s", {}),
        ("random tokens at the same layers / the same without it", CONTROL_COLOR, "o", ring),
    ]
    marks = [
        Line2D([], [], linestyle="none", label=label, color=color, marker=marker, **more)
        for label, color, marker, more in looks
    ]
    marks.append(Line2D([], [], color="#222222", linewidth=1, label="base"))
    figure.legend(handles=marks, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
