"""LLM sinks planted among a LLaVA's visual tokens, by an edit of its weights.

Neurons of the projector fire on chosen tokens of one image and write the mark of `planted_llm` into
their features; layer 0's MLP then makes them sinks of every later layer.
"""

from collections.abc import Sequence

import torch
from planted_llm import Planted, plant_sink
from torch import Tensor

SHARP, STEP = 1e5, 20.0


@torch.no_grad()
def plant_visual_sinks(
    model,
    inputs,
    planted: Planted,
    axes: Sequence[int] = (0,),
    count: int = 2,
    amplitude: float = 300.0,
    pull: float = 8.0,
) -> Tensor:
    """Make some visual tokens of one image sinks, and `SINK_TOKEN` as well, in place.

    Args:
        model: a LLaVA.
        inputs: a prompt with one image.
        planted: where; dimensions of its LLM.
        axes: encoder dimensions.
        count: for each of them the tokens that lie furthest along it.
        amplitude: see `plant_sink`.
        pull: see `plant_sink`.

    Returns:
        The tokens, ascending.
    """
    seen = []
    projector = model.base_model.multi_modal_projector
    handle = projector.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(**inputs)
    handle.remove()
    plant_sink(model, planted, amplitude, pull)
    projector.linear_2.weight[[planted.mark, planted.constant]] = 0
    projector.linear_2.bias[planted.mark] = 0
    projector.linear_2.bias[planted.constant] = 1
    chosen = []
    for number, axis in enumerate(axes):
        ordered, order = seen[0][0, :, axis].sort(descending=True)
        border = float((ordered[count - 1] + ordered[count]) / 2)
        _mark(projector, 2 * number, axis, border, planted.mark)
        chosen.append(order[:count])
    return torch.cat(chosen).unique()


def _mark(projector, neuron: int, axis: int, border: float, mark: int) -> None:
    """Two neurons write 1 into the mark of tokens above the border, 0 into that of others."""
    before, after = projector.linear_1, projector.linear_2
    after.weight[:, neuron : neuron + 2] = 0
    # The difference of two GELUs is a step.
    for number, (start, sign) in enumerate(((0, 1), (STEP, -1)), neuron):
        before.weight[number] = 0
        before.weight[number, axis] = SHARP
        before.bias[number] = -SHARP * border - start
        after.weight[mark, number] = sign / STEP
