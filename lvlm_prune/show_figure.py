"""The picture of the `run` command: an image, what was kept of it, the scores, and what merged.

In: both answers and what was chosen of the whole image. Out: one PIL image of labelled panels. It
knows nothing about models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from lvlm_prune.config import PruneConfig
from lvlm_prune.eval.panels import MARGIN, Panel, panel_grid
from lvlm_prune.eval.prefill import StageTimes
from lvlm_prune.overlay import draw_kept_views, draw_score_views, draw_views
from lvlm_prune.overlay_groups import draw_group_views
from lvlm_prune.overlay_legend import DROPPED, KEPT, MERGED, NEWLINE, SCORES, SINK, Key, with_legend
from lvlm_prune.overlay_tiles import draw_tiles, newline_tokens
from lvlm_prune.report import MIB
from lvlm_prune.stage import Choice
from lvlm_prune.views import View

LETTERS = {2: 26, 3: 33}  # pixels by panels in a row; legible where the picture is shrunk


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
        kv_bytes: of the KV cache behind the prompt.
    """

    name: str
    text: str
    yes_no: tuple[float, float] | None
    tokens: int
    last: int
    times: StageTimes
    kv_bytes: int

    @property
    def cost(self) -> str:
        """Milliseconds and memory of the prompt, in words."""
        return f"prefill {self.times.prefill:.1f} ms, KV {self.kv_bytes / MIB:.2f} MiB"


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

    @property
    def candidates(self) -> int:
        """Tokens that show the image, which a method chooses from; the others are newlines."""
        return sum(len(rows) for rows, _ in self.tiles) or self.total


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


def figure(
    config: PruneConfig,
    title: str,
    rows: Sequence[Sequence[View]],
    shown: Sequence[Shown],
    choice: Drawn,
    left: Tensor | None,
) -> Image.Image | None:
    """The image, the tokens kept before and inside the LLM, their scores and groups, with a legend.

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
    told = f"answer: {pruned.text}\n{pruned.cost}"
    panels = [
        Panel(
            draw_views(rows),
            f"unpruned: {full.tokens} visual tokens",
            f"answer: {full.text}\n{full.cost}",
        )
    ]
    if config.prunes_before_llm or left is None:
        name = config.method if config.prunes_before_llm else pruned.name
        note = told if left is None else "these enter the LLM"
        panels.append(
            Panel(
                _kept(rows, choice.kept, choice), f"{name}: {pruned.tokens} of {full.tokens}", note
            )
        )
    if left is not None and config.layers is not None:
        label = f"{config.layers.label()}: {len(left)} of {full.tokens}"
        panels.append(Panel(_kept(rows, left, choice), label, told))
    if choice.scores is not None:
        scores = draw_score_views(rows, choice.scores, choice.kept)
        panels.append(Panel(scores, f"scores of {config.method}", "white outline: kept"))
    if choice.groups is not None:
        merged = draw_group_views(rows, choice.groups, choice.kept)
        panels.append(Panel(merged, "what was merged", "number: tokens in a group"))
    across = 2 if len(panels) in (2, 4) else 3
    lines = [panels[first : first + across] for first in range(0, len(panels), across)]
    size = LETTERS[across]
    return with_legend(panel_grid(lines, title, size), keys(rows, choice), size - 3, MARGIN)


def keys(rows: Sequence[Sequence[View]], choice: Drawn) -> list[Key]:
    """What the legend has to explain."""
    # What is merged is not lost; the panel of the groups says where it went.
    gone = DROPPED if choice.groups is None else Key(DROPPED.mark, "not kept: grey and dark")
    found = [KEPT, gone]
    if choice.sinks is not None:
        some = bool(choice.sinks.any())
        found.append(SINK if some else Key("sink", "ViT sink (none found)"))
    if choice.scores is not None:
        found.append(SCORES)
    if choice.groups is not None:
        found.append(MERGED)
    if any(tokens for row in newline_tokens(rows, choice.total) for tokens in row):
        found.append(NEWLINE)
    return found


def _kept(rows: Sequence[Sequence[View]], kept: Tensor, choice: Drawn) -> Image.Image:
    """Kept tokens in colour; several views are named."""
    several = sum(len(row) for row in rows) > 1
    draw = draw_tiles if several else draw_kept_views
    return draw(rows, kept, choice.sinks, choice.total)
