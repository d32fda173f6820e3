"""Find ViT sink tokens: the few patches whose encoder row has a far higher norm than the rest.

In: norms of the encoder rows, `[I, N]`. Out: a bool mask of the same shape. The rule by default
looks for a gap in the sorted log-norms and so needs no scale; an absolute threshold is for encoders
whose scale is known (100 for CLIP ViT-L/14-336, arXiv 2510.08510). It does not know whether a sink
carries global information; what to do with sinks is the config's `sinks`.
"""

import torch
from torch import Tensor

LOG_GAP = 0.2  # smallest gap between neighbouring log-norms that separates sinks
CAP = 0.05  # largest share of an image's tokens that can be sinks


def vit_sinks(norms: Tensor, threshold: float | None = None) -> Tensor:
    """Mark the ViT sink tokens of each image.

    Args:
        norms: L2 norms of the encoder rows, `[I, N]`.
        threshold: norm above which a token is a sink, at most the highest 5 % of them; None uses
            the largest log-gap in the upper half of the norms: if it is at least 0.2 and at most
            5 % of the tokens lie above it, those are the sinks, otherwise there are none.

    Returns:
        Bool mask, `[I, N]`.
    """
    ordered, order = norms.float().sort(dim=-1, descending=True, stable=True)
    cap = max(1, int(norms.shape[-1] * CAP))
    count = _log_gap_count(ordered, cap) if threshold is None else (ordered > threshold).sum(-1)
    rank = torch.arange(norms.shape[-1], device=norms.device)
    marked = rank < count.clamp(max=cap).unsqueeze(-1)
    return torch.zeros_like(marked).scatter(-1, order, marked)


def _log_gap_count(ordered: Tensor, cap: int) -> Tensor:
    """Number of norms above the widest log-gap of the upper half, `[I]`; 0 if there is no gap.

    Args:
        ordered: norms, descending, `[I, N]`.
        cap: more than this many above the gap are a population, not sinks.
    """
    if ordered.shape[-1] < 2:
        return torch.zeros_like(ordered[:, 0], dtype=torch.int64)
    half = max(2, (ordered.shape[-1] + 1) // 2)
    logs = ordered[:, :half].clamp(min=torch.finfo(torch.float32).tiny).log()
    gap, place = (logs[:, :-1] - logs[:, 1:]).max(dim=-1)
    count = place + 1
    return torch.where((gap >= LOG_GAP) & (count <= cap), count, torch.zeros_like(count))
