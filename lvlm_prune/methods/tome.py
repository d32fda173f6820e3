"""Merge the patches that are most alike until K rows remain (ToMe).

In: keys `[I, H, N, d_head]` and rows `[I, N, d]` of the projected encoder layer. Out: K encoder
rows, each the mean of its members (Token Merging, arXiv 2210.09461, bipartite soft matching;
official code af95e4b). A step alternates the rows into two sets, pairs every row of the first with
the row of the second whose mean key over heads is nearest by cosine, and merges the r most similar
pairs, keys as means weighted by size. ToMe takes such a step in every layer of its
encoder; here all of them follow the projected layer: r = (N - K) / `steps`, rounded up, at most
half of the rows, so a small K takes a few steps more. `steps` is 24, as CLIP ViT-L has layers; with
1, half of the rows are merged at once.

A merged row stands at the place of the member that the others were merged into, and rows are in
raster order in every step; the official code puts unmerged rows of the first set before the second
set. The attention inside the LLM is not raised by log(size) ("proportional attention"). The CLS
token takes no part, attention is not used, so any encoder will do.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lvlm_prune.methods.contract import EncoderShape, Method, Selection
from lvlm_prune.methods.similarity import unit_rows
from lvlm_prune.select import other_rows, take_rows
from lvlm_prune.signals import SignalRequest, Signals


def matched_pairs(keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The most similar pairs between the rows at even and those at odd places.

    Args:
        keys: `[I, R, c]`.
        count: pairs, 1 <= count <= R // 2.

    Returns:
        Even rows and the odd rows they are merged into, both `[I, count]` int64, most similar
        first; an even row occurs once, an odd one may occur several times.
    """
    unit = unit_rows(keys)
    similarity, partner = (unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)).max(dim=-1)
    even = similarity.argsort(dim=-1, descending=True, stable=True)[:, :count]
    return 2 * even, 2 * partner.gather(1, even) + 1


def merge_pairs(
    values: Tensor, size: Tensor, source: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """Merge rows into others as means weighted by size; sources disappear.

    Args:
        values: `[I, R, c]` float32.
        size: tokens that each row stands for, `[I, R]` float32.
        source: rows to merge, `[I, r]`.
        target: rows they are merged into, `[I, r]`.

    Returns:
        The rows `[I, R - r, c]` in their old order and their sizes `[I, R - r]`.
    """
    # A product with the pairs and not an indexed sum, which is not deterministic on every device.
    into = one_hot(target, values.shape[1]).to(values.dtype).transpose(1, 2)
    weighted = torch.cat([values * size.unsqueeze(-1), size.unsqueeze(-1)], dim=-1)
    weighted = weighted + into @ take_rows(weighted, source)
    weighted = take_rows(weighted, other_rows(source, values.shape[1]))
    return weighted[..., :-1] / weighted[..., -1:], weighted[..., -1]


def merged_owners(keys: Tensor, keep: int, steps: int) -> Tensor:
    """Merge until `keep` rows remain.

    Args:
        keys: mean keys over heads, `[I, N, c]` float32.
        keep: rows to keep, 1 <= keep <= N.
        steps: steps that merge equally many rows.

    Returns:
        The token that each token was merged into, or itself, `[I, N]` int64.
    """
    images, n, _ = keys.shape
    places = torch.arange(n, device=keys.device).expand(images, n)
    owner, size = places, torch.ones(images, n, device=keys.device)
    while (rest := places.shape[1]) > keep:
        count = min(-(-(n - keep) // steps), rest // 2, rest - keep)
        source, target = matched_pairs(keys, count)
        moved = torch.arange(n, device=keys.device).repeat(images, 1)
        moved.scatter_(1, places.gather(1, source), places.gather(1, target))
        owner = moved.gather(1, owner)
        keys, size = merge_pairs(keys, size, source, target)
        places = places.gather(1, other_rows(source, rest))
    return owner


def request(shape: EncoderShape, options: Mapping[str, Any]) -> SignalRequest:
    """Ask for the keys of the projected layer."""
    steps = options["steps"]
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(
            f"steps must be a whole number of 1 or more, got {steps!r}; 24 is usual, 1 merges half "
            "of the rows at once"
        )
    return SignalRequest(keys_layer=shape.global_layer(shape.feature_layer))


def select(signals: Signals, keep: int, **options: Any) -> Selection:
    """Merge by keys, then average the encoder rows of each group."""
    assert signals.keys is not None
    images, n, _ = signals.hidden.shape
    keys = signals.keys.detach().float().mean(dim=1)
    owner = merged_owners(keys, keep, options["steps"])
    own = owner == torch.arange(n, device=owner.device)
    kept = own.nonzero()[:, 1].view(images, keep)
    group = torch.searchsorted(kept, owner.contiguous())
    member = one_hot(group, keep).float().transpose(1, 2)
    size = member.sum(dim=-1, keepdim=True)
    rows = member @ signals.hidden.float() / size
    return Selection(
        kept=kept,
        hidden=rows.to(signals.hidden.dtype),
        replaced=size[..., 0] > 1,
        sizes=size[..., 0],
        groups=owner,
    )


METHOD = Method(
    name="tome",
    summary="the most similar patches merged until few remain",
    source="Token Merging, arXiv 2210.09461",
    select=select,
    request=request,
    options={"steps": 24},
)
