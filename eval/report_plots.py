"""What a run scores against what it costs: all runs, named, with the Pareto front.

In: points with a cost (visual tokens, or measured time) and a score. Out: a matplotlib figure. Runs
of one method are one line with a colour and a marker of its own and its name beside it; controls
are grey. The front goes through the runs that no other run beats in both: no lower cost with at
least that score, no better score at that cost. Labels never lie on each other.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from math import log
from textwrap import fill
from typing import Any

from lvlm_prune.eval.plot import CONTROLS
from lvlm_prune.eval.report_drawing import dress, new_figure
from lvlm_prune.eval.report_plot_words import (
    KEY_INCH,
    LONGEST,
    ROW_INCH,
    Point,
    write_key,
    write_names,
    write_notes,
)
from lvlm_prune.eval.report_style import CONTROL, INK, LINE, PAPER, SERIES, SOFT

MARKERS = "ovPXsD^<>"
PLOT_INCH = 5.4  # width of the part with the points
LEFT, RIGHT, TOP, BOTTOM = 0.75, 0.2, 0.45, 0.62  # margins in inches
# On a phone: width of the picture, height of the points, letters of a line.
NARROW_INCH, NARROW_PLOT, NARROW_LETTERS = 4.0, 3.0, 46


def pareto_front(points: Sequence[tuple[float, float]], lower_is_better: bool = False) -> list[int]:
    """The points that no other one beats, by cost.

    Args:
        points: cost (lower is better) and score.
        lower_is_better: of the score.
    """
    signs = [(x, y if lower_is_better else -y) for x, y in points]
    front = [
        i
        for i, (x, y) in enumerate(signs)
        if not any(a <= x and b <= y and (a, b) != (x, y) for a, b in signs)
    ]
    return sorted(front, key=lambda i: points[i])


def cost_figure(
    points: Sequence[Point],
    title: str,
    labels: tuple[str, str],
    lower_is_better: bool,
    logarithmic: bool,
    notes: bool,
    narrow: bool = False,
) -> Any:
    """Draw scores over costs.

    Args:
        points: the runs.
        title: of the picture.
        labels: of the two axes.
        lower_is_better: whether a lower score is better.
        logarithmic: whether the costs are.
        notes: write each point's note beside it, where there is room.
        narrow: for a phone: the names below the points instead of beside them, no title.
    """
    lines: dict[str, list[Point]] = {}
    for point in points:
        lines.setdefault(point.series, []).append(point)
    # A single baseline has its name beside it, where its level is drawn.
    alone = [point for point in points if point.baseline]
    alone = alone if len(alone) == 1 else []
    named = {name: runs for name, runs in lines.items() if runs[0] not in alone}
    room = 0.5 + 0.07 * min(LONGEST, max(map(len, named), default=0))
    height = max(4.6, TOP + BOTTOM + 0.3 + ROW_INCH * len(lines))
    width = LEFT + room + PLOT_INCH + RIGHT
    below, top, plot = BOTTOM, TOP, PLOT_INCH
    if narrow:
        width, room, top = NARROW_INCH, 0.1, 0.15
        below = KEY_INCH + ROW_INCH * len(named)
        height, plot = NARROW_PLOT + below + top, width - LEFT - room - RIGHT
    figure = new_figure(width, height)
    box = (LEFT / width, below / height, 1 - (LEFT + RIGHT) / width)
    axes = figure.add_axes((*box, 1 - (top + below) / height))
    edge = _scales(axes, points, room / plot, logarithmic)
    axes.set_xlabel(fill(labels[0], NARROW_LETTERS) if narrow else labels[0])
    axes.set_ylabel(labels[1])
    dress(axes, "" if narrow else title, "y")
    looks = _looks(lines)
    _level(axes, points, edge)
    for name, members in lines.items():
        _line(axes, sorted(members, key=lambda p: p.x), looks[name], faint=notes)
    _front(axes, points, lower_is_better)
    if narrow:
        write_key(axes, named, looks)
    else:
        write_names(axes, named, looks, edge)
    write_notes(axes, points, alone, points if notes else [])
    return figure


def _scales(axes: Any, points: Sequence[Point], share: float, logarithmic: bool) -> float:
    """Room for the names, a share of the points' own, left of them; returns where it ends."""
    costs = sorted({point.x for point in points})
    ends = [e for p in points for e in (p.y, p.low, p.high) if e is not None]
    pad = 0.06 * (max(ends) - min(ends)) or 0.05 * abs(max(ends)) or 0.05
    axes.set_ylim(min(ends) - pad, max(ends) + pad)
    first, last = (log(costs[0]), log(costs[-1])) if logarithmic else (costs[0], costs[-1])
    span = (last - first) or (0.5 if logarithmic else 0.5 * abs(last) or 1.0)
    low, high = first - span * max(share, 0.05), last + 0.05 * span
    edge = first - 0.06 * span
    if logarithmic:
        from math import exp

        axes.set_xscale("log")
        axes.set_xlim(exp(low), exp(high))
        ticks = _apart(costs, span)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        return exp(edge)
    axes.set_xlim(low, high)
    ticks = [tick for tick in axes.get_xticks() if first - 0.03 * span <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    return edge


def _apart(costs: Sequence[float], span: float) -> list[float]:
    """Costs whose tick labels do not touch."""
    ticks: list[float] = []
    for cost in reversed(costs):
        if not ticks or log(ticks[-1]) - log(cost) > 0.07 * span:
            ticks.append(round(cost, 1))
    return ticks


def _looks(lines: Mapping[str, Sequence[Point]]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each line."""
    free = cycle((color, marker) for marker in MARKERS for color in SERIES)
    looks = {}
    for name, members in lines.items():
        if members[0].baseline:
            looks[name] = INK, "*"
        elif members[0].control:
            looks[name] = CONTROL, CONTROLS.get(name.rpartition(": ")[2], "o")
        else:
            looks[name] = next(free)
    return looks


def _level(axes: Any, points: Sequence[Point], edge: float) -> None:
    """The unpruned model as a line across, with its interval; not through the names."""
    ends = [edge, axes.get_xlim()[1]]
    for base in (point for point in points if point.baseline):
        axes.plot(ends, [base.y] * 2, color=SOFT, linewidth=0.9, zorder=1)
        if base.low is not None and base.high is not None:
            axes.fill_between(ends, base.low, base.high, color=LINE, alpha=0.45, linewidth=0)


def _line(axes: Any, members: Sequence[Point], look: tuple[str, str], faint: bool) -> None:
    """The runs of one method; a faint line leaves room for notes."""
    color, marker = look
    control = color == CONTROL
    for point in members:
        if point.low is not None and point.high is not None and not point.baseline:
            axes.plot(
                [point.x] * 2, [point.low, point.high], color=color, linewidth=0.9, alpha=0.45
            )
    xs, ys = [point.x for point in members], [point.y for point in members]
    dashes, width, alpha = "--" if control else "-", 0.8 if faint else 1.1, 0.45 if faint else 1.0
    axes.plot(xs, ys, color=color, linestyle=dashes, linewidth=width, alpha=alpha, zorder=3)
    size = 10 if marker == "*" else 5.5
    edge = {"markeredgecolor": PAPER, "markeredgewidth": 0.5}
    axes.plot(xs, ys, marker, color=color, markersize=size, zorder=3.5, **edge)


def _front(axes: Any, points: Sequence[Point], lower_is_better: bool) -> None:
    """A step through the runs that no other one beats, each with a ring."""
    found = pareto_front([(point.x, point.y) for point in points], lower_is_better)
    xs, ys = [points[i].x for i in found], [points[i].y for i in found]
    dots = (0, (1, 1.6))
    axes.plot(xs, ys, drawstyle="steps-post", color=INK, linewidth=1.3, linestyle=dots, zorder=2)
    axes.plot(xs, ys, "o", markersize=11, markerfacecolor="none", markeredgecolor=INK, zorder=4)
