"""The words inside a plot of scores over costs: names of lines and notes of points.

In: matplotlib axes that have their limits, and points. Out: words in the drawing, of which none
lies on another or on a point. A name always finds a place; a note without one is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lvlm_prune.eval.plot import spread
from lvlm_prune.eval.report_style import INK, SOFT

ROW_INCH = 0.17  # of one name
LETTER = 8.5
LONGEST = 46  # letters of a name
KEY_INCH = 0.85  # between the points and the names below them, for the axis
# Where a note may stand, in points from its own.
AROUND = ((0, 9), (0, -9), (11, 0), (-11, 0), (10, 8), (10, -8), (-10, 8), (-10, -8))


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


def write_names(
    axes: Any,
    lines: Mapping[str, Sequence[Point]],
    looks: Mapping[str, tuple[str, str]],
    edge: float,
) -> None:
    """The names of the lines, left of where they begin and apart from each other."""
    if not lines:
        return
    low, high = axes.get_ylim()
    inches = axes.get_window_extent().height / axes.figure.dpi
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


def write_key(
    axes: Any, lines: Mapping[str, Sequence[Point]], looks: Mapping[str, tuple[str, str]]
) -> None:
    """The names of the lines below the axis, each in a row of its own, highest score first."""
    best = sorted(lines, key=lambda name: -max(point.y for point in lines[name]))
    inches = axes.get_window_extent().height / axes.figure.dpi
    for row, name in enumerate(best):
        color, marker = looks[name]
        height = -(KEY_INCH - 0.5 * ROW_INCH + ROW_INCH * (row - 0.2)) / inches
        common = {"transform": axes.transAxes, "clip_on": False}
        axes.plot([-0.05], [height], color=color, marker=marker, markersize=5, **common)
        shown = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
        place = {"ha": "left", "va": "center", "fontsize": LETTER, "color": INK}
        axes.text(0.0, height, shown, transform=axes.transAxes, **place)


def write_notes(
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
