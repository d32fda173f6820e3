"""What a run scores against what it costs: all runs, named, with the Pareto front.

In: points with a cost (visual tokens, or measured time) and a score. Out: a matplotlib figure. Runs
of one method are one line with a colour and a marker of its own and its name beside it; controls
are grey. The front goes through the runs that no other run beats in both: no lower cost with at
least that score, no better score at that cost. Labels never lie on each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import log
from typing import Any

from lvlm_prune.eval.plot import CONTROLS, spread
from lvlm_prune.eval.report_drawing import dress, new_figure
from lvlm_prune.eval.report_style import CONTROL, INK, LINE, PAPER, SERIES, SOFT

MARKERS = "ovPXsD^<>"
PLOT_INCH = 5.4  # width of the part with the points
ROW_INCH = 0.17  # of one label
LETTER = 8.5
LONGEST = 46  # letters of a label
# Where a note may stand, in points from its own.
AROUND = ((0, 9), (0, -9), (11, 0), (-11, 0), (10, 8), (10, -8), (-10, 8), (-10, -8))
LEFT, RIGHT, TOP, BOTTOM = 0.75, 0.2, 0.45, 0.62  # margins in inches


@dataclass(frozen=True)
class Point:
    """A run.

    Args:
        series: name of its line.
        note: what tells it from others of its line, such as its tokens.
        x: cost.
        y: score.
        low: lower end of the score's interval, or None.
        high: upper end.
        control: whether it is drawn as a control.
        baseline: whether it is the unpruned model.
    """

    series: str
    note: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    control: bool = False
    baseline: bool = False


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
) -> Any:
    """Draw scores over costs.

    Args:
        points: the runs.
        title: of the picture.
        labels: of the two axes.
        lower_is_better: whether a lower score is better.
        logarithmic: whether the costs are.
        notes: write each point's note beside it, where there is room.
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
    figure = new_figure(width, height)
    box = (LEFT / width, BOTTOM / height, 1 - (LEFT + RIGHT) / width)
    axes = figure.add_axes((*box, 1 - (TOP + BOTTOM) / height))
    edge = _scales(axes, points, room, logarithmic)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    dress(axes, title, "y")
    looks = _looks(lines)
    _level(axes, points, edge)
    for name, members in lines.items():
        _line(axes, sorted(members, key=lambda p: p.x), looks[name], faint=notes)
    _front(axes, points, lower_is_better)
    _names(axes, named, looks, edge)
    _notes(axes, points, alone, points if notes else [])
    return figure


def _scales(axes: Any, points: Sequence[Point], room: float, logarithmic: bool) -> float:
    """Room for the names left of the points; returns where the names end."""
    costs = sorted({point.x for point in points})
    ends = [e for p in points for e in (p.y, p.low, p.high) if e is not None]
    pad = 0.06 * (max(ends) - min(ends)) or 0.05 * abs(max(ends)) or 0.05
    axes.set_ylim(min(ends) - pad, max(ends) + pad)
    first, last = (log(costs[0]), log(costs[-1])) if logarithmic else (costs[0], costs[-1])
    span = (last - first) or (0.5 if logarithmic else 0.5 * abs(last) or 1.0)
    low, high = first - span * (room / PLOT_INCH), last + 0.05 * span
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


def _names(
    axes: Any,
    lines: Mapping[str, Sequence[Point]],
    looks: Mapping[str, tuple[str, str]],
    edge: float,
) -> None:
    """The names of the lines, left of where they begin and apart from each other."""
    if not lines:
        return
    low, high = axes.get_ylim()
    inches = axes.figure.get_figheight() - TOP - BOTTOM
    gap = ROW_INCH * (high - low) / inches
    starts = [min(members, key=lambda p: p.x) for members in lines.values()]
    places = spread([start.y for start in starts], gap, high - gap / 2)
    rise = max(0.0, low + gap / 2 - min(places))
    for (name, start), place in zip(zip(lines, starts, strict=True), places, strict=True):
        color, marker = looks[name]
        height = place + rise
        axes.plot([edge, start.x], [height, start.y], color=color, linewidth=0.6, alpha=0.5)
        axes.plot([edge], [height], color=color, marker=marker, markersize=5)
        axes.annotate(
            name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…",
            (edge, height),
            xytext=(-6, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=LETTER,
            color=INK,
        )


def _notes(
    axes: Any, points: Sequence[Point], alone: Sequence[Point], noted: Sequence[Point]
) -> None:
    """Words beside points, each where it covers nothing; a note without such a place is left out.

    Args:
        axes: matplotlib axes.
        points: all points, which no word may cover.
        alone: points whose name is written.
        noted: points whose note is written.
    """
    radius = 0.05 * axes.figure.dpi
    taken: list[Sequence[float]] = []
    for point in points:
        x, y = axes.transData.transform((point.x, point.y))
        taken.append((x - radius, y - radius, x + radius, y + radius))
    for point in alone:
        _beside(axes, point, point.series, ((-12, 8), (-12, -9), (0, 15), (0, -15)), taken, "right")
    for point in noted:
        _beside(axes, point, point.note, AROUND, taken, "center")


def _beside(
    axes: Any,
    point: Point,
    words: str,
    shifts: Sequence[tuple[float, float]],
    taken: list[Sequence[float]],
    align: str,
) -> None:
    """Write words at the first shift (in points) where they cover nothing, and note their box."""
    frame = axes.get_window_extent().extents
    for shift in shifts:
        text = axes.annotate(
            words,
            (point.x, point.y),
            xytext=shift,
            textcoords="offset points",
            ha=align,
            va="center",
            fontsize=LETTER if align == "right" else 7,
            color=INK if align == "right" else SOFT,
            zorder=5,
        )
        box = text.get_window_extent().extents
        if _inside(box, frame) and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            return
        text.remove()


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes share a point."""
    apart = one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]
    return not apart


def _inside(one: Sequence[float], frame: Sequence[float]) -> bool:
    """Whether a box lies in another."""
    return one[0] >= frame[0] and one[1] >= frame[1] and one[2] <= frame[2] and one[3] <= frame[3]
