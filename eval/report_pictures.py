"""The pictures of a section: score against tokens, score against time, flips.

In: a section. Out: PNG files in the report's folder, and parts that show them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lvlm_prune.eval.report_document import Part, Picture
from lvlm_prune.eval.report_drawing import save_png, svg_text
from lvlm_prune.eval.report_flips import flips_figure
from lvlm_prune.eval.report_numbers import listed, tokens
from lvlm_prune.eval.report_plot_words import Point
from lvlm_prune.eval.report_plots import cost_figure, pareto_front
from lvlm_prune.eval.report_sections import Entry, Section, labelled


def section_pictures(section: Section, folder: Path) -> list[Part]:
    """Draw what the section has numbers for.

    Args:
        section: the runs on one scoring rule.
        folder: where the PNG files go.
    """
    parts: list[Part] = []
    scored = [entry for entry in section.entries if entry.headline is not None]
    if len(scored) > 1:
        parts.append(_tokens(section, scored, folder))
    timed = [entry for entry in scored if entry.ms is not None]
    if len(timed) > 1:
        parts.append(_times(section, timed, folder))
    flipped = [entry for entry in section.entries if entry.answers]
    if flipped:
        parts.append(_flips(section, flipped, folder))
    return parts


def _tokens(section: Section, entries: list[Entry], folder: Path) -> Picture:
    """Score against visual tokens."""
    points = [_point(entry, entry.spent) for entry in entries]
    enter = "visual tokens of an image that enter the LLM"
    axis = "visual tokens, average over layers" if section.staged else enter
    figures = _both(
        cost_figure,
        points,
        f"{section.name}: {section.metric} against visual tokens",
        (f"{axis} (logarithmic)", _axis(section)),
        section.lower_is_better,
        True,
        False,
    )
    against = _tokens_named(section)
    caption = f"{_axis(section)} against {against}, official parser. {_front(section, points)}"
    return _drawn(figures, folder, f"{section.stem}-tokens", caption)


def _times(section: Section, entries: list[Entry], folder: Path) -> Picture:
    """Score against measured time."""
    points = [_point(entry, entry.ms or 0.0) for entry in entries]
    figures = _both(
        cost_figure,
        points,
        f"{section.name}: {section.metric} against the time to the first token",
        ("measured ms to the first token: encoder, selection, splice, prefill", _axis(section)),
        section.lower_is_better,
        False,
        True,
    )
    caption = (
        f"{_axis(section)} against the measured time to the first token; small numbers are "
        f"{_tokens_named(section)}. {_front(section, points)}"
    )
    return _drawn(figures, folder, f"{section.stem}-time", caption)


def _flips(section: Section, entries: list[Entry], folder: Path) -> Picture:
    """Flips of every run."""
    rows = [
        (labelled(entry), entry.answers["yes_to_no"], entry.answers["no_to_yes"])
        for entry in entries
        if entry.answers
    ]
    figures = _both(flips_figure, rows, f"{section.name}: answers that flipped from the baseline")
    caption = (
        f"{section.name}: lines whose answer flipped, from yes to no on the left and from no to "
        "yes on the right."
    )
    return _drawn(figures, folder, f"{section.stem}-flips", caption)


def _point(entry: Entry, cost: float) -> Point:
    """A run at its cost."""
    number = entry.headline
    if number is None:
        raise ValueError(f"{entry.run} has no number to draw")
    return Point(
        series=entry.label,
        note=tokens(entry.spent),
        x=cost,
        y=number.value,
        low=number.low,
        high=number.high,
        control=entry.control,
        baseline=entry.baseline,
    )


def _tokens_named(section: Section) -> str:
    """What is counted: inside the LLM a run may have other tokens at each layer."""
    return "visual tokens (average over layers)" if section.staged else "visual tokens"


def _axis(section: Section) -> str:
    """What is drawn upwards."""
    better = "lower" if section.lower_is_better else "higher"
    return f"{section.metric} ({better} is better)"


def _front(section: Section, points: list[Point]) -> str:
    """The runs on the front, by name."""
    found = pareto_front([(point.x, point.y) for point in points], section.lower_is_better)
    names = [
        points[i].series if points[i].baseline else f"{points[i].series} at {points[i].note}"
        for i in found
    ]
    return f"On the Pareto front: {listed(names)}."


def _both(draw: Callable[..., Any], *values: Any) -> tuple[Any, Any]:
    """A figure for wide pages and paper, and one for a phone."""
    return draw(*values), draw(*values, narrow=True)


def _drawn(figures: tuple[Any, Any], folder: Path, name: str, caption: str) -> Picture:
    """Write the PNG, and keep the drawings."""
    file, (wide, narrow) = f"{name}.png", figures
    save_png(wide, folder / file)
    drawings = svg_text(wide, name, caption), svg_text(narrow, f"{name}-narrow", caption)
    return Picture(file, caption, *drawings)
