"""The ideal of a stage inside the LLM: the same layers on as few columns, with nothing chosen.

In: how many visual tokens each layer has. Out: hooks that cut the hidden states before a layer that
has fewer than the one before (the first ones stay, and all text), and give the layers behind it
rotary embeddings that were cut once. Nothing is read, ranked, noted or put back, so no stage can be
faster. For one prompt without padding under SDPA, whose mask is its causality alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.eval.speed_llm import LlmWork


class HandCut:
    """Shorter layers.

    Args:
        work: model and prompt.
        tokens: visual tokens of each decoder layer, never more than in the layer before.
    """

    def __init__(self, work: LlmWork, tokens: Sequence[int]) -> None:
        columns = torch.arange(work.ids.shape[1], device=work.ids.device)
        text = torch.isin(columns, work.visual, invert=True)
        kept = [text | torch.isin(columns, work.visual[:count]) for count in tokens]
        # Places among the columns of the layer before, and among all columns.
        before = [torch.ones_like(text), *kept]
        self.places = [now[last].nonzero()[:, 0] for now, last in zip(kept, before, strict=False)]
        self.columns = [now.nonzero()[:, 0] for now in kept]
        self.tokens = list(tokens)
        self.rotary: tuple[Tensor, Tensor] | None = None

    def before_layer(self, layer: int, hidden: Tensor, arguments: dict[str, Any]) -> Tensor:
        """Cut what enters a layer; a decode step passes."""
        if hidden.shape[1] == 1:
            return hidden
        if layer == 0:
            self.rotary = None
        if layer and self.tokens[layer] < self.tokens[layer - 1]:
            hidden = hidden.index_select(1, self.places[layer])
            columns = self.columns[layer]
            cosine, sine = arguments["position_embeddings"]
            self.rotary = cosine.index_select(1, columns), sine.index_select(1, columns)
        if self.rotary is not None:
            arguments["position_embeddings"] = self.rotary
            # SDPA needs no positions, and theirs would be of full length.
            arguments.pop("position_ids", None)
        return hidden


@contextmanager
def hand_cut(work: LlmWork, tokens: Sequence[int]) -> Iterator[HandCut]:
    """Cut the layers while the block runs; see `HandCut`."""
    cut, hooks = HandCut(work, tokens), []
    for number, layer in enumerate(work.model.get_decoder().layers):

        def before(
            _: Any, args: tuple[Any, ...], kwargs: dict[str, Any], number: int = number
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return (cut.before_layer(number, args[0], kwargs), *args[1:]), kwargs

        hooks.append(layer.register_forward_pre_hook(before, with_kwargs=True))
    try:
        yield cut
    finally:
        for hook in hooks:
            hook.remove()
