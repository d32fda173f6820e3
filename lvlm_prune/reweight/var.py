"""VAR: give a share of the attention on sinks back to the image (arXiv 2503.03321).

With the sinks S among text and visual keys and the visual non-sinks V',
`a'_j = (1 - move) a_j` for j in S and `a'_j = a_j + move sum_S a * a_j / sum_V' a` for j in V'.
Only heads and rows that look at the image in earnest are changed: their visual mass is at least
`summ` (0.2) and the non-sink share of it at least `rho`. Text rows behind the image and decode
rows, layers 2..L-2 (the last layer stays as it is). `move=0` changes nothing.

Defaults are the paper's: move 0.6, and rho 0.5 for hallucination benchmarks (0.8 for general
questions, 0.9 for vision-centric ones: presets `general`, `vision`). The released code means
something else by its p = 0.6: it keeps 60 % and moves 40 %, and its gate "sink share <= rho" equals
"non-sink share >= rho" at 0.5 alone: preset `official_code`. As there, a prompt without a visual
sink in a layer is unchanged in it. Sinks found anew while decoding do not exist, as there.

Independent users do not reproduce the gains: LLaVA-1.5-7B, MME 1742.7 -> 1711.4 (issue #9 of the
official repository); ILVAD's table has CHAIR_S 48.6 -> 52.5 (worse) and POPE 84.50 -> 84.82.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.reweight.contract import AttentionRows, Edited, Reweighter, visual_mass
from lvlm_prune.reweight.options import check_number


def redistributed(
    weights: Tensor, visual: Tensor, sinks: Tensor, move: float, rho: float, summ: float
) -> Tensor:
    """Move attention from sinks to the visual tokens that are none.

    Args:
        weights: `[B, H, R, S]`, rows sum to 1.
        visual: `[B, S]` bool.
        sinks: `[B, S]` bool, among text and visual keys.
        move: share of the sinks' attention that is moved, 0 to 1.
        rho: smallest non-sink share of the visual mass.
        summ: smallest visual mass.

    Returns:
        `[B, H, R, S]`, rows sum to 1; rows that do not pass the gate are bitwise unchanged.
    """
    receivers = visual & ~sinks
    received = visual_mass(weights, receivers)
    seen = received + visual_mass(weights, visual & sinks)
    gate = (seen >= summ) & (received >= rho * seen) & (received > 0)
    gate &= (visual & sinks).any(dim=-1)[:, None, None]
    tiny = torch.finfo(weights.dtype).tiny
    gain = move * visual_mass(weights, sinks) / received.clamp(min=tiny)
    # Factors are small where rows and keys are apart; where the gate is closed they are exactly 1.
    raised = torch.where(gate, 1 + gain, 1).unsqueeze(-1)
    lowered = torch.where(gate, torch.full_like(gain, 1 - move), 1).unsqueeze(-1)
    factor = torch.where(sinks[:, None, None], lowered, 1)
    return weights * torch.where(receivers[:, None, None], raised, factor)


def edit(rows: AttentionRows, *, move: float, rho: float, summ: float) -> Edited:
    """Redistribute the sinks' attention."""
    if rows.sinks is None:
        raise ValueError("VAR needs LLM sinks, got None; pass a [B, S] bool mask of the keys")
    return Edited(redistributed(rows.weights, rows.visual, rows.sinks, move, rho, summ))


def layers(options: Mapping[str, Any], depth: int) -> range:
    """Layers 2 to L - 2; the first ones of an LLM with fewer than four."""
    return range(max(0, min(2, depth - 2)), max(1, depth - 1))


def check(options: Mapping[str, Any]) -> None:
    """All three options are shares."""
    for name in ("move", "rho", "summ"):
        check_number(options, name, 0, 1)


METHOD = Reweighter(
    name="var",
    summary="moves attention from sinks to the other visual tokens, in image-centric heads",
    source="VAR, arXiv 2503.03321",
    evidence="independent users measure MME 1742.7 -> 1711.4 (issue #9) and CHAIR_S 48.6 -> 52.5, "
    "POPE 84.50 -> 84.82 (ILVAD's table)",
    edit=edit,
    layers=layers,
    rows="text",
    options={"move": 0.6, "rho": 0.5, "summ": 0.2},
    presets={
        "general": {"rho": 0.8},
        "hallucination": {"rho": 0.5},
        "vision": {"rho": 0.9},
        "official_code": {"move": 0.4, "rho": 0.5},
    },
    sinks=True,
    check=check,
)
