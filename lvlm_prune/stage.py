"""The stage between encoder and LLM: signals in, kept rows and their features out.

In: `Encoded` images of one call, a method with its options, and the config. Out: one `ImageRows`
for each image, with the scores and sinks that a report shows. Here live the rules that hold for
every method: the budget, the ViT sink policy, and that the last real token of a prompt stays.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.adapters import Encoded
from lvlm_prune.budget import tokens_to_keep
from lvlm_prune.config import PruneConfig
from lvlm_prune.errors import NoSinksError
from lvlm_prune.methods import Method, Selection
from lvlm_prune.select import other_rows, take_rows, top_rows
from lvlm_prune.signals import Signals
from lvlm_prune.sinks import vit_sinks
from lvlm_prune.splice import ImageRows


@dataclass(frozen=True)
class Choice:
    """What the stage decided about one image.

    Args:
        rows: the kept tokens and their features.
        scores: `[N]` float32, or None where the method ranks no tokens.
        sinks: `[N]` bool ViT sinks, or None where the config ignores them.
    """

    rows: ImageRows
    scores: Tensor | None
    sinks: Tensor | None


def choose(
    encoded: Encoded,
    method: Method,
    options: Mapping[str, Any],
    config: PruneConfig,
    project: Callable[[Tensor], Tensor],
    protected: set[int] | None = None,
) -> list[Choice]:
    """Choose the visual tokens of every image of a call.

    Args:
        encoded: the encoder's answer.
        method: the pruning method.
        options: its options, complete.
        config: budget, sink policy and seed.
        project: the model's projector, for merged rows.
        protected: images whose last token must stay, because their prompt ends with it.

    Returns:
        One choice for each image, in the order of the prompts.
    """
    if method.seeded:
        options = {**options, "seed": config.seed}
    chosen: dict[int, Choice] = {}
    for group in encoded.groups:
        signals = group.signals
        grid = signals.prompt_grid or signals.grid
        n = grid[0] * grid[1]
        keep = tokens_to_keep(config.keep, n)
        sinks = None
        if config.sinks != "ignore" and signals.hidden.shape[1] == n:
            sinks = vit_sinks(signals.norms, config.sink_threshold)
        if keep == n and config.sinks in ("ignore", "keep"):
            choices = _keep_all(signals, n)
        elif sinks is None:
            choices = _rows(method.select(signals, keep, **options), signals, project, n)
        else:
            choices = _around_sinks(signals, sinks, keep, method, options, config.sinks, project)
        for number, image in enumerate(group.images):
            rows, scores = choices[number]
            found = None if sinks is None else sinks[number]
            if protected is not None and image in protected:
                rows = _with_last(rows, signals.features[number], scores, found)
            chosen[image] = Choice(rows, scores, found)
    return [chosen[image] for image in range(encoded.count)]


def _keep_all(signals: Signals, n: int) -> list[tuple[ImageRows, Tensor | None]]:
    """Every row as the encoder gave it."""
    every = torch.arange(n, device=signals.features.device)
    return [(ImageRows(every, features, n), None) for features in signals.features]


def _rows(
    selection: Selection, signals: Signals, project: Callable[[Tensor], Tensor], n: int
) -> list[tuple[ImageRows, Tensor | None]]:
    """Turn a selection into one entry for each image, projecting merged rows."""
    features = selection.features
    if features is None:
        features = take_rows(signals.features, selection.kept)
    if selection.hidden is not None and selection.replaced is not None:
        features = features.clone()
        merged = project(selection.hidden[selection.replaced])
        features[selection.replaced] = merged.to(features.dtype)
    scores = selection.scores
    return [
        (ImageRows(kept, rows, n), None if scores is None else scores[number])
        for number, (kept, rows) in enumerate(zip(selection.kept, features, strict=True))
    ]


def _around_sinks(
    signals: Signals,
    sinks: Tensor,
    keep: int,
    method: Method,
    options: Mapping[str, Any],
    policy: str,
    project: Callable[[Tensor], Tensor],
) -> list[tuple[ImageRows, Tensor | None]]:
    """Apply a ViT sink policy; images have different numbers of sinks, so one at a time."""
    choices = []
    for number in range(sinks.shape[0]):
        one = signals.images([number])
        held = sinks[number].nonzero()[:, 0]
        if policy == "only" and not len(held):
            raise NoSinksError(
                f"sinks='only' but image {number} has no ViT sink token; lower sink_threshold or "
                "use another policy (ignore, keep, drop)"
            )
        choices.append(_around(one, held, keep, method, options, policy, project))
    return choices


def _around(
    signals: Signals,
    held: Tensor,
    keep: int,
    method: Method,
    options: Mapping[str, Any],
    policy: str,
    project: Callable[[Tensor], Tensor],
) -> tuple[ImageRows, Tensor | None]:
    """Choose the rows of one image whose sinks `held` are known."""
    n = signals.features.shape[1]
    free = other_rows(held.unsqueeze(0), n)[0]
    if policy == "drop":
        held = held[: max(0, keep - len(free))]
    elif len(held) > keep:
        held = held[top_rows(signals.norms[:, held], keep)[0]]
    wanted = 0 if policy == "only" else min(keep - len(held), len(free))
    kept, features, scores = held, signals.features[0, held], None
    if wanted:
        subset = signals.tokens(free)
        if wanted == len(free):
            (rows, ranked), *_ = _keep_all(subset, wanted)
        else:
            (rows, ranked), *_ = _rows(method.select(subset, wanted, **options), subset, project, n)
        kept = torch.cat([held, free[rows.kept]])
        features = torch.cat([features, rows.features])
        if ranked is not None:
            scores = torch.zeros(n, device=ranked.device).scatter(0, free, ranked)
    kept, order = kept.sort()
    return ImageRows(kept, features[order], n), scores


def _with_last(
    rows: ImageRows, features: Tensor, scores: Tensor | None, sinks: Tensor | None
) -> ImageRows:
    """Keep the last token in place of the kept one that is worth least, if it was dropped.

    That is the lowest score, sinks last of all; without scores the one nearest to the end.

    The query of the first generated token is the last real token of a prompt. Where that is a
    placeholder, dropping it would change the question and the next position.
    """
    last = rows.total - 1
    if int(rows.kept[-1]) == last:
        return rows
    worth = -rows.kept.float() if scores is None else scores[rows.kept].clone()
    if sinks is not None:
        worth[sinks[rows.kept]] = torch.inf
    stay = torch.arange(len(rows.kept), device=worth.device) != worth.argmin()
    kept = torch.cat([rows.kept[stay], rows.kept.new_tensor([last])])
    return ImageRows(kept, torch.cat([rows.features[stay], features[-1:]]), rows.total)
