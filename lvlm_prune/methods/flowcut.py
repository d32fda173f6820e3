"""Drop tokens step by step inside the vision encoder (FlowCut).

In: query, key and value of every encoder layer up to the projected one, and which units still take
part; a unit is a patch, or the patches of one visual token where a merger joins several. Out: after
each layer a cumulative score and the units that go on. With r the attention of the CLS token and s
the similarity softmax(v_cls v^T) of values, both means over heads and normalised over the patches,

    score = (r + s) |v|_1,    cumulative = (cumulative + score) / 2.

Let `remaining` be the layers before the last cut (which is the layer below the projected one).
Where it is even, (n - K) / sqrt(remaining) * (1 - (H(r) / ln n)^2) units are dropped, H being the
entropy; at 0 exactly K stay (FlowCut, arXiv 2505.19536, section 4; official code c2ecd24).

Without a CLS token the mean query takes its place and score = r |v|_1, as upstream does for
Qwen2-VL; upstream drops single patches there, which makes its merger join patches that were no
neighbours: here whole 2x2 groups are scored by their means and dropped. A dropped unit is hidden
from the keys of all later layers, which is what removing it does to the others; its own row is
still computed, so the encoder gets no faster. Counts are those of each image alone, not the largest
of a batch. An exact zero in r counts as 0 log 0 = 0 (upstream: NaN).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.methods.contract import EncoderLayer, EncoderShape, Method, Selection, UnitState
from lvlm_prune.select import top_rows
from lvlm_prune.signals import SignalRequest, Signals


def flow_scores(
    query: Tensor, key: Tensor, value: Tensor, scale: float, alive: Tensor, has_cls: bool
) -> tuple[Tensor, Tensor]:
    """Scores of one layer and the attention that they rest on.

    Args:
        query: `[I, H, T, d]`.
        key: `[I, H, T, d]`.
        value: `[I, H, T, d]`.
        scale: factor of the logits.
        alive: patches that take part, `[I, P]` bool; T is P, or P + 1 with a CLS token.
        has_cls: whether row 0 is a CLS token.

    Returns:
        Scores and r, `[I, P]` float32; 0 at patches that take no part.
    """
    query, key, value, first = query.float(), key.float(), value.float(), int(has_cls)
    if has_cls:
        asked, meaning = query[:, :, 0], value[:, :, 0]
    else:
        share = (alive.float() / alive.sum(-1, keepdim=True))[:, None, :, None]
        asked, meaning = (query * share).sum(2), (value * share).sum(2)
    seen = torch.cat([alive.new_ones(len(alive), first), alive], dim=1)
    r = _mean_softmax(asked, key * scale, seen, first)
    length = value[:, :, first:].mean(dim=1).abs().sum(dim=-1)
    if not has_cls:
        return r * length, r
    return (r + _mean_softmax(meaning, value, seen, first)) * length, r


def _mean_softmax(asked: Tensor, keys: Tensor, seen: Tensor, first: int) -> Tensor:
    """Softmax over the seen keys, mean over heads, normalised over the patches, `[I, P]`."""
    logits = torch.einsum("ihd,ihtd->iht", asked, keys).masked_fill(~seen[:, None], -torch.inf)
    patches = logits.softmax(dim=-1).mean(dim=1)[:, first:]
    return patches / patches.sum(dim=-1, keepdim=True)


def drop_count(r: Tensor, alive: Tensor, keep: Tensor, remaining: int) -> Tensor:
    """Units to drop after a layer that is `remaining` layers before the last cut.

    Args:
        r: attention of the units, `[I, U]`, each row sums to 1.
        alive: units that take part, `[I, U]` bool.
        keep: units that are to stay in the end, `[I]`.
        remaining: layers before the last cut, a positive even number.

    Returns:
        `[I]` int64.
    """
    count = alive.sum(dim=-1)
    entropy = -torch.xlogy(r, r).sum(dim=-1)
    focus = 1 - (entropy / count.clamp(min=2).log()) ** 2
    return ((count - keep) / remaining**0.5 * focus).round().long().clamp(min=0)


def step(
    query: Tensor, key: Tensor, value: Tensor, scale: float, layer: EncoderLayer, state: UnitState
) -> UnitState:
    """Score the units of a layer and drop some, see the module's docstring.

    Args:
        query: `[I, H, T, d]`, and so are `key` and `value`.
        key: see query.
        value: see query.
        scale: factor of the logits.
        layer: where the layer stands and what a unit is.
        state: the units before the layer.

    Returns:
        The units after it.
    """
    unit, units = layer.unit_of, state.alive.shape[1]
    patches = state.alive[:, unit]
    scores, r = flow_scores(query, key, value, scale, patches, layer.has_cls)
    empty = scores.new_zeros(len(scores), units)
    size = torch.bincount(unit, minlength=units)
    scores = empty.index_add(1, unit, scores) / size
    r = empty.index_add(1, unit, r)
    before = state.cumulative
    cumulative = (
        scores if before is None else torch.where(state.alive, 0.5 * (before + scores), before)
    )
    if layer.remaining % 2:
        return UnitState(cumulative, state.alive)
    count = state.alive.sum(dim=-1)
    left = layer.keep
    if layer.remaining:
        left = (count - drop_count(r, state.alive, layer.keep, layer.remaining)).clamp(min=left)
    ranked = cumulative.masked_fill(~state.alive, -torch.inf)
    order = ranked.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return UnitState(cumulative, state.alive & (order < left.unsqueeze(-1)))


def request(shape: EncoderShape, options: Mapping[str, Any]) -> SignalRequest:
    """Every layer is looked at: those below the cut are scored, those above see survivors only."""
    return SignalRequest(progressive=tuple(range(shape.depth)))


def select(signals: Signals, keep: int, **options: Any) -> Selection:
    """Keep the survivors; dropped ones rank below them by the scores that they had."""
    assert signals.progress is not None
    return Selection(kept=top_rows(signals.progress, keep), scores=signals.progress)


METHOD = Method(
    name="flowcut",
    summary="dropped step by step inside the vision encoder by attention and values",
    source="FlowCut, arXiv 2505.19536",
    select=select,
    request=request,
    ranks=False,
    layout=True,
    step=step,
)
