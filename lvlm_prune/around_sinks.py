"""ViT sink policies around any ranking method: keep, drop, only.

In: the signals of some images, a mask of their sinks `[I, N]`, a budget and the method's selection.
Out: the kept rows of each image. Images have different numbers of sinks, so one image is handled at
a time. The policies ignore and query need nothing of this.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lvlm_prune.errors import NoSinksError
from lvlm_prune.select import other_rows, top_rows
from lvlm_prune.signals import Signals


@dataclass(frozen=True)
class Rows:
    """Kept rows of one image.

    Args:
        kept: `[K]` int64, ascending.
        features: `[K, D]`.
        scores: `[n]` float32 of all rows, or None.
        sizes: `[K]` float32, tokens that each row stands for; None for one each.
        groups: `[n]` int64, see `Selection.groups`, or None.
    """

    kept: Tensor
    features: Tensor
    scores: Tensor | None
    sizes: Tensor | None = None
    groups: Tensor | None = None

    @property
    def stand_for(self) -> Tensor:
        """Tokens that each row stands for, `[K]` float32."""
        return torch.ones_like(self.kept, dtype=torch.float32) if self.sizes is None else self.sizes

    @classmethod
    def every(cls, features: Tensor) -> "Rows":
        """All rows as the encoder gave them, `[n, D]`."""
        return cls(torch.arange(len(features), device=features.device), features, None)

    @classmethod
    def none(cls, features: Tensor) -> "Rows":
        """No row of `[n, D]`."""
        empty = torch.zeros(0, dtype=torch.int64, device=features.device)
        return cls(empty, features[:0], None)

    def among(self, index: Tensor, n: int) -> "Rows":
        """The same rows of a part, as rows of the whole image.

        Args:
            index: the part's rows in the image.
            n: rows of the image.
        """
        scores = self.scores
        if scores is not None:
            scores = scores.new_zeros(n).scatter(0, index, scores)
        groups = moved_groups(self.groups, index, n)
        return Rows(index[self.kept], self.features, scores, self.sizes, groups)

    @classmethod
    def together(cls, parts: Sequence["Rows"]) -> "Rows":
        """The rows of all parts of an image, ascending."""
        if len(parts) == 1:
            return parts[0]
        kept, order = torch.cat([part.kept for part in parts]).sort()
        features = torch.cat([part.features for part in parts])[order]
        ranked = [part.scores for part in parts if part.scores is not None]
        scores = torch.stack(ranked).sum(dim=0) if ranked else None
        sizes = torch.cat([part.stand_for for part in parts])[order]
        merged = [part.groups for part in parts if part.groups is not None]
        groups = torch.stack(merged).amax(dim=0) if merged else None
        return cls(kept, features, scores, sizes, groups)


def moved_groups(groups: Tensor | None, index: Tensor, n: int) -> Tensor | None:
    """Groups of some rows, as groups of all of them.

    Args:
        groups: `[m]` int64, see `Selection.groups`, or None.
        index: places of the m rows among all, `[m]`.
        n: all rows.

    Returns:
        `[n]` int64 with -1 for other rows, or None.
    """
    if groups is None:
        return None
    target = index[groups.clamp(min=0)].where(groups >= 0, groups)
    return target.new_full((n,), -1).scatter(0, index, target)


def rows_around_sinks(
    signals: Signals,
    sinks: Tensor,
    keep: int,
    policy: str,
    select: Callable[[Signals, int], list[Rows]],
) -> list[Rows]:
    """Apply a ViT sink policy.

    Args:
        signals: of the images.
        sinks: `[I, N]` bool.
        keep: budget K of each image; 0 for a tile that gets none.
        policy: `keep`, `drop` or `only`.
        select: the method on some tokens.
    """
    return [
        _around(signals.images([number]), marks.nonzero()[:, 0], keep, policy, select)
        for number, marks in enumerate(sinks)
    ]


def check_some_sinks(images: Sequence[int], sinks: Tensor) -> None:
    """Refuse to keep nothing but sinks where an image has none.

    Args:
        images: numbers of the images.
        sinks: `[I, N]` bool, of whole images, not of their tiles.

    Raises:
        NoSinksError: an image has no sink.
    """
    for image, marks in zip(images, sinks, strict=True):
        if not bool(marks.any()):
            raise NoSinksError(
                f"sinks='only' but image {image} has no ViT sink token; lower sink_threshold or "
                "use another policy (ignore, keep, drop)"
            )


def _around(
    signals: Signals,
    held: Tensor,
    keep: int,
    policy: str,
    select: Callable[[Signals, int], list[Rows]],
) -> Rows:
    """Choose the rows of one image whose sinks `held` are known."""
    n = signals.features.shape[1]
    free = other_rows(held.unsqueeze(0), n)[0]
    if policy == "drop":
        held = held[: max(0, keep - len(free))]
    elif len(held) > keep:
        held = held[top_rows(signals.norms[:, held], keep)[0]] if keep else held[:0]
    wanted = 0 if policy == "only" else min(keep - len(held), len(free))
    kept, features, scores, groups = held, signals.features[0, held], None, None
    sizes = torch.ones_like(held, dtype=torch.float32)
    if wanted:
        subset = signals.tokens(free)
        whole = wanted == len(free)
        (rows,) = [Rows.every(subset.features[0])] if whole else select(subset, wanted)
        kept = torch.cat([held, free[rows.kept]])
        features = torch.cat([features, rows.features])
        sizes = torch.cat([sizes, rows.stand_for])
        groups = moved_groups(rows.groups, free, n)
        if rows.scores is not None:
            scores = rows.scores.new_zeros(n).scatter(0, free, rows.scores)
    kept, order = kept.sort()
    return Rows(kept, features[order], scores, sizes[order], groups)
