"""Watch what the edits of a reweighting change, so that nothing is timed that changes nothing.

In: a prompt, and a way to attach a reweighting. Out: how many rows it may edit, for which share of
their heads it changes anything, and how much attention each of those moves. Nothing is timed here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from lvlm_prune.eval.speed_llm import LlmWork
from lvlm_prune.eval.speed_passes import Variant
from lvlm_prune.reweight.contract import AttentionRows, Edited


@dataclass
class Moved:
    """What the edits did in one prefill and its decode steps.

    Args:
        rows: rows of the prompt that may change, of one layer.
        heads: heads of such rows, all layers and passes.
        changed: those whose weights or outputs changed.
        mass: attention that went elsewhere, summed over them.
    """

    rows: int = 0
    heads: int = 0
    changed: int = 0
    mass: float = 0.0

    def watch(self, edit: Callable[..., Edited], rows: AttentionRows, **options: Any) -> Edited:
        """Run an edit and count."""
        edited = edit(rows, **options)
        may = rows.edited[:, None].expand(rows.logits.shape[:3])
        moved = (edited.weights - rows.weights).abs().sum(dim=-1) / 2
        scaled = torch.zeros_like(may) if edited.heads is None else edited.heads != 1
        self.rows = max(self.rows, int(rows.edited.sum()))
        self.heads += int(may.sum())
        self.changed += int((may & ((moved > 1e-6) | scaled)).sum())
        self.mass += float(moved[may].sum())
        return edited

    def shares(self) -> dict[str, float]:
        """JSON-ready: rows, share of heads that changed, and attention that each of them moved."""
        return {
            "rows": self.rows,
            "changed": self.changed / max(1, self.heads),
            "moved": self.mass / max(1, self.changed),
        }


def watched(work: LlmWork, variant: Variant) -> dict[str, float]:
    """Run once and count what the edits change.

    Args:
        work: model and prompt.
        variant: attaches a reweighting, which has its method as an attribute.

    Returns:
        See `Moved.shares`.

    Raises:
        ValueError: nothing changed.
    """
    moved = Moved()
    with variant() as reweighting, torch.inference_mode():
        method = reweighting.method
        reweighting.method = replace(method, edit=partial(moved.watch, method.edit))
        work.decode(work.prefill().past_key_values)
    if not moved.changed:
        raise ValueError(
            f"reweight {method.name!r} changes nothing on these random weights, so its time would "
            "mean nothing; leave it out of --reweight"
        )
    return moved.shares()
