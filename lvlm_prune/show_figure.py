"""The picture of the `run` command: an image, what was kept of it, and the scores.

In: both answers and what was chosen of the whole image. Out: one PIL image of labelled panels. It
knows nothing about models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from lvlm_prune.config import PruneConfig
from lvlm_prune.eval.panels import Panel, panel_grid
from lvlm_prune.eval.prefill import StageTimes
from lvlm_prune.overlay import draw_kept_views, draw_score_views, draw_views
from lvlm_prune.stage import Choice
from lvlm_prune.views import View


@dataclass(frozen=True)
class Shown:
    """One of the two answers.

    Args:
        name: `unpruned`, or what was done.
        text: the answer.
        yes_no: probability that the first token says yes, and no, after a contrast if there is
            one; None where the words are not single tokens.
        tokens: visual tokens that entered the LLM.
        last: those that reached its last layer.
        times: medians in ms.
    """

    name: str
    text: str
    yes_no: tuple[float, float] | None
    tokens: int
    last: int
    times: StageTimes


@dataclass(frozen=True)
class Drawn:
    """What was chosen of the whole image.

    Args:
        tiles: placeholders and grid of each tile.
        kept: kept placeholders, `[K]`.
        scores: `[N]`, or None where the method ranks no tokens.
        sinks: `[N]` bool, or None where the config ignores them.
        total: N.
        groups: `[N]` int64, the kept placeholder that each one was merged into, -1 where it was
            dropped; None where nothing says.
    """

    tiles: list[tuple[Tensor, tuple[int, int]]]
    kept: Tensor
    scores: Tensor | None
    sinks: Tensor | None
    total: int
    groups: Tensor | None = None


def whole(choices: Sequence[Choice]) -> Drawn:
    """One choice from those for an image, which some models encode as several."""
    totals = [choice.rows.total for choice in choices]
    starts = [sum(totals[:number]) for number in range(len(totals))]
    tiles = [
        (rows.cpu() + start, grid)
        for start, choice in zip(starts, choices, strict=True)
        for rows, grid in choice.tiles
    ]
    kept = [c.rows.kept.cpu() + start for start, c in zip(starts, choices, strict=True)]
    scores = [choice.scores.cpu() for choice in choices if choice.scores is not None]
    sinks = [choice.sinks.cpu() for choice in choices if choice.sinks is not None]
    groups = [
        choice.groups.cpu().where(choice.groups.cpu() < 0, choice.groups.cpu() + start)
        for start, choice in zip(starts, choices, strict=True)
        if choice.groups is not None
    ]
    every = len(choices)
    return Drawn(
        tiles,
        torch.cat(kept),
        torch.cat(scores) if len(scores) == every else None,
        torch.cat(sinks) if len(sinks) == every else None,
        sum(totals),
        torch.cat(groups) if len(groups) == every else None,
    )


def sinks_note(sinks: Tensor | None) -> str:
    """What a picture says of ViT sinks, `[N]` bool, where they were looked for."""
    if sinks is None:
        return ""
    return "; crosses: ViT sinks" if bool(sinks.any()) else "; no ViT sinks found"


def figure(
    config: PruneConfig,
    title: str,
    rows: Sequence[Sequence[View]],
    shown: Sequence[Shown],
    choice: Drawn,
    left: Tensor | None,
) -> Image.Image | None:
    """The image, the tokens kept before and inside the LLM, and their scores, if there are any.

    Args:
        config: what was done.
        title: above the panels.
        rows: the image as the model saw it.
        shown: both answers.
        choice: what was chosen before the LLM.
        left: placeholders that reach the last layer, or None without stages inside the LLM.

    Returns:
        The picture, or None where the tokens form no grid that could be drawn.
    """
    if not rows:
        return None
    full, pruned = shown
    answered = f"answer: {pruned.text}"
    panels = [
        Panel(draw_views(rows), f"{full.tokens} visual tokens (unpruned)", f"answer: {full.text}")
    ]
    if config.prunes_before_llm or left is None:
        kept = draw_kept_views(rows, choice.kept, choice.sinks, choice.total)
        by = f"kept by {config.method}" if config.prunes_before_llm else f"with {pruned.name}"
        note = answered if left is None else "these enter the LLM"
        panels.append(Panel(kept, f"{pruned.tokens} {by}", note + sinks_note(choice.sinks)))
    if left is not None and config.layers is not None:
        kept = draw_kept_views(rows, left, choice.sinks, choice.total)
        panels.append(Panel(kept, f"{len(left)} left by {config.layers.label()}", answered))
    if choice.scores is not None:
        panels.append(
            Panel(
                draw_score_views(rows, choice.scores, choice.kept),
                f"scores of {config.method}",
                "yellow: high, kept tokens outlined",
            )
        )
    return panel_grid([panels], title)
