"""Which way answers flipped: bars to the left for yes→no, to the right for no→yes.

In: names of runs with two counts each. Out: a matplotlib figure. The two ways differ in colour,
in side and in hatching, so that it is legible in grey too.
"""

from collections.abc import Sequence
from typing import Any

from lvlm_prune.eval.report_drawing import dress, new_figure
from lvlm_prune.eval.report_style import INK, PAPER, SERIES, SOFT

BAR_INCH = 0.24
FEW_TICKS = 5
TO_NO, TO_YES = SERIES[0], SERIES[5]
LONGEST, NARROWEST = 52, 26  # letters of a name


def flips_figure(rows: Sequence[tuple[str, int, int]], title: str, narrow: bool = False) -> Any:
    """Draw flips.

    Args:
        rows: name, lines from yes to no, lines from no to yes; from top to bottom.
        title: of the picture.
        narrow: for a phone: shorter bars and names, no title.
    """
    longest = NARROWEST if narrow else LONGEST
    room = 0.3 + 0.07 * min(longest, max(len(name) for name, _, _ in rows))
    width, height = room + 6.0, 1.15 + BAR_INCH * len(rows)
    width = max(4.0, room + 2.2) if narrow else width
    figure = new_figure(width, height)
    box = (room / width, 0.6 / height, 1 - (room + 0.2) / width)
    axes = figure.add_axes((*box, 1 - 1.05 / height))
    places = range(len(rows))
    left, right = [row[1] for row in rows], [row[2] for row in rows]
    common: dict[str, Any] = {"height": 0.68, "edgecolor": PAPER, "linewidth": 0.6}
    axes.barh(places, [-count for count in left], color=TO_NO, **common)
    axes.barh(places, right, color=TO_YES, hatch="////", **common)
    # Room for the numbers at the ends of the bars.
    most = (1.4 if narrow else 1.16) * max(1, *left, *right)
    axes.set_xlim(-most, most)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(list(places), [_short(name, longest) for name, _, _ in rows])
    ticks = [tick for tick in axes.get_xticks() if abs(tick) <= most and tick == int(tick)]
    # Every second one, always with the zero, where a phone has no room for all.
    step = 2 if narrow and len(ticks) > FEW_TICKS else 1
    ticks = [tick for i, tick in enumerate(ticks) if (i - ticks.index(0)) % step == 0]
    axes.set_xticks(ticks, [f"{abs(int(tick)):,}" for tick in ticks])
    axes.set_xlabel("← yes to no  ·  lines  ·  no to yes →")
    dress(axes, "" if narrow else title, "x")
    axes.tick_params(axis="y", length=0, colors=INK)
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=SOFT, linewidth=0.9)
    for place, (_, to_no, to_yes) in enumerate(rows):
        for count, side in ((to_no, -1), (to_yes, 1)):
            axes.annotate(
                f"{count:,}",
                (side * count, place),
                xytext=(4 * side, 0),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                va="center",
                fontsize=8,
                color=INK,
            )
    return figure


def _short(name: str, longest: int) -> str:
    """A name that fits: its middle is left out, as budgets stand at the end."""
    if len(name) <= longest:
        return name
    return f"{name[: longest // 2]}…{name[-(longest - longest // 2 - 1) :]}"
