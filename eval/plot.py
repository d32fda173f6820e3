"""Accuracy against visual tokens as a picture: one line a method, labelled where it begins.

In: scored runs. Out: a PNG file. Needs matplotlib, the `plot` extra; only its object interface is
used, so no display and no global state. Colours are Okabe and Ito's, which colour-blind people can
tell apart; controls are grey and dashed.
"""

from collections.abc import Sequence
from itertools import cycle
from math import inf
from pathlib import Path
from typing import Any

from lvlm_prune.eval.results import RunResult

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = "ovPX"  # lines of one colour differ in these
CONTROLS = {"random": "o", "grid": "s", "pool": "^", "downsample": "D"}
CONTROL_COLOR = "#777777"
LABEL_INCH = 0.16  # smallest distance of two labels


def check_plot_extra(what: str = "the accuracy plot") -> None:
    """Raise an ImportError that names the extra, before any work is done in vain.

    Args:
        what: what cannot be drawn without it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{what} needs matplotlib; install it with: pip install 'lvlm-prune[plot]'"
        ) from error


def plot_accuracy(results: Sequence[RunResult], title: str, path: Path) -> None:
    """Draw presence accuracy over visual tokens (logarithmic) with the unpruned level.

    Args:
        results: the unpruned run and the others.
        title: the picture's title.
        path: PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines: dict[str, list[RunResult]] = {}
    for result in results:
        if not result.unpruned:
            lines.setdefault(result.label, []).append(result)
    # High enough for all labels.
    figure = Figure(
        figsize=(8, max(5, 1.5 + LABEL_INCH * len(lines))), dpi=150, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ends: list[tuple[float, str, str]] = []
    looks = cycle((color, marker) for marker in MARKERS for color in COLORS)
    for label, runs in lines.items():
        runs = sorted(runs, key=lambda run: run.kept)
        control = label in CONTROLS
        color, marker = (CONTROL_COLOR, CONTROLS[label]) if control else next(looks)
        values = [100 * run.accuracy for run in runs]
        axes.plot(
            [run.kept for run in runs],
            values,
            color=color,
            marker=marker,
            markersize=4.5 if control or marker == "o" else 6.5,
            linestyle="--" if control else "-",
            linewidth=1.2 if control else 1.9,
        )
        ends.append((values[0], label, color))
    _level(axes, next(result for result in results if result.unpruned))
    _dress(axes, results, title)
    _label(axes, min((run.kept for run in results), default=1), ends)
    # Never leave half a picture behind.
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png")
    part.replace(path)


def _level(axes: Any, unpruned: RunResult) -> None:
    """The unpruned model as a line across, named beside the axes, where no other line is."""
    level = 100 * unpruned.accuracy
    axes.axhline(level, color="#222222", linewidth=1, zorder=1)
    axes.annotate(
        f"unpruned\n{unpruned.total} tokens\n{level:.1f} %",
        (1, level),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        ha="left",
        va="center",
        fontsize=9,
        color="#222222",
        annotation_clip=False,
    )


def _dress(axes: Any, results: Sequence[RunResult], title: str) -> None:
    """Scales, ticks and titles."""
    ticks = sorted({run.kept for run in results if not run.unpruned})
    total = results[0].total
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick}\n{tick / total:.0%}" for tick in ticks])
    axes.set_xticks([], minor=True)
    # Room on the left for the labels of the lines.
    axes.set_xlim(min(ticks) / 1.65, max(ticks) * 1.12)
    values = [100 * run.accuracy for run in results]
    axes.set_ylim(min(values) - 2.5, max(values) + 2.5)
    axes.set_xlabel("visual tokens per image (logarithmic)")
    axes.set_ylabel("presence accuracy in % (mean of three POPE splits)")
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _label(axes: Any, left: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write the labels left of where the lines begin, apart from each other."""
    low, high = axes.get_ylim()
    # Titles and ticks take about an inch.
    gap = LABEL_INCH * (high - low) / (axes.figure.get_figheight() - 1)
    places = spread([value for value, _, _ in ends], gap, high - gap / 2)
    for (value, label, color), place in zip(ends, places, strict=True):
        axes.annotate(
            label,
            (left, value),
            xytext=(left / 1.12, place),
            ha="right",
            va="center",
            fontsize=9,
            color=color,
            bbox={"facecolor": "white", "linewidth": 0, "pad": 0.5},
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.6,
                "shrinkA": 1,
                "relpos": (1, 0.5),
            },
        )


def spread(values: Sequence[float], gap: float, top: float = inf) -> list[float]:
    """Move values apart until neighbours are at least `gap` apart, around where they were.

    Args:
        values: wanted places, in any order.
        gap: smallest distance.
        top: highest place.

    Returns:
        The new places, in the order of `values`.
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    groups: list[list[int]] = []
    for i in order:
        groups.append([i])
        while len(groups) > 1 and _bottom(groups[-1], values, gap) < (
            _bottom(groups[-2], values, gap) + gap * len(groups[-2])
        ):
            last = groups.pop()
            groups[-1] += last
    places = [0.0] * len(values)
    for group in groups:
        for step, i in enumerate(group):
            places[i] = _bottom(group, values, gap) + gap * step
    for i in reversed(order):
        places[i] = min(places[i], top)
        top = places[i] - gap
    return places


def _bottom(group: Sequence[int], values: Sequence[float], gap: float) -> float:
    """Lowest place of a group that is centred on the mean of its values."""
    return sum(values[i] for i in group) / len(group) - gap * (len(group) - 1) / 2
