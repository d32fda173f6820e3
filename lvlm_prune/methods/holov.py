"""Share the budget among crops of the image, then keep the most attended tokens of each (HoloV).

In: the CLS row `[I, H, N]` of the projected encoder layer, projected features `[I, N, D]` and the
grid. Out: K tokens, nothing merged (HoloV, arXiv 2510.02912; official code 1d2e65e). With S the
cosine similarities inside a crop (diagonal 0), m and v their mean and variance for each token and a
the mean attention over heads, a token scores `1e3 a + alpha v mean(1e3 a) / mean(v)` and a crop the
mean of its tokens; K is split in proportion to the crops' scores, rounded down, one more for the
best crops; inside a crop the tokens are taken by attention alone. `alpha` is 0.09; there are 16
crops for LLaVA and 16 N / (9 K) for Qwen2.5-VL, which `crop_count` can set. By the formula the
variance term adds alpha times the crop's mean attention to every crop alike, so alpha hardly
changes anything, as users of the official code have found.

Differences from the official code: crops are true 2-D ones, `crops="1d"` makes its runs of
neighbouring tokens; a crop that is given more than it holds passes the excess on to crops with
tokens left, where the official code fills up with zero rows (ViT sink tokens in one crop are
enough for that); kept tokens are in raster order, not in order of attention; a crop of one token is
scored like any other; the crops of LLaVA-NeXT are those of each tile, not of all tiles in a row.

Where an encoder has no CLS token, received attention takes its place. Where ViT sinks are excluded,
the other tokens form no grid, and both kinds of crops are runs.
"""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lvlm_prune.methods.contract import (
    EncoderShape,
    Method,
    Selection,
    attention_request,
)
from lvlm_prune.methods.lattice import lattice_cells
from lvlm_prune.methods.similarity import unit_rows
from lvlm_prune.signals import SignalRequest, Signals

CROPS = ("2d", "1d")
ATTENTION_SCALE = 1e3
EPSILON = 1e-6
SMALLEST = torch.finfo(torch.float32).tiny


def crop_members(grid: tuple[int, int], count: int, crops: str) -> Tensor:
    """Token indices of each crop, ascending, `[C, m]` int64; -1 fills up the smaller crops.

    Args:
        grid: (h, w) tokens.
        count: number of crops; at most one for each token is made.
        crops: `2d` cells of the grid, or `1d` runs of neighbouring tokens.
    """
    n = grid[0] * grid[1]
    count = min(count, n)
    if crops == "1d":
        groups = list(torch.arange(n).tensor_split(count))
    else:
        cell = lattice_cells(grid, count)[1]
        groups = [(cell == crop).nonzero()[:, 0] for crop in range(count)]
    return pad_sequence(groups, batch_first=True, padding_value=-1)


def crop_scores(features: Tensor, attention: Tensor, members: Tensor, alpha: float) -> Tensor:
    """Mean score of the tokens of each crop, `[I, C]` float32.

    Args:
        features: `[I, N, D]`, any dtype.
        attention: `[I, N]`, mean over heads.
        members: `[C, m]`, see `crop_members`.
        alpha: weight of the variance.
    """
    held, index = members >= 0, members.clamp(min=0)
    size = held.sum(dim=1)
    others = (size - 1).clamp(min=1).unsqueeze(1)
    unit = unit_rows(features)[:, index]
    pairs = held.unsqueeze(1) & held.unsqueeze(2)
    pairs &= ~torch.eye(members.shape[1], dtype=torch.bool, device=members.device)
    similarity = (unit @ unit.transpose(-1, -2)) * pairs
    mean = similarity.sum(dim=-1) / others
    # The zero on the diagonal counts in the variance, as in the official code.
    variance = ((similarity - mean.unsqueeze(-1)).square() * held.unsqueeze(1)).sum(dim=-1)
    variance = variance / others * held
    scaled = ATTENTION_SCALE * attention.float()[:, index] * held
    factor = (scaled.sum(dim=-1) / size) / (variance.sum(dim=-1) / size + EPSILON)
    return (scaled + alpha * variance * factor.unsqueeze(-1)).sum(dim=-1) / size


def crop_budgets(scores: Tensor, sizes: Tensor, keep: int) -> Tensor:
    """Share the budget in proportion to the scores, never more than a crop holds.

    Args:
        scores: `[I, C]`, not negative.
        sizes: tokens of each crop, `[C]`.
        keep: 1 <= keep <= sum of the sizes.

    Returns:
        `[I, C]` int64; each image's sum is `keep`.
    """
    given = torch.zeros_like(scores, dtype=torch.int64)
    left = given.new_full((scores.shape[0], 1), keep)
    while bool((left > 0).any()):
        room = sizes - given
        weights = scores.where(room > 0, torch.zeros_like(scores))
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=SMALLEST)
        more = (weights * left).floor().long()
        best = weights.where(room > 0, weights.new_tensor(-1.0))
        rank = best.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        more += rank < left - more.sum(dim=1, keepdim=True)
        given += more.minimum(room)
        left = keep - given.sum(dim=1, keepdim=True)
    return given


def rows_of_crops(attention: Tensor, members: Tensor, budgets: Tensor) -> Tensor:
    """The most attended tokens of each crop.

    Args:
        attention: `[I, N]`.
        members: `[C, m]`, see `crop_members`.
        budgets: tokens of each crop, `[I, C]`, of the same sum for each image.

    Returns:
        `[I, K]` int64, ascending; equal attention goes to the earlier token.
    """
    images, n = attention.shape
    held = (members >= 0).expand(images, -1, -1)
    inside = attention[:, members.clamp(min=0)].masked_fill(~held, -torch.inf)
    rank = inside.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    chosen = (rank < budgets.unsqueeze(-1)) & held
    kept = torch.zeros(images, n + 1, dtype=torch.bool, device=attention.device)
    index = members.where(members >= 0, members.new_tensor(n)).flatten().expand(images, -1)
    kept.scatter_(1, index, chosen.flatten(1))
    return kept[:, :n].nonzero()[:, 1].view(images, -1)


def request(shape: EncoderShape, options: Mapping[str, Any]) -> SignalRequest:
    """Ask for the CLS row of the projected layer."""
    if options["crops"] not in CROPS:
        raise ValueError(f"crops must be one of {', '.join(CROPS)}; got {options['crops']!r}")
    count = options["crop_count"]
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(
            f"crop_count must be a whole number of 1 or more, got {count!r}; 16 is usual"
        )
    alpha = options["alpha"]
    if isinstance(alpha, bool) or not isinstance(alpha, Real) or not 0 <= float(alpha) < torch.inf:
        raise ValueError(f"alpha must be a finite number >= 0, got {alpha!r}; 0.09 is usual")
    return attention_request(shape, [shape.feature_layer])


def select(signals: Signals, keep: int, **options: Any) -> Selection:
    """Score the crops, share the budget among them and keep the most attended tokens of each."""
    attention = signals.attention[:, 0].mean(dim=1)
    members = crop_members(signals.grid, options["crop_count"], options["crops"])
    members = members.to(attention.device)
    scores = crop_scores(signals.features, attention, members, options["alpha"])
    budgets = crop_budgets(scores, (members >= 0).sum(dim=1), keep)
    return Selection(kept=rows_of_crops(attention, members, budgets), scores=attention)


METHOD = Method(
    name="holov",
    summary="a share of the budget for each crop, by CLS attention inside it",
    source="HoloV, arXiv 2510.02912",
    select=select,
    request=request,
    options={"crops": "2d", "crop_count": 16, "alpha": 0.09},
    layout=True,
)
