"""How far each visual token of a prompt gets, before and inside the LLM.

In: which tokens entered the LLM, and what a layer report kept at each stage. Out: for each token
the first layer that it does not reach. Knows nothing about models.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def reached_layers(visual: Tensor, entered: Tensor, left: Mapping[int, Tensor]) -> Tensor:
    """The first layer that each visual token does not reach.

    Args:
        visual: `[C]` bool, placeholders among the columns of the original prompt.
        entered: `[N]`, 0 for tokens dropped before the LLM, its depth for the others.
        left: for each stage's layer the visual columns, of the prompt without the dropped tokens,
            that go on.

    Returns:
        `[N]`.
    """
    reached, inside = entered.clone(), entered > 0
    dropped = (~inside).long().cumsum(0)
    columns = visual.nonzero()[:, 0] - dropped
    for layer, going_on in sorted(left.items()):
        goes_on = torch.isin(columns, going_on)
        reached = torch.where(inside & ~goes_on & (reached > layer), layer, reached)
    return reached
