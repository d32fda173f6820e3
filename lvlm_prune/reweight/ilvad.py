"""ILVAD: raise the visual tokens that light up between layers in a first short answer (ICML 2026).

A pre-run of `tokens` (10) greedy tokens is observed in every layer. A_l, the mean over decode rows
and over the upper half of heads by visual mass, gives B_l = 1[A_l > tau mean(A_l)]. The evidence
sum_l ReLU(B_{l+1} - B_l), for tokens whose mean_l A_l is above its mean, is clipped at three
standard deviations and stretched to e in 0..1: a sink is lit in every layer and cancels, evidence
appears in a few. M = exp(alpha e).

The real answer edits the last row of every pass. In the upper half of heads by
sum a log M / sum a: `a_V *= M`. On decode rows, in the upper half of heads by mass on scored text
tokens (behind the last image, and the answer so far), those are multiplied by their grounding score
+ beta. The score of a token is the mean over the heads above of sum a log M in its own row, summed
over layers, clipped and stretched to 0..1 among the scored tokens of its prompt. Rows sum to 1
again. tau 5, alpha 5, beta 1, layers 0..30 of 32; preset `captions`: beta 0.3, layers 5..25;
`llava_next`: alpha 3. alpha = 0 changes nothing, nor does a pre-run without evidence; a row that
gives no attention to evidence stays as it is.

Nothing needs a count of steps: every comparison is invariant to the scale of A, so sums are kept.

Deviations: scores of the prompt's tokens are gathered at prefill, when no score is complete yet, so
that row's text is not multiplied; all earlier tokens with a score are, where the released code
leaves out one more. The released code clips its stored scores in place, again in each layer; here
they stay as they were. Scores that are all equal change nothing.

Independent numbers do not exist yet; in the paper's own table (LLaVA-1.5-7B, greedy 48.6 / 84.50)
it has CHAIR_S 32.6 and POPE 85.76.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.reweight.contract import (
    AttentionRows,
    Edited,
    Reweighter,
    scaled_range,
    visual_mass,
)
from lvlm_prune.reweight.options import check_layers, check_number, check_whole
from lvlm_prune.reweight.saliency import (
    TINY,
    clipped,
    extremes,
    half,
    key_sum,
    rescaled,
    spread,
    top_half,
)


def looked_at(weights: Tensor, visual: Tensor) -> Tensor:
    """Attention to visual keys, mean over the upper half of heads by visual mass.

    Args:
        weights: `[B, H, R, S]`.
        visual: `[B, S]` bool.

    Returns:
        `[B, R, S]`, 0 for text.
    """
    heads = top_half(visual_mass(weights, visual)).unsqueeze(-1)
    mean = weights.where(heads, 0).sum(dim=1) / half(weights.shape[1])
    return mean.where(visual[:, None], 0)


def evidence(attention: Tensor, visual: Tensor, tau: float) -> Tensor:
    """Number of layers in which a visual token lights up.

    Args:
        attention: `[L, B, S]` of successive layers, summed or averaged over steps.
        visual: `[B, S]` bool.
        tau: a token is lit above tau times the mean over the prompt's visual tokens.

    Returns:
        `[B, S]` float32; 0 for text and for tokens whose mean over layers is not above average.
    """
    lit = ((attention > tau * _mean(attention, visual)) & visual).float()
    appears = (lit[1:] - lit[:-1]).relu().sum(dim=0)
    overall = attention.mean(dim=0)
    return appears.where((overall > _mean(overall, visual)) & visual, 0)


def _mean(values: Tensor, among: Tensor) -> Tensor:
    """Mean of marked values, `[..., 1]`; 0 if none is marked."""
    return values.where(among, 0).sum(-1, keepdim=True) / among.sum(-1, keepdim=True).clamp(min=1)


def observe(rows: AttentionRows, **_: Any) -> Mapping[str, Tensor]:
    """Add this layer's decode rows to its sum; rows of the prompt and of ended answers are none."""
    if not rows.decoding:
        return {}
    name = f"attention/{rows.layer}"
    looked = looked_at(rows.weights, rows.visual).where(rows.edited.unsqueeze(-1), 0)
    return {name: rows.mark(name) + looked.sum(dim=1)}


def finish(
    marks: Mapping[str, Tensor], visual: Tensor, depth: int, *, tau: float, **_: Any
) -> Mapping[str, Tensor]:
    """Turn the sums of all layers into the evidence e, 0..1."""
    names = [f"attention/{layer}" for layer in range(depth)]
    gathered = [marks[name].float() for name in names if name in marks]
    if len(gathered) < 2:
        return {"evidence": torch.zeros(visual.shape, device=visual.device)}
    return {"evidence": spread(evidence(torch.stack(gathered), visual, tau), visual)}


def grounding(score: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Scores clipped and stretched to 0..1; minimum and maximum are those before the clipping.

    Args:
        score: `[B, S]` running scores of the columns.
        known: `[B, R, S]` bool, the scored tokens for each row.

    Returns:
        `[B, R, S]` float32, and bool: where the scores differ, so that they mean something.
    """
    every = score[:, None].expand(known.shape)
    low, high = extremes(every, known)
    stretched = (clipped(every, known) - low) / (high - low).clamp(min=TINY)
    told = known & (high > low)
    return stretched.where(told, 0), told


def text_factor(weights: Tensor, score: Tensor, known: Tensor, beta: float) -> Tensor:
    """Factors of scored text tokens: grounding + beta in the heads that read them most.

    Args:
        weights: `[B, H, R, S]`.
        score: `[B, S]`.
        known: `[B, R, S]` bool.
        beta: the factor of the least grounded token.

    Returns:
        `[B, H, R, S]`.
    """
    grounded, told = grounding(score, known)
    readers = top_half(torch.einsum("bhrs,brs->bhr", weights, known.float()))
    changed = readers.unsqueeze(-1) & told[:, None]
    return torch.where(changed, grounded[:, None] + beta, 1)


def row_scores(weights: Tensor, visual: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Heads that look at the evidence, and how grounded each row is by them.

    Args:
        weights: `[B, H, R, S]`.
        visual: `[B, S]` bool.
        log_scale: log M, `[B, S]`, 0 for text.

    Returns:
        Bool `[B, H, R]` and the rows' scores `[B, R]`.
    """
    found = key_sum(weights, log_scale)
    heads = top_half(found / visual_mass(weights, visual).clamp(min=TINY))
    return heads, found.where(heads, 0).sum(dim=1) / half(weights.shape[1])


def edit(rows: AttentionRows, *, alpha: float, beta: float, **_: Any) -> Edited:
    """Raise the evidence on each prompt's last row, and score all text rows."""
    weights, columns = rows.weights, rows.columns
    log_scale = (alpha * rows.mark("evidence")).where(rows.visual, 0)
    heads, scores = row_scores(weights, rows.visual, log_scale)
    lookers = heads.unsqueeze(-1) & rows.visual[:, None, None]
    factor = torch.where(lookers, log_scale.exp()[:, None, None], 1)
    score, scored = rows.mark("score"), rows.mark("scored")
    if rows.decoding:
        places = torch.arange(weights.shape[-1], device=weights.device)
        known = (scored > 0)[:, None] & (places != columns.unsqueeze(-1))
        factor = factor * text_factor(weights, score, known, beta)
    end = columns.where(rows.edited, -1).amax(dim=-1, keepdim=True)
    last = rows.edited & (columns == end) & (scores > 0) & rows.ends
    edited = rescaled(weights, torch.where(last[:, None, :, None], factor, 1))
    counted = rows.edited.float()
    score = score.scatter_add(1, columns, scores * counted)
    scored = scored.scatter_add(1, columns, counted).clamp(max=1)
    return Edited(edited, marks={"score": score, "scored": scored})


def layers(options: Mapping[str, Any], depth: int) -> range:
    """Layers `first` to `last` of 32."""
    return scaled_range(options["first"], options["last"], 32, depth)


def observed(options: Mapping[str, Any], depth: int) -> range:
    """Every layer, in the pre-run."""
    return range(depth)


def pre_run(options: Mapping[str, Any]) -> int:
    """New tokens of the pre-run."""
    return int(options["tokens"])


def check(options: Mapping[str, Any]) -> None:
    """Strengths are 0 or more, the layers are in order, and a decode row exists to observe."""
    for name in ("alpha", "beta", "tau"):
        check_number(options, name)
    check_whole(options, "tokens", 2)
    check_layers(options, 32)


METHOD = Reweighter(
    name="ilvad",
    summary="raises visual tokens that light up between layers in a pre-run, and grounded text",
    source="ILVAD, ICML 2026",
    evidence="its own table only: CHAIR_S 48.6 -> 32.6, POPE 84.50 -> 85.76 on LLaVA-1.5-7B",
    edit=edit,
    layers=layers,
    rows="text",
    options={"alpha": 5.0, "beta": 1.0, "tau": 5.0, "tokens": 10, "first": 0, "last": 30},
    presets={
        "captions": {"beta": 0.3, "first": 5, "last": 25},
        "llava_next": {"alpha": 3.0},
    },
    observe=observe,
    observed=observed,
    pre_run=pre_run,
    finish=finish,
    check=check,
    sequential=True,
)
