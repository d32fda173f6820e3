"""Drop a batch's visual tokens before a decoder layer.

In: the batch right before the layer and each prompt's selection. Out: the columns that go on,
`[B, T']` places among the T of before (-1: padding), and hidden states with merged rows written in.
Rows of a batch may lose different numbers of tokens; text stays whatever is selected.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lvlm_prune.errors import BrokenSelectionError, NothingDroppedError
from lvlm_prune.layers.checks import LayerPlan
from lvlm_prune.layers.contract import LayerSelection, LayerSignals
from lvlm_prune.layers.prompts import BatchState
from lvlm_prune.layers.schedule import tokens_that_go_on


def selections(state: BatchState, plan: LayerPlan) -> list[LayerSelection | None]:
    """Ask the method about every prompt with images; None for prompts without."""
    found: list[LayerSelection | None] = []
    for prompt, totals in enumerate(state.totals):
        if not totals:
            found.append(None)
            continue
        signals = state.signals(prompt)
        if not len(signals.visual):  # an earlier stage dropped all
            found.append(None)
            continue
        keep = plan.stages[state.layer]
        counts = [] if keep is None else budgets(signals, state.staying(prompt), keep)
        with torch.no_grad():
            selection = plan.method.select(signals, counts, **plan.options)
        _check(selection, signals, counts, plan, prompt)
        found.append(selection)
    return found


def budgets(signals: LayerSignals, staying: Sequence[int], keep: int | float) -> list[int]:
    """Tokens of each image that a method chooses.

    Args:
        signals: the prompt.
        staying: tokens of each image that stay anyway, which are part of its budget.
        keep: of the schedule.
    """
    return [
        max(tokens_that_go_on(keep, total, len(left) + stays) - stays, 0)
        for left, total, stays in zip(signals.images, signals.totals, staying, strict=True)
    ]


def _check(
    selection: LayerSelection,
    signals: LayerSignals,
    counts: Sequence[int],
    plan: LayerPlan,
    prompt: int,
) -> None:
    """A method never silently keeps another number than it was told, or what is no visual token."""
    kept, about = selection.kept, f"visual tokens of prompt {prompt} at layer {signals.layer}"
    sound = bool((kept.diff() > 0).all()) and bool(torch.isin(kept, signals.visual).all())
    if not sound:
        raise BrokenSelectionError(
            f"layer method {plan.method.name!r} was to choose different {about}, ascending, and "
            f"chose columns {kept.tolist()}"
        )
    if plan.stages[signals.layer] is None or len(kept) == sum(counts):
        return
    raise NothingDroppedError(
        f"layer method {plan.method.name!r} kept {len(kept)} {about}, not the {sum(counts)} of its "
        "budget"
    )


def places_that_go_on(
    state: BatchState, selected: Sequence[LayerSelection | None], left: bool
) -> Tensor | None:
    """Where the columns that go on stand now.

    Args:
        state: the batch.
        selected: of each prompt, None to keep all its tokens.
        left: whether shorter rows are padded on the left.

    Returns:
        `[B, T']`, places in 0..T-1 and -1 for padding, or None if no prompt loses a token.
    """
    rows, lost = [], 0
    for prompt, selection in enumerate(selected):
        places = state.places(prompt)
        if selection is None:
            rows.append(places)
            continue
        image = state.image[prompt][state.own[prompt][places]]
        stays = image < 0
        stays[selection.kept] = True
        lost += int((~stays).sum())
        rows.append(places[stays])
    if not lost:
        return None
    side = "left" if left else "right"
    return pad_sequence(rows, batch_first=True, padding_value=-1, padding_side=side)


def with_merged_rows(state: BatchState, selected: Sequence[LayerSelection | None]) -> Tensor:
    """Hidden states `[B, T, D]` with the rows that methods have merged."""
    hidden = state.hidden
    for prompt, selection in enumerate(selected):
        if selection is None or selection.merged is None or selection.rows is None:
            continue
        columns = state.places(prompt)[selection.merged]
        hidden = hidden.clone()
        hidden[prompt, columns] = selection.rows.to(hidden)
    return hidden


def memories(selected: Sequence[LayerSelection | None], before: Sequence[Any]) -> list[Any]:
    """What each prompt's method wants to know at the next stage."""
    pairs = zip(selected, before, strict=True)
    return [old if one is None else one.memory for one, old in pairs]
