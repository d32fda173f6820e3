"""GIFT: follow the gaze of the question's tokens over the image (ICML 2026).

At prefill, in one layer, `ReLU(A[t, V] - A[t-1, V])` is the shift of gaze at query token t. Its sum
over query tokens and the upper half of heads (by summed shift) is clipped at three standard
deviations and stretched to h in 0..1. Later layers edit the last row of every pass: in the upper
half of heads by visual mass `a_V *= exp(alpha h)`; in the upper half by mass on query tokens those
are multiplied by the ratio of enhanced to original visual mass (summed over the heads above); rows
sum to 1 again. alpha = 0 changes nothing.

Constants are those of LLaVA-1.5-7B: alpha 5, saliency in layer 11, edits in 12..22 of 32; presets
for the other models of the paper. Where edits start before the saliency layer (`qwen2_vl_7b`) those
layers change decode rows only: the paper runs the prompt once more beforehand. The paper claims up
to 20.7 % over greedy decoding; no independent measurement is known.

Deviations: the paper keeps content words only, by part-of-speech tags. Here all text tokens behind
the last image are query tokens, without the first one (the token before it is a visual one, whose
row stays in the fused kernel) and without the last `suffix` ones (such as the template's
" ASSISTANT:").
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
from lvlm_prune.reweight.saliency import TINY, key_sum, rescaled, spread, top_half


def gaze_shift(weights: Tensor, visual: Tensor, query: Tensor) -> Tensor:
    """Attention that query tokens give to visual keys beyond what the row before gives.

    Args:
        weights: `[B, H, R, S]`, consecutive rows.
        visual: `[B, S]` bool.
        query: `[B, R]` bool, rows that count; the first row never does.

    Returns:
        `[B, S]`, summed over the counted rows and the upper half of heads; 0 for text.
    """
    shift = (weights[:, :, 1:] - weights[:, :, :-1]).relu()
    counted = query[:, 1:, None] & visual[:, None]
    of_heads = shift.where(counted[:, None], 0).sum(dim=2)
    heads = top_half(of_heads.sum(dim=-1))
    return of_heads.where(heads.unsqueeze(-1), 0).sum(dim=1)


def query_rows(edited: Tensor, suffix: int) -> Tensor:
    """The text rows that are query tokens.

    Args:
        edited: `[B, R]` bool, text rows behind the last image; consecutive in each prompt.
        suffix: how many at the end are no query.

    Returns:
        `[B, R]` bool: marked rows whose row before is marked too, without the suffix.
    """
    behind = torch.zeros_like(edited)
    behind[:, 1:] = edited[:, 1:] & edited[:, :-1]
    rest = edited.flip(-1).cumsum(dim=-1).flip(-1)
    return behind & (rest > suffix)


def observe(rows: AttentionRows, **options: Any) -> Mapping[str, Tensor]:
    """Note the shift of gaze, the map of it, and which columns are query tokens."""
    if rows.decoding:
        return {}
    query = query_rows(rows.edited, options["suffix"])
    shift = rows.mark("shift") + gaze_shift(rows.weights, rows.visual, query)
    columns = rows.mark("query").scatter_add(1, rows.columns, query.float())
    return {"shift": shift, "saliency": spread(shift, rows.visual), "query": columns.clamp(max=1)}


def enhanced(
    weights: Tensor, visual: Tensor, query: Tensor, saliency: Tensor, alpha: float
) -> Tensor:
    """Multiply visual keys by the map, and query tokens by what the map adds.

    Args:
        weights: `[B, H, R, S]`, rows sum to 1.
        visual: `[B, S]` bool.
        query: `[B, S]` bool.
        saliency: `[B, S]` in 0..1, 0 for text.
        alpha: exponent of the map.

    Returns:
        `[B, H, R, S]`, rows sum to 1.
    """
    scale = (alpha * saliency).exp()
    mass = visual_mass(weights, visual)
    heads = top_half(mass)
    before = mass.where(heads, 0).sum(dim=1, keepdim=True)
    after = key_sum(weights, scale * visual).where(heads, 0).sum(dim=1, keepdim=True)
    mapped = (scale != 1).any(dim=-1)[:, None, None]
    ratio = torch.where(mapped & (before > 0), after / before.clamp(min=TINY), 1)
    readers = top_half(visual_mass(weights, query)).unsqueeze(-1) & query[:, None, None]
    lookers = heads.unsqueeze(-1) & visual[:, None, None]
    factor = torch.where(lookers, scale[:, None, None], 1)
    return rescaled(weights, torch.where(readers, ratio.unsqueeze(-1), factor))


def edit(rows: AttentionRows, *, alpha: float, **_: Any) -> Edited:
    """Enhance the rows by what the question looked at."""
    query, saliency = rows.mark("query") > 0, rows.mark("saliency")
    return Edited(enhanced(rows.weights, rows.visual, query, saliency, alpha))


def layers(options: Mapping[str, Any], depth: int) -> range:
    """Layers `first` to `last` of `of`."""
    return scaled_range(options["first"], options["last"], options["of"], depth)


def observed(options: Mapping[str, Any], depth: int) -> range:
    """The layer of the map, `saliency` of `of`; before the edits in a shallow LLM too."""
    layer = scaled_range(options["saliency"], options["saliency"], options["of"], depth)[0]
    if options["saliency"] < options["first"]:
        layer = max(0, min(layer, layers(options, depth)[0] - 1))
    return range(layer, layer + 1)


def check(options: Mapping[str, Any]) -> None:
    """The strength is 0 or more, the layers are in order."""
    check_number(options, "alpha")
    check_whole(options, "suffix")
    check_whole(options, "of", 1)
    check_layers(options, options["of"])
    check_whole(options, "saliency")
    if options["saliency"] >= options["of"]:
        raise ValueError(
            f"saliency={options['saliency']} is no layer of an LLM of {options['of']}; "
            f"pass 0 to {options['of'] - 1}"
        )


METHOD = Reweighter(
    name="gift",
    summary="raises visual tokens that the question's tokens turned to, and the question itself",
    source="GIFT, ICML 2026",
    evidence="no independent measurement known",
    edit=edit,
    layers=layers,
    rows="last",
    options={"alpha": 5.0, "saliency": 11, "first": 12, "last": 22, "of": 32, "suffix": 0},
    presets={
        "llava_13b": {"saliency": 10, "first": 14, "last": 20, "of": 40},
        "qwen2_vl_7b": {"alpha": 4.0, "saliency": 14, "first": 5, "last": 18, "of": 28},
    },
    observe=observe,
    observed=observed,
    check=check,
)
