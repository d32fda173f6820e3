"""The stage between encoder and LLM: signals in, kept rows and their features out.

In: `Encoded` images of one call, a method with its options, and the config. Out: one `Choice` for
each image: the kept placeholders with their features, and the scores and sinks that a report shows.
Here live the rules that hold for every method: the budget of an image or a tile, the ViT sink
policy, sinks to the front, and that the last real token of a prompt stays.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.adapters import Encoded, ImageGroup, Part
from lvlm_prune.around_sinks import Rows, check_some_sinks, moved_groups, rows_around_sinks
from lvlm_prune.budget import split_budget, tokens_to_keep
from lvlm_prune.config import PruneConfig
from lvlm_prune.errors import BrokenSelectionError, NonFiniteFeaturesError
from lvlm_prune.methods import Method, Selection
from lvlm_prune.select import take_rows
from lvlm_prune.signals import Signals
from lvlm_prune.sinks import vit_sinks
from lvlm_prune.splice import ImageRows

Project = Callable[[Tensor], Tensor]
Select = Callable[[Signals, int], list[Rows]]


@dataclass(frozen=True)
class Choice:
    """What the stage decided about one image.

    Args:
        rows: the kept tokens and their features.
        scores: `[N]` float32, or None where the method ranks no tokens.
        sinks: `[N]` bool ViT sinks, or None where the config ignores them.
        tiles: what the image's tokens look like: placeholders `[n]` and grid of each tile, or of
            the base tile and the picture that the other tiles were joined to.
        groups: `[N]` int64, the kept token that each token was merged into (itself where it stays),
            -1 where it was dropped; None where nothing says.
    """

    rows: ImageRows
    scores: Tensor | None
    sinks: Tensor | None
    tiles: tuple[tuple[Tensor, tuple[int, int]], ...]
    groups: Tensor | None = None


def choose(
    encoded: Encoded,
    method: Method,
    options: Mapping[str, Any],
    config: PruneConfig,
    project: Project,
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

    def select(signals: Signals, keep: int) -> list[Rows]:
        selection = method.select(signals, keep, **options)
        _check_selection(method, selection, signals, keep)
        return _rows(selection, signals, project)

    chosen: dict[int, Choice] = {}
    for group in encoded.groups:
        sinks = _sinks(group, config)
        for number, rows in enumerate(_group_rows(group, method, config, select, sinks)):
            image = group.images[number]
            found = None if sinks is None else sinks[number]
            at_end = protected is not None and image in protected
            chosen[image] = _choice(group, number, rows, found, config, at_end)
    return [chosen[image] for image in range(encoded.count)]


def _check_selection(method: Method, selection: Selection, signals: Signals, keep: int) -> None:
    """Hold a method to its promise: K rows an image, ascending."""
    kept = selection.kept
    images, rows = signals.features.shape[:2]
    small = signals.prompt_grid is not None
    if not method.drops or kept.shape[1] == rows != keep:
        return  # a method that drops nothing has an error of its own, where the budget is known
    if kept.shape != (images, rows if small else keep) or bool((kept.diff(dim=1) <= 0).any()):
        raise BrokenSelectionError(
            f"method {method.name!r} was to keep {keep} different tokens of each of {images} "
            f"image(s), ascending, and chose {kept.tolist()}"
        )


def _sinks(group: ImageGroup, config: PruneConfig) -> Tensor | None:
    """ViT sinks among the candidates, `[I, n]`, where the config asks for them."""
    signals = group.signals
    if (config.sinks == "ignore" and config.order == "raster") or signals.prompt_grid is not None:
        return None
    return vit_sinks(signals.norms, config.sink_threshold)


def _group_rows(
    group: ImageGroup, method: Method, config: PruneConfig, select: Select, sinks: Tensor | None
) -> list[Rows | None]:
    """Kept candidates of each image of a group, or None where everything stays."""
    signals, n = group.signals, group.candidates
    budgets = part_budgets(group, method, config)
    passive = config.sinks in ("ignore", "keep", "query")
    # A number of tokens is meant exactly: newline tokens are beyond it.
    everything = isinstance(config.keep, float) or group.total == n
    if sum(keep for _, keep in budgets) == n and passive and everything:
        return [None] * len(group.images)
    _check_finite(group)
    if config.sinks == "query":
        signals = asked_by_sinks(signals)
    if config.sinks == "only" and sinks is not None:
        check_some_sinks(group.images, sinks)
    found: list[list[Rows]] = [[] for _ in group.images]
    for part, keep in budgets:
        own = signals if part is None else _part_signals(signals, part)
        index = None if part is None else part.rows
        marked = None
        if sinks is not None and config.sinks in ("keep", "drop", "only"):
            marked = sinks if index is None else sinks[:, index]
        if marked is not None:
            rows = rows_around_sinks(own, marked, keep, config.sinks, select)
        elif keep == own.features.shape[1] and own.prompt_grid is None:
            rows = [Rows.every(features) for features in own.features]
        else:
            rows = select(own, keep) if keep else [Rows.none(own.features[0]) for _ in found]
        for image, one in enumerate(rows):
            found[image].append(one if index is None else one.among(index, n))
    return [Rows.together(parts) for parts in found]


def _check_finite(group: ImageGroup) -> None:
    """Refuse images that cannot be ranked.

    Raises:
        NonFiniteFeaturesError: NaN or infinity among the features or encoder rows of an image.
    """
    features = group.signals.features.detach()
    sound = features.isfinite().all(dim=-1).all(dim=-1) & group.signals.norms.isfinite().all(dim=-1)
    for image, good in zip(group.images, sound.tolist(), strict=True):
        if not good:
            raise NonFiniteFeaturesError(
                f"the encoder's features of image {image} hold NaN or infinity, so its tokens "
                "cannot be ranked; check its pixels, or run the encoder in bfloat16 or float32"
            )


def part_budgets(
    group: ImageGroup, method: Method, config: PruneConfig
) -> list[tuple[Part | None, int]]:
    """What is chosen together, and how many tokens of it.

    Returns:
        Parts with their budgets; a part of None is the whole image.
    """
    if config.per == "tile":
        tiles = group.tiles or group.parts
        if len(tiles) > 1:
            # A tile that lost its padding may have fewer tokens than the budget.
            return [(tile, _capped(config.keep, len(tile.rows))) for tile in tiles]
    keep = tokens_to_keep(config.keep, group.candidates)
    if not method.layout or len(group.parts) == 1:
        return [(None, keep)]
    shares = split_budget(keep, [len(part.rows) for part in group.parts])
    return list(zip(group.parts, shares, strict=True))


def _capped(keep: int | float, n: int) -> int:
    """A tile's budget, at most its tokens."""
    return tokens_to_keep(keep if isinstance(keep, float) else min(keep, n), n)


def _part_signals(signals: Signals, part: Part) -> Signals:
    """The signals of a part of every image."""
    return replace(signals.tokens(part.rows, part.grid), cls_hidden=part.cls_hidden)


def asked_by_sinks(signals: Signals) -> Signals:
    """Put the attention that ViT sinks give in the place of CLS rows and received attention."""
    assert signals.sinks_given is not None
    given = signals.sinks_given
    asked = 1 if signals.cls is None and signals.received is None else signals.attention.shape[1]
    joint = None if signals.joint is None else given.mean(dim=1)
    return replace(signals, cls=given.unsqueeze(1).expand(-1, asked, -1, -1), joint=joint)


def _rows(selection: Selection, signals: Signals, project: Project) -> list[Rows]:
    """Turn a selection into one entry for each image, projecting merged rows."""
    features = selection.features
    if features is None:
        features = take_rows(signals.features, selection.kept)
    if selection.hidden is not None and selection.replaced is not None:
        features = features.clone()
        merged = project(selection.hidden[selection.replaced])
        features[selection.replaced] = merged.to(features.dtype)
    features = features.to(signals.features.dtype)
    scores, sizes, groups = selection.scores, selection.sizes, selection.groups
    return [
        Rows(
            kept,
            rows,
            None if scores is None else scores[number],
            None if sizes is None else sizes[number],
            None if groups is None else groups[number],
        )
        for number, (kept, rows) in enumerate(zip(selection.kept, features, strict=True))
    ]


def _choice(
    group: ImageGroup,
    number: int,
    rows: Rows | None,
    sinks: Tensor | None,
    config: PruneConfig,
    protected: bool,
) -> Choice:
    """One image's choice, from candidates to placeholders."""
    places, total = group.placeholders, group.total
    features = group.all_features[number]
    if rows is None:
        kept = torch.arange(total, device=features.device)
        taken, scores, sizes = features, None, None
    else:
        kept, taken, scores = places[rows.kept], rows.features, rows.scores
        sizes = _spread(rows.stand_for, kept, total, 1.0)
    groups = None if rows is None else moved_groups(rows.groups, places, total)
    scores = None if scores is None else _spread(scores, places, total, 0.0)
    sinks = None if sinks is None else _spread(sinks, places, total, False)
    if protected:
        kept, taken = _with_last(kept, taken, features, total, scores, sinks)
    if groups is not None:
        groups = groups.where(torch.isin(groups, kept), -1)
    if config.order == "sinks_first" and sinks is not None:
        first = sinks[kept]
        taken = torch.cat([taken[first], taken[~first]])
        if sizes is not None:
            sizes[kept] = torch.cat([sizes[kept[first]], sizes[kept[~first]]])
    small = group.signals.prompt_grid is not None
    layers = [layer[number] if small else layer[number][kept] for layer in group.deepstack]
    tiles = tuple((places[part.rows], part.grid) for part in group.parts)
    if small:
        assert group.signals.prompt_grid is not None
        tiles = ((places, group.signals.prompt_grid),)
    marks = {} if sizes is None else {"size": sizes[kept]}
    return Choice(ImageRows(kept, taken, total, layers, marks), scores, sinks, tiles, groups)


def _spread(values: Tensor, places: Tensor, total: int, fill: float | bool) -> Tensor:
    """Candidates' values at their placeholders, `[n]` to `[N]`."""
    return values.new_full((total,), fill).scatter(0, places, values)


def _with_last(
    kept: Tensor,
    taken: Tensor,
    features: Tensor,
    total: int,
    scores: Tensor | None,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Keep the last token in place of the kept one that is worth least, if it was dropped.

    That is the lowest score, sinks last of all; without scores the one nearest to the end.

    The query of the first generated token is the last real token of a prompt. Where that is a
    placeholder, dropping it would change the question and the next position.
    """
    if int(kept[-1]) == total - 1:
        return kept, taken
    worth = -kept.float() if scores is None else scores[kept].clone()
    if sinks is not None:
        worth[sinks[kept]] = torch.inf
    stay = torch.arange(len(kept), device=worth.device) != worth.argmin()
    kept = torch.cat([kept[stay], kept.new_tensor([total - 1])])
    return kept, torch.cat([taken[stay], features[-1:]])
