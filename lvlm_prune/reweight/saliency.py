"""What GIFT and ILVAD share: a map over the visual tokens, the upper half of heads, rescaled rows.

Both clip a map at three standard deviations, stretch it to 0..1, multiply some heads' attention by
its exponential and let each row sum to 1 again. Everything is per prompt, so that neighbours in a
batch and padding do not matter.
"""

import torch
from torch import Tensor

TINY = torch.finfo(torch.float32).tiny


def clipped(values: Tensor, among: Tensor) -> Tensor:
    """Clip to mean +- 3 standard deviations (n - 1 in the denominator) of the marked values.

    Args:
        values: `[..., S]` float32.
        among: `[..., S]` bool, which values count; the others come back as they are.

    Returns:
        `[..., S]`.
    """
    count = among.sum(dim=-1, keepdim=True)
    mean = values.where(among, 0).sum(dim=-1, keepdim=True) / count.clamp(min=1)
    square = (values - mean).square().where(among, 0).sum(dim=-1, keepdim=True)
    reach = 3 * (square / (count - 1).clamp(min=1)).sqrt()
    return torch.where(among, values.clamp(min=mean - reach, max=mean + reach), values)


def extremes(values: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest of the marked values, `[..., 1]` each; inf and -inf if none is marked.

    Args:
        values: `[..., S]` float32.
        among: `[..., S]` bool.
    """
    low = values.where(among, torch.inf).amin(dim=-1, keepdim=True)
    high = values.where(among, -torch.inf).amax(dim=-1, keepdim=True)
    return low, high


def spread(values: Tensor, among: Tensor) -> Tensor:
    """Clip the marked values and stretch them to 0..1.

    Args:
        values: `[..., S]` float32.
        among: `[..., S]` bool.

    Returns:
        `[..., S]`; 0 for values that are not marked, and everywhere if all marked ones are equal.
    """
    values = clipped(values, among)
    low, high = extremes(values, among)
    stretched = (values - low) / (high - low).clamp(min=TINY)
    return stretched.where(among & (high > low), 0)


def half(heads: int) -> int:
    """Half of a number of heads, at least one."""
    return max(1, heads // 2)


def top_half(scores: Tensor) -> Tensor:
    """The half of the heads with the highest scores, at least one; ties go to the earlier head.

    Args:
        scores: `[B, H, ...]`.

    Returns:
        Bool, of the same shape.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1) < half(scores.shape[1])


def key_sum(weights: Tensor, numbers: Tensor) -> Tensor:
    """Sum over keys of weight times number.

    Args:
        weights: `[B, H, R, S]`.
        numbers: `[B, S]` float32.

    Returns:
        `[B, H, R]`.
    """
    return torch.einsum("bhrs,bs->bhr", weights, numbers)


def rescaled(weights: Tensor, factor: Tensor) -> Tensor:
    """Multiply weights by factors and let each row sum to 1 again.

    Args:
        weights: `[B, H, R, S]`.
        factor: 0 or more, broadcasts to the weights.

    Returns:
        `[B, H, R, S]`; rows that no factor changes, or would leave empty, are bitwise unchanged.
    """
    raised = weights * factor
    total = raised.sum(dim=-1, keepdim=True)
    changed = (raised != weights).any(dim=-1, keepdim=True) & (total > 0)
    return torch.where(changed, raised / total.clamp(min=TINY), weights)
