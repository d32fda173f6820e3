"""When are two runs the same one? Keys of what was asked for, and of the tokens that came out.

In: stages, or their choices for all images. Out: hashable keys. What happens inside the LLM has its
key in `compare`.
"""

import zlib
from collections.abc import Hashable, Sequence

import torch

from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.budget import tokens_to_keep
from lvlm_prune.stage import Choice


def run_key(stage: BoundaryStage, totals: Sequence[int]) -> tuple[Hashable, ...]:
    """What makes a run another run: everything but how its budget was asked for.

    Args:
        stage: the stage of the run.
        totals: N of each image.

    Raises:
        ValueError: a budget above the tokens of an image.
    """
    config = stage.config
    budget: Hashable = config.keep
    if config.per == "image":
        budget = tuple(tokens_to_keep(config.keep, total) for total in sorted(set(totals)))
    return config.method, config.sinks, config.per, config.order, budget


def rows_fingerprint(choices: Sequence[Choice]) -> int:
    """A number that depends on the kept tokens of all images and on their features alone."""
    check = 0
    for choice in choices:
        for tensor in (choice.rows.kept, choice.rows.features):
            data = tensor.detach().cpu().contiguous().view(torch.uint8)
            check = zlib.crc32(data.numpy().tobytes(), check)
    return check
