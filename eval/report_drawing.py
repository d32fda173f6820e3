"""A matplotlib figure as a drawing that follows the page's colours, and as a PNG.

In: a figure that uses the colours of `report_style`. Out: SVG whose colours are the page's
variables, so that it is legible in light and dark, and a PNG on white for Markdown. Letters stay
letters, which can be found and read aloud. Only matplotlib's object interface is used.
"""

import re
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

from lvlm_prune.eval.report_style import INK, LINE, PAPER, SOFT, VARIABLES

DPI = 150


def new_figure(width: float, height: float) -> Any:
    """An empty figure in inches, drawn by Agg, which can measure text without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Any, title: str, grid: str) -> None:
    """Quiet axes: no box, light grid lines.

    Args:
        axes: matplotlib axes.
        title: what is drawn.
        grid: axis with grid lines, `x` or `y`.
    """
    axes.set_title(title, fontsize=10.5, loc="left", color=INK, pad=9)
    axes.set_facecolor(PAPER)
    axes.grid(axis=grid, color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT, labelsize=8.5)
    axes.xaxis.label.set(color=INK, fontsize=9)
    axes.yaxis.label.set(color=INK, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(SOFT)


def svg_text(figure: Any, name: str, label: str) -> str:
    """The figure as SVG for the inside of a page.

    Args:
        figure: matplotlib figure.
        name: a word that no other drawing of the page has.
        label: what is read aloud in its place.
    """
    import matplotlib

    file = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Names of one page must differ between its drawings.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", text)
    for color, variable in VARIABLES.items():
        text = re.sub(color, f"var({variable})", text, flags=re.IGNORECASE)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(label, quote=True)}" ', 1)


def save_png(figure: Any, path: Path) -> None:
    """Write the figure as PNG in one step."""
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png")
    part.replace(path)
